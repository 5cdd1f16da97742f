//! Finding the application and talking to it, in the order and with the patience of `lms`.
//!
//! It must never look at the ports a real LM Studio uses: the real `lms` tries five fixed ones when the file names none,
//! and a simulated one would then work on the models of the person who runs the tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::Session;
use crate::http::{Answer, ask};
use crate::lmstudio::{Home, Model, PsRow};

/// A connection to the application.
#[derive(Debug)]
pub struct Client {
    host: String,
    port: u16,
    stranger: bool,
}

/// What `lms ls` asks for.
#[derive(Debug, Deserialize)]
pub struct Downloaded {
    /// The models, those of linked machines last.
    pub models: Vec<Model>,
    /// Names of linked machines.
    pub devices: BTreeMap<String, String>,
}

/// What `lms ps` asks for.
#[derive(Debug, Deserialize)]
pub struct Loaded {
    /// The instances, LLMs first.
    pub instances: Vec<PsRow>,
    /// Names of linked machines.
    pub devices: BTreeMap<String, String>,
}

/// How long an LM Studio that runs is given to answer. The real `lms` gives it 3 s, and 0.5 s where
/// it greets; on a busy machine a simulated one may take longer, and a test means neither.
const PATIENCE: Duration = Duration::from_secs(30);

/// The port in a file like `http-server.json`.
fn port_in(path: &Path) -> Option<u16> {
    let value: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    u16::try_from(value["port"].as_u64()?).ok().filter(|port| *port != 0)
}

/// Whether an LM Studio's REST server answers there.
pub async fn greets(host: &str, port: u16) -> bool {
    let ask = async {
        let body = ask(host, port, "/lmstudio-greeting", "", None).await.ok()?.json().await.ok()?;
        (body["lmstudio"] == true).then_some(())
    };
    matches!(tokio::time::timeout(PATIENCE, ask).await, Ok(Some(())))
}

/// The port of the REST server's last settings.
pub fn rest_port(home: &Home) -> Option<u16> {
    port_in(&home.rest_file())
}

impl Client {
    /// The application that runs already, if one does.
    pub async fn running(session: &Session) -> Option<Self> {
        let port = port_in(&session.home.api_file())?;
        let ask = async {
            let body = ask("127.0.0.1", port, "/lms-status", "", None).await.ok()?.json().await.ok()?;
            (body["package"].is_string() && body["version"].is_string()).then_some(())
        };
        let answered = tokio::time::timeout(PATIENCE, ask).await;
        matches!(answered, Ok(Some(()))).then(|| Self::local(port))
    }

    fn local(port: u16) -> Self {
        Self { host: "127.0.0.1".into(), port, stranger: false }
    }

    /// The application, started if it is installed and does not run.
    pub async fn connect(session: &Session) -> Result<Self> {
        let host = session.args.value("--host");
        let port = session.args.whole("--port").and_then(|port| u16::try_from(port).ok());
        // `server start --port` is the port to start on.
        let port = if session.args.command == "server start" { None } else { port };
        if let Some(host) = host {
            if host.contains("://") {
                bail!("Host should not include the protocol.");
            }
            if host.contains(':') {
                bail!("Host should not include the port number. Use --port instead.");
            }
        }
        if port.is_some() || host.is_some_and(|host| host != "127.0.0.1") {
            let (given, host, port) = (host.is_some(), host.unwrap_or("127.0.0.1"), port.unwrap_or(1234));
            if !greets(host, port).await {
                bail!(
                    "The server does not appear to be running at {host}:{port}. Please make sure the server is running \
                     and accessible at the specified address."
                );
            }
            return Ok(Self { host: host.to_owned(), port, stranger: given });
        }
        if let Some(path) = std::env::var_os("LMS_API_SERVER_INFO_PATH") {
            let port = port_in(Path::new(&path)).ok_or_else(|| anyhow!("Failed to connect using PATH."))?;
            return Ok(Self::local(port));
        }
        match Self::running(session).await {
            Some(client) => Ok(client),
            None => Self::wake(session).await,
        }
    }

    async fn wake(session: &Session) -> Result<Self> {
        const FAILED: &str = "Error: Failed to start or connect to local LM Studio API server.";
        if !start(&session.home) {
            bail!("LM Studio daemon is not running and no valid installation could be found or installed.\n{FAILED}");
        }
        session.info("Waking up LM Studio service...");
        let began = Instant::now();
        // The real one looks once a second, sixty times. Here the first second is finer, to keep tests short.
        for _ in 0..20 {
            sleep(Duration::from_millis(50)).await;
            if let Some(client) = Self::running(session).await {
                return Ok(client);
            }
        }
        while began.elapsed() < Duration::from_secs(60) {
            sleep(Duration::from_secs(1)).await;
            if let Some(client) = Self::running(session).await {
                return Ok(client);
            }
        }
        bail!("Timed out waiting for LM Studio daemon to start.\n{FAILED}")
    }

    /// Begins a call. An error of the application is its text. Without limits of time: the real one waits for ever, too.
    pub async fn begin(&self, method: &str, body: &Value) -> Result<Answer> {
        let headers = if self.stranger { "X-Lms-Stranger: 1\r\n" } else { "" };
        let path = format!("/rpc/{method}");
        let answer = ask(&self.host, self.port, &path, headers, Some(body)).await.map_err(|_| closed())?;
        if answer.status == 200 {
            return Ok(answer);
        }
        let body = answer.json().await.map_err(|_| closed())?;
        bail!("{}", body["error"].as_str().unwrap_or("Unknown error"))
    }

    /// A call with one answer.
    pub async fn call<T: DeserializeOwned>(&self, method: &str, body: &Value) -> Result<T> {
        let answer = self.begin(method, body).await?.json().await.map_err(|_| closed())?;
        serde_json::from_value(answer).with_context(|| format!("Unexpected answer to {method}"))
    }

    /// The downloaded models.
    pub async fn downloaded(&self) -> Result<Downloaded> {
        self.call("downloaded", &json!({})).await
    }

    /// The instances.
    pub async fn loaded(&self) -> Result<Loaded> {
        self.call("loaded", &json!({})).await
    }
}

/// What is left of a connection that broke.
pub fn closed() -> anyhow::Error {
    anyhow!(
        "WebSocket error: Error: WebSocket connection closed\n    at WsClientTransport.onWsClose (lms-cli:1:1)\n    at \
         processTicksAndRejections (native:7:39)"
    )
}

/// Starts what is installed, detached. False if nothing is.
fn start(home: &Home) -> bool {
    #[derive(Deserialize)]
    struct Location {
        path: PathBuf,
        #[serde(default)]
        argv: Vec<String>,
        cwd: Option<PathBuf>,
    }
    let find = |name: &str| -> Option<Location> {
        let location: Location = serde_json::from_slice(&std::fs::read(home.internal().join(name)).ok()?).ok()?;
        location.path.is_file().then_some(location)
    };
    let location = find("llmster-install-location.json").or_else(|| find("app-install-location.json"));
    let Some(location) = location else {
        return false;
    };
    // LM Studio writes its whole command line, with the program in front.
    let own_name = |argument: &&String| Path::new(argument.as_str()) == location.path;
    let skip = usize::from(location.argv.first().is_some_and(|first| own_name(&first)));
    let mut command = Command::new(&location.path);
    command.args(&location.argv[skip..]).arg("--run-as-service");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(cwd) = &location.cwd {
        command.current_dir(cwd);
    }
    crate::detach(&mut command);
    command.spawn().is_ok()
}
