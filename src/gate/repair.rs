//! Repairing what is resident: copies without the bare key, and too little context. Only an
//! instance that somebody vouches is idle is ever unloaded.

use std::time::{Duration, Instant};

use super::look::Sight;
use super::{Backoff, Lead, Want, Work};
use crate::pure::failure::{Category, Failure};
use crate::pure::report::{Action, Ready};
use crate::pure::residency::{Drift, Instance, Residency, Snapshot, drift};
use crate::pure::text::listed;
use crate::sys::lms::{Lms, Problem};

/// How long an instance may still be listed after `lms unload` has ended.
const UNLOAD_SETTLES: Duration = Duration::from_secs(5);

impl Work<'_> {
    /// Unloads the copies (`KEY:2`) that stand in the way of the bare key, if all are idle.
    pub(super) async fn reconcile_duplicates(
        &self,
        want: &Want,
        snapshot: &Snapshot,
        lead: &Lead,
    ) -> Result<(), Failure> {
        let key = &want.key;
        let named: Vec<String> = snapshot.copies(key).map(|it| it.identifier.clone()).collect();
        let names = listed(named.iter().map(String::as_str));
        let failure = |why: &str| {
            Failure::new(
                Category::Duplicates,
                format!("`{key}` is resident only as {names}, which requests for `{key}` do not reach; {why}"),
            )
            .hinted(format!("unload by hand when idle: `lms unload {}`", named.first().map_or("", String::as_str)))
        };
        if !self.config.reconcile_duplicates {
            return Err(failure("`reconcileDuplicates` is off, so nothing was touched"));
        }
        let Ok(lms) = &self.lms else {
            return Err(failure("nobody can tell whether it is busy without `lms`, so nothing was touched"));
        };
        let resident = self
            .resident(lms, |why| {
                failure(&format!("nobody can tell whether it is busy ({why}), so nothing was touched"))
            })
            .await?;
        let copies: Vec<&Instance> = resident.iter().filter(|it| named.contains(&it.identifier)).collect();
        if let Some(busy) = copies.iter().find(|it| it.busy != Some(false)) {
            return Err(failure(&format!("`{}` is busy, so nothing was touched", busy.identifier)));
        }
        let activity = self.call.progress.begin(&format!("unloading {names}"), None);
        for name in &named {
            self.unload(lms, name, lead).await.map_err(|failed| Failure {
                category: if failed.category == Category::UnknownState {
                    Category::Duplicates
                } else {
                    failed.category
                },
                ..failed
            })?;
        }
        drop(activity);
        Ok(())
    }

    /// Unloads an instance with too little context, if it is idle. A busy one is let pass:
    /// whoever uses it would lose the answer.
    pub(super) async fn unload_for_more_context(
        &self,
        want: &Want,
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
        let Ok(lms) = &self.lms else {
            return let_pass("nobody can tell whether it is busy without `lms`");
        };
        let resident = match lms.ps().await {
            Ok(resident) => resident,
            Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
            Err(Problem::Failed(why)) => return let_pass(&format!("nobody can tell whether it is busy ({why})")),
        };
        let is_idle = resident.iter().filter(|it| it.identifier == key.as_str()).all(|it| it.busy == Some(false));
        if !is_idle {
            return let_pass("it is busy");
        }
        let activity =
            self.call.progress.begin(&format!("unloading `{key}`, which has a context of {has} tokens"), None);
        self.unload(lms, key.as_str(), lead).await.map_err(|failed| Failure {
            category: if failed.category == Category::UnknownState { Category::Drift } else { failed.category },
            ..failed
        })?;
        drop(activity);
        Ok(None)
    }

    /// Every instance with what only `lms ps` knows: whether it is busy.
    pub(super) async fn resident(
        &self,
        lms: &Lms,
        otherwise: impl Fn(&str) -> Failure,
    ) -> Result<Vec<Instance>, Failure> {
        match lms.ps().await {
            Ok(instances) => Ok(instances),
            Err(Problem::Stopped(stop)) => Err(self.interrupted(stop)),
            Err(Problem::Failed(why)) => Err(otherwise(&why)),
        }
    }

    /// Unloads an instance and makes sure that it is gone: the exit code of `lms unload`
    /// proves nothing.
    pub(super) async fn unload(&self, lms: &Lms, identifier: &str, _: &Lead) -> Result<(), Failure> {
        if let Some(store) = &self.store {
            store.forget_verdicts();
        }
        let said = match lms.unload(identifier).await {
            Ok(()) => String::new(),
            Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
            Err(Problem::Failed(why)) => format!(": {why}"),
        };
        let until = Instant::now() + UNLOAD_SETTLES;
        let mut backoff = Backoff::new();
        loop {
            if let Sight::Seen(snapshot) = self.look().await?
                && !snapshot.instances.iter().any(|it| it.identifier == identifier)
            {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Failure::new(
                    Category::UnknownState,
                    format!("`{identifier}` is still resident after `lms unload {identifier}`{said}"),
                )
                .hinted("unload it in LM Studio, then try again"));
            }
            self.sleep(backoff.next()).await?;
        }
    }

    /// Whether the model is ready now.
    pub(super) fn is_ready(want: &Want, sight: &Sight) -> bool {
        match sight {
            Sight::Seen(snapshot) => matches!(snapshot.residency(&want.key), Residency::Addressable(_)),
            _ => false,
        }
    }
}
