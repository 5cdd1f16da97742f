//! Waiting: for the leader to be done, for a load that is under way, and for an unload.

use std::time::{Duration, Instant};

use super::evaluate::Step;
use super::{LOOK_INTERVAL, ModelTask};
use crate::backend::Backoff;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::Action;
use crate::pure::text::{duration, printable};
use crate::sys::clock::age;
use crate::sys::leader::Leader;
use crate::sys::lock::poll_interval;
use crate::sys::state::Store;

/// How often a waiter reads what the leader does.
const READ_INTERVAL: Duration = Duration::from_millis(500);
/// How long a leader may show no life, or a process that does not lead keep the lock, before
/// waiters go on without it. A leader that lives shows it every second.
const BLOCKED: Duration = Duration::from_secs(10);

/// What a caller knows of its turn to lead.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Since when the lock can not be had although there is no leader, and the pauses since.
    taken: Option<(Instant, Backoff)>,
    is_blocked: bool,
}

impl Turn {
    /// Whether the caller must go on without the lock.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }
}

impl ModelTask<'_> {
    /// Waits until there is no leader, until the model is ready without one, or until it is clear
    /// that the leader does not move, and returns what comes next then.
    pub(super) async fn wait_for_leader(&self, deadline: Instant, turn: &mut Turn) -> Result<Step, Failure> {
        let gate = self.gate;
        let Some(store) = gate.store() else { return self.evaluate(&gate.observe().await?, Action::Waited) };
        let mut watch = Watch::new(store);
        let activity = gate.call.progress.begin(&format!("waiting for {}", watch.words()), None);
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        let mut was_led = false;
        // A leader takes its two locks one after the other.
        gate.context.sleep(poll_interval()).await?;
        let step = loop {
            match store.lock.is_led() {
                Ok(true) => {
                    was_led = true;
                    turn.taken = None;
                }
                Ok(false) if was_led => break self.evaluate(&gate.observe_after_leader().await?, Action::Waited)?,
                Ok(false) => {
                    self.pause_beside_holder(turn).await?;
                    break self.evaluate(&gate.observe_after_leader().await?, Action::Waited)?;
                }
                Err(error) => {
                    self.warn(format!("the lock does not work ({error}); going on without it"));
                    turn.is_blocked = true;
                    break self.evaluate(&gate.observe().await?, Action::Waited)?;
                }
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(self.lock_timeout(&watch));
            }
            if watch.read(store) {
                activity.text(&format!("waiting for {}", watch.words()));
            }
            self.waits_for.replace(Some(watch.words()));
            if watch.is_still(store) {
                self.warn(format!(
                    "{} and has not moved for {}: going on without its lock",
                    watch.words(),
                    duration(BLOCKED)
                ));
                turn.is_blocked = true;
                break self.evaluate(&gate.observe().await?, Action::Waited)?;
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
        self.waits_for.take();
        if matches!(step, Step::Ready(_)) {
            activity.done(&format!("`{}` is ready", self.request.key));
        }
        Ok(step)
    }

    /// The lock cannot be had, and there is no leader: another waiter is about to lead, or a
    /// process that is none of us has the file. Pauses longer each time, and gives up the lock in
    /// the end.
    async fn pause_beside_holder(&self, turn: &mut Turn) -> Result<(), Failure> {
        let (since, backoff) = turn.taken.get_or_insert_with(|| (Instant::now(), Backoff::default()));
        if since.elapsed() >= BLOCKED {
            let path = self.gate.store().map(|store| store.lock.path().display().to_string()).unwrap_or_default();
            self.warn(format!(
                "another process has had {path} locked for {} and leads nothing: going on without the lock",
                duration(BLOCKED)
            ));
            turn.is_blocked = true;
            return Ok(());
        }
        self.gate.context.sleep(backoff.interval()).await
    }

    fn lock_timeout(&self, watch: &Watch) -> Failure {
        let limit = duration(self.gate.call.config.lock_wait_timeout);
        let reason = format!("gave up waiting for {}, after lockWaitTimeoutMs ({limit})", watch.words());
        Failure::new(Category::LockTimeout, reason)
            .hinted("wait longer with --lock-wait-timeout-ms, or look at what that process is doing")
    }

    /// Waits for a load that is under way, ours or that of another client, and returns what comes next.
    pub(super) async fn wait_for_load(&self) -> Result<Step, Failure> {
        let gate = self.gate;
        let started = Instant::now();
        let text = format!("waiting for a load of `{}` under way", self.request.key);
        let activity = gate.call.progress.begin(&text, self.usual_load());
        self.waits_for.replace(Some(format!("a load of `{}` by another client", self.request.key)));
        let mut backoff = Backoff::default();
        let step = loop {
            if started.elapsed() >= gate.call.config.load_timeout {
                return Err(self.load_timeout("is still loading, by another client's order,"));
            }
            gate.context.sleep(backoff.interval()).await?;
            match self.evaluate(&gate.observe().await?, Action::Waited)? {
                Step::Wait => {}
                step => break step,
            }
        };
        self.waits_for.take();
        if matches!(step, Step::Ready(_)) {
            activity.done(&format!("`{}` is ready", self.request.key));
        }
        Ok(step)
    }

    /// Waits for an unload that a leader has left behind when it was killed: it must not take what
    /// this leader is about to load.
    pub(super) async fn wait_for_unload(&self) -> Result<(), Failure> {
        let Some(store) = self.gate.store() else { return Ok(()) };
        let mut backoff = Backoff::default();
        while store.unload.is_under_way() {
            self.gate.context.sleep(backoff.interval()).await?;
        }
        Ok(())
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

/// What a waiter sees of the leader.
struct Watch {
    leader: Option<Leader>,
    next_read: Instant,
    changed: Instant,
}

impl Watch {
    fn new(store: &Store) -> Self {
        let now = Instant::now();
        Self { leader: store.lock.leader(), next_read: now + READ_INTERVAL, changed: now }
    }

    /// Reads anew, now and then; whether there are other words for it now.
    fn read(&mut self, store: &Store) -> bool {
        let now = Instant::now();
        if now < self.next_read {
            return false;
        }
        self.next_read = now + READ_INTERVAL;
        let before = self.words();
        let leader = store.lock.leader();
        if leader != self.leader {
            (self.leader, self.changed) = (leader, now);
        }
        self.words() != before
    }

    /// Whether the leader has shown no life for long, and none of its loads or unloads goes on.
    fn is_still(&self, store: &Store) -> bool {
        self.changed.elapsed() >= BLOCKED
            && !self.leader.as_ref().is_some_and(|leader| store.load(&leader.model).is_under_way())
            && !store.unload.is_under_way()
    }

    /// Who leads, what it does and since when: only for messages, the file may be stale.
    fn words(&self) -> String {
        let Some(Leader { pid, model, since_ms, doing, percent, .. }) = &self.leader else {
            return "another lmswarm".to_owned();
        };
        let doing = if doing.is_empty() { "busy with" } else { doing.as_str() };
        let percent = percent.map_or(String::new(), |percent| format!(", {percent} %"));
        let since = age(*since_ms).filter(|age| age.as_secs() > 0);
        let since = since.map_or(String::new(), |age| format!(", for {}", duration(age)));
        format!("pid {pid}, {} `{}`{percent}{since}", printable(doing), printable(model))
    }
}
