//! Waiting: for the leader to be done, and for a load that is under way.

use std::time::{Duration, Instant};

use super::ModelTask;
use super::evaluate::Step;
use crate::backend::Backoff;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::Action;
use crate::pure::text::{duration, printable};
use crate::sys::lock::{Leader, poll_interval};
use crate::sys::state::age;

/// How often a waiter observes for itself: the leader may be stopped, or another client loads.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(5);

impl ModelTask<'_> {
    /// Waits until there is no leader, or until the model is ready without one, and returns
    /// what comes next then.
    pub(super) async fn wait_for_leader(&self, deadline: Instant) -> Result<Step, Failure> {
        let gate = self.gate;
        let Some(store) = gate.store() else { return self.evaluate(&gate.observe().await?, Action::Waited) };
        let whom = words(store.lock.leader().as_ref());
        let activity = gate.call.progress.begin(&format!("waiting for {whom}"), None);
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        let step = loop {
            match store.lock.is_free() {
                Ok(true) => break self.evaluate(&gate.observe_after_leader().await?, Action::Waited)?,
                Ok(false) => {}
                Err(error) => {
                    self.warn(format!("the lock does not work ({error}); going on without it"));
                    break self.evaluate(&gate.observe().await?, Action::Waited)?;
                }
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(self.lock_timeout());
            }
            if now >= next_look {
                // An observation that shows nothing definite is no reason to stop waiting.
                if let Ok(step @ Step::Ready(_)) = self.evaluate(&gate.observe().await?, Action::Waited) {
                    break step;
                }
                next_look = Instant::now() + LOOK_INTERVAL;
            }
            gate.context.sleep(poll_interval().min(deadline.saturating_duration_since(now))).await?;
        };
        if matches!(step, Step::Ready(_)) {
            activity.done(&format!("`{}` is ready", self.request.key));
        }
        Ok(step)
    }

    fn lock_timeout(&self) -> Failure {
        let leader = self.gate.store().and_then(|store| store.lock.leader());
        let since = leader.as_ref().and_then(|it| age(it.since_ms)).filter(|age| age.as_secs() > 0);
        let since = since.map_or(String::new(), |age| format!(" for {}", duration(age)));
        let limit = duration(self.gate.call.config.lock_wait_timeout);
        let reason =
            format!("gave up waiting for {}{since}, after lockWaitTimeoutMs ({limit})", words(leader.as_ref()));
        Failure::new(Category::LockTimeout, reason)
            .hinted("wait longer with --lock-wait-timeout-ms, or look at what that process is doing")
    }

    /// Waits for a load that is under way, whoever ordered it, and returns what comes next.
    pub(super) async fn wait_for_load(&self) -> Result<Step, Failure> {
        let gate = self.gate;
        let started = Instant::now();
        let text = format!("waiting for a load of `{}` under way", self.request.key);
        let activity = gate.call.progress.begin(&text, self.usual_load());
        let mut backoff = Backoff::default();
        loop {
            if started.elapsed() >= gate.call.config.load_timeout {
                return Err(self.load_timeout("is still loading, by another client's order,"));
            }
            gate.context.sleep(backoff.interval()).await?;
            match self.evaluate(&gate.observe().await?, Action::Waited)? {
                Step::Wait => {}
                Step::Ready(ready) => {
                    activity.done(&format!("`{}` is ready", self.request.key));
                    return Ok(Step::Ready(ready));
                }
                step => return Ok(step),
            }
        }
    }

    pub(super) fn load_timeout(&self, what: &str) -> Failure {
        let limit = duration(self.gate.call.config.load_timeout);
        Failure::new(Category::LoadTimeout, format!("`{}` {what} after loadTimeoutMs ({limit})", self.request.key))
            .hinted("raise --load-timeout-ms if the model is just slow; LM Studio's log tells why it hangs")
    }

    pub(super) fn usual_load(&self) -> Option<Duration> {
        self.gate.store()?.history().usual_load(self.request.key.as_str())
    }
}

/// Who leads, in words: only for messages, the file may be stale.
fn words(leader: Option<&Leader>) -> String {
    match leader {
        None => "another lmswarm".to_owned(),
        Some(leader) => format!("pid {}, busy with `{}`", leader.pid, printable(&leader.model)),
    }
}
