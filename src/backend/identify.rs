//! Which program serves the models at an address that is not LM Studio's, or not any more.

use super::Context;
use crate::pure::backend::{BackendKind, Identification};
use crate::pure::base_url::BaseUrl;
use crate::pure::outcome::failure::Failure;
use crate::sys::http::Server;

/// Where llama-swap and llama.cpp listen unless told otherwise.
const USUAL_PORT: u16 = 8080;

/// Asks what only one program each answers, in one round and without any effect. `None`: none of
/// them.
pub(crate) async fn identify(context: &Context<'_>) -> Result<Option<BackendKind>, Failure> {
    ask(context, context.server).await
}

/// A program that serves models at the usual port of this machine, where nobody named it.
pub(crate) async fn at_usual_port(context: &Context<'_>) -> Option<(BackendKind, BaseUrl)> {
    let base = BaseUrl::loopback(USUAL_PORT);
    let server = Server::new(base.clone(), None, context.config.probe_timeout).ok()?;
    Some((ask(context, &server).await.ok()??, base))
}

async fn ask(context: &Context<'_>, server: &Server) -> Result<Option<BackendKind>, Failure> {
    let asking = async {
        tokio::join!(server.get("lmstudio-greeting"), server.get("running"), server.get("models"), server.get("props"))
    };
    let (greeting, running, models, props) = context.unless_stopped(asking).await?;
    Ok(Identification { greeting, running, models, props }.kind())
}
