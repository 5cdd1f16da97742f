//! The turn to start a server: there is one on this machine, and a lock for each address of one.

use std::time::Instant;

use super::{Gate, Lead};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::text::duration;
use crate::sys::lock::{Lock, poll_interval};

impl Gate<'_> {
    /// Starts the server and waits until it answers. A caller that wants it elsewhere must not
    /// move it from under another one, so starts take turns.
    pub(super) async fn start_server(&self, _: &Lead) -> Result<(), Failure> {
        let _turn = self.turn_to_start().await?;
        self.backend.start(self.call.progress).await
    }

    /// Waits for the turn. Without a lock that works, every caller has it.
    async fn turn_to_start(&self) -> Result<Option<Lock>, Failure> {
        let Some(store) = self.store() else { return Ok(None) };
        let limit = self.call.config.server_start_timeout;
        let deadline = Instant::now() + limit;
        loop {
            match store.start_lock.try_exclusive() {
                Ok(Some(turn)) => return Ok(Some(turn)),
                Ok(None) if Instant::now() < deadline => self.context.sleep(poll_interval()).await?,
                Ok(None) => {
                    let limit = duration(limit);
                    let reason =
                        format!("another lmswarm is still starting a server after serverStartTimeoutMs ({limit})");
                    return Err(Failure::new(Category::LockTimeout, reason).hinted("try again"));
                }
                Err(error) => {
                    tracing::info!(%error, "the lock for starting a server does not work");
                    return Ok(None);
                }
            }
        }
    }
}
