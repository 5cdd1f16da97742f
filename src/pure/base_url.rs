//! The base URL: one spelling for the many ways to write the address of a server, and
//! what its host allows us to do. Nothing is resolved or asked here.

use std::fmt;

use url::{Host, Url};

use crate::pure::fnv::fnv1a;
use crate::pure::text::excerpt;

/// The address of one LM Studio server, normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    root: Url,
}

/// Why a text is not a base URL; reads as the end of a sentence about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidBaseUrl(String);

impl fmt::Display for InvalidBaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BaseUrl {
    /// Reads a base URL with or without `/v1`, with or without a slash behind it; a path
    /// before it (a reverse proxy's prefix) is kept.
    ///
    /// # Errors
    /// When it is no http(s) URL with a host, or carries a query, a fragment or credentials.
    pub fn parse(text: &str) -> Result<Self, InvalidBaseUrl> {
        let text = text.trim();
        let invalid = |why: &str| Err(InvalidBaseUrl(why.to_owned()));
        if text.is_empty() {
            return invalid("is empty; write it as `http://127.0.0.1:1234/v1`");
        }
        let mut url = match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => url,
            // `localhost:1234` parses as the scheme `localhost`, `127.0.0.1:1234` not at all.
            _ if !text.contains("://") => {
                let meant = Self::meant(text).unwrap_or_else(|| format!("http://{text}"));
                let meant = excerpt(&meant, 100);
                return Err(InvalidBaseUrl(format!("has no `http://` in front; did you mean `{meant}`?")));
            }
            Ok(url) => {
                let scheme = excerpt(url.scheme(), 20);
                return Err(InvalidBaseUrl(format!("has the scheme `{scheme}`; only `http` and `https` work")));
            }
            Err(error) => return Err(InvalidBaseUrl(format!("is not a URL: {error}"))),
        };
        // The parser forgives `http:/host` and `http:host`; a typo should not pass silently.
        let prefix = format!("{}://", url.scheme());
        if !text.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(&prefix)) {
            return invalid("needs two slashes behind the scheme: `http://HOST:PORT/v1`");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must not carry a user name or password; a token goes into a variable, see `apiTokenEnv`");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return invalid("must not carry `?` or `#`");
        }
        if url.port() == Some(0) {
            return invalid("has port 0; LM Studio listens on 1234 unless told otherwise");
        }
        let path = url.path().trim_end_matches('/');
        let root = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/').to_owned();
        url.set_path(&format!("{root}/"));
        Ok(Self { root: url })
    }

    /// What was meant by an address without its scheme: a mere port is one on this machine.
    pub fn meant(text: &str) -> Option<String> {
        let text = text.trim();
        if text.contains("://") {
            return None;
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        let meant = match port.parse::<u16>() {
            Ok(port) => format!("http://127.0.0.1:{port}/v1"),
            Err(_) => format!("http://{text}"),
        };
        Self::parse(&meant).is_ok().then_some(meant)
    }

    /// LM Studio on this machine, at `port`.
    pub fn loopback(port: u16) -> Self {
        let text = format!("http://127.0.0.1:{port}");
        Self::parse(&text).unwrap_or_else(|_| unreachable!("a port makes a valid URL: {text}"))
    }

    /// The URL of `path`, which is below the root and has no slash in front; it may have a query,
    /// whose values are [`escaped`].
    pub fn endpoint(&self, path: &str) -> Url {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = self.root.clone();
        url.set_path(&format!("{}{path}", self.root.path()));
        url.set_query(query);
        url
    }

    /// Whether TLS is needed.
    pub fn is_https(&self) -> bool {
        self.root.scheme() == "https"
    }

    /// The port, also where the scheme implies it.
    pub fn port(&self) -> u16 {
        self.root.port_or_known_default().unwrap_or(80)
    }

    /// The host without brackets.
    pub fn host(&self) -> String {
        match self.root.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => String::new(),
        }
    }

    /// Whether the host is this machine: only then may a server be started for it.
    pub fn is_loopback(&self) -> bool {
        match self.root.host() {
            Some(Host::Domain(name)) => is_localhost(name),
            Some(Host::Ipv4(address)) => address.is_loopback() || address.is_unspecified(),
            Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unspecified(),
            None => false,
        }
    }

    /// Plain http at the root: what LM Studio itself serves. Anything else is a proxy's doing.
    pub fn is_plain(&self) -> bool {
        !self.is_https() && self.root.path() == "/"
    }

    /// Whether the host is an address, not a name.
    pub fn is_ip(&self) -> bool {
        matches!(self.root.host(), Some(Host::Ipv4(_) | Host::Ipv6(_)))
    }

    /// Whether the host is an IPv6 address. `lms` refuses a colon in `--host`, and its
    /// server listens on IPv4.
    pub fn is_ipv6(&self) -> bool {
        matches!(self.root.host(), Some(Host::Ipv6(_)))
    }

    /// The same host without the path.
    #[must_use]
    pub fn without_path(&self) -> Self {
        let mut root = self.root.clone();
        root.set_path("/");
        Self { root }
    }

    /// The same address with http in the place of https, or the other way round.
    #[must_use]
    pub fn with_other_scheme(&self) -> Self {
        let mut root = self.root.clone();
        let scheme = if self.is_https() { "http" } else { "https" };
        // Neither can fail: both schemes have hosts and ports. A port that is implied stays the same.
        let _ = root.set_scheme(scheme);
        let _ = root.set_port(Some(self.port()));
        Self { root }
    }

    /// A name for files that belong to this server: two spellings of one server share it.
    pub fn slug(&self) -> String {
        let host = if self.is_loopback() { "localhost".to_owned() } else { self.host() };
        let path = self.root.path().trim_end_matches('/');
        file_name(&format!("{}-{host}-{}{path}", self.root.scheme(), self.port()))
    }
}

/// A text as a value of a query, or as one part of a path.
pub fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The longest name that [`file_name`] makes: two of them and an ending fit into the 255
/// bytes that file systems allow.
const LONGEST_NAME: usize = 100;

/// A name for a file about `text`. No two texts share one, also where case is ignored: what
/// is remembered of one server is not true of another.
pub fn file_name(text: &str) -> String {
    let mut name = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => name.push(char::from(byte)),
            b'/' => name.push('+'),
            _ => name.extend(['=', hex(byte >> 4), hex(byte & 15)]),
        }
    }
    if name.len() <= LONGEST_NAME {
        return name;
    }
    name.truncate(LONGEST_NAME - 17);
    format!("{name}~{:016x}", fnv1a(text))
}

fn hex(digit: u8) -> char {
    char::from_digit(u32::from(digit), 16).unwrap_or('0')
}

/// RFC 6761: `localhost` and every name below it is this machine.
fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v1", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_of_a_server_is_one_server() {
        for (text, shown) in [
            ("http://127.0.0.1:1234", "http://127.0.0.1:1234/v1"),
            ("http://127.0.0.1:1234/", "http://127.0.0.1:1234/v1"),
            ("http://127.0.0.1:1234/v1", "http://127.0.0.1:1234/v1"),
            (" http://127.0.0.1:1234/v1// ", "http://127.0.0.1:1234/v1"),
            ("HTTP://LocalHost:1234/v1", "http://localhost:1234/v1"),
            ("https://llm.example/lm/v1", "https://llm.example/lm/v1"),
            ("https://llm.example/lm", "https://llm.example/lm/v1"),
            ("http://[::1]:1234/v1", "http://[::1]:1234/v1"),
        ] {
            let base = BaseUrl::parse(text).unwrap();
            assert_eq!(base.to_string(), shown, "{text}");
        }
        let base = BaseUrl::parse("https://llm.example/lm/v1").unwrap();
        assert_eq!(base.endpoint("api/v1/models").as_str(), "https://llm.example/lm/api/v1/models");
    }

    #[test]
    fn a_typo_is_named() {
        for (text, wanted) in [
            ("", "is empty"),
            ("127.0.0.1:1234", "did you mean `http://127.0.0.1:1234`?"),
            ("localhost:1234/v1", "did you mean `http://localhost:1234/v1`?"),
            ("35003", "did you mean `http://127.0.0.1:35003/v1`?"),
            (":35003", "did you mean `http://127.0.0.1:35003/v1`?"),
            ("99999", "did you mean `http://99999`?"),
            ("h\u{1b}[2J", "did you mean `http://h\\u{1b}[2J`?"),
            ("htp://127.0.0.1:1234", "the scheme `htp`"),
            ("http:/127.0.0.1:1234", "two slashes"),
            ("http://", "is not a URL"),
            ("http://127.0.0.1:12345678", "is not a URL"),
            ("http://127.0.0.1:0/v1", "port 0"),
            ("http://me:secret@127.0.0.1:1234", "user name or password"),
            ("http://127.0.0.1:1234/v1?x=1", "must not carry `?`"),
        ] {
            let error = BaseUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn hosts_are_told_apart() {
        for (text, loopback, plain, ipv6) in [
            ("http://127.0.0.1:1234", true, true, false),
            ("http://127.9.9.9:1234", true, true, false),
            ("http://0.0.0.0:1234", true, true, false),
            ("http://localhost:1234", true, true, false),
            ("http://[::1]:1234", true, true, true),
            ("http://127.0.0.1:1234/lm/v1", true, false, false),
            ("https://127.0.0.1:1234", true, false, false),
            ("http://192.168.1.7:1234", false, true, false),
            ("http://localhost.example:1234", false, true, false),
            ("http://127.0.0.1.example:1234", false, true, false),
        ] {
            let base = BaseUrl::parse(text).unwrap();
            assert_eq!((base.is_loopback(), base.is_plain(), base.is_ipv6()), (loopback, plain, ipv6), "{text}");
        }
    }

    #[test]
    fn all_names_of_this_machine_share_one_slug() {
        let slug = |text: &str| BaseUrl::parse(text).unwrap().slug();
        assert_eq!(slug("http://localhost:1234/v1"), "http-localhost-1234");
        assert_eq!(slug("http://127.0.0.1:1234"), "http-localhost-1234");
        assert_eq!(slug("https://llm.example/a/b/v1"), "https-llm.example-443+a+b");
    }

    #[test]
    fn similar_servers_have_different_slugs() {
        let long = "x".repeat(300);
        let similar = [
            "http://localhost:1234".to_owned(),
            "https://localhost:1234".to_owned(),
            "http://localhost:12341".to_owned(),
            "http://llm.example:1234".to_owned(),
            "http://localhost:1234/a".to_owned(),
            "http://localhost:1234/A".to_owned(),
            "http://localhost:1234/a/b".to_owned(),
            "http://localhost:1234/a+b".to_owned(),
            "http://localhost:1234/a=2fb".to_owned(),
            "http://localhost:1234/a%2Fb".to_owned(),
            "http://localhost:1234/a%2fb".to_owned(),
            "http://localhost:1234/a-b".to_owned(),
            "http://localhost:1234/a_b".to_owned(),
            "http://localhost:1234/a.b".to_owned(),
            "http://localhost:1234/a~b".to_owned(),
            format!("http://localhost:1234/{long}/a"),
            format!("http://localhost:1234/{long}/b"),
            format!("http://localhost:1234/{long}"),
        ];
        let slugs: std::collections::BTreeSet<String> =
            similar.iter().map(|it| BaseUrl::parse(it).unwrap().slug().to_lowercase()).collect();
        assert_eq!(slugs.len(), similar.len(), "{slugs:#?}");
        assert_eq!(file_name(&long), format!("{}~{}", "x".repeat(83), "e78ddf9f1ba85555"), "the same in every version");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(text in "https?://[a-z0-9.]{1,20}(:[1-9][0-9]{0,3})?(/[a-z0-9]{1,5}){0,3}/?") {
            if let Ok(base) = BaseUrl::parse(&text) {
                prop_assert_eq!(BaseUrl::parse(&base.to_string()), Ok(base));
            }
        }

        #[test]
        fn two_paths_share_no_file_name_and_every_name_fits(one in "[/a-cA-C+=%~.2f-]{0,150}", other in "[/a-cA-C+=%~.2f-]{0,150}") {
            let (first, second) = (file_name(&one), file_name(&other));
            prop_assert_eq!(first.to_lowercase() == second.to_lowercase(), one == other);
            prop_assert!(first.len() <= 100);
            prop_assert!(first.bytes().all(|it| it.is_ascii_graphic() && it != b'/'));
        }
    }
}
