//! What became of an HTTP request: the transport's view, the same for every kind of server. What a
//! body means is read by the room of the server that sent it.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use super::base_url::BaseUrl;
use super::outcome::failure::{Category, Failure};
use super::text::{excerpt, listed, shell_word};

/// What became of one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The server answered.
    Answer(Answer),
    /// Nothing listens on that port.
    Refused,
    /// It cannot be connected to, and to try again changes nothing.
    Unreachable(ConnectError),
    /// What listens there speaks no HTTP; holds the beginning of what it said.
    NotHttp(String),
    /// No answer in time.
    TimedOut,
    /// Anything else; says what.
    Broken(String),
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `Server` and `Content-Type` headers, to name who answered.
    pub signature: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Names what answered: `status 200, nginx, text/html: "<html>…"`.
pub fn describe(answer: &Answer) -> String {
    let body = excerpt(&String::from_utf8_lossy(&answer.body), 60);
    let signature = if answer.signature.is_empty() { String::new() } else { format!(", {}", answer.signature) };
    format!("status {}{signature}: \"{body}\"", answer.status)
}

/// What a status says by itself, whoever answers: the server, or a proxy in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusClass {
    /// The request was refused for its token, or for want of one.
    Unauthorized,
    /// There were too many requests; one more makes it worse.
    RateLimited,
    /// It could not be answered now: that says nothing about what listens there.
    Temporary,
    /// All others: the body decides.
    Other,
}

/// What a status says by itself.
pub fn classify(status: u16) -> StatusClass {
    match status {
        401 | 403 => StatusClass::Unauthorized,
        429 => StatusClass::RateLimited,
        408 | 425 | 500.. => StatusClass::Temporary,
        _ => StatusClass::Other,
    }
}

/// Which protocol the first bytes of an answer are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1, or what may become it.
    Http,
    /// A record of TLS.
    Tls,
    /// Neither.
    Other,
}

impl Protocol {
    /// Reads the first bytes that came, at least one.
    pub fn of(bytes: &[u8]) -> Self {
        let start = &bytes[..bytes.len().min(5)];
        match bytes {
            _ if b"HTTP/".starts_with(start) => Self::Http,
            // An alert or a handshake, with the version in front that all of TLS writes there.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            _ => Self::Other,
        }
    }
}

/// A proxy that the environment names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its address, without name and password.
    pub url: String,
    /// The variable that names it.
    pub variable: String,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.url, self.variable)
    }
}

/// Why a server cannot be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// The proxy through which it is asked gives no connection; says why.
    Proxy(Proxy, String),
    /// Its certificate is not accepted.
    Certificate(CertificateError),
    /// It speaks http, and the address says https.
    SpeaksHttp,
    /// It speaks https, and the address says http.
    SpeaksHttps,
    /// It speaks another TLS than we do.
    OtherTls,
    /// An unknown name or no route: says what.
    Other(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(proxy, why) => write!(f, "through the proxy {proxy}: {why}"),
            Self::Certificate(error) => error.fmt(f),
            Self::SpeaksHttp => f.write_str("that port speaks http, not https"),
            Self::SpeaksHttps => f.write_str("that port speaks https, not http"),
            Self::OtherTls => f.write_str("it takes no TLS version, cipher or signature that lmswarm offers"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl ConnectError {
    /// The failure of every model on that server. `origin` says where its address came from.
    pub(crate) fn failure(&self, base: &BaseUrl, origin: &str) -> Failure {
        let reason = match self {
            Self::Proxy(proxy, why) => {
                format!("{base} (from {origin}) cannot be reached through the proxy {proxy}: {why}")
            }
            _ => format!("{base} (from {origin}) cannot be connected to: {self}"),
        };
        let hint = match self {
            Self::Proxy(proxy, _) => {
                format!("start the proxy, correct {}, or put {} into NO_PROXY", proxy.variable, base.host())
            }
            Self::Certificate(error) => error.hint(base),
            Self::SpeaksHttp | Self::SpeaksHttps => format!("use --base-url {}", base.with_other_scheme()),
            Self::OtherTls => {
                "let it take TLS 1.2 or 1.3, with a key of RSA (2048 bits or more), P-256, P-384 or Ed25519".to_owned()
            }
            Self::Other(_) => "check the address (--base-url), and that this machine can reach it".to_owned(),
        };
        Failure::new(Category::ServerUnreachable, reason).hinted(hint).cheap()
    }
}

/// Why a server's certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateError {
    /// Neither it nor what signed it is trusted.
    Untrusted,
    /// It calls itself an authority, and is not itself trusted.
    Authority,
    /// It is valid for these hosts, and for no other.
    OtherHost(Vec<String>),
    /// It was valid until then, counted from the Unix epoch.
    Expired(Duration),
    /// It will be valid from then on, counted from the Unix epoch.
    NotYetValid(Duration),
    /// It is of X.509 version 1, which cannot say what it is valid for.
    Version1,
    /// The server cannot prove with it who it is: the key is too short, or not the server's.
    Key,
    /// Anything else; says what.
    Other(String),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its certificate ")?;
        match self {
            Self::Untrusted => f.write_str("is not trusted here, and not signed by one that is"),
            Self::Authority => {
                f.write_str("is that of an authority (basicConstraints CA:TRUE), and is not itself trusted here")
            }
            Self::OtherHost(names) if names.is_empty() => {
                f.write_str("has no subjectAltName, and so is valid for no host")
            }
            Self::OtherHost(names) => {
                write!(f, "is valid for {} alone (subjectAltName)", listed(names.iter().map(String::as_str), "and"))
            }
            Self::Expired(time) => write!(f, "was valid until {} (notAfter)", date(*time)),
            Self::NotYetValid(time) => write!(f, "is valid from {} on (notBefore)", date(*time)),
            Self::Version1 => {
                f.write_str("is of X.509 version 1, which has no subjectAltName, and so is valid for no host")
            }
            Self::Key => f.write_str("has a key that is too short (RSA needs 2048 bits), or is not the server's"),
            Self::Other(why) => write!(f, "is not accepted: {why}"),
        }
    }
}

impl CertificateError {
    fn hint(&self, base: &BaseUrl) -> String {
        match self {
            Self::Untrusted | Self::Authority => {
                "if it is your own, let the variable SSL_CERT_FILE name a PEM file that holds it, or its authority's"
                    .to_owned()
            }
            Self::NotYetValid(_) => "check the clocks of both machines, or make a new certificate".to_owned(),
            Self::OtherHost(_) | Self::Expired(_) | Self::Version1 | Self::Key | Self::Other(_) => {
                let (host, kind) = (base.host(), if base.is_ip() { "IP" } else { "DNS" });
                let name = shell_word(&format!("/CN={host}"));
                let alternative = shell_word(&format!("subjectAltName={kind}:{host}"));
                format!(
                    "if it is your own, make one that works: `openssl req -x509 -newkey rsa:2048 -nodes -days 365 \
                     -subj {name} -addext {alternative} -keyout key.pem -out cert.pem`"
                )
            }
        }
    }
}

/// A time since the Unix epoch, as `2026-07-01T12:00:00Z`.
fn date(time: Duration) -> String {
    // The last second of the year 9999, beyond which there is no such text.
    let last = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + time.min(last)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_whom_it_is_about() {
        for (statuses, class) in [
            (&[401, 403][..], StatusClass::Unauthorized),
            (&[429], StatusClass::RateLimited),
            (&[408, 425, 500, 501, 502, 503, 504, 520, 599, 999], StatusClass::Temporary),
            (&[100, 200, 204, 301, 302, 308, 400, 402, 404, 405, 407, 409, 410, 418, 451], StatusClass::Other),
        ] {
            for status in statuses {
                assert_eq!(classify(*status), class, "{status}");
            }
        }
    }

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        for (bytes, protocol) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], Protocol::Http),
            (b"HTTP/", Protocol::Http),
            // More of it may be on its way.
            (b"HT", Protocol::Http),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Protocol::Other),
            (b"220 mail.example ESMTP\r\n", Protocol::Other),
            (b"-ERR unknown command\r\n", Protocol::Other),
            (b"HTML", Protocol::Other),
            (b"ICY 200 OK\r\n", Protocol::Other),
            // What an HTTP/2 server begins with.
            (b"\0\0\x12\x04\0\0\0\0\0", Protocol::Other),
            (b"\x15\x03\x01\0\x02\x02\x0a", Protocol::Tls),
            (b"\x16\x03\x03", Protocol::Tls),
            (b"\x15\x02", Protocol::Other),
        ] {
            assert_eq!(Protocol::of(bytes), protocol, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_keeps_from_a_server_is_named_with_what_to_do() {
        let proxy = Proxy { url: "http://10.0.0.1:3128".to_owned(), variable: "HTTP_PROXY".to_owned() };
        let day = Duration::from_secs(1_782_907_200);
        for (error, base, reason, hint) in [
            (
                ConnectError::Proxy(proxy, "nothing listens at the proxy".to_owned()),
                "http://llm.lan:1234",
                "http://llm.lan:1234/v1 (from a test) cannot be reached through the proxy http://10.0.0.1:3128 (from \
                 HTTP_PROXY): nothing listens at the proxy",
                "start the proxy, correct HTTP_PROXY, or put llm.lan into NO_PROXY",
            ),
            (
                ConnectError::SpeaksHttp,
                "https://llm.lan/lm",
                "https://llm.lan/lm/v1 (from a test) cannot be connected to: that port speaks http, not https",
                "use --base-url http://llm.lan:443/lm/v1",
            ),
            (
                ConnectError::SpeaksHttps,
                "http://llm.lan:1234",
                "http://llm.lan:1234/v1 (from a test) cannot be connected to: that port speaks https, not http",
                "use --base-url https://llm.lan:1234/v1",
            ),
            (
                ConnectError::Certificate(CertificateError::Untrusted),
                "https://llm.lan",
                "its certificate is not trusted here",
                "SSL_CERT_FILE",
            ),
            (
                ConnectError::Certificate(CertificateError::OtherHost(Vec::new())),
                "https://llm.lan",
                "its certificate has no subjectAltName",
                "-subj /CN=llm.lan -addext subjectAltName=DNS:llm.lan -keyout",
            ),
            (
                ConnectError::Certificate(CertificateError::OtherHost(vec!["a".to_owned(), "b".to_owned()])),
                "https://[::1]",
                "its certificate is valid for `a` and `b` alone (subjectAltName)",
                "-subj /CN=::1 -addext subjectAltName=IP:::1 -keyout",
            ),
            (
                ConnectError::Certificate(CertificateError::Expired(day)),
                "https://a;b",
                "its certificate was valid until 2026-07-01T12:00:00Z (notAfter)",
                "-subj '/CN=a;b' -addext 'subjectAltName=DNS:a;b' -keyout",
            ),
            (
                ConnectError::Certificate(CertificateError::NotYetValid(Duration::MAX)),
                "https://llm.lan",
                "its certificate is valid from 9999-12-31T23:59:59Z on (notBefore)",
                "check the clocks",
            ),
        ] {
            let failure = error.failure(&BaseUrl::parse(base).unwrap(), "a test");
            assert!(failure.reason.contains(reason), "{failure:?}");
            assert!(failure.hint.as_ref().unwrap().contains(hint), "{failure:?}");
            assert_eq!(failure.category, Category::ServerUnreachable);
        }
    }
}
