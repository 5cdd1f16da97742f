//! Observing: the first round of requests, the rounds of the slow path, and verdicts that are
//! kept on disk.

use std::time::Duration;

use super::{Gate, Refusal};
use crate::backend::Observation;
use crate::pure::outcome::failure::Failure;
use crate::pure::outcome::report::{Action, Outcome, Ready};
use crate::pure::residency::{Instance, Readiness, Reading, Source, drift};
use crate::sys::clock::{monotonic_ms, now_ms};
use crate::sys::state::{CachedVerdict, Store};

/// How long a verdict of a slow source is reused unless configured: it takes 300 ms to get.
const SLOW_SOURCE_CACHE: Duration = Duration::from_secs(30);
/// A warm call is over by then; a longer one must be able to end in good order.
const WARM: Duration = Duration::from_millis(250);

impl Gate<'_> {
    /// Asks once. Until a warm call would be over, a signal ends the process the default way:
    /// there is nothing to clean up, and nothing is spent on it.
    pub(super) async fn first_reading(&self) -> Result<Reading, Failure> {
        let asking = self.backend.read();
        if self.context.shutdown.get().is_some() {
            return self.context.unless_stopped(asking).await;
        }
        tokio::pin!(asking);
        let quick = self.call.timeout.map_or(WARM, |limit| limit.min(WARM));
        match tokio::time::timeout(quick, &mut asking).await {
            Ok(reading) => Ok(reading),
            Err(_) => self.context.unless_stopped(asking).await,
        }
    }

    /// Makes an observation of the first reading. Only here and behind a leader a verdict on
    /// disk counts: a process that changes what is resident must see what is, not what was.
    pub(super) async fn complete(&self, reading: Reading) -> Result<Observation, Failure> {
        self.note_generation();
        self.backend.observe(Some(reading), &|| self.kept_instances()).await
    }

    /// Observes anew.
    pub(super) async fn observe(&self) -> Result<Observation, Failure> {
        self.note_generation();
        self.backend.observe(None, &|| None).await
    }

    /// Observes anew when a leader is done. It has left its verdict on disk: a herd must not
    /// start a program each to see the same.
    pub(super) async fn observe_after_leader(&self) -> Result<Observation, Failure> {
        self.note_generation();
        self.backend.observe(None, &|| self.kept_instances()).await
    }

    /// An observation belongs to the generation that was named before it began. What is seen during
    /// an unload belongs to none: its leader may not live to name the next one.
    fn note_generation(&self) {
        let store = self.store().filter(|store| !store.unload.is_under_way());
        self.generation.replace(store.map(Store::generation));
    }

    fn kept_instances(&self) -> Option<Vec<Instance>> {
        let max_age = self.call.config.verify_cache.unwrap_or(SLOW_SOURCE_CACHE);
        let store = self.store().filter(|store| !self.call.fresh && !store.unload.is_under_way())?;
        self.cached_instances(store, max_age)
    }

    /// Outcomes from the disk, if `verifyCacheMs` is a number and they settle every model. By
    /// default nothing is read.
    pub(super) fn cached_outcomes(&self) -> Result<Option<Vec<Outcome>>, Refusal> {
        let Some(max_age) = self.call.config.verify_cache.filter(|age| !age.is_zero() && !self.call.fresh) else {
            return Ok(None);
        };
        self.begin()?;
        self.note_generation();
        let instances = self.store().and_then(|store| self.cached_instances(store, max_age));
        Ok(instances.map(|instances| {
            let outcome = |(request, instance): (&super::ModelRequest, Instance)| Outcome {
                key: request.key.to_string(),
                requested: request.requested.clone(),
                server: self.call.server_name.map(str::to_owned),
                base_url: self.context.base().to_string(),
                backend: Some(self.backend.kind()),
                was_tried: true,
                result: Ok(Ready { action: Action::None, source: Source::Cache, instance, load_time: None }),
                warnings: Vec::new(),
                elapsed: self.call.started.elapsed(),
            };
            self.call.requests.iter().zip(instances).map(outcome).collect()
        }))
    }

    /// The verdicts on disk, if all are young enough and show no drift.
    fn cached_instances(&self, store: &Store, max_age: Duration) -> Option<Vec<Instance>> {
        self.call
            .requests
            .iter()
            .map(|request| {
                let verdict = store.verdict(request.key.as_str(), max_age)?;
                let instance = Instance {
                    identifier: request.key.to_string(),
                    model_key: Some(request.key.to_string()),
                    readiness: Readiness::Ready,
                    context_length: verdict.context_length,
                    max_context_length: verdict.max_context_length,
                    parallel: verdict.parallel,
                    device: verdict.device,
                    busy: None,
                    last_used: None,
                    size_bytes: None,
                };
                drift(&instance, &request.options, instance.max_context_length).is_none().then_some(instance)
            })
            .collect()
    }

    /// Keeps the verdicts that say yes; a no leads to work, after which it is another.
    pub(super) fn remember_verdicts(&self, outcomes: &[Outcome]) {
        let ready = outcomes.iter().filter_map(|it| Some((&it.key, it.result.as_ref().ok()?)));
        let mut kept = ready.filter(|(_, ready)| !self.kept_for(ready.source).is_zero()).peekable();
        if kept.peek().is_none() || self.begin().is_err() {
            return;
        }
        let Some(store) = self.store() else { return };
        for (key, ready) in kept {
            self.remember_verdict(store, key, ready);
        }
    }

    /// How long a verdict is kept. Those of a quick source are kept only if the user gave a number.
    fn kept_for(&self, source: Source) -> Duration {
        match (self.call.config.verify_cache, source) {
            (_, Source::Cache) => Duration::ZERO,
            (Some(age), _) => age,
            (None, source) if source.is_slow() => SLOW_SOURCE_CACHE,
            (None, _) => Duration::ZERO,
        }
    }

    /// Keeps one verdict, if its source is one to keep.
    pub(super) fn remember_verdict(&self, store: &Store, key: &str, Ready { source, instance, .. }: &Ready) {
        let max_age = self.kept_for(*source);
        let generation = self.generation.borrow();
        let Some(generation) = generation.as_ref().filter(|_| !max_age.is_zero()) else { return };
        let verdict = CachedVerdict {
            at_ms: now_ms(),
            monotonic_ms: monotonic_ms(),
            context_length: instance.context_length,
            max_context_length: instance.max_context_length,
            parallel: instance.parallel,
            device: instance.device.clone(),
        };
        if let Err(error) = store.remember_verdict(key, verdict, max_age, generation) {
            tracing::info!(%error, "a verdict cannot be remembered");
        }
    }
}
