//! Talks to the REST server: the two lists of a probe, and the management requests. The
//! only file that names reqwest and TLS. What an answer means is read in `pure::rest`.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value as Json;

use crate::pure::base_url::BaseUrl;
use crate::pure::http::{Answer, Reply};
use crate::pure::text::{duration, excerpt};

/// Most that is read of one answer. A list of a thousand models is about 1 MiB.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// An API token. It has no `Debug` that shows it, and goes into one header only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes the value of the variable; `None` when it cannot stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_token = !text.is_empty() && text.bytes().all(|it| it.is_ascii_graphic());
        is_token.then(|| Self(text.to_owned()))
    }

    /// What a server says without the token: some repeat what they were sent, and it may be
    /// shown, logged or kept.
    fn hidden_in<'a>(&self, said: &'a str) -> Cow<'a, str> {
        // As it is, and as JSON may have it.
        let escaped = Json::String(self.0.clone()).to_string();
        let escaped = escaped[1..escaped.len() - 1].to_owned();
        let mut spellings = vec![self.0.clone(), escaped.replace('/', "\\/"), escaped];
        spellings.sort();
        spellings.dedup();
        spellings.iter().fold(Cow::Borrowed(said), |said, it| {
            if said.contains(it) { Cow::Owned(said.replace(it, "…")) } else { said }
        })
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// One LM Studio server.
#[derive(Debug)]
pub struct Server {
    /// Its address.
    pub base: BaseUrl,
    client: Client,
    token: Option<Token>,
    probe_timeout: Duration,
}

impl Server {
    /// Prepares the client; nothing is sent.
    ///
    /// # Errors
    /// When an `https` address is given and the system's certificates cannot be loaded.
    pub fn new(base: BaseUrl, token: Option<Token>, probe_timeout: Duration) -> anyhow::Result<Self> {
        let _step = tracing::trace_span!("client").entered();
        let mut builder = Client::builder()
            .user_agent(concat!("lmswarm/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls_config(&base)?);
        if base.is_loopback() {
            // A proxy from the environment would be asked for a server on its own loopback.
            builder = builder.no_proxy();
            if base.host().parse::<IpAddr>().is_err() {
                // Saves the resolver's thread. LM Studio listens on IPv4 unless told otherwise.
                let port = base.port();
                let addresses =
                    [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
                builder = builder.resolve_to_addrs(&base.host(), &addresses);
            }
        } else {
            builder = builder.dns_resolver(Arc::new(Resolver));
        }
        let client = builder.build().context("cannot build the HTTP client")?;
        Ok(Self { base, client, token, probe_timeout })
    }

    /// Whether requests carry a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// One round: `GET /api/v1/models` and `GET /api/v0/models`, side by side.
    pub async fn lists(&self) -> (Reply, Reply) {
        tokio::join!(self.get("api/v1/models"), self.get("api/v0/models"))
    }

    /// `GET` of a path below the root, within the probe's time.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None, self.probe_timeout).await
    }

    /// `POST` of a JSON body, within `limit`.
    pub async fn post(&self, path: &str, body: &Json, limit: Duration) -> Reply {
        self.send(Method::POST, path, Some(body), limit).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Json>, limit: Duration) -> Reply {
        let mut request = self.client.request(method.clone(), self.base.endpoint(path));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(&token.0);
        }
        let reply = match tokio::time::timeout(limit, receive(request, self.token.as_ref())).await {
            Ok(Ok(answer)) => Reply::Answer(answer),
            Ok(Err(error)) if is_refused(&error) => Reply::Refused,
            Ok(Err(error)) if error.is_connect() && !is_exhausted(&error) => {
                Reply::Unreachable(excerpt(&innermost(&error), 200))
            }
            Ok(Err(error)) => Reply::Broken(excerpt(&innermost(&error), 200)),
            Err(_) => Reply::TimedOut,
        };
        let url = || self.base.endpoint(path);
        match &reply {
            Reply::Answer(Answer { status, body, .. }) => {
                tracing::debug!("{method} {}: status {status}, {} bytes", url(), body.len());
            }
            Reply::Refused => tracing::debug!("{method} {}: nothing listens there", url()),
            Reply::Unreachable(why) | Reply::Broken(why) => tracing::debug!("{method} {}: no answer: {why}", url()),
            Reply::TimedOut => tracing::debug!("{method} {}: no answer within {}", url(), duration(limit)),
        }
        reply
    }
}

/// Whether LM Studio greets there.
pub async fn greets(server: &Server) -> bool {
    match server.get("lmstudio-greeting").await {
        Reply::Answer(answer) => crate::pure::lmstudio::rest::is_greeting(&answer.body),
        _ => false,
    }
}

async fn receive(request: RequestBuilder, token: Option<&Token>) -> reqwest::Result<Answer> {
    let mut response = request.send().await?;
    let header = |name: &str| {
        let said = response.headers().get(name)?.to_str().ok()?;
        Some(excerpt(&token.map_or(said.into(), |token| token.hidden_in(said)), 60))
    };
    let signature: Vec<String> = ["server", "content-type"].into_iter().filter_map(header).collect();
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = MOST_BYTES - body.len();
        if chunk.len() > room {
            // Cut off, it cannot be read as a list, which is what is wanted of a flood.
            body.extend_from_slice(&chunk[..room]);
            break;
        }
        body.extend_from_slice(&chunk);
    }
    if let Some(token) = token
        && let Cow::Owned(said) = token.hidden_in(&String::from_utf8_lossy(&body))
    {
        body = said.into_bytes();
    }
    Ok(Answer { status, signature: signature.join(", "), body })
}

fn is_refused(error: &reqwest::Error) -> bool {
    has_io_cause(error, |io| io.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Whether this machine had no more files, threads or memory to give: that says nothing about
/// the server.
fn is_exhausted(error: &reqwest::Error) -> bool {
    #[cfg(unix)]
    let numbers = {
        use rustix::io::Errno;
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::AGAIN].map(Errno::raw_os_error)
    };
    #[cfg(not(unix))]
    let numbers = [];
    has_io_cause(error, |io| io.raw_os_error().is_some_and(|number| numbers.contains(&number)))
}

fn has_io_cause(error: &reqwest::Error, is_meant: impl Fn(&std::io::Error) -> bool) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(it) = cause {
        if it.downcast_ref::<std::io::Error>().is_some_and(&is_meant) {
            return true;
        }
        cause = it.source();
    }
    false
}

/// Looks names up in a thread of its own. reqwest's resolver panics where the system refuses
/// the thread.
struct Resolver;

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            // An error means that the request was given up.
            let look_up = move || drop(sender.send((name.as_str(), 0).to_socket_addrs()));
            std::thread::Builder::new().spawn(look_up)?;
            let addresses: reqwest::dns::Addrs = Box::new(receiver.await??);
            Ok(addresses)
        })
    }
}

/// The last cause says what happened; the layers above it repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// TLS costs a plain http call nothing: only `https` loads the system's certificates (a
/// proxy in front of LM Studio often has one of the user's own), which takes longer than
/// the whole of a warm call.
fn tls_config(base: &BaseUrl) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    if base.is_https() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
            anyhow::bail!("cannot check the certificate of {base}: the system's certificates cannot be loaded ({why})");
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS does not work here")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
