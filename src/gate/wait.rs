//! Waiting: for the leader to be done, for a load that is under way, and for an unload.

use std::time::{Duration, Instant, SystemTime};

use super::evaluate::Step;
use super::load::APPEARS;
use super::{LOOK_INTERVAL, ModelTask};
use crate::backend::{Backoff, Observation};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::Action;
use crate::pure::text::{duration, printable};
use crate::sys::clock::age;
use crate::sys::leader::Leader;
use crate::sys::lock::poll_interval;
use crate::sys::progress::Activity;
use crate::sys::state::Store;

/// How often a waiter reads what the leader does.
const READ_INTERVAL: Duration = Duration::from_millis(500);
/// How long a leader may show no life, or a process that does not lead keep the lock, before
/// waiters go on without it. A leader that lives shows it every second.
pub(super) const BLOCKED: Duration = Duration::from_secs(10);
/// How long a server may be unclear in the middle of a wait for a load.
const UNCLEAR: Duration = Duration::from_secs(10);

/// One caller's wait for its turn to lead, over as many leaders as it takes.
#[derive(Default)]
pub(super) struct Turn {
    activity: Option<Activity>,
    watch: Option<Watch>,
    /// The pauses between tries while the lock cannot be had and no leader can be seen.
    backoff: Backoff,
    is_blocked: bool,
    /// The foreground calls are stopped: a background call gives way to them no more.
    pub(super) ignores_foreground: bool,
}

impl Turn {
    /// Whether the caller must go on without the lock.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The turn has come: nothing is waited for any more.
    pub(super) fn end(&mut self) {
        self.activity.take();
    }
}

impl ModelTask<'_> {
    /// Waits until there is no leader, until the model is ready without one, or until it is clear
    /// that the leader does not move, and returns what comes next then.
    pub(super) async fn wait_for_leader(&self, deadline: Instant, turn: &mut Turn) -> Result<Step, Failure> {
        let gate = self.gate;
        let Some(store) = gate.store() else { return self.evaluate(&gate.observe().await?, Action::Waited) };
        let watch = turn.watch.get_or_insert_with(|| Watch::new(store));
        // A leader takes its two locks one after the other.
        gate.context.sleep(poll_interval()).await?;
        watch.is_led = matches!(store.lock.is_led(), Ok(true));
        let text = format!("waiting for {}", watch.words());
        let activity = turn.activity.get_or_insert_with(|| gate.call.progress.begin(&text, None));
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        let mut was_led = false;
        let step = loop {
            let now = Instant::now();
            if watch.read(store) {
                activity.text(&format!("waiting for {}", watch.words()));
            }
            self.waits_for.replace(Some(watch.words()));
            match store.lock.is_led() {
                Ok(is_led) => watch.is_led = is_led,
                Err(error) => {
                    self.warn(format!("the lock does not work ({error}); going on without it"));
                    turn.is_blocked = true;
                    break self.evaluate(&gate.observe().await?, Action::Waited)?;
                }
            }
            if was_led && !watch.is_led {
                watch.next_leader();
                break self.evaluate(&gate.observe_after_leader().await?, Action::Waited)?;
            }
            was_led = watch.is_led;
            if now >= deadline {
                return Err(self.lock_timeout(watch));
            }
            if watch.is_still(store, self.has_own_load()) {
                let path = store.lock.path().display();
                let (words, time) = (watch.words(), duration(BLOCKED));
                self.warn(if watch.is_led {
                    format!("{words} and has not moved for {time}: going on without its lock")
                } else {
                    format!(
                        "another process has had {path} locked for {time} and leads nothing: going on without the lock"
                    )
                });
                turn.is_blocked = true;
                break self.evaluate(&gate.observe().await?, Action::Waited)?;
            }
            if !watch.is_led {
                // Another waiter is about to lead, or a process that is none of us has the file.
                gate.context.sleep(turn.backoff.interval()).await?;
                break self.evaluate(&gate.observe_after_leader().await?, Action::Waited)?;
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
        if matches!(step, Step::Ready(_))
            && let Some(activity) = turn.activity.take()
        {
            activity.done(&format!("`{}` is ready", self.request.key));
        }
        Ok(step)
    }

    fn lock_timeout(&self, watch: &Watch) -> Failure {
        let limit = duration(self.gate.call.config.lock_wait_timeout);
        let reason = format!("gave up waiting for {}, after lockWaitTimeoutMs ({limit})", watch.words());
        Failure::new(Category::LockTimeout, reason)
            .hinted("wait longer with --lock-wait-timeout-ms, or look at what that process is doing")
    }

    /// Waits for a load that is under way, whoever ordered it, and returns what comes next.
    pub(super) async fn wait_for_load(&self) -> Result<Step, Failure> {
        let gate = self.gate;
        let started = Instant::now();
        let text = format!("waiting for a load of `{}` under way", self.request.key);
        let activity = gate.call.progress.begin(&text, self.usual_load());
        self.waits_for.replace(Some(format!("a load of `{}` under way", self.request.key)));
        let mut backoff = Backoff::default();
        let mut clear = Instant::now();
        let step = loop {
            if started.elapsed() >= gate.call.config.load_timeout {
                let by = if self.has_own_load() { "a call that has ended" } else { "another client" };
                return Err(self.load_timeout(&format!("is still loading, by order of {by},")).cheap());
            }
            gate.context.sleep(backoff.interval()).await?;
            let observation = gate.observe().await?;
            match &observation {
                // A server that is busy with a load may be slow to answer.
                Observation::Blocked(_) if clear.elapsed() < UNCLEAR => continue,
                _ => clear = Instant::now(),
            }
            match self.evaluate(&observation, Action::Waited)? {
                Step::Wait(_) => {}
                step => break step,
            }
        };
        self.waits_for.take();
        if matches!(step, Step::Ready(_)) {
            activity.done(&format!("`{}` is ready", self.request.key));
        }
        Ok(step)
    }

    /// Waits until a load that one of us has ordered, and that is not listed yet, is: a server lists
    /// it a moment after it was ordered.
    pub(super) async fn wait_for_listing(&self) -> Result<Step, Failure> {
        let until = Instant::now() + APPEARS;
        let mut backoff = Backoff::default();
        loop {
            self.gate.context.sleep(backoff.interval()).await?;
            let step = self.evaluate(&self.gate.observe().await?, Action::Waited)?;
            if !matches!(step, Step::Change(..)) || !self.has_own_load() || Instant::now() >= until {
                return Ok(step);
            }
        }
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
        let key = self.request.key.as_str();
        let log = self.gate.backend.log();
        // A load that joins what is under way cannot be given up for it.
        let end = if self.gate.backend.joins_loads() {
            format!(", and `{}` ends it", self.gate.backend.unload_command(key))
        } else {
            String::new()
        };
        Failure::new(Category::LoadTimeout, format!("`{key}` {what} after loadTimeoutMs ({limit})"))
            .hinted(format!("raise --load-timeout-ms if the model is just slow; {log} tells why it hangs{end}"))
    }

    pub(super) fn usual_load(&self) -> Option<Duration> {
        self.gate.store()?.history().usual_load(self.request.key.as_str())
    }
}

/// What a waiter sees of the leader.
struct Watch {
    is_led: bool,
    leader: Option<Leader>,
    sign_of_life: Option<SystemTime>,
    next_read: Instant,
    changed: Instant,
}

impl Watch {
    fn new(store: &Store) -> Self {
        let now = Instant::now();
        Self {
            is_led: false,
            leader: store.lock.leader(),
            sign_of_life: store.lock.sign_of_life(),
            next_read: now + READ_INTERVAL,
            changed: now,
        }
    }

    /// Reads anew, now and then; whether there are other words for it now.
    fn read(&mut self, store: &Store) -> bool {
        let now = Instant::now();
        if now < self.next_read {
            return false;
        }
        self.next_read = now + READ_INTERVAL;
        let before = self.words();
        let (leader, sign_of_life) = (store.lock.leader(), store.lock.sign_of_life());
        if (&leader, &sign_of_life) != (&self.leader, &self.sign_of_life) {
            (self.leader, self.sign_of_life, self.changed) = (leader, sign_of_life, now);
        }
        self.words() != before
    }

    /// A leader is done, and the next one has all its time.
    fn next_leader(&mut self) {
        let now = Instant::now();
        (self.changed, self.next_read) = (now, now);
    }

    /// Whether the leader has shown no life for long, and none of its loads or unloads goes on.
    fn is_still(&self, store: &Store, has_own_load: bool) -> bool {
        self.changed.elapsed() >= BLOCKED
            && !has_own_load
            && !self.leader.as_ref().is_some_and(|leader| store.load(&leader.model).is_under_way())
            && !store.unload.is_under_way()
    }

    /// Who leads, what it does and since when. The file of a leader that is gone says nothing.
    fn words(&self) -> String {
        let Some(Leader { pid, model, since_ms, doing, percent, .. }) = self.leader.as_ref().filter(|_| self.is_led)
        else {
            return "another lmswarm".to_owned();
        };
        let doing = if doing.is_empty() { "busy with" } else { doing.as_str() };
        let percent = percent.map_or(String::new(), |percent| format!(", {percent} %"));
        let since = age(*since_ms).filter(|age| age.as_secs() > 0);
        let since = since.map_or(String::new(), |age| format!(", for {}", duration(age)));
        format!("pid {pid}, {} `{}`{percent}{since}", printable(doing), printable(model))
    }
}
