//! Repairing what is resident: copies without the bare key, and too little context. Only an
//! instance that somebody vouches is idle is ever unloaded.

use std::time::{Duration, Instant};

use super::look::Observation;
use super::{Backoff, Lead, ModelRequest, Work};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Ready};
use crate::pure::residency::{Drift, Instance, Readiness, Snapshot, drift};
use crate::pure::text::{listed, printable};
use crate::sys::lmstudio::lms::{Lms, Problem};

/// How long an instance may still be listed after it was unloaded.
const UNLOAD_SETTLES: Duration = Duration::from_secs(5);

impl Work<'_> {
    /// Unloads the copies (`KEY:2`) that stand in the way of the bare key, if all are idle.
    pub(super) async fn reconcile_duplicates(
        &self,
        want: &ModelRequest,
        snapshot: &Snapshot,
        lead: &Lead,
    ) -> Result<(), Failure> {
        let key = &want.key;
        let named: Vec<String> = snapshot.copies(key).map(|it| it.identifier.clone()).collect();
        let names = listed(named.iter().map(String::as_str), "and");
        let failure = |why: &str| {
            let reason = format!("`{key}` is resident only as {names}, which requests for `{key}` do not reach; {why}");
            let first = named.first().map_or("", String::as_str);
            Failure::new(Category::Duplicates, reason).hinted(format!("unload by hand when idle: `lms unload {first}`"))
        };
        if !self.config.reconcile_duplicates {
            return Err(failure("`reconcileDuplicates` is off, so nothing was touched"));
        }
        let nobody_tells =
            |why: &str| failure(&format!("nobody can tell whether it is busy ({why}), so nothing was touched"));
        let lms = self.lms.as_ref().map_err(|why| nobody_tells(why))?;
        let are_idle = async || -> Result<(), Failure> {
            let resident = self.resident(lms).await?.map_err(|why| nobody_tells(&why))?;
            for copy in resident.iter().filter(|it| named.contains(&it.identifier)) {
                match copy.busy {
                    Some(false) => {}
                    Some(true) => {
                        return Err(failure(&format!("`{}` is busy, so nothing was touched", copy.identifier)));
                    }
                    None => return Err(nobody_tells("it may still be loading")),
                }
            }
            Ok(())
        };
        let activity = self.call.progress.begin(&format!("unloading {names}"), None);
        for name in &named {
            // Anew for each: unloading one takes seconds, in which another may get to work.
            are_idle().await?;
            self.unload(lms, name, lead).await.map_err(|failed| as_kind(failed, Category::Duplicates))?;
        }
        drop(activity);
        Ok(())
    }

    /// Unloads an instance with too little context, if it is idle. A busy one is let pass:
    /// whoever uses it would lose the answer.
    pub(super) async fn unload_for_more_context(
        &self,
        want: &ModelRequest,
        snapshot: &Snapshot,
        instance: &Instance,
        lead: &Lead,
    ) -> Result<Option<Ready>, Failure> {
        let key = &want.key;
        let Some(Drift { has, wants }) = drift(instance, &want.options, snapshot.max_context(key)) else {
            return Err(self.unknown("its context changed while being looked at"));
        };
        let let_pass = |why: &str| {
            self.warn(format!("`{key}` has a context of {has} tokens, not {wants}, and cannot be reloaded now: {why}"));
            Ok(Some(Ready {
                action: Action::None,
                source: snapshot.source,
                instance: instance.clone(),
                load_time: None,
            }))
        };
        let lms = match &self.lms {
            Ok(lms) => lms,
            Err(why) => return let_pass(&format!("nobody can tell whether it is busy ({why})")),
        };
        let resident = match self.resident(lms).await? {
            Ok(resident) => resident,
            Err(why) => return let_pass(&format!("nobody can tell whether it is busy ({why})")),
        };
        for own in resident.iter().filter(|it| it.identifier == key.as_str()) {
            match own.busy {
                Some(false) => {}
                Some(true) => return let_pass("it is busy"),
                None => return let_pass("nobody can tell whether it is busy or still loading"),
            }
        }
        let activity =
            self.call.progress.begin(&format!("unloading `{key}`, which has a context of {has} tokens"), None);
        self.unload(lms, key.as_str(), lead).await.map_err(|failed| as_kind(failed, Category::Drift))?;
        drop(activity);
        Ok(None)
    }

    /// Every instance with what only `lms ps` knows, whether it is busy; `Err` says why it
    /// could not tell. One that is loading counts as busy. `lms ps` shows it idle, so a look
    /// at REST must say that it is not; where that cannot be told, an instance that was
    /// never used may be one.
    pub(super) async fn resident(&self, lms: &Lms) -> Result<Result<Vec<Instance>, String>, Failure> {
        let mut resident = match lms.ps().await {
            Ok(resident) => resident,
            Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
            Err(Problem::Failed(why)) => return Ok(Err(why)),
        };
        let seen = match self.look().await? {
            Observation::Seen(snapshot) => snapshot.instances,
            _ => Vec::new(),
        };
        for instance in resident.iter_mut().filter(|it| it.busy == Some(false)) {
            let readiness = seen.iter().find(|it| it.identifier == instance.identifier).map(|it| it.readiness);
            instance.busy = match readiness {
                Some(Readiness::Ready) => Some(false),
                Some(Readiness::Loading) => Some(true),
                Some(Readiness::Unreported) if instance.last_used.is_some() => Some(false),
                _ => None,
            };
        }
        Ok(Ok(resident))
    }

    /// Unloads an instance and makes sure that it is gone: the exit code of `lms unload`
    /// proves nothing.
    pub(super) async fn unload(&self, lms: &Lms, identifier: &str, lead: &Lead) -> Result<(), Failure> {
        let said = match lms.unload(identifier).await {
            Ok(()) => String::new(),
            Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
            Err(Problem::Failed(why)) => format!(": {why}"),
        };
        if self.is_gone(identifier, lead).await? {
            return Ok(());
        }
        let name = printable(identifier);
        let reason = format!("`{name}` is still resident after `lms unload {name}`{said}");
        Err(Failure::new(Category::UnknownState, reason).hinted("unload it in LM Studio, then try again"))
    }

    /// Waits until an instance that was unloaded is gone, but not for long.
    pub(super) async fn is_gone(&self, identifier: &str, _: &Lead) -> Result<bool, Failure> {
        if let Some(store) = &self.store {
            store.forget_verdicts();
        }
        let until = Instant::now() + UNLOAD_SETTLES;
        let mut backoff = Backoff::new();
        loop {
            if let Observation::Seen(snapshot) = self.look().await?
                && !snapshot.instances.iter().any(|it| it.identifier == identifier)
            {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            self.sleep(backoff.next()).await?;
        }
    }
}

/// An unload that did not work, as the failure of what it was for.
fn as_kind(failed: Failure, category: Category) -> Failure {
    match failed.category {
        Category::UnknownState => Failure { category, ..failed },
        _ => failed,
    }
}
