//! Which program serves the models at an address that is not LM Studio's, or not any more.

use super::Context;
use crate::pure::backend::{BackendKind, Identification};
use crate::pure::outcome::failure::Failure;

/// Asks what only one program each answers, in one round and without any effect. `None`: none of
/// them.
pub(crate) async fn identify(context: &Context<'_>) -> Result<Option<BackendKind>, Failure> {
    let server = context.server;
    let asking = async {
        tokio::join!(server.get("lmstudio-greeting"), server.get("running"), server.get("models"), server.get("props"))
    };
    let (greeting, running, models, props) = context.unless_stopped(asking).await?;
    Ok(Identification { greeting, running, models, props }.kind())
}
