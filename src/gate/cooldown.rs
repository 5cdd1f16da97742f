//! What one call leaves for the next: failures that were expensive to find out, how long a
//! load took, what context was granted.

use std::time::Duration;

use super::{Lead, ModelTask};
use crate::backend::Observation;
use crate::pure::config::Config;
use crate::pure::cooldown::World;
use crate::pure::outcome::failure::{Category, Failure, Replay};
use crate::pure::outcome::report::Ready;
use crate::pure::residency::Snapshot;
use crate::sys::clock::monotonic_ms;
use crate::sys::listener::life_of;
use crate::sys::state::{Caller, History};

impl ModelTask<'_> {
    /// A failure of an earlier call to start the server, while it is to be replayed.
    pub(super) fn server_failure(&self) -> Option<Failure> {
        self.gate.store()?.history().failure(None, &self.server_attempt(), &self.caller(), World::default)
    }

    /// A failure of an earlier call on this model, while it is to be replayed.
    pub(super) fn past_failure(&self, history: &History, snapshot: &Snapshot) -> Option<Failure> {
        let key = self.request.key.as_str();
        history.failure(Some(key), &self.attempt(), &self.caller(), || self.world(snapshot))
    }

    pub(super) fn caller(&self) -> Caller {
        let call = self.gate.call;
        let elapsed = u64::try_from(call.started.elapsed().as_millis()).unwrap_or(0);
        Caller {
            began_ms: monotonic_ms().saturating_sub(elapsed),
            cooldown: call.config.retry_cooldown,
            is_fresh: call.fresh,
        }
    }

    /// What a failure on this model depends on, as far as it can be seen.
    fn world(&self, snapshot: &Snapshot) -> World {
        let base = self.gate.context.base();
        let life = if base.is_loopback() { life_of(base.port()) } else { None };
        World::of(snapshot, &self.request.key, life)
    }

    /// What would be tried: a failure says nothing about an attempt with other options.
    fn attempt(&self) -> String {
        let Config { loader, device, eviction, auto_download, load_timeout, lms_path, .. } = self.gate.call.config;
        let options = &self.request.options;
        format!("{options:?} {loader:?} {device:?} {eviction:?} {auto_download} {load_timeout:?} {lms_path:?}")
    }

    fn server_attempt(&self) -> String {
        let Config { lms_path, launch_app_fallback, server_start_timeout, .. } = self.gate.call.config;
        format!("{} {lms_path:?} {launch_app_fallback} {server_start_timeout:?}", self.gate.context.base())
    }

    /// Remembers what the next call should know; `took` is how long it took to find out.
    pub(super) async fn record(&self, lead: &Lead, result: &Result<Ready, Failure>, took: Duration) {
        let (Some(store), Lead(Some(leadership))) = (self.gate.store(), lead) else { return };
        let key = self.request.key.as_str();
        let written = match result {
            Ok(ready) => {
                self.gate.remember_verdict(store, key, ready);
                store.change(leadership, |history| self.record_success(history, ready))
            }
            Err(failure) if failure.replay == Replay::Never || failure.age.is_some() => return,
            Err(failure) if failure.category == Category::ServerUnreachable => {
                let attempt = self.server_attempt();
                store.change(leadership, |history| {
                    history.remember_failure(None, &attempt, failure, took, World::default());
                    // It went away in the middle of a load. Once it is back, callers that waited
                    // must not try the same in turn.
                    if failure.replay == Replay::Waiters {
                        history.remember_failure(Some(key), &self.attempt(), failure, took, World::default());
                    }
                })
            }
            Err(failure) => {
                // As it looks after the failure: a load that fails may change what is resident. Where
                // nothing can be seen, nothing would void it for later callers.
                let (failure, world) = match self.gate.observe().await {
                    Ok(Observation::Seen(snapshot)) => (failure.clone(), self.world(&snapshot)),
                    _ => (failure.clone().for_waiters(), World::default()),
                };
                let attempt = self.attempt();
                store.change(leadership, |history| {
                    history.remember_failure(Some(key), &attempt, &failure, took, world);
                })
            }
        };
        if let Err(error) = written {
            self.warn(format!("the state directory cannot be written ({error}); this outcome will not be remembered"));
        }
    }

    fn record_success(&self, history: &mut History, ready: &Ready) {
        let key = self.request.key.as_str();
        history.forget_failures(key);
        history.remember_ensured(key);
        let Some(time) = ready.load_time else { return };
        history.remember_load(key, time);
        if let (Some(asked), Some(has)) = (self.request.options.context_length, ready.instance.context_length)
            && has < asked
        {
            history.remember_granted(key, asked, has, self.gate.call.config.retry_cooldown);
        }
    }
}
