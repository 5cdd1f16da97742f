//! The forward proxy through which a server is asked, for messages. reqwest finds it by the same
//! code, but does not tell.

use hyper_util::client::proxy::matcher::Matcher;

use crate::pure::base_url::BaseUrl;
use crate::pure::http::Proxy;

/// The proxy that the environment names for this server.
pub(super) fn of_environment(base: &BaseUrl) -> Option<Proxy> {
    let target = base.endpoint("").as_str().parse().ok()?;
    let found = Matcher::from_system().intercept(&target)?;
    let authority = found.uri().authority()?.as_str();
    let names = if base.is_https() { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let mut names = names.into_iter().chain(["ALL_PROXY", "all_proxy"]);
    let variable = names.find(|name| std::env::var(name).is_ok_and(|value| value.contains(authority)))?;
    Some(Proxy { url: found.uri().to_string().trim_end_matches('/').to_owned(), variable: variable.to_owned() })
}
