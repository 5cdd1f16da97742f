//! One quick look at servers, for what is good to know and never worth a wait.

use std::time::Duration;

use futures_util::future::join_all;

use crate::pure::lmstudio::rest::read_lists;
use crate::pure::residency::Reading;
use crate::resolve::Endpoint;
use crate::sys::http::Server;

/// Longest that a look may take.
pub(super) const LIMIT: Duration = Duration::from_millis(500);

/// The keys of the models that are downloaded on any of these, as far as they tell in time.
pub(super) async fn downloaded_keys(endpoints: Vec<Endpoint<'_>>) -> Vec<String> {
    let keys = endpoints.into_iter().map(async |Endpoint { base, token, .. }| {
        let server = Server::new(base, token, LIMIT).ok()?;
        let (v1, v0) = tokio::time::timeout(LIMIT, server.lists([])).await.ok()?;
        let Reading::Seen(snapshot) = read_lists(v1, v0) else { return None };
        Some(snapshot.downloaded?.into_iter().map(|it| it.key).collect::<Vec<_>>())
    });
    join_all(keys).await.into_iter().flatten().flatten().collect()
}
