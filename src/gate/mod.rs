//! The gate: from "is it addressable?" to "it is", with one load however many ask. The one
//! place where order matters; what each step does stands in the file of its name. It prints
//! nothing but progress and never ends the process.

mod cooldown;
mod evaluate;
mod load;
mod look;
mod obtain;
mod repair;
mod room;
mod server;
mod wait;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use tracing::Instrument;

use crate::pure::base_url::BaseUrl;
use crate::pure::config::Config;
use crate::pure::load::LoadOptions;
use crate::pure::model::ModelKey;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Outcome, Ready};
use crate::pure::residency::{Readiness, Residency, drift};
use crate::sys::http::Server;
use crate::sys::lmstudio;
use crate::sys::lmstudio::lms::{Lms, Problem};
use crate::sys::lock::{Leader, Leadership};
use crate::sys::private::NoStore;
use crate::sys::progress::Progress;
use crate::sys::shutdown::{Shutdown, Stop};
use crate::sys::state::{Store, now_ms};
use evaluate::{context_warning, is_undisputed};
use look::Observation;

/// One model of a call.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    /// As it was typed, or the role that was asked for.
    pub requested: String,
    /// Its key.
    pub key: ModelKey,
    /// What it is to be loaded with.
    pub options: LoadOptions,
}

/// Everything one call is about.
#[derive(Debug)]
pub struct Call<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The server.
    pub server: &'a Server,
    /// Where the server's address came from, for messages.
    pub origin: &'a str,
    /// Where the token came from or could be put, for messages.
    pub token_origin: &'a str,
    /// Where the state is kept; `None` if there is no home.
    pub state_dir: Option<std::path::PathBuf>,
    /// The models, each once, in the order given.
    pub wants: &'a [ModelRequest],
    /// Try again what failed a moment ago.
    pub fresh: bool,
    /// Upper bound for the whole call.
    pub timeout: Option<Duration>,
    /// How to show what is going on.
    pub progress: Progress,
    /// When the call began.
    pub started: Instant,
}

/// The state directory is one that others could write to: a configuration error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Makes sure that every model of the call is addressable.
///
/// # Errors
/// When the state directory must not be used; no model was touched then.
pub async fn ensure(call: &Call<'_>) -> Result<Vec<Outcome>, Refusal> {
    if let Some(outcomes) = look::cached_outcomes(call)? {
        return Ok(outcomes);
    }
    let mut first = look::probe(call).instrument(tracing::trace_span!("probe")).await;
    let warm: Vec<Option<Outcome>> = call.wants.iter().map(|want| warm_outcome(call, want, &first)).collect();
    let outcomes = match warm.iter().cloned().collect() {
        Some(outcomes) => outcomes,
        None => Work::begin(call, first.shutdown.take())?.outcomes(warm, first).await,
    };
    look::remember_verdicts(call, &outcomes);
    Ok(outcomes)
}

/// The outcome of a model that needs nothing: ready as far as anybody tells, and without drift.
fn warm_outcome(call: &Call<'_>, want: &ModelRequest, first: &look::Probe) -> Option<Outcome> {
    let snapshot = first.snapshot()?;
    let Residency::Addressable(instance) = snapshot.residency(&want.key) else { return None };
    let max_context = snapshot.max_context(&want.key);
    if drift(instance, &want.options, max_context).is_some() {
        return None;
    }
    match instance.readiness {
        Readiness::Ready => {}
        Readiness::Unreported if is_undisputed(call, want) => {}
        _ => return None,
    }
    let ready = Ready { action: Action::None, source: snapshot.source, instance: instance.clone(), load_time: None };
    Some(outcome(call, want, Ok(ready), context_warning(want, max_context).into_iter().collect()))
}

fn outcome(call: &Call<'_>, want: &ModelRequest, result: Result<Ready, Failure>, warnings: Vec<String>) -> Outcome {
    Outcome {
        key: want.key.to_string(),
        requested: want.requested.clone(),
        base_url: call.server.base.to_string(),
        was_tried: true,
        result,
        warnings,
        elapsed: call.started.elapsed(),
    }
}

fn open_store(call: &Call<'_>) -> Result<Result<Store, String>, Refusal> {
    let Some(folder) = &call.state_dir else {
        return Ok(Err("there is no state directory: neither HOME nor --state-dir is set".to_owned()));
    };
    match Store::open(folder, &call.server.base.slug()) {
        Ok(store) => Ok(Ok(store)),
        Err(NoStore::Unavailable(why)) => Ok(Err(why)),
        Err(NoStore::Refused(why)) => Err(Refusal(why)),
    }
}

/// A call that has something to do, or to find out by other means than one probe.
struct Work<'a> {
    call: &'a Call<'a>,
    config: &'a Config,
    server: &'a Server,
    shutdown: Shutdown,
    store: Option<Store>,
    /// The `lms` program for this server, or why there is none.
    lms: Result<Lms, String>,
    /// For the model at hand; taken when its outcome is written.
    warnings: RefCell<Vec<String>>,
    /// Since when the leader, busy with the model at hand, has had no load under way.
    no_load_since: Cell<Option<Instant>>,
}

/// Proof of being the one who may change what is loaded. Without a usable state directory
/// there is no lock to hold, and LM Studio's refusal of a second identifier must do.
struct Lead(Option<Leadership>);

impl<'a> Work<'a> {
    fn begin(call: &'a Call<'a>, shutdown: Option<Shutdown>) -> Result<Self, Refusal> {
        let shutdown = shutdown.unwrap_or_else(|| look::listen(call));
        let work = Self {
            call,
            config: call.config,
            server: call.server,
            lms: find_lms(call, &shutdown),
            shutdown,
            store: None,
            warnings: RefCell::default(),
            no_load_since: Cell::default(),
        };
        match open_store(call)? {
            Ok(store) => Ok(Self { store: Some(store), ..work }),
            Err(why) => {
                work.warn(format!("{why}; going on without lock and memory"));
                Ok(work)
            }
        }
    }

    /// Finishes what the first look left open, one model after the other.
    async fn outcomes(&self, warm: Vec<Option<Outcome>>, first: look::Probe) -> Vec<Outcome> {
        let mut sight = Some(self.sight_of(first).await);
        let mut outcomes = Vec::new();
        for (want, warm) in self.call.wants.iter().zip(warm) {
            outcomes.push(match warm {
                Some(outcome) => outcome,
                None => self.outcome(want, sight.take()).await,
            });
        }
        if outcomes.len() > 1 {
            self.confirm_all(&mut outcomes).await;
        }
        outcomes
    }

    async fn outcome(&self, want: &ModelRequest, sight: Option<Result<Observation, Failure>>) -> Outcome {
        let was_tried = !self.shutdown.is_stopped();
        let result = self.ensure_one(want, sight).await;
        tracing::info!(key = %want.key, ?result, "outcome");
        Outcome { was_tried, ..outcome(self.call, want, result, self.warnings.take()) }
    }

    /// With several models, the last load may have cost an earlier one its place. One more
    /// round heals that; whoever is missing after it is said to be missing.
    async fn confirm_all(&self, outcomes: &mut [Outcome]) {
        for is_last in [false, true] {
            let Ok(Observation::Seen(snapshot)) = self.look().await else { return };
            let mut lost = Vec::new();
            for (want, outcome) in self.call.wants.iter().zip(&mut *outcomes) {
                let is_there = matches!(snapshot.residency(&want.key), Residency::Addressable(_));
                if outcome.result.is_ok() && !is_there {
                    lost.push((want, outcome));
                }
            }
            if lost.is_empty() {
                return;
            }
            for (want, outcome) in lost {
                tracing::info!(key = %want.key, "lost while the others were loaded");
                if is_last {
                    let reason = format!(
                        "`{}` was ready, and is gone again: there may be no room for all models of this call",
                        want.key
                    );
                    outcome.result = Err(Failure::new(Category::NotAddressable, reason)
                        .hinted("ask for fewer models at once, or for less context"));
                } else {
                    let mut warnings = std::mem::take(&mut outcome.warnings);
                    *outcome = self.outcome(want, None).await;
                    warnings.retain(|it| !outcome.warnings.contains(it));
                    outcome.warnings.splice(..0, warnings);
                }
            }
        }
    }

    /// Leads or waits until one model is settled.
    async fn ensure_one(
        &self,
        want: &ModelRequest,
        sight: Option<Result<Observation, Failure>>,
    ) -> Result<Ready, Failure> {
        let mut sight = match sight {
            Some(sight) => sight?,
            None => self.look().await?,
        };
        let mut action = Action::None;
        self.no_load_since.set(None);
        let lock_deadline = Instant::now() + self.config.lock_wait_timeout;
        loop {
            if let Some(ready) = self.evaluate(want, &sight, action)? {
                return Ok(ready);
            }
            self.replay(want, &sight)?;
            if let Some(mut lead) = self.try_lead(want) {
                let result = self.lead(want, &mut lead).await;
                self.record(want, &lead, &result);
                return result;
            }
            sight = self.wait_for_leader(want, lock_deadline).await?;
            action = Action::Waited;
        }
    }

    /// The work of the leader, in order.
    async fn lead(&self, want: &ModelRequest, lead: &mut Lead) -> Result<Ready, Failure> {
        let mut sight = self.look().await?;
        if let Some(ready) = self.evaluate(want, &sight, Action::Waited)? {
            return Ok(ready);
        }
        self.replay(want, &sight)?;
        if sight.is_down() {
            self.start_server(lead).await?;
            sight = self.look().await?;
        }
        let (sight, waited) = self.wait_for_load_under_way(want, sight).await?;
        if let Some(ready) = self.evaluate(want, &sight, Action::Waited)? {
            return Ok(ready);
        }
        self.replay(want, &sight)?;
        let Observation::Seen(snapshot) = sight else {
            return Err(self.unknown("the server went away again"));
        };
        // Before anything is unloaded it must be certain that there is something to load.
        let (target, snapshot) = self.obtain(want, snapshot, lead).await?;
        // A download takes its time, in which somebody may have loaded the model.
        if let Some(ready) = self.evaluate(want, &Observation::Seen(snapshot.clone()), Action::Waited)? {
            return Ok(ready);
        }
        let loader = self.loader(want)?;
        let action = match snapshot.residency(&want.key) {
            Residency::Absent => Action::Loaded,
            Residency::Duplicates(_) => {
                self.reconcile_duplicates(want, &snapshot, lead).await?;
                Action::Reconciled
            }
            Residency::Addressable(instance) => {
                if let Some(ready) = self.unload_for_more_context(want, &snapshot, instance, lead).await? {
                    return Ok(Ready { action: if waited { Action::Waited } else { Action::None }, ..ready });
                }
                Action::Reloaded
            }
            Residency::Loading(_) | Residency::Unknown => {
                return Err(self.unknown("it came and went while being looked at"));
            }
        };
        let loaded = self.load(want, &target, &loader, lead).await?;
        let ready = self.verify(want, &target, &loader, loaded.is_some(), lead).await?;
        Ok(match loaded {
            Some((load_time, activity)) => {
                activity.done(&format!("`{}` is loaded", want.key));
                Ready { action, load_time: Some(load_time), ..ready }
            }
            None => Ready { action: Action::Waited, ..ready },
        })
    }

    /// Tries to become the leader; `None` when somebody else is.
    fn try_lead(&self, want: &ModelRequest) -> Option<Lead> {
        let Some(store) = &self.store else { return Some(Lead(None)) };
        match store.lock.try_lead() {
            Ok(None) => None,
            Ok(Some(mut leadership)) => {
                let leader = Leader { pid: std::process::id(), model: want.key.to_string(), since_ms: now_ms() };
                store.lock.announce(&mut leadership, &leader);
                Some(Lead(Some(leadership)))
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

    fn unknown(&self, why: &str) -> Failure {
        let reason = format!("cannot tell what {} (from {}) has loaded: {why}", self.base(), self.call.origin);
        Failure::new(Category::UnknownState, reason).hinted("try again; `-v` shows every request and its answer")
    }

    fn interrupted(&self, stop: Stop) -> Failure {
        match stop {
            Stop::Deadline => {
                let limit = crate::pure::text::duration(self.call.timeout.unwrap_or_default());
                Failure::new(Category::Deadline, format!("not ready within --timeout {limit}"))
                    .hinted("raise --timeout, or leave it out")
            }
            Stop::Signal(number) => Failure {
                signal: Some(number),
                ..Failure::new(Category::Interrupted, format!("stopped by {}", signal_name(number)))
            },
        }
    }

    /// A problem of an `lms` call as a failure of the given kind.
    fn failed(&self, category: Category, problem: Problem) -> Failure {
        match problem {
            Problem::Stopped(stop) => self.interrupted(stop),
            Problem::Failed(why) => Failure::new(category, why),
        }
    }

    /// Sleeps, unless the call must end.
    async fn sleep(&self, time: Duration) -> Result<(), Failure> {
        self.shutdown.or(tokio::time::sleep(time)).await.map_err(|stop| self.interrupted(stop))
    }

    /// What to do about a missing `lms`.
    fn lms_hint(&self, otherwise: &str) -> String {
        match &self.config.lms_path {
            Some(_) => "correct --lms-path, or leave it out so that lmswarm looks for `lms` itself".to_owned(),
            None => otherwise.to_owned(),
        }
    }

    fn base(&self) -> &BaseUrl {
        &self.server.base
    }
}

/// Finds `lms`, and decides whether it reaches this server. On this machine it finds LM
/// Studio by itself, so it must not speak for a proxy; elsewhere it needs a plain address,
/// and is refused where a token is required.
fn find_lms(call: &Call<'_>, shutdown: &Shutdown) -> Result<Lms, String> {
    let base = &call.server.base;
    match lmstudio::find_lms(call.config.lms_path.as_deref()) {
        Err(tried) => Err(format!("the `lms` command was not found (looked in {})", tried.join(", "))),
        Ok(_) if !base.is_plain() => Err(format!("`lms` cannot reach {base}, which is behind a proxy")),
        Ok(_) if !base.is_loopback() && base.is_ipv6() => Err(format!("`lms` cannot reach {base}, an IPv6 address")),
        Ok(_) if !base.is_loopback() && call.server.has_token() => Err(format!("`lms` cannot show {base} a token")),
        Ok(program) => Ok(Lms::new(program, base, &call.config.api_token_env, shutdown.clone())),
    }
}

fn signal_name(number: u8) -> &'static str {
    match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        _ => "SIGTERM",
    }
}

/// Intervals of a poll that starts quick and slows down: 50 ms to 500 ms.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(Duration::from_millis(50))
    }

    fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 3 / 2).min(Duration::from_millis(500));
        now
    }
}
