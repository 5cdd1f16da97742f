//! A server that goes away in the middle of a load. It may be restarted, so that is waited for,
//! but not for long: what is still not there then is told to callers that wait, and is nothing to
//! remember for later ones.

use std::time::{Duration, Instant};

use super::{Lead, ModelTask};
use crate::backend::{Backoff, LoadResult, Observation};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::text::duration;

/// How long a server may take to come back.
const OUTAGE_LIMIT: Duration = Duration::from_secs(10);

impl ModelTask<'_> {
    /// Whether a load ended because the server went away, and waits until it is back.
    ///
    /// # Errors
    /// It does not come back in time.
    pub(super) async fn was_cut_off(&self, result: &LoadResult, lead: &Lead) -> Result<bool, Failure> {
        let is_down = match result {
            LoadResult::CutOff(_) => true,
            LoadResult::Failed(_) | LoadResult::Lost(_) => matches!(self.gate.observe().await?, Observation::Down),
            _ => false,
        };
        if is_down {
            self.wait_out(lead).await?;
        }
        Ok(is_down)
    }

    async fn wait_out(&self, lead: &Lead) -> Result<(), Failure> {
        let name = self.gate.backend.name();
        let activity = self.gate.call.progress.begin(&format!("waiting for {name} to come back"), None);
        self.gate.show_doing(lead, "waiting for the server");
        let until = Instant::now() + OUTAGE_LIMIT;
        let mut backoff = Backoff::default();
        let seen = loop {
            let observation = self.gate.observe().await?;
            if matches!(observation, Observation::Seen(_)) || Instant::now() >= until {
                break observation;
            }
            self.gate.context.sleep(backoff.interval()).await?;
        };
        drop(activity);
        match seen {
            Observation::Seen(_) => Ok(()),
            Observation::Blocked(failure) => Err(failure),
            Observation::Down => {
                let (base, key) = (self.gate.context.base(), &self.request.key);
                let limit = duration(OUTAGE_LIMIT);
                let reason = format!(
                    "{name} went away while it loaded `{key}`, and nothing answered at {base} for {limit} after that"
                );
                Err(Failure::new(Category::ServerUnreachable, reason)
                    .hinted(format!(
                        "start it again, if it does not start by itself; {} tells why it ended",
                        self.gate.backend.log()
                    ))
                    .for_waiters())
            }
        }
    }
}
