//! What one call leaves for the next: failures that were expensive to find out, how long a
//! load took, what context was granted.

use super::look::{Observation, remember_verdict};
use super::{Call, Lead, ModelRequest, Work};
use crate::pure::config::Config;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::Ready;
use crate::pure::residency::Residency;
use crate::sys::state::{Store, now_ms};

impl Work<'_> {
    /// Fails with what an earlier call found out at great expense, if that is not long ago.
    pub(super) fn replay(&self, want: &ModelRequest, sight: &Observation) -> Result<(), Failure> {
        let Some(store) = &self.store else { return Ok(()) };
        let failure = match sight {
            Observation::Down => young(self.call, store, None, &self.server_attempt()),
            _ => past_failure(self.call, store, want),
        };
        let Some(failure) = failure else { return Ok(()) };
        let is_outdated = match sight {
            Observation::Seen(snapshot) => {
                let came =
                    failure.category == Category::DownloadFailed && snapshot.find_downloaded(&want.key).is_some();
                came || matches!(snapshot.residency(&want.key), Residency::Loading(_))
            }
            _ => false,
        };
        if is_outdated { Ok(()) } else { Err(failure) }
    }

    fn server_attempt(&self) -> String {
        let Config { lms_path, launch_app_fallback, server_start_timeout, .. } = self.config;
        format!("{} {lms_path:?} {launch_app_fallback} {server_start_timeout:?}", self.base())
    }

    /// Remembers what the next call should know.
    pub(super) fn record(&self, want: &ModelRequest, lead: &Lead, result: &Result<Ready, Failure>) {
        let (Some(store), Lead(Some(leadership))) = (&self.store, lead) else { return };
        let key = want.key.as_str();
        if let Ok(ready) = result {
            remember_verdict(self.call, store, key, ready);
        }
        let written = match result {
            Ok(ready) => store.change(leadership, |facts| {
                facts.forget_failures(key);
                let Some(time) = ready.load_time else { return };
                facts.remember_load(key, time);
                if let (Some(asked), Some(has)) = (want.options.context_length, ready.instance.context_length)
                    && has < asked
                {
                    facts.remember_granted(key, asked, has, self.config.retry_cooldown);
                }
            }),
            Err(failure) if failure.is_expensive && failure.age.is_none() => {
                let is_server = failure.category == Category::ServerUnreachable;
                let (model, attempt) =
                    if is_server { (None, self.server_attempt()) } else { (Some(key), attempt(self.config, want)) };
                store.change(leadership, |facts| facts.remember_failure(model, &attempt, failure))
            }
            Err(_) => return,
        };
        if let Err(error) = written {
            self.warn(format!("the state directory cannot be written ({error}); this outcome will not be remembered"));
        }
    }
}

/// A failure on this model that is young enough to be replayed.
pub(super) fn past_failure(call: &Call<'_>, store: &Store, want: &ModelRequest) -> Option<Failure> {
    young(call, store, Some(want.key.as_str()), &attempt(call.config, want))
}

fn young(call: &Call<'_>, store: &Store, model: Option<&str>, attempt: &str) -> Option<Failure> {
    // `--fresh` forgets what was known before this call, not what others find out while it
    // waits for them.
    let began_ms = || now_ms().saturating_sub(u64::try_from(call.started.elapsed().as_millis()).unwrap_or(0));
    store.facts().failure(model, attempt, call.config.retry_cooldown, call.fresh.then(began_ms))
}

/// What would be tried: a failure says nothing about an attempt with other options.
fn attempt(config: &Config, want: &ModelRequest) -> String {
    let Config { loader, device, eviction, auto_download, load_timeout, lms_path, .. } = config;
    format!("{:?} {loader:?} {device:?} {eviction:?} {auto_download} {load_timeout:?} {lms_path:?}", want.options)
}
