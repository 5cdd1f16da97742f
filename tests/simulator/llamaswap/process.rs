//! One model's server: stopped, starting, ready or stopping, and the requests under way there.
//!
//! When it may start and who has to go first is decided in `router` and `old`. The record is written where a state changes,
//! so its order is the order in which things happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::common::http::Call;
use crate::common::{Fault, Kind, monotonic_ms};
use crate::config::{Model, Server};
use crate::engine::App;
use crate::router::Event;
use crate::{fail, model};

/// What `/running` and the events call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Stopped,
    Starting,
    Ready,
    Stopping,
}

impl State {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
        }
    }
}

/// One model's server.
#[derive(Debug)]
pub struct Process {
    pub id: String,
    pub config: Model,
    app: Arc<App>,
    state: watch::Sender<State>,
    work: watch::Sender<u32>,
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    began: Instant,
    /// The end of the last request, in this run or an earlier one.
    last_end: Option<Instant>,
}

impl Process {
    /// One that is stopped.
    pub fn new(app: &Arc<App>, id: &str, config: &Model) -> Self {
        Self {
            id: id.to_owned(),
            config: config.clone(),
            app: Arc::clone(app),
            state: watch::Sender::new(State::Stopped),
            work: watch::Sender::new(0),
            times: Mutex::new(Times { began: Instant::now(), last_end: None }),
        }
    }

    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// How many requests it answers.
    pub fn in_flight(&self) -> u32 {
        *self.work.borrow()
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> Server {
        self.app.live().servers.get(&self.id).cloned().unwrap_or_default()
    }

    fn record(&self, event: &str, mut members: serde_json::Value) {
        members["model"] = self.id.as_str().into();
        self.app.record.write(event, members);
    }

    /// Changes the state if it is `from`.
    fn change(&self, from: State, to: State) -> bool {
        let changed = self.state.send_if_modified(|state| {
            let is_from = *state == from;
            if is_from {
                *state = to;
            }
            is_from
        });
        if changed {
            self.app.news.model_status(&self.app);
        }
        changed
    }

    async fn until(&self, wanted: impl FnMut(&State) -> bool) {
        // The sender lives as long as `self`.
        let _ = self.state.subscribe().wait_for(wanted).await;
    }

    /// Waits until it answers no request.
    pub async fn idle(&self) {
        let _ = self.work.subscribe().wait_for(|work| *work == 0).await;
    }

    /// Starts it if need be, and waits until it is ready. The error is llama-swap's text.
    pub async fn ensure_ready(self: &Arc<Self>, by: &str) -> Result<(), String> {
        loop {
            match self.state() {
                State::Ready => return Ok(()),
                State::Stopping => self.until(|state| *state != State::Stopping).await,
                State::Starting => {
                    self.until(|state| *state != State::Starting).await;
                    if self.state() != State::Ready {
                        let state = self.state().name();
                        return Err(format!("process was already starting but wound up in state {state}"));
                    }
                }
                State::Stopped => return self.start(by).await,
            }
        }
    }

    async fn start(self: &Arc<Self>, by: &str) -> Result<(), String> {
        let fault = self.app.faults.strike(&self.app.record, &["load"], Some(&self.id));
        self.times().began = Instant::now();
        self.record("load-begin", json!({ "by": by }));
        if fault.as_ref().is_some_and(|fault| fault.kind == Kind::Fail) {
            self.record("load-failed", json!({ "reason": "no command" }));
            let cmd = &self.config.cmd;
            let program = cmd.split(' ').next().unwrap_or_default();
            let verb = if self.app.version().is_new() { "failed to start" } else { "start() failed for" };
            return Err(format!("{verb} command '{cmd}': exec: \"{program}\": executable file not found in $PATH"));
        }
        let default = || format!("{} starting\n", self.id);
        self.app.news.model_log(&self.id, &self.server().log.unwrap_or_else(default));
        self.change(State::Stopped, State::Starting);
        let end = tokio::select! {
            biased;
            () = self.until(|state| *state != State::Starting) => Err(Start::Stopped),
            end = self.health(fault) => end,
        };
        match end {
            Ok(()) => {
                self.record("load-ready", json!({}));
                self.change(State::Starting, State::Ready);
                self.watch_ttl();
                Ok(())
            }
            Err(Start::Stopped) => {
                self.record("load-failed", json!({ "reason": "stopped" }));
                Err("health check interrupted due to shutdown".into())
            }
            Err(Start::Exited) => {
                self.record("load-failed", json!({ "reason": "exited" }));
                self.change(State::Starting, State::Stopped);
                let end = if self.app.version().is_new() { "" } else { " but successfully" };
                Err(format!("upstream command exited prematurely{end}"))
            }
            Err(Start::TimedOut) => {
                self.record("load-failed", json!({ "reason": "timeout" }));
                self.stop("health-timeout", Duration::MAX).await;
                Err(format!("health check timed out after {}s", self.app.engine().config.health_check_timeout))
            }
        }
    }

    /// The health checks, from the start of the process to the first that passes.
    async fn health(&self, fault: Option<Fault>) -> Result<(), Start> {
        let is_new = self.app.version().is_new();
        let began = Instant::now();
        let limit = self.app.seconds(self.app.engine().config.health_check_timeout);
        let takes = Duration::from_millis(self.server().load_ms.unwrap_or(self.app.live().load_ms));
        let kind = fault.as_ref().map(|fault| fault.kind);
        let exits = kind == Some(Kind::Crash);
        let is_never = matches!(kind, Some(Kind::Status | Kind::Hang));
        if self.config.check_endpoint == "none" && !exits {
            if !is_new {
                sleep(self.app.seconds(1) / 4).await;
            }
            return Ok(());
        }
        let interval = self.app.seconds(if is_new { 1 } else { 5 });
        let mut next = self.app.seconds(1) / 4;
        loop {
            let dies = takes.saturating_sub(began.elapsed());
            if exits && is_new && dies <= next {
                sleep(dies).await;
                return Err(Start::Exited);
            }
            sleep(next).await;
            next = interval;
            // One that would be healthy in time is not to fail because this machine is slow.
            if began.elapsed() > limit && (is_never || takes > limit) {
                return Err(Start::TimedOut);
            }
            if began.elapsed() < takes {
                continue;
            }
            match (kind, &fault) {
                (Some(Kind::Crash), _) => return Err(Start::Exited),
                // The check is accepted and never answered; old versions wait five seconds for it.
                (Some(Kind::Hang), _) if is_new => std::future::pending().await,
                // Never healthy.
                (Some(Kind::Hang | Kind::Status), _) => {}
                (Some(Kind::Hold), Some(fault)) => {
                    self.record("load-held", json!({}));
                    self.app.faults.held(&self.app.record, fault).await;
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }

    /// Stops it, if it runs, and waits until it has ended; it is killed when `grace` is over.
    pub async fn stop(&self, reason: &'static str, grace: Duration) {
        if !self.change(State::Starting, State::Stopping) && !self.change(State::Ready, State::Stopping) {
            return self.until(|state| *state != State::Stopping).await;
        }
        let fault = self.app.faults.strike(&self.app.record, &["stop"], Some(&self.id));
        let takes = match &fault {
            Some(fault) if fault.kind == Kind::Hang => Duration::MAX,
            Some(fault) if fault.kind == Kind::Slow => Duration::from_millis(fault.ms.unwrap_or(1000)),
            _ => Duration::from_millis(self.server().stop_ms),
        };
        let busy = self.in_flight();
        if let Some(fault) = &fault {
            self.app.faults.held(&self.app.record, fault).await;
        }
        sleep(takes.min(grace)).await;
        self.record("unload", json!({ "reason": reason, "killed": takes > grace, "busy": busy > 0 }));
        self.change(State::Stopping, State::Stopped);
    }

    /// It ends by itself.
    pub fn die(&self) -> bool {
        let died = self.state() == State::Ready;
        if died {
            self.record("died", json!({}));
            self.change(State::Ready, State::Stopped);
        }
        died
    }

    /// Looks every second whether its time to live is over.
    fn watch_ttl(self: &Arc<Self>) {
        let global = if self.app.version().since(197) { self.app.engine().config.global_ttl } else { 0 };
        let ttl = if self.config.ttl < 0 { global } else { self.config.ttl };
        let Some(ttl) = u64::try_from(ttl).ok().filter(|ttl| *ttl > 0) else { return };
        let (process, began) = (Arc::clone(self), self.times().began);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(process.app.seconds(1));
            tick.tick().await;
            loop {
                tick.tick().await;
                if process.state() != State::Ready || process.times().began != began {
                    return;
                }
                // Not from the start: a model that nobody has asked since goes at once.
                let idle = process.times().last_end.is_none_or(|end| end.elapsed() > process.app.seconds(ttl));
                if process.in_flight() == 0 && idle {
                    return process.stop("ttl", process.app.seconds(10)).await;
                }
            }
        });
    }

    /// How many requests it takes at once.
    pub fn limit(&self) -> usize {
        if self.config.concurrency_limit == 0 { 10 } else { self.config.concurrency_limit }
    }

    /// Answers a request; `path` is what follows the id.
    pub async fn answer(self: &Arc<Self>, call: &Call, path: &str, work: Work) -> Response {
        let mut state = self.state.subscribe();
        if self.state() != State::Ready {
            let message = format!("[{}] process is not ready", self.id);
            return fail::error(self.app.version(), &call.headers, 503, &message);
        }
        let began = self.times().began;
        let server = self.server();
        if began.elapsed() < Duration::from_millis(server.bind_ms) {
            return fail::bare(StatusCode::BAD_GATEWAY);
        }
        tokio::select! {
            biased;
            _ = state.wait_for(|state| *state != State::Ready) => fail::bare(StatusCode::BAD_GATEWAY),
            answer = model::answer(&self.app, self, &server, call, path, work) => answer,
        }
    }
}

/// Why a start came to nothing.
enum Start {
    Stopped,
    Exited,
    TimedOut,
}

/// One request under way at a model's server.
#[derive(Debug)]
pub struct Work {
    process: Arc<Process>,
    began_ms: u64,
    over: Option<mpsc::UnboundedSender<Event>>,
}

impl Work {
    /// It begins.
    pub fn begin(process: &Arc<Process>, over: Option<mpsc::UnboundedSender<Event>>) -> Self {
        process.work.send_modify(|work| *work += 1);
        Self { process: Arc::clone(process), began_ms: monotonic_ms(), over }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let process = &self.process;
        process.times().last_end = Some(Instant::now());
        process.work.send_modify(|work| *work -= 1);
        process.record("answered", json!({ "beganMs": self.began_ms }));
        if let Some(over) = &self.over {
            let _ = over.send(Event::Served);
        }
    }
}

/// Stops them side by side.
pub async fn stop_all(processes: Vec<Arc<Process>>, reason: &'static str, grace: Duration) {
    let ends = processes.into_iter().map(|it| tokio::spawn(async move { it.stop(reason, grace).await }));
    for end in ends.collect::<Vec<_>>() {
        let _ = end.await;
    }
}

/// All processes of one configuration.
pub type Processes = BTreeMap<String, Arc<Process>>;
