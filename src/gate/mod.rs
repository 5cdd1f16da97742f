//! The gate: from "is it addressable?" to "it is", with one load however many ask. The one
//! place where order matters; what each step does stands in the file of its name. It prints
//! nothing but progress and never ends the process.

mod load;
mod look;
mod repair;
mod room;
mod server;
mod wait;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::pure::base_url::BaseUrl;
use crate::pure::config::{Config, OnMismatch};
use crate::pure::failure::{Category, Failure};
use crate::pure::load::LoadOptions;
use crate::pure::model::ModelKey;
use crate::pure::report::{Action, Outcome, Ready};
use crate::pure::residency::{Drift, Residency, drift};
use crate::sys::http::Server;
use crate::sys::lms::{Lms, Problem};
use crate::sys::lmstudio::{self, Found};
use crate::sys::lock::Leadership;
use crate::sys::memory::{NoStore, Store, now_ms};
use crate::sys::progress::Progress;
use crate::sys::stop::{Stop, Stopper};
use look::Sight;

/// One model of a call.
#[derive(Debug, Clone)]
pub struct Want {
    /// As it was typed.
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
    /// Where the state is kept; `None` if there is no home.
    pub state_dir: Option<std::path::PathBuf>,
    /// The models, each once, in the order given.
    pub wants: &'a [Want],
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
    if let Some(outcomes) = cached(call)? {
        return Ok(outcomes);
    }
    let first = look::probe(call).await;
    let warm: Vec<Option<Outcome>> = call.wants.iter().map(|want| warm_outcome(call, want, &first)).collect();
    if let Some(outcomes) = warm.iter().cloned().collect() {
        return Ok(outcomes);
    }
    let work = Work::begin(call)?;
    let mut sight = Some(work.sight_of(first).await);
    let mut outcomes = Vec::new();
    for (want, warm) in call.wants.iter().zip(warm) {
        outcomes.push(match warm {
            Some(outcome) => outcome,
            None => work.outcome(want, sight.take()).await,
        });
    }
    if outcomes.len() > 1 {
        work.confirm_all(&mut outcomes).await;
    }
    Ok(outcomes)
}

/// With a number in `verifyCacheMs` even REST verdicts are reused; by default nothing is read.
fn cached(call: &Call<'_>) -> Result<Option<Vec<Outcome>>, Refusal> {
    let Some(max_age) = call.config.verify_cache.filter(|age| !age.is_zero() && !call.fresh) else {
        return Ok(None);
    };
    let Ok(store) = open_store(call)? else { return Ok(None) };
    Ok(call
        .wants
        .iter()
        .map(|want| look::cached(&store, want, max_age).map(|ready| outcome(call, want, Ok(ready), Vec::new())))
        .collect())
}

/// The outcome of a model that needs nothing: ready, and without drift.
fn warm_outcome(call: &Call<'_>, want: &Want, first: &look::Probe) -> Option<Outcome> {
    let snapshot = first.snapshot()?;
    let Residency::Addressable(instance) = snapshot.residency(&want.key) else { return None };
    if drift(instance, &want.options, snapshot.max_context(&want.key)).is_some() {
        return None;
    }
    let ready = Ready { action: Action::None, source: snapshot.source, instance: instance.clone(), load_time: None };
    Some(outcome(call, want, Ok(ready), context_warning(want, snapshot.max_context(&want.key)).into_iter().collect()))
}

fn outcome(call: &Call<'_>, want: &Want, result: Result<Ready, Failure>, warnings: Vec<String>) -> Outcome {
    Outcome {
        key: want.key.to_string(),
        requested: want.requested.clone(),
        was_tried: true,
        result,
        warnings,
        elapsed: call.started.elapsed(),
    }
}

/// Asking for more than the model has means all it has; the user should know.
fn context_warning(want: &Want, max: Option<u64>) -> Option<String> {
    let (asked, max) = (want.options.context_length?, max?);
    (asked > max).then(|| format!("`{}` can have a context of {max} tokens at most; {asked} were asked for", want.key))
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
    stopper: Stopper,
    store: Option<Store>,
    /// The `lms` program, or where it was looked for.
    lms: Result<Lms, Vec<String>>,
    /// For the model at hand; taken when its outcome is written.
    warnings: RefCell<Vec<String>>,
    /// When this call began, in Unix milliseconds.
    began_ms: u64,
}

/// Proof of being the one who may change what is loaded. Without a usable state directory
/// there is no lock to hold, and LM Studio's refusal of a second identifier must do.
struct Lead(Option<Leadership>);

impl<'a> Work<'a> {
    fn begin(call: &'a Call<'a>) -> Result<Self, Refusal> {
        let stopper = Stopper::listen(call.timeout.map(|limit| limit.saturating_sub(call.started.elapsed())));
        let lms = match lmstudio::find_lms(call.config.lms_path.as_deref()) {
            Found::Program(program) => Ok(Lms::new(program, &call.server.base, stopper.clone())),
            Found::Nowhere(tried) => Err(tried),
        };
        let work = Self {
            call,
            config: call.config,
            server: call.server,
            stopper,
            store: None,
            lms,
            warnings: RefCell::default(),
            began_ms: now_ms().saturating_sub(u64::try_from(call.started.elapsed().as_millis()).unwrap_or(0)),
        };
        match open_store(call)? {
            Ok(store) => Ok(Self { store: Some(store), ..work }),
            Err(why) => {
                work.warn(format!("{why}; going on without lock and memory"));
                Ok(work)
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

    async fn outcome(&self, want: &Want, sight: Option<Result<Sight, Failure>>) -> Outcome {
        let was_tried = !self.stopper.is_stopped();
        let result = self.ensure_one(want, sight).await;
        tracing::info!(key = %want.key, ?result, "outcome");
        Outcome { was_tried, ..outcome(self.call, want, result, self.warnings.take()) }
    }

    /// With several models, the last load may have cost an earlier one its place. One more
    /// round heals that; a second loss is somebody else's doing.
    async fn confirm_all(&self, outcomes: &mut [Outcome]) {
        let Ok(Sight::Seen(snapshot)) = self.look().await else { return };
        for (want, outcome) in self.call.wants.iter().zip(outcomes) {
            let is_lost = outcome.result.is_ok() && !matches!(snapshot.residency(&want.key), Residency::Addressable(_));
            if is_lost {
                tracing::info!(key = %want.key, "lost while the others were loaded");
                *outcome = self.outcome(want, None).await;
            }
        }
    }

    /// Leads or waits until one model is settled.
    async fn ensure_one(&self, want: &Want, sight: Option<Result<Sight, Failure>>) -> Result<Ready, Failure> {
        let mut sight = match sight {
            Some(sight) => sight?,
            None => self.look().await?,
        };
        let mut action = Action::None;
        let lock_deadline = Instant::now() + self.config.lock_wait_timeout;
        loop {
            if let Some(ready) = self.settle(want, &sight, action)? {
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
    async fn lead(&self, want: &Want, lead: &mut Lead) -> Result<Ready, Failure> {
        let mut sight = self.look().await?;
        if let Some(ready) = self.settle(want, &sight, Action::Waited)? {
            return Ok(ready);
        }
        self.replay(want, &sight)?;
        if sight.is_down() {
            self.start_server(lead).await?;
            sight = self.look().await?;
        }
        let (sight, waited) = self.wait_for_load_under_way(want, sight).await?;
        if let Some(ready) = self.settle(want, &sight, Action::Waited)? {
            return Ok(ready);
        }
        let Sight::Seen(snapshot) = sight else {
            return Err(self.unknown("the server went away again"));
        };
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
        let target = self.require_downloaded(want, &snapshot, lead).await?;
        let load_time = self.load(want, &target, lead).await?;
        let ready = self.verify(want, &target, &snapshot).await?;
        Ok(match load_time {
            Some(_) => Ready { action, load_time, ..ready },
            None => Ready { action: Action::Waited, ..ready },
        })
    }

    /// What a sight settles without any work: ready, failed, or `None` for "work to do".
    fn settle(&self, want: &Want, sight: &Sight, action: Action) -> Result<Option<Ready>, Failure> {
        let snapshot = match sight {
            Sight::Seen(snapshot) => snapshot,
            Sight::Down if self.server.base.is_loopback() => return Ok(None),
            Sight::Down => return Err(self.down_elsewhere()),
            Sight::Blocked(failure) => return Err(failure.clone()),
        };
        let Residency::Addressable(instance) = snapshot.residency(&want.key) else { return Ok(None) };
        if let Some(drift) = drift(instance, &want.options, snapshot.max_context(&want.key))
            && !self.accepts(want, drift)?
        {
            return Ok(None);
        }
        if let Some(warning) = context_warning(want, snapshot.max_context(&want.key)) {
            self.warn(warning);
        }
        Ok(Some(Ready { action, source: snapshot.source, instance: instance.clone(), load_time: None }))
    }

    /// Whether drift is let pass: by configuration, or because LM Studio would not grant more.
    fn accepts(&self, want: &Want, drift: Drift) -> Result<bool, Failure> {
        let Drift { has, wants } = drift;
        match self.config.on_mismatch {
            OnMismatch::Ignore => Ok(true),
            OnMismatch::Fail => Err(drift_failure(want, drift)),
            OnMismatch::Reload => {
                let granted = self.store.as_ref().is_some_and(|store| {
                    let asked = want.options.context_length.unwrap_or(wants);
                    store.facts().was_granted(want.key.as_str(), asked, has, self.config.retry_cooldown)
                });
                if granted {
                    self.warn(format!(
                        "`{}` has a context of {has} tokens, not {wants}: LM Studio granted no more when it was loaded",
                        want.key
                    ));
                }
                Ok(granted)
            }
        }
    }

    /// Tries to become the leader; `None` when somebody else is.
    fn try_lead(&self, want: &Want) -> Option<Lead> {
        let Some(store) = &self.store else { return Some(Lead(None)) };
        match store.lock.try_lead() {
            Ok(None) => None,
            Ok(Some(mut leadership)) => {
                let leader = crate::sys::lock::Leader {
                    pid: std::process::id(),
                    model: want.key.to_string(),
                    since_ms: now_ms(),
                };
                store.lock.announce(&mut leadership, &leader);
                Some(Lead(Some(leadership)))
            }
            Err(error) => {
                self.warn(format!("the lock does not work ({error}); going on without it"));
                Some(Lead(None))
            }
        }
    }

    /// Fails with what an earlier call found out at great expense, if that is not long ago.
    fn replay(&self, want: &Want, sight: &Sight) -> Result<(), Failure> {
        let Some(store) = &self.store else { return Ok(()) };
        // `--fresh` forgets what was known before this call, not what others find out while
        // it waits for them.
        let since = self.call.fresh.then_some(self.began_ms);
        let (model, attempt) = match sight {
            Sight::Down => (None, self.server_attempt()),
            _ => (Some(want.key.as_str()), self.attempt(want)),
        };
        match store.facts().failure(model, &attempt, self.config.retry_cooldown, since) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// What would be tried: a failure says nothing about an attempt with other options.
    fn attempt(&self, want: &Want) -> String {
        let Config { loader, device, eviction, auto_download, load_timeout, .. } = self.config;
        format!("{:?} {loader:?} {device:?} {eviction:?} {auto_download} {load_timeout:?}", want.options)
    }

    fn server_attempt(&self) -> String {
        format!("{} {:?}", self.server.base, self.config.lms_path)
    }

    /// Remembers what the next call should know.
    fn record(&self, want: &Want, lead: &Lead, result: &Result<Ready, Failure>) {
        let (Some(store), Lead(Some(leadership))) = (&self.store, lead) else { return };
        let key = want.key.as_str();
        let written = match result {
            Ok(ready) => store.change(leadership, |facts| {
                facts.forget_failures(key);
                let Some(time) = ready.load_time else { return };
                facts.remember_load(key, time);
                if let (Some(asked), Some(has)) = (want.options.context_length, ready.instance.context_length)
                    && has < asked
                {
                    facts.remember_granted(key, asked, has);
                }
            }),
            Err(failure) if failure.is_expensive && failure.age.is_none() => {
                let is_server = failure.category == Category::ServerUnreachable;
                let (model, attempt) =
                    if is_server { (None, self.server_attempt()) } else { (Some(key), self.attempt(want)) };
                store.change(leadership, |facts| facts.remember_failure(model, &attempt, failure))
            }
            Err(_) => return,
        };
        if let Err(error) = written {
            self.warn(format!("the state directory cannot be written ({error}); this outcome will not be remembered"));
        }
    }

    fn unknown(&self, why: &str) -> Failure {
        Failure::new(Category::UnknownState, format!("cannot tell what {} has loaded: {why}", self.server.base))
            .hinted("try again; `-v` shows every request and its answer")
    }

    fn interrupted(&self, stop: Stop) -> Failure {
        match stop {
            Stop::Deadline => Failure::new(
                Category::Deadline,
                format!(
                    "not ready within --timeout {}",
                    crate::pure::text::duration(self.call.timeout.unwrap_or_default())
                ),
            )
            .hinted("raise --timeout; how long a load usually takes is shown while it runs"),
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
        self.stopper.or(tokio::time::sleep(time)).await.map_err(|stop| self.interrupted(stop))
    }

    fn no_lms(tried: &[String]) -> String {
        format!("the `lms` command was not found (looked in {})", tried.join(", "))
    }

    fn base(&self) -> &BaseUrl {
        &self.server.base
    }
}

fn drift_failure(want: &Want, Drift { has, wants }: Drift) -> Failure {
    let key = &want.key;
    Failure::new(
        Category::Drift,
        format!("`{key}` is resident with a context of {has} tokens, and {wants} are configured"),
    )
    .hinted(format!("unload it (`lms unload {key}`) and try again, or set `onMismatch` to `reload` or `ignore`"))
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
