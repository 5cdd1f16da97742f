//! Waiting for others: for the leader to be done, and for a load that is under way.

use std::time::{Duration, Instant};

use super::look::Observation;
use super::{Backoff, ModelRequest, Work};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::Action;
use crate::pure::residency::{Readiness, Residency};
use crate::pure::text::{duration, printable};
use crate::sys::lock::{Leader, poll_interval};
use crate::sys::state::age;

/// How often a waiter looks for itself: the leader may be stopped, or somebody else loads.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(5);

impl Work<'_> {
    /// Waits until there is no leader, or until the model is ready without one, and returns
    /// what is to be seen then.
    pub(super) async fn wait_for_leader(&self, want: &ModelRequest, deadline: Instant) -> Result<Observation, Failure> {
        let Some(store) = &self.store else { return self.look().await };
        let whom = words(store.lock.leader().as_ref());
        let activity = self.call.progress.begin(&format!("waiting for {whom}"), None);
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        let sight = loop {
            match store.lock.is_free() {
                Ok(true) => break self.look_after_leader().await?,
                Ok(false) => {}
                Err(error) => {
                    self.warn(format!("the lock does not work ({error}); going on without it"));
                    break self.look().await?;
                }
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(self.lock_timeout());
            }
            if now >= next_look {
                let sight = self.look().await?;
                // A look that shows nothing definite is no reason to stop waiting.
                if matches!(self.evaluate(want, &sight, Action::Waited), Ok(Some(_))) {
                    break sight;
                }
                next_look = Instant::now() + LOOK_INTERVAL;
            }
            self.sleep(poll_interval().min(deadline.saturating_duration_since(now))).await?;
        };
        if matches!(self.evaluate(want, &sight, Action::Waited), Ok(Some(_))) {
            activity.done(&format!("`{}` is ready", want.key));
        }
        Ok(sight)
    }

    fn lock_timeout(&self) -> Failure {
        let leader = self.store.as_ref().and_then(|store| store.lock.leader());
        let since = leader.as_ref().and_then(|it| age(it.since_ms)).filter(|age| age.as_secs() > 0);
        let since = since.map_or(String::new(), |age| format!(" for {}", duration(age)));
        let limit = duration(self.config.lock_wait_timeout);
        let reason =
            format!("gave up waiting for {}{since}, after lockWaitTimeoutMs ({limit})", words(leader.as_ref()));
        Failure::new(Category::LockTimeout, reason)
            .hinted("wait longer with --lock-wait-timeout-ms, or look at what that process is doing")
    }

    /// Waits for a load that somebody began; returns what is to be seen then, and whether
    /// there was anything to wait for.
    pub(super) async fn wait_for_load_under_way(
        &self,
        want: &ModelRequest,
        sight: Observation,
    ) -> Result<(Observation, bool), Failure> {
        let is_loading = |sight: &Observation| match sight {
            Observation::Seen(snapshot) => match snapshot.residency(&want.key) {
                Residency::Loading(_) => true,
                // The leader that ordered it may be gone.
                Residency::Addressable(it) => it.readiness == Readiness::Unreported && self.has_own_load(want),
                _ => false,
            },
            _ => false,
        };
        if !is_loading(&sight) {
            return Ok((sight, false));
        }
        let started = Instant::now();
        let text = format!("waiting for a load of `{}` under way", want.key);
        let activity = self.call.progress.begin(&text, self.usual_load(want));
        let mut backoff = Backoff::new();
        let mut sight = sight;
        while is_loading(&sight) {
            if started.elapsed() >= self.config.load_timeout {
                return Err(self.load_timeout(want, "is still loading, by somebody else's order,"));
            }
            self.sleep(backoff.next()).await?;
            sight = self.look().await?;
        }
        if matches!(self.evaluate(want, &sight, Action::Waited), Ok(Some(_))) {
            activity.done(&format!("`{}` is ready", want.key));
        }
        Ok((sight, true))
    }

    pub(super) fn load_timeout(&self, want: &ModelRequest, what: &str) -> Failure {
        let limit = duration(self.config.load_timeout);
        Failure::new(Category::LoadTimeout, format!("`{}` {what} after loadTimeoutMs ({limit})", want.key))
            .hinted("raise --load-timeout-ms if the model is just slow; LM Studio's log tells why it hangs")
    }

    pub(super) fn usual_load(&self, want: &ModelRequest) -> Option<Duration> {
        self.store.as_ref()?.facts().usual_load(want.key.as_str())
    }
}

/// Who leads, in words: only for messages, the file may be stale.
fn words(leader: Option<&Leader>) -> String {
    match leader {
        None => "another lmswarm".to_owned(),
        Some(leader) => format!("pid {}, busy with `{}`", leader.pid, printable(&leader.model)),
    }
}
