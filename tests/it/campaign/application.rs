//! What happens to LM Studio: orders to the simulator as by a person at its window, requests of other clients, faults,
//! and its end.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::callers::Process;
use super::plan::TOKEN;
use crate::support::Machine;

/// The application of a machine, whichever process it is at the moment.
pub struct Application<'m>(pub &'m Machine);

impl Application<'_> {
    /// What is resident and what is loading.
    pub fn state(&self) -> Value {
        self.ask("GET", "state", &json!({})).unwrap_or_default()
    }

    /// Whether one answers.
    pub fn is_there(&self) -> bool {
        self.state().is_object()
    }

    pub fn control(&self, verb: &str, body: &Value) -> Option<Value> {
        self.ask("POST", verb, body)
    }

    /// What is loading.
    pub fn loading(&self) -> Vec<String> {
        names(&self.state()["loads"]).collect()
    }

    /// The identifiers of what is resident, and whether it is loading.
    pub fn resident(&self) -> Vec<(String, bool)> {
        let state = self.state();
        let rows = state["instances"].as_array().into_iter().flatten();
        rows.map(|it| (it["identifier"].as_str().unwrap_or_default().to_owned(), it["loading"] == true)).collect()
    }

    pub fn some_instance(&self, number: usize) -> Option<String> {
        let state = self.state();
        let names: Vec<String> = names(&state["instances"]).collect();
        (!names.is_empty()).then(|| names[number % names.len()].clone())
    }

    /// Ends the work of every instance.
    pub fn idle(&self) {
        for name in names(&self.state()["instances"]) {
            self.control("busy", &json!({ "identifier": name, "busy": false }));
        }
    }

    /// Sends a request to the model, if the server is on; nothing waits for the answer.
    pub fn chat(&self, key: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.0.rest_port)).ok()?;
        let body = json!({ "model": key, "messages": [] }).to_string();
        let (token, length) = (TOKEN, body.len());
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost";
        write!(stream, "{head}\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}").ok()?;
        Some(stream)
    }

    /// Starts it with its server on, as a service that looks after it would. One that runs already stays.
    pub fn start(&self) -> Process {
        let file = fs::read(self.0.path(".lmstudio/.internal/app-install-location.json")).expect("it is installed");
        let location: Value = serde_json::from_slice(&file).expect("JSON");
        let mut command = Command::new(location["path"].as_str().expect("a program"));
        command.arg("--home").arg(self.0.home()).args(["--rest-port", &self.0.rest_port.to_string()]);
        command.env_clear().env("HOME", self.0.home());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Process(command.spawn().expect("the simulator starts"))
    }

    /// An order to the application, if it is there: it may have crashed, and another one may have been started.
    fn ask(&self, method: &str, verb: &str, body: &Value) -> Option<Value> {
        let file = fs::read(self.0.path(".lmstudio/.internal/http-server.json")).ok()?;
        let port =
            serde_json::from_slice::<Value>(&file).ok()?["port"].as_u64().and_then(|it| u16::try_from(it).ok())?;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let body = body.to_string();
        write!(stream, "{method} /control/{verb} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Under the lock with which the simulator counts faults down, or it would bring old ones back.
    pub fn faults(&self, faults: &Value) {
        let path = self.0.path(".lmstudio/.simulator/faults.lock");
        let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("a lock");
        fs2::FileExt::lock_exclusive(&lock).expect("the lock");
        self.0.faults(faults.clone());
    }
}

fn names(rows: &Value) -> impl Iterator<Item = String> {
    let rows = rows.as_array().into_iter().flatten();
    rows.map(|it| it["identifier"].as_str().unwrap_or_default().to_owned())
}
