//! What a sight settles without any work: ready, failed, or "work to do".

use std::time::{Duration, Instant};

use super::cooldown::past_failure;
use super::look::Observation;
use super::wait::LOOK_INTERVAL;
use super::{Call, ModelRequest, Work, obtain};
use crate::pure::config::OnMismatch;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Ready};
use crate::pure::residency::{Drift, Readiness, Residency, drift, find_downloaded};
use crate::pure::text::duration;
use crate::sys::lock::Leader;
use crate::sys::state::Store;

impl Work<'_> {
    /// What a sight settles without any work: ready, failed, or `None` for "work to do".
    pub(super) fn evaluate(
        &self,
        want: &ModelRequest,
        sight: &Observation,
        action: Action,
    ) -> Result<Option<Ready>, Failure> {
        let snapshot = match sight {
            Observation::Seen(snapshot) => snapshot,
            Observation::Down if self.may_start_server() => return Ok(None),
            Observation::Down => return Err(self.down_for_good()),
            Observation::Blocked(failure) => return Err(failure.clone()),
        };
        let instance = match snapshot.residency(&want.key) {
            Residency::Addressable(instance) => instance,
            Residency::Unknown => {
                return Err(self.unknown("its two lists (/api/v1/models and /api/v0/models) do not agree"));
            }
            Residency::Absent if !self.config.auto_download => {
                // Cheap to say, so nobody needs to lead for it.
                return match &snapshot.downloaded {
                    Some(models) if find_downloaded(models, &want.key).is_none() => {
                        Err(obtain::not_downloaded(want, models))
                    }
                    _ => Ok(None),
                };
            }
            _ => return Ok(None),
        };
        // A source that lists an instance from the start of its load cannot tell that it is
        // ready; whoever loads it can.
        if instance.readiness == Readiness::Unreported {
            if self.is_being_loaded(want) {
                return Ok(None);
            }
            // A load that failed a moment ago may be listed still.
            self.replay(want, sight)?;
        }
        let max_context = snapshot.max_context(&want.key);
        if let Some(drift) = drift(instance, &want.options, max_context)
            && !self.accepts(want, drift, sight)?
        {
            return Ok(None);
        }
        if let Some(warning) = context_warning(want, max_context) {
            self.warn(warning);
        }
        Ok(Some(Ready { action, source: snapshot.source, instance: instance.clone(), load_time: None }))
    }

    /// Whether drift is let pass: by configuration, or because a reload would not help.
    fn accepts(&self, want: &ModelRequest, drift: Drift, sight: &Observation) -> Result<bool, Failure> {
        let Drift { has, wants } = drift;
        let key = &want.key;
        match (self.config.on_mismatch, &self.store) {
            (OnMismatch::Ignore, _) => Ok(true),
            (OnMismatch::Fail, _) => Err(drift_failure(want, drift)),
            (OnMismatch::Reload, None) => {
                // Nobody would remember that it was in vain, and every call would reload.
                self.warn(format!(
                    "`{key}` has a context of {has} tokens, not {wants}, and is not reloaded without a state directory"
                ));
                Ok(true)
            }
            (OnMismatch::Reload, Some(store)) => {
                let asked = want.options.context_length.unwrap_or(wants);
                let why = if store.facts().was_granted(key.as_str(), asked, has, self.config.retry_cooldown) {
                    "LM Studio granted no more when it was loaded".to_owned()
                } else if let Err(failure) = self.replay(want, sight) {
                    // To unload it would be to end with nothing.
                    let age = duration(failure.age.unwrap_or_default());
                    format!("it is not reloaded, as that failed {age} ago: {}", failure.reason)
                } else {
                    return Ok(false);
                };
                self.warn(format!("`{key}` has a context of {has} tokens, not {wants}: {why}"));
                Ok(true)
            }
        }
    }

    /// Whether one of us loads it right now, as far as our own locks tell.
    fn is_being_loaded(&self, want: &ModelRequest) -> bool {
        let Some(store) = &self.store else { return false };
        match own_load(store, want, self.config.load_timeout) {
            OwnLoad::UnderWay => {
                self.no_load_since.set(None);
                true
            }
            // It may be about to load, or has just done so. One that does neither for long
            // is stopped.
            OwnLoad::Led => {
                let since = self.no_load_since.get().unwrap_or_else(Instant::now);
                self.no_load_since.set(Some(since));
                since.elapsed() < LOOK_INTERVAL
            }
            OwnLoad::No => false,
        }
    }

    /// Whether a load that one of us ordered is under way, though its leader may be gone.
    pub(super) fn has_own_load(&self, want: &ModelRequest) -> bool {
        let Some(store) = &self.store else { return false };
        matches!(own_load(store, want, self.config.load_timeout), OwnLoad::UnderWay)
    }
}

/// What our own locks tell of a load. A load by others leaves no trace there.
enum OwnLoad {
    /// It is under way.
    UnderWay,
    /// It is not, but another process leads, and says that this model is why.
    Led,
    /// None of us has to do with it.
    No,
}

fn own_load(store: &Store, want: &ModelRequest, load_timeout: Duration) -> OwnLoad {
    let key = want.key.as_str();
    // A load is over by then, and whatever else keeps the lock is not it.
    if store.load_lock(key).is_held_by_child(load_timeout) {
        return OwnLoad::UnderWay;
    }
    let names_it = |it: Leader| it.model == key && it.pid != std::process::id();
    if store.lock.leader().is_some_and(names_it) && matches!(store.lock.is_free(), Ok(false)) {
        return OwnLoad::Led;
    }
    OwnLoad::No
}

/// Whether nothing that is written down speaks against an instance of which the source does
/// not tell whether it is ready. Nothing is made or written for it.
pub(super) fn is_undisputed(call: &Call<'_>, want: &ModelRequest) -> bool {
    let store = call.state_dir.as_deref().and_then(|folder| Store::peek(folder, &call.server.base.slug()));
    store.is_none_or(|store| {
        matches!(own_load(&store, want, call.config.load_timeout), OwnLoad::No)
            && past_failure(call, &store, want).is_none()
    })
}

/// Asking for more than the model has means all it has; the user should know.
pub(super) fn context_warning(want: &ModelRequest, max: Option<u64>) -> Option<String> {
    let (asked, max) = (want.options.context_length?, max?);
    (asked > max).then(|| format!("`{}` can have a context of {max} tokens at most; {asked} were asked for", want.key))
}

/// Drift that is not let pass.
pub(super) fn drift_failure(want: &ModelRequest, Drift { has, wants }: Drift) -> Failure {
    let key = &want.key;
    Failure::new(
        Category::Drift,
        format!("`{key}` is resident with a context of {has} tokens, and {wants} are configured"),
    )
    .hinted(format!("unload it (`lms unload {key}`) and try again, or set `onMismatch` to `reload` or `ignore`"))
}
