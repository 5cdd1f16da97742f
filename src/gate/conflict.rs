//! Models of one call on a server that may put one out for another, by rules of its own. Each is
//! loaded once, and once more at most; what cannot stay beside the others then is a conflict. The
//! model that was named first is loaded last, and stays.

use super::evaluate::Step;
use super::{Gate, ModelTask, Refusal};
use crate::pure::cooldown::World;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Outcome};
use crate::pure::text::listed;

impl<'a> Gate<'a> {
    /// Ensures the models of a call of which not all are ready.
    pub(super) async fn outcomes_of_a_set(
        &self,
        tasks: &[ModelTask<'a>],
        steps: Vec<Result<Step, Failure>>,
    ) -> Result<Vec<Outcome>, Refusal> {
        let mut known = self.known_conflict(tasks).await;
        let mut has_worked = false;
        let mut outcomes = Vec::with_capacity(tasks.len());
        for (place, (task, step)) in tasks.iter().zip(steps).enumerate().rev() {
            let is_ready = matches!(step, Ok(Step::Ready(_)));
            let step = match &known {
                Some(conflict) if place > 0 && !is_ready => Some(Err(conflict.clone())),
                // What was seen before other models were worked on may not be so any more.
                _ if has_worked && !is_ready => None,
                _ => Some(step),
            };
            has_worked |= !is_ready;
            outcomes.push(task.outcome(step).await);
        }
        outcomes.reverse();
        let is_loaded = |it: &Outcome| it.result.as_ref().is_ok_and(|ready| ready.action != Action::None);
        if !outcomes.iter().any(is_loaded) {
            return Ok(outcomes);
        }
        if known.is_none() {
            let lost = self.lost(tasks, &outcomes).await;
            // Another caller may have found out meanwhile that there is no room for all.
            known = if lost.is_empty() { None } else { self.known_conflict(tasks).await };
            if known.is_none() {
                self.ensure_again(tasks, &mut outcomes, &lost).await;
            }
        }
        let lost = self.lost(tasks, &outcomes).await;
        if lost.is_empty() {
            return Ok(outcomes);
        }
        // The first one is what the others must not cost.
        if lost.contains(&0) {
            self.ensure_again(tasks, &mut outcomes, &[0]).await;
        }
        let conflict = if let Some(conflict) = known {
            conflict
        } else {
            let conflict = self.conflict(tasks).await;
            self.remember_conflict(tasks, &conflict);
            conflict
        };
        let mut lost = self.gone(tasks, &outcomes).await;
        // All are there, and yet a request for one of the others would put out the first.
        if lost.is_empty() {
            lost = (1..tasks.len()).filter(|place| outcomes[*place].result.is_ok()).collect();
        }
        for place in lost {
            outcomes[place].result = Err(conflict.clone());
        }
        Ok(outcomes)
    }

    async fn ensure_again(&self, tasks: &[ModelTask<'a>], outcomes: &mut [Outcome], places: &[usize]) {
        for &place in places.iter().rev() {
            let mut again = tasks[place].outcome(None).await;
            again.warnings.splice(..0, std::mem::take(&mut outcomes[place].warnings));
            again.warnings.dedup();
            outcomes[place] = again;
        }
    }

    /// The places of models that were ready and are not any more, once each is used as a client
    /// would. The first one is not: it was loaded last.
    async fn lost(&self, tasks: &[ModelTask<'a>], outcomes: &[Outcome]) -> Vec<usize> {
        for (task, outcome) in tasks.iter().zip(outcomes).skip(1).rev() {
            if outcome.result.is_ok()
                && let Err(stopped) = self.backend.touch(task.request).await
            {
                tracing::debug!(stopped.reason, "not touched");
            }
        }
        self.gone(tasks, outcomes).await
    }

    /// The places of models that were ready and are not any more.
    async fn gone(&self, tasks: &[ModelTask<'a>], outcomes: &[Outcome]) -> Vec<usize> {
        let look = self.observe().await;
        let is_lost = |place: &usize| outcomes[*place].result.is_ok() && tasks[*place].lost(&look).is_some();
        (0..tasks.len()).filter(is_lost).collect()
    }

    /// A conflict that an earlier call has found, or one that the server's limits tell.
    async fn known_conflict(&self, tasks: &[ModelTask<'a>]) -> Option<Failure> {
        let first = tasks.first()?;
        let past = self.store().and_then(|store| {
            store.history().failure(Some(&set_of(tasks)), &self.limits(), &first.caller(), World::default)
        });
        let known = match past {
            Some(past) => Some(past),
            None => match self.backend.capacity().await {
                Ok(Some(capacity)) if tasks.len() > capacity => {
                    let (name, count) = (self.backend.name(), tasks.len());
                    let reason = format!(
                        "{name} holds {capacity} at most, and this call names {count}: `{}` is kept",
                        first.request.key
                    );
                    Some(Failure::new(Category::Conflict, reason).hinted(self.backend.conflict_hint()))
                }
                _ => None,
            },
        };
        self.as_served(known?).await.into()
    }

    async fn conflict(&self, tasks: &[ModelTask<'a>]) -> Failure {
        let names = listed(tasks.iter().map(|task| task.request.key.as_str()), "and");
        let first = &tasks[0].request.key;
        let reason = format!(
            "{} does not keep {names} resident together: a load of one puts out another; `{first}` is kept",
            self.backend.name()
        );
        self.as_served(Failure::new(Category::Conflict, reason).hinted(self.backend.conflict_hint())).await
    }

    /// Where the server loads on request, a client is answered in spite of the conflict.
    async fn as_served(&self, conflict: Failure) -> Failure {
        match self.backend.loads_on_request().await {
            Ok(true) => conflict.served(),
            _ => conflict,
        }
    }

    fn remember_conflict(&self, tasks: &[ModelTask<'a>], conflict: &Failure) {
        let Some(store) = self.store() else { return };
        let Ok(Some(leadership)) = store.lock.try_lead() else { return };
        let cooldown = self.call.config.retry_cooldown;
        let written = store.change(&leadership, |history| {
            history.remember_failure(Some(&set_of(tasks)), &self.limits(), conflict, cooldown, World::default());
        });
        if let Err(error) = written {
            tracing::info!(%error, "a conflict cannot be remembered");
        }
    }

    fn limits(&self) -> String {
        format!("{} together", self.backend.name())
    }
}

/// Names the set of models, with the one first that is kept.
fn set_of(tasks: &[ModelTask<'_>]) -> String {
    let mut names: Vec<&str> = tasks.iter().map(|task| task.request.key.as_str()).collect();
    names[1..].sort_unstable();
    names.join("\n")
}
