//! Repairing what is resident: copies without the bare key, and too little context. Only an
//! instance that the server calls idle is ever unloaded.

use std::time::{Duration, Instant};

use super::{Lead, ModelTask};
use crate::backend::{Backoff, Observation};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Ready};
use crate::pure::residency::{Drift, Instance, Residency, Snapshot, drift, is_ambiguous};
use crate::pure::text::{listed, printable};

/// How long an instance may still be listed after it was unloaded.
const UNLOAD_LIMIT: Duration = Duration::from_secs(5);

impl ModelTask<'_> {
    /// Unloads the copies (`KEY:2`) that stand in the way of the bare key, if all are idle; `false`
    /// if there turn out to be none.
    pub(super) async fn reconcile_duplicates(&self, snapshot: &Snapshot, lead: &Lead) -> Result<bool, Failure> {
        let key = &self.request.key;
        let may_unload = self.gate.call.config.reconcile_duplicates;
        let seen: Vec<&Instance> = snapshot.copies(key).collect();
        let untold = |copies: &[&Instance], why: &str| {
            let why = format!("nobody can tell whether it is busy ({why}), so nothing was touched");
            self.duplicates_failure(copies, &why)
        };
        let unwanted = |copies: &[&Instance]| {
            self.duplicates_failure(copies, "`reconcileDuplicates` is off, so nothing was touched")
        };
        if !may_unload && seen.iter().all(|it| it.model_key.is_some()) {
            return Err(unwanted(&seen));
        }
        let mut has_unloaded = false;
        for Instance { identifier, .. } in &seen {
            // Anew for each: unloading one takes seconds, in which another may get to work.
            let resident = match self.gate.backend.activity().await? {
                Ok(resident) => resident,
                Err(_) if !may_unload => return Err(unwanted(&seen)),
                Err(why) => return Err(untold(&seen, &why)),
            };
            let is_copy = |it: &Instance| it.model_key.as_deref().is_none_or(|name| key.is_of_model(name));
            let copies: Vec<&Instance> = resident
                .iter()
                .filter(|it| seen.iter().any(|seen| seen.identifier == it.identifier) && is_copy(it))
                .collect();
            if copies.is_empty() {
                break;
            }
            if !may_unload {
                return Err(unwanted(&copies));
            }
            for copy in &copies {
                match (&copy.model_key, copy.busy) {
                    (Some(_), Some(false)) => {}
                    (_, Some(true)) => {
                        let why = format!("`{}` is busy, so nothing was touched", printable(&copy.identifier));
                        return Err(self.duplicates_failure(&copies, &why));
                    }
                    (Some(_), None) => return Err(untold(&copies, "it may still be loading")),
                    (None, _) => return Err(untold(&copies, "it may be of another model")),
                }
            }
            if !copies.iter().any(|it| it.identifier == *identifier) {
                continue;
            }
            if is_ambiguous(&resident, identifier) {
                self.warn(format!("`{identifier}` stays: {}", ambiguous(identifier)));
                continue;
            }
            let text = format!("unloading `{identifier}`");
            let activity = self.gate.call.progress.begin(&text, None);
            self.unload(identifier, lead).await.map_err(|failed| as_category(failed, Category::Duplicates))?;
            drop(activity);
            has_unloaded = true;
        }
        Ok(has_unloaded)
    }

    fn duplicates_failure(&self, copies: &[&Instance], why: &str) -> Failure {
        let key = &self.request.key;
        let names = listed(copies.iter().map(|it| it.identifier.as_str()), "and");
        let reason = format!("`{key}` is resident only as {names}, which requests for `{key}` do not reach; {why}");
        let command = self.gate.backend.unload_command(copies.first().map_or("", |it| it.identifier.as_str()));
        Failure::new(Category::Duplicates, reason).hinted(format!("unload by hand when idle: `{command}`"))
    }

    /// Unloads an instance with too little context, if it is idle. A busy one is let pass: its
    /// client would lose the answer.
    pub(super) async fn unload_for_more_context(
        &self,
        snapshot: &Snapshot,
        lead: &Lead,
    ) -> Result<Option<Ready>, Failure> {
        let key = &self.request.key;
        let Residency::Addressable(instance) = snapshot.residency(key) else { return Ok(None) };
        let Some(Drift { has, wants }) = drift(instance, &self.request.options, snapshot.max_context(key)) else {
            return Ok(None);
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
        let resident = match self.gate.backend.activity().await? {
            Ok(resident) => resident,
            Err(why) => return let_pass(&format!("nobody can tell whether it is busy ({why})")),
        };
        if is_ambiguous(&resident, key.as_str()) {
            return let_pass(&ambiguous(key.as_str()));
        }
        if !resident.iter().any(|it| it.identifier == key.as_str()) {
            return Err(self.gate.context.unknown(&format!("`{key}` came and went while being looked at")));
        }
        for own in resident.iter().filter(|it| it.identifier == key.as_str()) {
            match own.busy {
                Some(false) => {}
                Some(true) => return let_pass("it is busy"),
                None => return let_pass("nobody can tell whether it is busy or still loading"),
            }
        }
        let activity =
            self.gate.call.progress.begin(&format!("unloading `{key}`, which has a context of {has} tokens"), None);
        self.unload(key.as_str(), lead).await.map_err(|failed| as_category(failed, Category::Drift))?;
        drop(activity);
        Ok(None)
    }

    /// Unloads an instance and makes sure that it is gone: what the server says of it proves
    /// nothing.
    pub(super) async fn unload(&self, identifier: &str, lead: &Lead) -> Result<(), Failure> {
        let operation = self.gate.store().map(|store| &store.unload);
        // Before and after: what other calls see meanwhile is not so when it is over.
        if let Some(store) = self.gate.store() {
            store.forget_verdicts();
        }
        let unloaded = self.gate.backend.unload(identifier, operation).await?;
        let said = unloaded.err().map_or(String::new(), |why| format!(": {why}"));
        if self.is_gone(identifier, lead).await? {
            return Ok(());
        }
        let name = printable(identifier);
        let command = self.gate.backend.unload_command(identifier);
        let reason = format!("`{name}` is still resident after `{command}`{said}");
        Err(Failure::new(Category::UnknownState, reason)
            .hinted(format!("unload it in {}, then try again", self.gate.backend.name()))
            .for_waiters())
    }

    /// Waits until an instance that was unloaded is gone, but not for long.
    pub(super) async fn is_gone(&self, identifier: &str, _: &Lead) -> Result<bool, Failure> {
        let until = Instant::now() + UNLOAD_LIMIT;
        let mut backoff = Backoff::default();
        loop {
            if let Observation::Seen(snapshot) = self.gate.observe().await?
                && !snapshot.instances.iter().any(|it| it.identifier == identifier)
            {
                if let Some(store) = self.gate.store() {
                    store.forget_verdicts();
                }
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            self.gate.context.sleep(backoff.interval()).await?;
        }
    }
}

/// Why an instance cannot be unloaded, though it is idle.
fn ambiguous(identifier: &str) -> String {
    format!("more than one machine has an instance called `{identifier}`, so it cannot be unloaded by that name")
}

/// An unload that did not work, as the failure of what it was for.
fn as_category(failed: Failure, category: Category) -> Failure {
    match failed.category {
        Category::UnknownState => Failure { category, ..failed },
        _ => failed,
    }
}
