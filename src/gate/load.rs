//! The load itself, then the proof that the model is addressable. That a load says it worked
//! proves nothing.

use std::time::{Duration, Instant};

use super::room::{Evictions, Room};
use super::{Lead, ModelTask};
use crate::backend::{Backoff, LoadResult, LoadTarget, Observation};
use crate::pure::config::OnMismatch;
use crate::pure::decision::{Program, context_warning};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Ready};
use crate::pure::residency::{Instance, Readiness, Residency, Snapshot, drift, find_downloaded};
use crate::pure::text::{duration, printable};
use crate::sys::progress::Activity;

/// How long an instance may take to appear in the lists after its load began.
pub(super) const APPEARS: Duration = Duration::from_millis(1500);

impl ModelTask<'_> {
    /// Finds exactly this key among the downloaded models; `None` if it is to be downloaded, which
    /// is tried once.
    pub(super) async fn find_target(
        &self,
        snapshot: &Snapshot,
        has_downloaded: bool,
    ) -> Result<Option<LoadTarget>, Failure> {
        let backend = &self.gate.backend;
        let models = backend.downloaded(snapshot).await?;
        if let Some(found) = find_downloaded(&models, &self.request.key) {
            return backend.load_target(self.request, found, &models).await.map(Some);
        }
        if !self.gate.call.config.auto_download {
            return Err(backend.not_downloaded(self.request, &models));
        }
        if !has_downloaded {
            return Ok(None);
        }
        Err(backend.misfiled(self.request, &models))
    }

    /// Loads, making room as far as allowed; returns how long it took and what is shown of
    /// it, or `None` when another client's load made it ready.
    pub(super) async fn load(&self, target: &LoadTarget, lead: &Lead) -> Result<Option<(Duration, Activity)>, Failure> {
        let backend = &self.gate.backend;
        if let Some(warning) = context_warning(self.request, target.max_context) {
            self.warn(warning);
        }
        if let Some(store) = self.gate.store() {
            store.forget_verdicts();
        }
        let mut evictions = Evictions::default();
        let room = self.make_room(target, lead, &mut evictions).await?;
        if room == Room::NotNeeded {
            return Ok(None);
        }
        for warning in target.warning.clone().into_iter().chain(backend.unsupported(self.request)) {
            self.warn(warning);
        }
        // It tells others of this load, which matters where no list does.
        let operation = self.gate.store().map(|store| store.load(self.request.key.as_str()));
        let mut has_been_cut_off = false;
        loop {
            let text = format!("loading `{}`", self.request.key);
            let activity = self.gate.call.progress.begin(&text, self.usual_load());
            self.gate.show_doing(lead, "loading");
            let on_percent = |percent| {
                activity.percent(percent);
                self.gate.show_percent(percent);
            };
            let started = Instant::now();
            let result = backend.load(self.request, target, operation.as_ref(), on_percent).await?;
            // What other calls saw while it went on may not be so any more.
            if let Some(store) = self.gate.store() {
                store.forget_verdicts();
            }
            if matches!(result, LoadResult::Loaded) {
                if !evictions.spared.is_empty() {
                    let (key, conflict) = (&self.request.key, self.conflict(&evictions.spared));
                    self.warn(format!("{conflict}; `{key}` was loaded all the same"));
                }
                return Ok(Some((started.elapsed(), activity)));
            }
            drop(activity);
            // A copy of ours goes in any case, also where another client's load won the name.
            if let LoadResult::Misnamed(name) = &result {
                let failure = self.undo(name, lead).await?;
                return if self.was_beaten(&result).await? { Ok(None) } else { Err(failure) };
            }
            let is_cut_off = self.was_cut_off(&result, lead).await?;
            // A load that "fails" while the model is there, or on its way, was beaten by that of
            // another client.
            if self.was_beaten(&result).await? {
                return Ok(None);
            }
            match result {
                LoadResult::OutOfMemory(words) => {
                    if room == Room::Expected
                        && let Some(policy) = &self.gate.call.config.eviction
                        && self.evict_one(policy, lead, &mut evictions).await?
                    {
                        continue;
                    }
                    let refusal = backend.refused(self.request, &words);
                    return Err(if evictions.spared.is_empty() {
                        refusal
                    } else {
                        self.does_not_fit(&evictions.spared, Some(refusal))
                    });
                }
                // A server that was restarted is no reason to fail; one that a load takes down is.
                _ if is_cut_off && !has_been_cut_off => {
                    has_been_cut_off = true;
                    self.remove_new_copies(lead).await?;
                }
                LoadResult::Failed(failure) | LoadResult::Lost(failure) | LoadResult::CutOff(failure) => {
                    let both = format!("{} went away both times", backend.name());
                    return Err(if is_cut_off { failure.and(&both) } else { failure });
                }
                LoadResult::TimedOut => return Err(self.load_timeout("was not loaded")),
                LoadResult::Misnamed(_) | LoadResult::Loaded => return Ok(None),
            }
        }
    }

    /// While the server was away and came back, another client may have loaded the model under
    /// another name: that must not end in two of it.
    async fn remove_new_copies(&self, lead: &Lead) -> Result<(), Failure> {
        if let Observation::Seen(snapshot) = self.gate.observe().await?
            && matches!(snapshot.residency(&self.request.key), Residency::Duplicates(_))
        {
            self.reconcile_duplicates(&snapshot, lead).await?;
        }
        Ok(())
    }

    /// Whether another client's load has made the model ready, or does so now. A load that has
    /// hardly begun is not listed yet, so a plain failure is not believed at once; nor is a copy,
    /// which only comes to be when another instance has the name.
    async fn was_beaten(&self, result: &LoadResult) -> Result<bool, Failure> {
        let key = &self.request.key;
        let patience = match result {
            LoadResult::Failed(_) | LoadResult::OutOfMemory(_) | LoadResult::CutOff(_) => APPEARS,
            LoadResult::Misnamed(name) if key.is_copy(name) => APPEARS,
            _ => Duration::ZERO,
        };
        // Our own load that hangs, or goes on without the child that ordered it, is listed as well;
        // where readiness is not reported, that is no proof of anything.
        let may_be_ours = matches!(result, LoadResult::TimedOut | LoadResult::Lost(_) | LoadResult::CutOff(_));
        let waits_for_load = !matches!(result, LoadResult::TimedOut);
        let started = Instant::now();
        let mut until = started + patience;
        let mut backoff = Backoff::default();
        loop {
            // One whose readiness is not reported may be what a load that has just failed leaves in
            // the list for a moment.
            let mut is_listed = false;
            if let Observation::Seen(snapshot) = self.gate.observe().await? {
                match snapshot.residency(key) {
                    Residency::Loading(_) if waits_for_load => {
                        if started.elapsed() >= self.gate.call.config.load_timeout {
                            return Err(self.load_timeout("is still loading, by another client's order,").cheap());
                        }
                        until = until.max(Instant::now() + Duration::from_millis(1));
                    }
                    Residency::Addressable(instance) => match instance.readiness {
                        Readiness::Ready => return Ok(true),
                        _ if self.has_own_load() && waits_for_load => {
                            until = until.max(Instant::now() + Duration::from_millis(1));
                        }
                        _ => is_listed = !may_be_ours,
                    },
                    _ => {}
                }
            }
            if Instant::now() >= until {
                return Ok(is_listed);
            }
            self.gate.context.sleep(backoff.interval()).await?;
        }
    }

    /// Our own load ended up under another name, or is of another model: unload it again and say
    /// so.
    async fn undo(&self, identifier: &str, lead: &Lead) -> Result<Failure, Failure> {
        let backend = &self.gate.backend;
        backend.undo_load(self.request, identifier, self.gate.store().map(|store| &store.unload)).await?;
        let name = printable(identifier);
        let end = if self.is_gone(identifier, lead).await? {
            "it was unloaded again".to_owned()
        } else {
            format!("unload it by hand (`{}`)", backend.unload_command(identifier))
        };
        let reason = format!(
            "{} loaded `{}` under the name `{name}`, which requests for it do not reach; {end}",
            backend.name(),
            self.request.key
        );
        Ok(Failure::new(Category::NotAddressable, reason)
            .hinted("another client may be loading the same model; try again with --fresh"))
    }

    /// Proves that the model is addressable, and that it is the right one.
    pub(super) async fn verify(&self, target: &LoadTarget, is_ours: bool, lead: &Lead) -> Result<Ready, Failure> {
        let started = Instant::now();
        let mut backoff = Backoff::default();
        let mut appears_until = started + APPEARS;
        loop {
            let observation = self.gate.observe().await?;
            if let Observation::Seen(snapshot) = &observation {
                match snapshot.residency(&self.request.key) {
                    // Another caller without the lock has ordered it, and it may still load.
                    Residency::Addressable(instance)
                        if !is_ours && instance.readiness != Readiness::Ready && self.has_own_load() =>
                    {
                        appears_until = Instant::now() + APPEARS;
                    }
                    Residency::Addressable(instance) => {
                        if let Some(other) = self.other_model(instance, target).filter(|_| is_ours) {
                            let other = printable(other);
                            let failure = self.undo(self.request.key.as_str(), lead).await?;
                            let reason =
                                format!("`{}` turned out to be `{other}`; {}", self.request.key, failure.reason);
                            return Err(Failure { reason, ..failure });
                        }
                        let (source, instance) = (snapshot.source, instance.clone());
                        let ready = Ready { action: Action::Loaded, source, instance, load_time: None };
                        return self.check_granted(target, ready, is_ours);
                    }
                    Residency::Loading(_) => {
                        if started.elapsed() >= self.gate.call.config.load_timeout {
                            return Err(self.load_timeout("is still loading"));
                        }
                        appears_until = Instant::now() + APPEARS;
                    }
                    _ => {}
                }
            }
            if Instant::now() >= appears_until {
                return Err(self.not_addressable(observation));
            }
            self.gate.context.sleep(backoff.interval()).await?;
        }
    }

    /// The server may quietly grant less context than asked for.
    fn check_granted(&self, target: &LoadTarget, ready: Ready, is_ours: bool) -> Result<Ready, Failure> {
        let max_context = target.max_context.or(ready.instance.max_context_length);
        let Some(drift) = drift(&ready.instance, &self.request.options, max_context) else { return Ok(ready) };
        match self.gate.call.config.on_mismatch {
            OnMismatch::Fail => Err(self.drift_failure(drift)),
            OnMismatch::Reload | OnMismatch::Ignore => {
                let Program { name, context_is_set_in } = self.gate.backend.program();
                let why = match context_is_set_in {
                    Some(place) => format!("{name} takes it from {place} alone"),
                    None if is_ours => format!("{name} granted no more"),
                    None => "another client loaded it so".to_owned(),
                };
                self.warn(format!(
                    "`{}` was loaded with a context of {} tokens, not {}: {why}",
                    self.request.key, drift.has, drift.wants
                ));
                Ok(ready)
            }
        }
    }

    /// The model this instance is of, if it is not the one that was asked for: the server may have
    /// matched another one.
    fn other_model<'i>(&self, instance: &'i Instance, target: &LoadTarget) -> Option<&'i str> {
        // Where the server takes the name for another one, it is an alias.
        let model = instance.model_key.as_deref().filter(|_| instance.identifier == self.request.key.as_str())?;
        (model != target.base_key && model != self.request.key.as_str()).then_some(model)
    }

    fn not_addressable(&self, observation: Observation) -> Failure {
        let down = match observation {
            Observation::Blocked(failure) => return failure,
            Observation::Down => ": the server went down",
            Observation::Seen(_) => "",
        };
        let reason = format!(
            "{} said it loaded `{}`, but it is not resident {} later{down}",
            self.gate.backend.name(),
            self.request.key,
            duration(APPEARS)
        );
        Failure::new(Category::NotAddressable, reason).hinted(format!(
            "something may have unloaded it at once (memory, another client); {} tells",
            self.gate.backend.log()
        ))
    }
}
