//! What the leader shows the waiters: that it lives, what it does and how far it is. And how a
//! background call gives way to foreground ones.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::wait::{BLOCKED, Turn};
use super::{Gate, Lead, ModelTask};
use crate::pure::outcome::failure::Failure;
use crate::sys::lock::poll_interval;

/// How often a leader shows that it lives.
const BEAT: Duration = Duration::from_secs(1);

/// How long a background call looks for foreground ones before it leads: opencode sends the
/// request for a title a moment before the one that its user waits for.
const BACKGROUND_DELAY: Duration = Duration::from_millis(300);

impl Gate<'_> {
    /// Shows the waiters, as long as it is polled, that the leader is not stopped.
    pub(super) async fn show_life(&self, lead: &Lead) -> Infallible {
        loop {
            tokio::time::sleep(BEAT).await;
            if let Some(leader) = self.leader.borrow_mut().as_mut() {
                leader.beat += 1;
            }
            self.announce(lead);
        }
    }

    /// Shows the waiters what the leader does with the model from here on.
    pub(super) fn show_doing(&self, lead: &Lead, doing: &str) {
        if let Some(leader) = self.leader.borrow_mut().as_mut() {
            (leader.doing, leader.percent) = (doing.to_owned(), None);
        }
        self.announce(lead);
    }

    /// Shows the waiters how far it is, with the next sign of life.
    pub(super) fn show_percent(&self, percent: u8) {
        if let Some(leader) = self.leader.borrow_mut().as_mut() {
            leader.percent = Some(percent);
        }
    }

    pub(super) fn announce(&self, lead: &Lead) {
        if let (Lead(Some(leadership)), Some(leader)) = (lead, self.leader.borrow().as_ref()) {
            leadership.announce(leader);
        }
    }

    /// Lets background calls see that a foreground call has work, until this call ends.
    pub(super) fn show_foreground(&self) {
        let Some(store) = self.store().filter(|_| !self.call.is_background) else { return };
        match store.foreground.shared_beside_askers() {
            Ok(lock) => drop(self.foreground.replace(lock)),
            Err(error) => tracing::debug!(%error, "background calls cannot see this one"),
        }
    }

    /// Whether a foreground call has work here.
    fn has_foreground(&self) -> bool {
        self.store().is_some_and(|store| matches!(store.foreground.try_exclusive(), Ok(None)))
    }
}

impl ModelTask<'_> {
    /// In a background call, waits while foreground calls have work, and a moment for one to come.
    /// Returns whether it had to wait for one. A foreground call with work leads or waits for a
    /// leader, so one that does neither for long is stopped, and is not waited for.
    pub(super) async fn give_way(&self, deadline: Instant, turn: &mut Turn) -> Result<bool, Failure> {
        let gate = self.gate;
        let Some(store) = gate.store().filter(|_| gate.call.is_background && !turn.ignores_foreground) else {
            return Ok(false);
        };
        let until = Instant::now() + BACKGROUND_DELAY;
        let mut led = Instant::now();
        let mut waiting = None;
        while Instant::now() < deadline {
            if matches!(store.lock.is_led(), Ok(true)) {
                led = Instant::now();
            }
            let has_foreground = gate.has_foreground();
            turn.ignores_foreground = has_foreground && led.elapsed() >= BLOCKED;
            if has_foreground && !turn.ignores_foreground {
                let text = "calls that a person waits for";
                waiting.get_or_insert_with(|| gate.call.progress.begin(&format!("letting {text} go first"), None));
                self.waits_for.replace(Some(text.to_owned()));
            } else if waiting.is_some() || Instant::now() >= until {
                break;
            }
            gate.context.sleep(poll_interval()).await?;
        }
        self.waits_for.take();
        Ok(waiting.is_some())
    }
}
