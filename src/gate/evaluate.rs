//! One observation becomes one decision: here is collected what the decision needs to know, and
//! `pure::decision` decides.

use std::time::Instant;

use super::{LOOK_INTERVAL, ModelTask};
use crate::backend::Observation;
use crate::pure::decision::{Change, Decision, Known, OwnLoad, decide};
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Ready};
use crate::pure::residency::{Drift, Readiness, Residency, Snapshot, drift};
use crate::pure::text::{duration, listed};
use crate::sys::leader::Leader;
use crate::sys::log;
use crate::sys::state::Store;

/// What comes next for a model; a failure is an `Err`.
#[derive(Debug)]
pub(super) enum Step {
    /// It is addressable.
    Ready(Ready),
    /// A load of it is under way.
    Wait(Snapshot),
    /// Nothing listens, and the server may be started.
    StartServer,
    /// What is resident has to change.
    Change(Snapshot, Change),
}

impl ModelTask<'_> {
    /// Judges one observation. `action` is what is reported if the model is ready. The warnings
    /// of a model that is ready are kept for its outcome.
    pub(super) fn evaluate(&self, observation: &Observation, action: Action) -> Result<Step, Failure> {
        let gate = self.gate;
        let snapshot = match observation {
            Observation::Seen(snapshot) => snapshot,
            Observation::Blocked(failure) => return Err(failure.clone()),
            Observation::Down if !gate.backend.may_start() => return Err(gate.backend.down()),
            Observation::Down => return self.server_failure().map_or(Ok(Step::StartServer), Err),
        };
        let decision = decide(snapshot, self.request, gate.call.config, &self.known(snapshot), gate.backend.program());
        if log::explains() {
            tracing::debug!("`{}` {}: {}", self.request.key, seen(snapshot, self.request), decided(&decision));
        }
        match decision {
            Decision::Ready(instance, warnings) => {
                for warning in warnings {
                    self.warn(warning);
                }
                Ok(Step::Ready(Ready { action, source: snapshot.source, instance: instance.clone(), load_time: None }))
            }
            Decision::Wait => Ok(Step::Wait(snapshot.clone())),
            Decision::Change(change) => Ok(Step::Change(snapshot.clone(), change)),
            Decision::NotDownloaded => {
                let models = snapshot.downloaded.as_deref().unwrap_or_default();
                Err(gate.backend.not_downloaded(self.request, models))
            }
            Decision::Drifted(drift) => Err(self.drift_failure(drift)),
            Decision::Failed(failure) => Err(failure),
            Decision::Unknown => Err(gate.backend.contradicted(self.request, snapshot)),
        }
    }

    /// What the decision needs besides the snapshot. For a model that is ready and without drift
    /// it is nothing, and nothing is read. Nothing is made or written in any case.
    fn known(&self, snapshot: &Snapshot) -> Known {
        let gate = self.gate;
        let request = self.request;
        if let Residency::Addressable(instance) = snapshot.residency(&request.key)
            && instance.readiness == Readiness::Ready
            && drift(instance, &request.options, snapshot.max_context(&request.key)).is_none()
        {
            return Known::default();
        }
        let is_stateless = gate.store.get().is_some_and(Option::is_none);
        let Some(store) = gate.store().or_else(|| gate.peek()) else {
            return Known { is_stateless, ..Known::default() };
        };
        let history = store.history();
        Known {
            failure: self.past_failure(&history, snapshot),
            own_load: self.own_load(store),
            granted: history.granted(request.key.as_str(), gate.call.config.retry_cooldown),
            is_stateless,
        }
    }

    /// Whether one of us loads it right now, as far as our own locks tell.
    fn own_load(&self, store: &Store) -> OwnLoad {
        let key = self.request.key.as_str();
        if store.load(key).is_under_way() {
            self.still_leader.take();
            return OwnLoad::UnderWay;
        }
        let names_it = |it: &Leader| it.model == key && it.pid != std::process::id();
        let Some(leader) = store.lock.leader().filter(names_it) else { return OwnLoad::No };
        if !matches!(store.lock.is_led(), Ok(true)) {
            return OwnLoad::No;
        }
        // A leader that neither loads nor shows any life for long is stopped.
        let since = match self.still_leader.take() {
            Some((seen, since)) if seen == leader => since,
            _ => Instant::now(),
        };
        self.still_leader.replace(Some((leader, since)));
        if since.elapsed() < LOOK_INTERVAL { OwnLoad::Led } else { OwnLoad::No }
    }

    /// Whether a load that one of us ordered is under way, though its leader may be gone.
    pub(super) fn has_own_load(&self) -> bool {
        self.gate.store().is_some_and(|store| store.load(self.request.key.as_str()).is_under_way())
    }

    /// Drift that is not let pass.
    pub(super) fn drift_failure(&self, Drift { has, wants }: Drift) -> Failure {
        let key = self.request.key.as_str();
        let command = self.gate.backend.unload_command(key);
        Failure::new(
            Category::Drift,
            format!("`{key}` is resident with a context of {has} tokens, and {wants} are configured"),
        )
        .hinted(format!("unload it (`{command}`) and try again, or set `onMismatch` to `reload` or `ignore`"))
    }
}

/// What a snapshot shows of a model, for people who want to know.
fn seen(snapshot: &Snapshot, request: &ModelRequest) -> String {
    match snapshot.residency(&request.key) {
        Residency::Addressable(instance) => {
            let readiness = match instance.readiness {
                Readiness::Ready => "ready",
                _ => "resident, ready or still loading",
            };
            let context = instance.context_length.map_or(String::new(), |tokens| format!(", with {tokens} tokens"));
            format!("is {readiness}{context}")
        }
        Residency::Loading(_) => "is loading".to_owned(),
        Residency::Duplicates(copies) => {
            format!("is resident only as {}", listed(copies.iter().map(|it| it.identifier.as_str()), "and"))
        }
        Residency::Absent => "is not resident".to_owned(),
        Residency::Unknown => "is in one list and not in the other".to_owned(),
    }
}

/// What is made of it.
fn decided(decision: &Decision<'_>) -> String {
    let text = match decision {
        Decision::Ready(..) => "nothing to do",
        Decision::Wait => "its load is to be waited for",
        Decision::Change(Change::Load) => "it has to be loaded",
        Decision::Change(Change::Reconcile) => "these copies have to go first",
        Decision::Change(Change::Reload) => "it has to be loaded again for more context",
        Decision::NotDownloaded => "no such key is downloaded",
        Decision::Drifted(_) => "that is too little context, and onMismatch says to fail",
        Decision::Unknown => "that means nothing yet",
        Decision::Failed(failure) => {
            let age = duration(failure.age.unwrap_or_default());
            return format!("that failed {age} ago and is not tried again now");
        }
    };
    text.to_owned()
}

impl super::Gate<'_> {
    /// The state directory before there is work: read, and never made.
    fn peek(&self) -> Option<&Store> {
        self.peeked.get_or_init(|| Store::peek(self.call.state_dir.as_deref()?, &self.context.base().slug())).as_ref()
    }
}
