//! Talks to a server over HTTP: the two lists of a probe, and the management requests. The only
//! file that names reqwest. What an answer means is read in `pure`.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::proxy;
use super::tls::{self, HandshakeError, NoClient};
use crate::pure::base_url::BaseUrl;
use crate::pure::http::{Answer, ConnectError, Protocol, Proxy, Reply};
use crate::pure::lmstudio::rest::{Received, V0List, V1List};
use crate::pure::text::{duration, excerpt};

/// Most that is kept of one answer: far more than any management request is answered with.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// What is kept of one that is read as it comes in, to tell what it was if not what was expected.
const HEAD_BYTES: usize = 4096;

/// Takes a body piece by piece; whether it wants more.
pub(crate) type Sink<'a> = &'a mut (dyn FnMut(&[u8]) -> bool + Send);

/// An API token. It has no `Debug` that shows it, and goes into one header only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    text: String,
    /// As it is, and as JSON may have it.
    spellings: Vec<String>,
}

impl Token {
    /// Takes the value of the variable; `None` when it cannot stand in a header.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|it| it.is_ascii_graphic()) {
            return None;
        }
        let escaped = Json::String(text.to_owned()).to_string();
        let escaped = escaped[1..escaped.len() - 1].to_owned();
        let mut spellings = vec![text.to_owned(), escaped.replace('/', "\\/"), escaped];
        spellings.sort();
        spellings.dedup();
        Some(Self { text: text.to_owned(), spellings })
    }

    /// What a server says without the token: some repeat what they were sent, and it may be
    /// shown, logged or kept.
    fn hidden_in<'a>(&self, said: &'a str) -> Cow<'a, str> {
        self.spellings.iter().fold(Cow::Borrowed(said), |said, it| {
            if said.contains(it) { Cow::Owned(said.replace(it, "…")) } else { said }
        })
    }

    /// The same of what comes in pieces: takes out what can be passed on, and leaves what may
    /// be the beginning of the token.
    fn pass(&self, text: &mut Vec<u8>) -> Vec<u8> {
        let mut passed = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some((place, it)) = self.first_in(&text[at..]) {
            passed.extend_from_slice(&text[at..at + place]);
            passed.extend_from_slice("…".as_bytes());
            at += place + it.len();
        }
        let longest = self.spellings.iter().map(String::len).max().unwrap_or(1);
        let end = at.max((text.len() + 1).saturating_sub(longest));
        passed.extend_from_slice(&text[at..end]);
        text.drain(..end);
        passed
    }

    fn first_in(&self, text: &[u8]) -> Option<(usize, &str)> {
        let places = self.spellings.iter().filter_map(|it| Some((memchr::memmem::find(text, it.as_bytes())?, &**it)));
        // Of two at one place the longer: one may begin as the other does.
        places.min_by_key(|(place, it)| (*place, usize::MAX - it.len()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// One LM Studio server.
#[derive(Debug)]
pub(crate) struct Server {
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
    /// When an `https` address is given and no trusted certificates can be loaded.
    pub(crate) fn new(base: BaseUrl, token: Option<Token>, probe_timeout: Duration) -> Result<Self, NoClient> {
        let _step = tracing::trace_span!("client").entered();
        let mut builder = Client::builder()
            .user_agent(concat!("lmswarm/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls::config(&base)?);
        if base.is_loopback() {
            // A proxy from the environment would be asked for a server on its own loopback.
            builder = builder.no_proxy();
            if base.host().parse::<IpAddr>().is_err() {
                // Saves the resolver's thread.
                builder = builder.resolve_to_addrs(&base.host(), &this_machine(base.port()));
            }
        } else {
            builder = builder.dns_resolver(Arc::new(Resolver));
        }
        let client = builder.build().context("cannot build the HTTP client").map_err(NoClient::Unexpected)?;
        Ok(Self { base, client, token, probe_timeout })
    }

    /// Whether requests carry a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The proxy of the environment through which it is asked. Looked for when something went wrong:
    /// a warm call does without.
    pub(crate) fn proxy(&self) -> Option<Proxy> {
        // On this machine none is asked.
        if self.base.is_loopback() { None } else { proxy::of_environment(&self.base) }
    }

    /// One round: `GET /api/v1/models` and `GET /api/v0/models`, side by side. The models that
    /// are `requested` are found however long the lists are.
    pub(crate) async fn lists<'a>(
        &self,
        requested: impl IntoIterator<Item = &'a str>,
    ) -> (Received<V1List>, Received<V0List>) {
        let (mut v1, mut v0) = (V1List::new(requested), V0List::default());
        let (mut feed_v1, mut feed_v0) = (|piece: &[u8]| v1.feed(piece), |piece: &[u8]| v0.feed(piece));
        let (reply_v1, reply_v0) = tokio::join!(
            self.stream("api/v1/models", self.probe_timeout, &mut feed_v1),
            self.stream("api/v0/models", self.probe_timeout, &mut feed_v0)
        );
        (Received { reply: reply_v1, list: v1 }, Received { reply: reply_v0, list: v0 })
    }

    /// `GET` of a path below the root, within the probe's time.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, None, self.probe_timeout, None).await
    }

    /// The same, within `limit`.
    pub(crate) async fn get_within(&self, path: &str, limit: Duration) -> Reply {
        self.send(Method::GET, path, None, limit, None).await
    }

    /// The same, where the body may be long, or without an end: `sink` gets it piece by piece, and
    /// says whether it wants more. Only the beginning is in the answer.
    pub(crate) async fn stream(&self, path: &str, limit: Duration, sink: Sink<'_>) -> Reply {
        self.send(Method::GET, path, None, limit, Some(sink)).await
    }

    /// `POST` of a JSON body, within `limit`.
    pub(crate) async fn post(&self, path: &str, body: &Json, limit: Duration) -> Reply {
        self.send(Method::POST, path, Some(body), limit, None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
        limit: Duration,
        sink: Option<Sink<'_>>,
    ) -> Reply {
        let mut request = self.client.request(method.clone(), self.base.endpoint(path));
        // llama-swap words its errors by it.
        request = request.header("accept", "application/json");
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(&token.text);
        }
        let reply = match tokio::time::timeout(limit, receive(request, self.token.as_ref(), sink)).await {
            // Nothing but a proxy answers so.
            Ok(Ok(answer)) if answer.status == 407 => match self.proxy() {
                Some(proxy) => {
                    let why = "the proxy wants a user name and a password (status 407)".to_owned();
                    Reply::Unreachable(ConnectError::Proxy(proxy, why))
                }
                None => Reply::Answer(answer),
            },
            Ok(Ok(answer)) => Reply::Answer(answer),
            Ok(Err(error)) => self.failed(&error, method == Method::GET).await,
            Err(_) => Reply::TimedOut,
        };
        let url = || self.base.endpoint(path);
        match &reply {
            Reply::Answer(Answer { status, body, .. }) => {
                tracing::debug!("{method} {}: status {status}, {} bytes", url(), body.len());
            }
            Reply::Refused => tracing::debug!("{method} {}: nothing listens there", url()),
            Reply::Unreachable(why) => tracing::debug!("{method} {}: no connection: {why}", url()),
            Reply::NotHttp(said) => tracing::debug!("{method} {}: no HTTP, but \"{said}\"", url()),
            Reply::Broken(why) => tracing::debug!("{method} {}: no answer: {why}", url()),
            Reply::TimedOut => tracing::debug!("{method} {}: no answer within {}", url(), duration(limit)),
        }
        reply
    }

    /// What it means that there was no answer. Only where `may_look` is set it is found out who
    /// speaks there, which takes another connection.
    async fn failed(&self, error: &reqwest::Error, may_look: bool) -> Reply {
        let handshake = causes(error).find_map(tls::handshake_error);
        let why = || match (&handshake, causes(error).last()) {
            (Some(HandshakeError::NoTls), _) => "what answers there speaks no TLS".to_owned(),
            (_, last) => excerpt(&last.map(ToString::to_string).unwrap_or_default(), 200),
        };
        if is_exhausted(error) {
            return Reply::Broken(why());
        }
        match &handshake {
            Some(HandshakeError::Certificate(error)) => {
                return Reply::Unreachable(ConnectError::Certificate(error.clone()));
            }
            Some(HandshakeError::NothingInCommon) => return Reply::Unreachable(ConnectError::OtherTls),
            Some(HandshakeError::NoTls | HandshakeError::Other) | None => {}
        }
        let is_refused = has_io_cause(error, |io| io.kind() == io::ErrorKind::ConnectionRefused);
        if let Some(proxy) = self.proxy() {
            // A handshake is one with the server, through the proxy.
            return match &handshake {
                None if is_refused => {
                    Reply::Unreachable(ConnectError::Proxy(proxy, "nothing listens at the proxy".to_owned()))
                }
                None if error.is_connect() => Reply::Unreachable(ConnectError::Proxy(proxy, why())),
                Some(_) if error.is_connect() => Reply::Unreachable(ConnectError::Other(why())),
                _ => Reply::Broken(why()),
            };
        }
        if is_refused {
            return Reply::Refused;
        }
        // In a handshake, or before an answer has begun.
        let may_be_another_protocol = if self.base.is_https() {
            matches!(handshake, Some(HandshakeError::NoTls))
                || has_io_cause(error, |io| io.kind() == io::ErrorKind::UnexpectedEof)
        } else {
            error.is_request() && !error.is_connect()
        };
        if may_look && may_be_another_protocol {
            let look = tokio::time::timeout(self.probe_timeout, self.first_bytes());
            if let Ok(Some(bytes)) = look.await {
                let said = || excerpt(&String::from_utf8_lossy(&bytes), 60);
                match (Protocol::of(&bytes), self.base.is_https()) {
                    (Protocol::Http, true) => return Reply::Unreachable(ConnectError::SpeaksHttp),
                    (Protocol::Tls, false) => return Reply::Unreachable(ConnectError::SpeaksHttps),
                    (Protocol::Other, _) => return Reply::NotHttp(said()),
                    (Protocol::Http, false) | (Protocol::Tls, true) => {}
                }
            }
        }
        // A server that goes away resets the connections that it has not taken yet: the next one
        // tells more.
        let was_going = !self.base.is_https() && has_io_cause(error, |io| io.kind() == io::ErrorKind::ConnectionReset);
        if error.is_connect() && !was_going {
            Reply::Unreachable(ConnectError::Other(why()))
        } else {
            Reply::Broken(why())
        }
    }

    /// What a plain request without a token is answered with first, if anything.
    async fn first_bytes(&self) -> Option<Vec<u8>> {
        let (host, port) = (self.base.host(), self.base.port());
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::from((address, port))],
            Err(_) if self.base.is_loopback() => this_machine(port).to_vec(),
            Err(_) => look_up(host, port).await.ok()?,
        };
        let mut stream = TcpStream::connect(&*addresses).await.ok()?;
        // Some speak before they are asked, and hang up at once.
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
        let mut bytes = vec![0; 512];
        let length = stream.read(&mut bytes).await.ok()?;
        bytes.truncate(length);
        (length > 0).then_some(bytes)
    }
}

/// This machine's own addresses. LM Studio listens on IPv4 unless told otherwise.
fn this_machine(port: u16) -> [SocketAddr; 2] {
    [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
}

/// Whether LM Studio greets there.
pub(crate) async fn greets(server: &Server) -> bool {
    match server.get("lmstudio-greeting").await {
        Reply::Answer(answer) => crate::pure::lmstudio::rest::is_greeting(&answer.body),
        _ => false,
    }
}

async fn receive(
    request: RequestBuilder,
    token: Option<&Token>,
    mut sink: Option<Sink<'_>>,
) -> reqwest::Result<Answer> {
    let mut response = request.send().await?;
    let header = |name: &str| {
        let said = response.headers().get(name)?.to_str().ok()?;
        Some(excerpt(&token.map_or(said.into(), |token| token.hidden_in(said)), 60))
    };
    let signature: Vec<String> = ["server", "content-type"].into_iter().filter_map(header).collect();
    let status = response.status().as_u16();
    let most = if sink.is_some() { HEAD_BYTES } else { MOST_BYTES };
    let mut body = Vec::new();
    let mut held_back = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(most - body.len())]);
        let goes_on = match (&mut sink, token) {
            // Cut off, it cannot be read, which is what is wanted of a flood.
            (None, _) => body.len() < most,
            (Some(sink), None) => sink(&chunk),
            (Some(sink), Some(token)) => {
                held_back.extend_from_slice(&chunk);
                sink(&token.pass(&mut held_back))
            }
        };
        if !goes_on {
            break;
        }
    }
    if let Some(sink) = sink
        && !held_back.is_empty()
    {
        sink(&held_back);
    }
    if let Some(token) = token
        && let Cow::Owned(said) = token.hidden_in(&String::from_utf8_lossy(&body))
    {
        body = said.into_bytes();
    }
    Ok(Answer { status, signature: signature.join(", "), body })
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

fn has_io_cause(error: &reqwest::Error, is_meant: impl Fn(&io::Error) -> bool) -> bool {
    causes(error).any(|it| it.downcast_ref().is_some_and(&is_meant))
}

/// The error and all that caused it; the last one says what happened, those above it repeat the
/// URL. Unlike `source`, it does not pass over what an I/O error is made of.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&it| match it.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => it.source(),
    })
}

/// Looks names up in a thread of its own. reqwest's resolver panics where the system refuses
/// the thread.
struct Resolver;

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let addresses: reqwest::dns::Addrs = Box::new(look_up(name.as_str().to_owned(), 0).await?.into_iter());
            Ok(addresses)
        })
    }
}

async fn look_up(name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // An error means that the request was given up.
    let look_up = move || drop(sender.send((name.as_str(), port).to_socket_addrs()));
    std::thread::Builder::new().spawn(look_up)?;
    Ok(receiver.await.map_err(io::Error::other)??.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_is_hidden_wherever_it_is_cut_into_pieces(said in r"(abab/c|a|b|ab|/c|\\/|x){0,12}", size in 1..9_usize) {
            let token = Token::new("abab/c").unwrap();
            let (mut held_back, mut passed) = (Vec::new(), Vec::new());
            for piece in said.as_bytes().chunks(size) {
                held_back.extend_from_slice(piece);
                passed.extend(token.pass(&mut held_back));
            }
            passed.extend(held_back);
            let passed = String::from_utf8(passed).unwrap();
            prop_assert!(!token.spellings.iter().any(|it| passed.contains(it)), "{}", passed);
            prop_assert_eq!(passed, said.replace("abab\\/c", "…").replace("abab/c", "…"));
        }
    }
}
