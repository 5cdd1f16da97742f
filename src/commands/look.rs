//! One quick look at a server, for what is good to know and never worth a wait.

use std::time::Duration;

use crate::pure::lmstudio::rest::read_lists;
use crate::pure::residency::Reading;
use crate::resolve::Endpoint;
use crate::sys::http::Server;

/// Longest that a look may take.
pub(super) const LIMIT: Duration = Duration::from_millis(500);

/// The keys of the downloaded models, if the server tells them in time.
pub(super) async fn downloaded_keys(endpoint: Endpoint) -> Option<Vec<String>> {
    let server = Server::new(endpoint.base, endpoint.token, LIMIT).ok()?;
    let (v1, v0) = tokio::time::timeout(LIMIT, server.lists([])).await.ok()?;
    let Reading::Seen(snapshot) = read_lists(v1, v0) else { return None };
    Some(snapshot.downloaded?.into_iter().map(|it| it.key).collect())
}
