//! The gate: from "is it addressable?" to "it is", with one load however many ask. The one
//! place where order matters; what each step does stands in the file of its name. It prints
//! nothing but progress and never ends the process.

mod conflict;
mod cooldown;
mod evaluate;
mod lead;
mod load;
mod observe;
mod outage;
mod probe;
mod repair;
mod room;
mod start;
mod wait;

use std::cell::{Cell, OnceCell, RefCell};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::Instrument;

use crate::backend::{Backend, Context, Observation, at_usual_port, identify, is_settled};
use crate::pure::backend::BackendKind;
use crate::pure::config::Config;
use crate::pure::decision::Change;
pub(crate) use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Outcome, Ready};
use crate::pure::residency::{Reading, Residency, Snapshot};
use crate::sys::clock::now_ms;
use crate::sys::http::Server;
use crate::sys::leader::{Leader, Leadership};
use crate::sys::lock::Lock;
use crate::sys::private::NoStore;
pub(crate) use crate::sys::private::Refusal;
use crate::sys::progress::Progress;
use crate::sys::shutdown::Shutdown;
use crate::sys::state::{Store, remembered_backend};
use evaluate::Step;
pub(crate) use probe::{Probe, probe};
use wait::Turn;

/// How often a waiter observes for itself: the leader may be stopped, or another client loads.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Everything one call is about.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The server.
    pub server: &'a Server,
    /// Its name in the configuration file, if it has one.
    pub server_name: Option<&'a str>,
    /// The program there, once it was found out.
    pub found: Cell<Option<BackendKind>>,
    /// Where the server's address came from, for messages.
    pub origin: &'a str,
    /// Whether the user or opencode's configuration names the address.
    pub is_configured: bool,
    /// Where the token came from or could be put, for messages.
    pub token_origin: &'a str,
    /// Where the state is kept; `None` if there is no home.
    pub state_dir: Option<PathBuf>,
    /// The models, each once, in the order given.
    pub requests: &'a [ModelRequest],
    /// Try again what failed a moment ago.
    pub fresh: bool,
    /// No person waits for this call: foreground callers go first.
    pub is_background: bool,
    /// Upper bound for the whole call.
    pub timeout: Option<Duration>,
    /// How to show what is going on.
    pub progress: Progress,
    /// When the call began.
    pub started: Instant,
    /// Made when something slow begins, and shared by the servers of one call.
    pub shutdown: &'a OnceCell<Shutdown>,
}

/// Makes sure that every model of the call is addressable. `first` is what the first round showed,
/// if [`probe()`] has taken it.
///
/// # Errors
/// When the state directory must not be used; no model was touched then.
pub(crate) async fn ensure(call: &Call<'_>, first: Option<Snapshot>) -> Result<Vec<Outcome>, Refusal> {
    let context = call.context();
    let gate = Gate::new(call, &context);
    let (gate, reading) = if let Some(snapshot) = first {
        (gate, Ok(Reading::Seen(snapshot)))
    } else {
        if let Some(outcomes) = gate.cached_outcomes()? {
            return Ok(outcomes);
        }
        first_look(gate).await?
    };
    let observation = gate.first_observation(reading).await?;
    let mut outcomes = gate.outcomes(observation).await?;
    gate.remember_verdicts(&outcomes);
    if !call.is_configured {
        gate.point_to_another_server(&mut outcomes).await;
    }
    Ok(outcomes)
}

/// Looks again at models that [`ensure`] found ready, once other work has taken its time. What is
/// not there any more is brought back if `may_heal`, else its outcome says so. Returns whether
/// anything had to be brought back.
///
/// # Errors
/// As [`ensure`].
pub(crate) async fn confirm(call: &Call<'_>, outcomes: &mut [Outcome], may_heal: bool) -> Result<bool, Refusal> {
    let context = call.context();
    let gate = Gate::new(call, &context);
    let tasks: Vec<ModelTask<'_>> = call.requests.iter().map(|request| ModelTask::new(&gate, request)).collect();
    gate.confirm(&tasks, outcomes, may_heal).await
}

/// Takes the first reading, of the program that is really there.
async fn first_look(mut gate: Gate<'_>) -> Result<(Gate<'_>, Result<Reading, Failure>), Refusal> {
    let mut reading = gate.first_reading().instrument(tracing::trace_span!("probe")).await;
    if let Some(kind) = gate.other_program(&reading).await {
        gate.begin()?;
        gate.remember_backend(kind);
        gate.call.found.set(Some(kind));
        gate = Gate::new(gate.call, gate.context);
        reading = gate.first_reading().await;
    }
    Ok((gate, reading))
}

impl<'a> Call<'a> {
    fn context(&self) -> Context<'a> {
        Context {
            config: self.config,
            server: self.server,
            origin: self.origin,
            token_origin: self.token_origin,
            requests: self.requests,
            fresh: self.fresh,
            timeout: self.timeout,
            started: self.started,
            shutdown: self.shutdown,
        }
    }

    /// The program that is asked first: the one that was configured or found, in this call or an
    /// earlier one, else the default.
    fn expected_backend(&self) -> BackendKind {
        if let Some(known) = self.config.backend.or(self.found.get()) {
            return known;
        }
        let folder = self.state_dir.as_deref();
        self.found.set(folder.and_then(|folder| remembered_backend(folder, &self.server.base.slug())));
        self.found.get().unwrap_or_default()
    }
}

/// One call, and what it has found out so far.
struct Gate<'a> {
    call: &'a Call<'a>,
    context: &'a Context<'a>,
    backend: Backend<'a>,
    /// Opened when there is work to do; `None` in it where no state can be kept.
    store: OnceCell<Option<Store>>,
    /// The same before there is work: read, and never made.
    peeked: OnceCell<Option<Store>>,
    /// Why no state can be kept; told with the first model that has work.
    store_warning: RefCell<Option<String>>,
    /// The generation of verdicts that the latest observation belongs to, if it makes any.
    generation: RefCell<Option<String>>,
    /// Held by a foreground call while it has work.
    foreground: RefCell<Option<Lock>>,
    /// What this process tells the waiters while it leads.
    leader: RefCell<Option<Leader>>,
}

/// One model on its way through the gate.
struct ModelTask<'a> {
    gate: &'a Gate<'a>,
    request: &'a ModelRequest,
    warnings: RefCell<Vec<String>>,
    /// The leader that leads because of this model and has no load under way, and since when it
    /// has shown no life.
    still_leader: RefCell<Option<(Leader, Instant)>>,
    /// What this call waits for at the moment, for the message when its time is over.
    waits_for: RefCell<Option<String>>,
}

/// Proof of being the one who may change what is loaded. Without a usable state directory
/// there is no lock to hold, and the server's refusal of a second identifier must do.
struct Lead(Option<Leadership>);

impl<'a> Gate<'a> {
    fn new(call: &'a Call<'a>, context: &'a Context<'a>) -> Self {
        Self {
            call,
            context,
            backend: Backend::new(context, call.expected_backend()),
            store: OnceCell::new(),
            peeked: OnceCell::new(),
            store_warning: RefCell::default(),
            generation: RefCell::default(),
            foreground: RefCell::default(),
            leader: RefCell::default(),
        }
    }

    /// Another program than the one that was asked, if that is what answers.
    async fn other_program(&self, reading: &Result<Reading, Failure>) -> Option<BackendKind> {
        let (None, Ok(Reading::OtherProgram(said) | Reading::Forbidden(said) | Reading::Unclear(said))) =
            (self.call.config.backend, reading)
        else {
            return None;
        };
        let found = match BackendKind::named_in(said) {
            Some(found) => found,
            None => identify(self.context).await.ok()??,
        };
        tracing::debug!("{} is {}", self.context.base(), found.name());
        (found != self.backend.kind()).then_some(found)
    }

    /// Where nobody named an address and nothing answers at the default one, another program may
    /// serve models at its own. It is told, and not used in silence.
    async fn point_to_another_server(&self, outcomes: &mut [Outcome]) {
        let failures = outcomes.iter_mut().filter_map(|it| it.result.as_mut().err());
        let mut failures = failures.filter(|it| it.category == Category::ServerUnreachable).peekable();
        if failures.peek().is_none() {
            return;
        }
        let Some((kind, base)) = at_usual_port(self.context).await else { return };
        for failure in failures {
            let other = format!("{} answers at {base}: --base-url {base} uses it", kind.name());
            failure.hint = Some(failure.hint.take().map_or(other.clone(), |hint| format!("{hint}; {other}")));
        }
    }

    /// So that the next call asks the right program at once.
    fn remember_backend(&self, kind: BackendKind) {
        if let Some(Err(error)) = self.store().map(|store| store.remember_backend(kind)) {
            tracing::info!(%error, "what program this server is cannot be remembered");
        }
    }

    /// What the first reading comes to; where it means nothing yet, more is asked.
    async fn first_observation(
        &self,
        reading: Result<Reading, Failure>,
    ) -> Result<Result<Observation, Failure>, Refusal> {
        Ok(match reading {
            Ok(Reading::Seen(snapshot)) if is_settled(&snapshot, self.call.requests) => Ok(Observation::Seen(snapshot)),
            Ok(reading) => {
                self.begin()?;
                self.complete(reading).await
            }
            Err(failure) => Err(failure),
        })
    }

    async fn outcomes(&'a self, observation: Result<Observation, Failure>) -> Result<Vec<Outcome>, Refusal> {
        let tasks: Vec<ModelTask<'_>> =
            self.call.requests.iter().map(|request| ModelTask::new(self, request)).collect();
        if let (Ok(Observation::Seen(snapshot)), Some(task)) = (&observation, tasks.first()) {
            let known = snapshot.downloaded.iter().flatten().map(|model| model.key.as_str());
            self.call.config.misspelt_models(known).into_iter().for_each(|warning| task.warn(warning));
        }
        let mut steps: Vec<Result<Step, Failure>> = Vec::with_capacity(tasks.len());
        for task in &tasks {
            steps.push(match &observation {
                Ok(observation) => task.evaluate(observation, Action::None),
                Err(failure) => Err(failure.clone()),
            });
        }
        let is_warm = steps.iter().all(|step| matches!(step, Ok(Step::Ready(_))));
        if !is_warm {
            self.begin()?;
        }
        if !is_warm && tasks.len() > 1 && self.backend.swaps() {
            return self.outcomes_of_a_set(&tasks, steps).await;
        }
        let mut has_worked = false;
        let mut outcomes = Vec::with_capacity(tasks.len());
        for (task, step) in tasks.iter().zip(steps) {
            let is_ready = matches!(step, Ok(Step::Ready(_)));
            // What was seen before other models were worked on may not be so any more.
            let step = if has_worked && !is_ready { None } else { Some(step) };
            has_worked |= !is_ready;
            outcomes.push(task.outcome(step).await);
        }
        if !is_warm && outcomes.len() > 1 {
            self.confirm_all(&tasks, &mut outcomes).await?;
        }
        Ok(outcomes)
    }

    /// The program there, as far as it is known: what did not answer, or is none of them, is none.
    fn told_backend(&self, result: &Result<Ready, Failure>) -> Option<BackendKind> {
        let is_open = self.call.config.backend.or(self.call.found.get()).is_none();
        let unknown = [Category::ServerUnreachable, Category::NotLmStudio];
        let is_unknown = result.as_ref().is_err_and(|failure| unknown.contains(&failure.category));
        (!is_open || !is_unknown).then(|| self.backend.kind())
    }

    /// From here on there is work: the state directory is made and checked.
    fn begin(&self) -> Result<(), Refusal> {
        if self.store.get().is_some() {
            return Ok(());
        }
        let opened = match &self.call.state_dir {
            None => Err("there is no state directory: neither HOME nor --state-dir is set".to_owned()),
            Some(folder) => match Store::open(folder, &self.context.base().slug()) {
                Ok(store) => Ok(store),
                Err(NoStore::Unavailable(why)) => Err(why),
                Err(NoStore::Refused(why)) => return Err(why),
            },
        };
        let store =
            opened.map_err(|why| self.store_warning.replace(Some(format!("{why}; going on without lock and memory"))));
        // It was empty a moment ago, and this is the only thread.
        let _ = self.store.set(store.ok());
        self.show_foreground();
        Ok(())
    }

    /// The state directory, where there is work and it can be used.
    fn store(&self) -> Option<&Store> {
        self.store.get()?.as_ref()
    }

    /// With several models, the last load may have cost an earlier one its place. One more round
    /// heals that; a model that is not there after it is reported as it is.
    async fn confirm_all(&self, tasks: &[ModelTask<'_>], outcomes: &mut [Outcome]) -> Result<(), Refusal> {
        if self.confirm(tasks, outcomes, true).await? {
            self.confirm(tasks, outcomes, false).await?;
        }
        Ok(())
    }

    /// Looks again at models that were ready. What is not there any more is brought back if
    /// `may_heal`, else its outcome says so. Returns whether anything had to be brought back.
    async fn confirm(
        &self,
        tasks: &[ModelTask<'_>],
        outcomes: &mut [Outcome],
        may_heal: bool,
    ) -> Result<bool, Refusal> {
        let look = self.observe().await;
        let mut has_worked = false;
        for (task, outcome) in tasks.iter().zip(outcomes) {
            let Some(failure) = task.lost(&look).filter(|_| outcome.result.is_ok()) else { continue };
            tracing::info!(key = %task.request.key, reason = failure.reason, "lost since it was ready");
            if !may_heal || look.is_err() {
                outcome.result = Err(failure);
                continue;
            }
            self.begin()?;
            has_worked = true;
            let mut again = task.outcome(None).await;
            // What was done before is what the caller should hear of.
            if let (Ok(before), Ok(now)) = (&outcome.result, &mut again.result)
                && now.action == Action::None
            {
                *now = before.clone();
            }
            let mut warnings = std::mem::take(&mut outcome.warnings);
            warnings.retain(|it| !again.warnings.contains(it));
            again.warnings.splice(..0, warnings);
            *outcome = again;
        }
        Ok(has_worked)
    }
}

impl<'a> ModelTask<'a> {
    fn new(gate: &'a Gate<'a>, request: &'a ModelRequest) -> Self {
        Self {
            gate,
            request,
            warnings: RefCell::default(),
            still_leader: RefCell::default(),
            waits_for: RefCell::default(),
        }
    }

    /// Goes through the gate; `step` is what a first observation has led to, if it still counts.
    async fn outcome(&self, step: Option<Result<Step, Failure>>) -> Outcome {
        let was_tried = self.gate.context.shutdown.get().is_none_or(|shutdown| !shutdown.is_stopped());
        let result = match step {
            Some(Ok(Step::Ready(ready))) => Ok(ready),
            step => {
                if let Some(warning) = self.gate.store_warning.take() {
                    self.warn(warning);
                }
                let result = self.ensure(step).await.map_err(|failure| self.with_wait(failure));
                tracing::info!(key = %self.request.key, ?result, "outcome");
                result
            }
        };
        if let Some(warning) = self.gate.backend.caveat().filter(|_| result.is_ok()) {
            self.warn(warning);
        }
        Outcome {
            key: self.request.key.to_string(),
            requested: self.request.requested.clone(),
            server: self.gate.call.server_name.map(str::to_owned),
            base_url: self.gate.context.base().to_string(),
            backend: self.gate.told_backend(&result),
            was_tried,
            result,
            warnings: self.warnings.take(),
            elapsed: self.gate.call.started.elapsed(),
        }
    }

    /// What a later look says of a model that was ready, if it is not there any more, or if that
    /// cannot be told.
    fn lost(&self, look: &Result<Observation, Failure>) -> Option<Failure> {
        let key = &self.request.key;
        let gone = |reason: String| Failure::new(Category::NotAddressable, reason);
        match look {
            Err(failure) | Ok(Observation::Blocked(failure)) => Some(failure.clone()),
            Ok(Observation::Down) => {
                let base = self.gate.context.base();
                let reason = format!("`{key}` was ready, and then the server at {base} went away");
                Some(Failure::new(Category::ServerUnreachable, reason).hinted("try again").cheap())
            }
            Ok(Observation::Seen(snapshot)) => match snapshot.residency(key) {
                Residency::Addressable(_) => None,
                Residency::Unknown => Some(self.gate.backend.contradicted(self.request, snapshot)),
                _ if self.gate.call.requests.len() > 1 => Some(
                    gone(format!(
                        "`{key}` was ready, and is gone again: there may be no room for all models of this call"
                    ))
                    .hinted("ask for fewer models at once, or for less context"),
                ),
                _ => Some(
                    gone(format!("`{key}` was ready, and is gone again"))
                        .hinted("something unloads it: a lack of memory, its time to live, or another client"),
                ),
            },
        }
    }

    /// A call whose time is over says what it was waiting for.
    fn with_wait(&self, failure: Failure) -> Failure {
        match self.waits_for.take() {
            Some(whom) if failure.category == Category::Deadline => {
                let reason = format!("{}: it was waiting for {whom}", failure.reason);
                Failure { reason, ..failure }
            }
            _ => failure,
        }
    }

    /// Leads or waits until the model is addressable, or it is known why it will not be.
    async fn ensure(&self, step: Option<Result<Step, Failure>>) -> Result<Ready, Failure> {
        self.still_leader.take();
        let lock_deadline = Instant::now() + self.gate.call.config.lock_wait_timeout;
        let mut step = match step {
            Some(step) => step?,
            None => self.evaluate(&self.gate.observe().await?, Action::None)?,
        };
        let mut turn = Turn::default();
        loop {
            if let Step::Ready(ready) = step {
                return Ok(ready);
            }
            if self.give_way(lock_deadline, &mut turn).await? {
                step = self.evaluate(&self.gate.observe().await?, Action::Waited)?;
                continue;
            }
            let lead = if turn.is_blocked() { Some(Lead(None)) } else { self.try_lead() };
            if let Some(lead) = lead {
                turn.end();
                return self.lead_and_record(&lead).await;
            }
            step = self.wait_for_leader(lock_deadline, &mut turn).await?;
        }
    }

    /// Leads, shows the waiters once a second that it does, and leaves word of how it ended.
    async fn lead_and_record(&self, lead: &Lead) -> Result<Ready, Failure> {
        let began = Instant::now();
        let work = async {
            let result = self.lead(lead).await;
            self.record(lead, &result, began.elapsed()).await;
            result
        };
        tokio::select! {
            biased;
            result = work => result,
            never = self.gate.show_life(lead) => match never {},
        }
    }

    /// The work of the leader, in order.
    async fn lead(&self, lead: &Lead) -> Result<Ready, Failure> {
        let mut has_started = false;
        let mut has_downloaded = false;
        let mut has_waited = false;
        let mut joins = false;
        self.wait_for_unload().await?;
        let mut step = self.evaluate(&self.gate.observe().await?, Action::Waited)?;
        let (snapshot, change, target) = loop {
            step = match step {
                Step::Ready(ready) => return Ok(ready),
                Step::StartServer if has_started => {
                    return Err(self.gate.context.unknown("the server went away again"));
                }
                Step::StartServer => {
                    has_started = true;
                    self.gate.show_doing(lead, "starting the server");
                    self.gate.start_server(lead).await?;
                    self.evaluate(&self.gate.observe().await?, Action::Waited)?
                }
                // The client that has ordered it may be gone.
                Step::Wait(snapshot) if self.gate.backend.joins_loads() => {
                    has_waited = true;
                    joins = true;
                    if let Some(target) = self.find_target(&snapshot, has_downloaded).await? {
                        break (snapshot, Change::Load, target);
                    }
                    self.wait_for_load().await?
                }
                Step::Wait(_) => {
                    has_waited = true;
                    self.gate.show_doing(lead, "waiting for a load under way");
                    self.wait_for_load().await?
                }
                // Before anything is unloaded it must be certain that there is something to load.
                Step::Change(snapshot, change) => {
                    // A load that a killed leader left behind is not listed yet.
                    if change == Change::Load && !has_waited && !self.gate.backend.joins_loads() && self.has_own_load()
                    {
                        has_waited = true;
                        step = self.wait_for_listing().await?;
                        continue;
                    }
                    if let Some(target) = self.find_target(&snapshot, has_downloaded).await? {
                        break (snapshot, change, target);
                    }
                    has_downloaded = true;
                    self.gate.show_doing(lead, "downloading");
                    self.gate.backend.download(self.request, self.gate.call.progress).await?;
                    self.evaluate(&self.gate.observe().await?, Action::Waited)?
                }
            };
        };
        self.gate.backend.check_loadable(self.request)?;
        let action = match change {
            Change::Reconcile if self.reconcile_duplicates(&snapshot, lead).await? => Action::Reconciled,
            Change::Load if joins => Action::Waited,
            Change::Load | Change::Reconcile => Action::Loaded,
            Change::Reload => {
                if let Some(ready) = self.unload_for_more_context(&snapshot, lead).await? {
                    return Ok(Ready { action: if has_waited { Action::Waited } else { Action::None }, ..ready });
                }
                Action::Reloaded
            }
        };
        let loaded = self.load(&target, lead).await?;
        let ready = self.verify(&target, loaded.is_some(), lead).await?;
        Ok(match loaded {
            Some((load_time, activity)) => {
                activity.done(&format!("`{}` is loaded", self.request.key));
                Ready { action, load_time: Some(load_time), ..ready }
            }
            None => Ready { action: Action::Waited, ..ready },
        })
    }

    /// Tries to become the leader; `None` when another process is.
    fn try_lead(&self) -> Option<Lead> {
        let Some(store) = self.gate.store() else { return Some(Lead(None)) };
        match store.lock.try_lead() {
            Ok(None) => {
                tracing::debug!("another process leads at {}: waiting for it", self.gate.context.base());
                None
            }
            Ok(Some(leadership)) => {
                tracing::debug!("this call leads at {}", self.gate.context.base());
                let lead = Lead(Some(leadership));
                self.gate.leader.replace(Some(Leader {
                    pid: std::process::id(),
                    model: self.request.key.to_string(),
                    since_ms: now_ms(),
                    doing: String::new(),
                    percent: None,
                    beat: 0,
                }));
                self.gate.announce(&lead);
                Some(lead)
            }
            Err(error) => {
                self.warn(format!("the lock does not work ({error}); going on without it"));
                Some(Lead(None))
            }
        }
    }

    fn warn(&self, text: String) {
        tracing::info!(text, "warning");
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }
}
