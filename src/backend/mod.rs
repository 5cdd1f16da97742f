//! What the gate asks of a server, whatever program serves the models there. One closed enum with
//! one module for each program: a new one is a new module and a new variant, and no change to the
//! steps of the gate.
//!
//! A backend knows requests, commands and words of its server, and nothing of leaders, cooldowns
//! or evictions. It decides nothing that the gate's order depends on.
//!
//! How each program answers:
//!
//! | method | LM Studio | llama-swap | llama.cpp's router |
//! |---|---|---|---|
//! | `read`, `observe` | `/api/v1/models` and `/api/v0/models`, else `lms ps` | `/running`, `/v1/models`, `/api/profiles` | `/models`, and `/props?model=` of each |
//! | `downloaded` | `/api/v1/models`, else `lms ls` | `/v1/models` (configured there) | `/models` |
//! | `load_target` | key, variant, machine (LM Link) | id behind an alias | the preset |
//! | `load` | `lms load`, else `POST /api/v1/models/load` | `GET /upstream/ID/health` | `POST /models/load`, then poll |
//! | `unload` | `lms unload`, else REST | `POST /api/models/unload/ID` | `POST /models/unload` |
//! | `activity` | `lms ps` | not told | `/slots` of each model |
//! | `estimate` | `lms load --estimate-only` | none | none |
//! | `start` | `lms server start`, `lms daemon up` | not possible | not possible |
//! | `download` | `lms get`, else REST | not possible | `POST /models` |
//! | `unsupported` | over REST: TTL, parallel, GPU, device | context, TTL, parallel, GPU, device | the same |

mod identify;
mod llamacpp;
mod llamaswap;
mod lmstudio;

use std::cell::OnceCell;
use std::future::Future;
use std::time::{Duration, Instant};

use crate::pure::backend::BackendKind;
use crate::pure::base_url::BaseUrl;
use crate::pure::config::Config;
use crate::pure::decision::Program;
use crate::pure::eviction::Estimate;
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::{Downloaded, Instance, Reading, Residency, Snapshot};
use crate::pure::text::duration;
use crate::sys::http::Server;
use crate::sys::operation::Operation;
use crate::sys::progress::Progress;
use crate::sys::shutdown::{Shutdown, Stop};
pub(crate) use identify::{at_usual_port, identify};
use llamacpp::LlamaCpp;
use llamaswap::LlamaSwap;
use lmstudio::LmStudio;

/// One call to one server: what the gate and the backend share.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The server.
    pub server: &'a Server,
    /// Where the server's address came from, for messages.
    pub origin: &'a str,
    /// Where the token came from or could be put, for messages.
    pub token_origin: &'a str,
    /// The models of the call, each once, in the order given.
    pub requests: &'a [ModelRequest],
    /// The user wants nothing that is old.
    pub fresh: bool,
    /// Upper bound for the whole call.
    pub timeout: Option<Duration>,
    /// When the call began.
    pub started: Instant,
    /// Made when something slow begins: a warm call ends by the default action of a signal.
    pub shutdown: &'a OnceCell<Shutdown>,
}

impl Context<'_> {
    /// Listens for signals and for the end of `--timeout`, from the first use on.
    pub(crate) fn shutdown(&self) -> &Shutdown {
        self.shutdown
            .get_or_init(|| Shutdown::listen(self.timeout.map(|limit| limit.saturating_sub(self.started.elapsed()))))
    }

    /// Runs `work` unless the call must end; dropping `work` must be harmless.
    pub(crate) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        self.shutdown().or(work).await.map_err(|stop| self.interrupted(stop))
    }

    /// Sleeps, unless the call must end.
    pub(crate) async fn sleep(&self, time: Duration) -> Result<(), Failure> {
        self.unless_stopped(tokio::time::sleep(time)).await
    }

    /// The server's address.
    pub(crate) fn base(&self) -> &BaseUrl {
        &self.server.base
    }

    /// The server's address for a message: with where it came from, and the proxy that is between.
    pub(crate) fn address(&self) -> String {
        let address = format!("{} (from {})", self.base(), self.origin);
        match self.server.proxy() {
            Some(proxy) => format!("{address}, asked through the proxy {proxy},"),
            None => address,
        }
    }

    /// Nobody could find out what is resident.
    pub(crate) fn unknown(&self, why: &str) -> Failure {
        let reason = format!("cannot tell what {} has loaded: {why}", self.address());
        Failure::new(Category::UnknownState, reason).hinted("try again; `-v` shows every request and its answer")
    }

    /// What a reading of a server of this kind comes to.
    fn observation(&self, reading: Reading, kind: BackendKind) -> Observation {
        let name = kind.name();
        let failure = match reading {
            Reading::Seen(snapshot) => return Observation::Seen(snapshot),
            Reading::Down => return Observation::Down,
            Reading::Unreachable(error) => error.failure(self.base(), self.origin),
            Reading::Unauthorized if self.server.has_token() => {
                let reason = format!("{} refuses the API key in {}", self.base(), self.token_origin);
                Failure::new(Category::Unauthorized, reason).hinted(format!("check the API key that {name} was given"))
            }
            Reading::Unauthorized => {
                let variable = &self.config.api_token_env;
                let reason = format!("{} requires an API key, and the variable {variable} holds none", self.base());
                Failure::new(Category::Unauthorized, reason).hinted(format!("put {name}'s API key into {variable}"))
            }
            Reading::Forbidden(said) => self.forbidden(&said),
            Reading::OtherProgram(said) => self.wrong_backend(&said, name),
            Reading::NotHttp(said) => self.wrong_backend(&format!("it speaks no HTTP, but says \"{said}\""), name),
            Reading::Unclear(why) | Reading::TooLarge(why) | Reading::RateLimited(why) => self.unknown(&why),
        };
        Observation::Blocked(failure)
    }

    fn wrong_backend(&self, said: &str, name: &str) -> Failure {
        let reason = format!("what answers at {} is not {name}: {said}", self.address());
        Failure::new(Category::WrongBackend, reason)
            .hinted("correct `backend`, or leave it out so that lmswarm finds out; or correct the address (--base-url)")
    }

    /// A 401 or 403 in other words than the server's own: from a proxy in front of it, or from another
    /// program; `said` shows which.
    pub(crate) fn forbidden(&self, said: &str) -> Failure {
        let (address, token) = (self.address(), self.token_origin);
        let with = if self.server.has_token() {
            format!("with the API token in {token}")
        } else {
            format!("without an API token (the variable {} holds none)", self.config.api_token_env)
        };
        Failure::new(Category::Unauthorized, format!("what answers at {address} refuses requests {with}: {said}"))
            .hinted("use the token that it wants; if another program answers there, correct --base-url")
    }

    /// The call had to end.
    pub(crate) fn interrupted(&self, stop: Stop) -> Failure {
        match stop {
            Stop::Deadline => {
                let limit = duration(self.timeout.unwrap_or_default());
                Failure::new(Category::Deadline, format!("not ready within --timeout {limit}"))
                    .hinted("raise --timeout, or leave it out")
            }
            Stop::Signal(number) => Failure {
                signal: Some(number),
                ..Failure::new(Category::Interrupted, format!("stopped by {}", signal_name(number)))
            },
        }
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
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(50))
    }
}

impl Backoff {
    /// The next interval.
    pub(crate) fn interval(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 3 / 2).min(Duration::from_millis(500));
        now
    }
}

/// What an observation of the server came to.
#[derive(Debug)]
pub(crate) enum Observation {
    /// What is resident is known.
    Seen(Snapshot),
    /// Nothing listens there.
    Down,
    /// Something listens, but what is resident cannot be told, for this reason.
    Blocked(Failure),
}

/// A model that is downloaded, and how the backend will load it.
#[derive(Debug, Clone)]
pub(crate) struct LoadTarget {
    /// The model that a load must bring up: that of a variant is another one than the key.
    pub base_key: String,
    /// The most context it can have, in tokens.
    pub max_context: Option<u64>,
    /// Its size on disk, in bytes.
    pub size_bytes: Option<u64>,
    /// What the user should know before it is loaded.
    pub warning: Option<String>,
    /// Which machine loads it, where LM Studio is linked with others.
    placement: crate::pure::lmstudio::load_args::Placement,
}

/// How one attempt to load ended, by the server's own account; only an observation is proof.
#[derive(Debug)]
pub(crate) enum LoadResult {
    /// The server says it loaded.
    Loaded,
    /// It loaded under this other name.
    Misnamed(String),
    /// Refused for memory, in these words.
    OutOfMemory(String),
    /// It failed.
    Failed(Failure),
    /// It did not end within `loadTimeoutMs`.
    TimedOut,
    /// What carried the load out is gone; what became of the load is not known.
    Lost(Failure),
    /// The connection to the server broke, as when it is restarted; what became of the load is not
    /// known.
    CutOff(Failure),
}

/// The program that serves the models.
#[derive(Debug)]
pub(crate) enum Backend<'a> {
    /// LM Studio.
    LmStudio(LmStudio<'a>),
    /// llama-swap.
    LlamaSwap(LlamaSwap<'a>),
    /// llama.cpp's `llama-server`.
    LlamaCpp(LlamaCpp<'a>),
}

impl<'a> Backend<'a> {
    /// Names the backend; nothing is asked or looked for.
    pub(crate) fn new(context: &'a Context<'a>, kind: BackendKind) -> Self {
        match kind {
            BackendKind::LmStudio => Self::LmStudio(LmStudio::new(context)),
            BackendKind::LlamaSwap => Self::LlamaSwap(LlamaSwap::new(context)),
            BackendKind::LlamaCpp => Self::LlamaCpp(LlamaCpp::new(context)),
        }
    }

    /// Which program it is.
    pub(crate) fn kind(&self) -> BackendKind {
        match self {
            Self::LmStudio(_) => BackendKind::LmStudio,
            Self::LlamaSwap(_) => BackendKind::LlamaSwap,
            Self::LlamaCpp(_) => BackendKind::LlamaCpp,
        }
    }

    /// One round of requests, without any effect. A warm call asks nothing else.
    pub(crate) async fn read(&self) -> Reading {
        match self {
            Self::LmStudio(it) => it.read().await,
            // Boxed, so that the futures of a warm call on another program are no larger for it.
            Self::LlamaSwap(it) => Box::pin(it.read()).await,
            Self::LlamaCpp(it) => it.read().await,
        }
    }

    /// Observes the server. Must ask again, and ask others, where one round means nothing yet, and
    /// must end within a few times `probeTimeoutMs`. `first` is a reading taken already. `cached`
    /// is used in place of a source that is slow, and only of one.
    pub(crate) async fn observe(
        &self,
        first: Option<Reading>,
        cached: &dyn Fn() -> Option<Vec<Instance>>,
    ) -> Result<Observation, Failure> {
        match self {
            Self::LmStudio(it) => it.observe(first, cached).await,
            Self::LlamaSwap(it) => Box::pin(it.observe(first)).await,
            Self::LlamaCpp(it) => it.observe(first).await,
        }
    }

    /// Every model that the server can load, those of the snapshot if it lists them.
    pub(crate) async fn downloaded(&self, snapshot: &Snapshot) -> Result<Vec<Downloaded>, Failure> {
        match self {
            Self::LmStudio(it) => it.downloaded(snapshot).await,
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => Ok(snapshot.downloaded.clone().unwrap_or_default()),
        }
    }

    /// The failure of a key that is not among `models`. Nothing similar is taken for it.
    pub(crate) fn not_downloaded(&self, request: &ModelRequest, models: &[Downloaded]) -> Failure {
        match self {
            Self::LmStudio(_) => lmstudio::not_downloaded(request, models),
            Self::LlamaSwap(it) => it.not_configured(request, models),
            Self::LlamaCpp(it) => it.not_known(request, models),
        }
    }

    /// The failure of a key that is not among `models` though a download of it ended well.
    pub(crate) fn misfiled(&self, request: &ModelRequest, models: &[Downloaded]) -> Failure {
        match self {
            Self::LmStudio(_) => lmstudio::misfiled(request, models),
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => self.not_downloaded(request, models),
        }
    }

    /// How `found`, one of `models`, will be loaded.
    pub(crate) async fn load_target(
        &self,
        request: &ModelRequest,
        found: &Downloaded,
        models: &[Downloaded],
    ) -> Result<LoadTarget, Failure> {
        match self {
            Self::LmStudio(it) => it.load_target(request, found, models).await,
            Self::LlamaSwap(it) => it.load_target(found).await,
            Self::LlamaCpp(_) => Ok(LoadTarget::of(found)),
        }
    }

    /// Whether the model can be loaded at all: asked before anything is unloaded for it.
    pub(crate) fn check_loadable(&self, request: &ModelRequest) -> Result<(), Failure> {
        match self {
            Self::LmStudio(it) => it.load_method(request).map(drop),
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => Ok(()),
        }
    }

    /// A warning that names the configured options which a load here cannot apply.
    pub(crate) fn unsupported(&self, request: &ModelRequest) -> Option<String> {
        match self {
            Self::LmStudio(it) => it.unsupported(request),
            Self::LlamaSwap(it) => llamaswap::unsupported(it.context.config, request),
            Self::LlamaCpp(it) => llamacpp::unsupported(it.context.config, request),
        }
    }

    /// Loads the model under exactly its key. Must refuse or report any other name, must end
    /// within `loadTimeoutMs`, and must keep
    /// `operation` locked in what carries it out, or marked where the server does and does not
    /// list the load.
    /// `on_percent` sees how far it is.
    pub(crate) async fn load(
        &self,
        request: &ModelRequest,
        target: &LoadTarget,
        operation: Option<&Operation>,
        on_percent: impl FnMut(u8),
    ) -> Result<LoadResult, Failure> {
        match self {
            Self::LmStudio(it) => it.load(request, target, operation, on_percent).await,
            Self::LlamaSwap(it) => Box::pin(it.load(request, operation)).await,
            Self::LlamaCpp(it) => Box::pin(it.load(request, target, on_percent)).await,
        }
    }

    /// Unloads what our own load brought up under a wrong name, by what loaded it.
    pub(crate) async fn undo_load(
        &self,
        request: &ModelRequest,
        identifier: &str,
        operation: Option<&Operation>,
    ) -> Result<(), Failure> {
        match self {
            Self::LmStudio(it) => it.undo_load(request, identifier, operation).await,
            // Neither gives a model another name than its own.
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => Ok(()),
        }
    }

    /// Unloads one instance, with `operation` locked for as long as that may go on. The inner error is the server's account, and success proves nothing:
    /// the gate observes afterwards.
    pub(crate) async fn unload(
        &self,
        identifier: &str,
        operation: Option<&Operation>,
    ) -> Result<Result<(), String>, Failure> {
        match self {
            Self::LmStudio(it) => it.unload(identifier, operation).await,
            Self::LlamaSwap(it) => it.unload(identifier).await,
            Self::LlamaCpp(it) => it.unload(identifier).await,
        }
    }

    /// Every instance with whether it is busy; `busy` is `None` where that cannot be told. One
    /// that is loading must never be called idle. The inner error says why nothing can be told.
    pub(crate) async fn activity(&self) -> Result<Result<Vec<Instance>, String>, Failure> {
        match self {
            Self::LmStudio(it) => it.activity().await,
            Self::LlamaSwap(_) => Ok(Err("llama-swap does not tell".to_owned())),
            Self::LlamaCpp(it) => it.activity().await,
        }
    }

    /// What the load would take in memory, where the server tells.
    pub(crate) async fn estimate(
        &self,
        request: &ModelRequest,
        target: &LoadTarget,
    ) -> Result<Option<Estimate>, Failure> {
        match self {
            Self::LmStudio(it) => it.estimate(request, target).await,
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => Ok(None),
        }
    }

    /// How many models the server holds at once, where it tells. Asked where a call has several and
    /// not all of them are ready.
    pub(crate) async fn capacity(&self) -> Result<Option<usize>, Failure> {
        match self {
            Self::LmStudio(_) | Self::LlamaSwap(_) => Ok(None),
            Self::LlamaCpp(it) => it.capacity().await,
        }
    }

    /// Whether a load may put out another model of the same call, by the server's own rules. Then
    /// the model that was named first is loaded last, and stays.
    pub(crate) fn swaps(&self) -> bool {
        matches!(self, Self::LlamaSwap(_) | Self::LlamaCpp(_))
    }

    /// Whether a request to load a model joins a load of it that is under way, and keeps its outcome
    /// from being thrown away when no other client waits for it.
    pub(crate) fn joins_loads(&self) -> bool {
        matches!(self, Self::LlamaSwap(_))
    }

    /// How the user lets models be resident together.
    pub(crate) fn conflict_hint(&self) -> &'static str {
        match self {
            Self::LmStudio(_) => "ask for fewer models at once",
            Self::LlamaSwap(_) => {
                "put them into one group with `swap: false`, or into one set of the matrix, in llama-swap's configuration"
            }
            Self::LlamaCpp(_) => "raise `--models-max` of llama-server, or ask for fewer models at once",
        }
    }

    /// Whether the server loads a model that is not resident for a client's request.
    pub(crate) async fn loads_on_request(&self) -> Result<bool, Failure> {
        match self {
            Self::LmStudio(_) => Ok(false),
            Self::LlamaSwap(_) => Ok(true),
            Self::LlamaCpp(it) => it.loads_on_request().await,
        }
    }

    /// Sends a model that is ready what a client's request would do to the others, so that a swap
    /// shows now. Asked after a load of a call with several models.
    pub(crate) async fn touch(&self, request: &ModelRequest) -> Result<(), Failure> {
        match self {
            Self::LmStudio(_) | Self::LlamaCpp(_) => Ok(()),
            Self::LlamaSwap(it) => it.touch(request).await,
        }
    }

    /// How a user unloads an instance by hand.
    pub(crate) fn unload_command(&self, identifier: &str) -> String {
        match self {
            Self::LmStudio(_) => lmstudio::unload_command(identifier),
            Self::LlamaSwap(it) => it.unload_command(identifier),
            Self::LlamaCpp(it) => it.unload_command(identifier),
        }
    }

    /// A load that was refused for memory, in the server's words.
    pub(crate) fn refused(&self, request: &ModelRequest, words: &str) -> Failure {
        match self {
            Self::LmStudio(it) => it.refused(request, words),
            Self::LlamaCpp(_) => llamacpp::load_failed(request, words),
            Self::LlamaSwap(_) => {
                let reason = format!("{} refused to load `{}`: {words}", self.name(), request.key);
                Failure::new(Category::LoadRefused, reason)
            }
        }
    }

    /// What the user should know of a model that this call found ready: why a client could be
    /// refused all the same.
    pub(crate) fn caveat(&self) -> Option<String> {
        match self {
            Self::LmStudio(it) => it.caveat(),
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => None,
        }
    }

    /// The failure of a model that a snapshot says nothing clear of.
    pub(crate) fn contradicted(&self, request: &ModelRequest, snapshot: &Snapshot) -> Failure {
        match (self, snapshot.routes.unclear.get(request.key.as_str())) {
            (Self::LlamaCpp(it), Some(why)) => {
                let command = it.unload_command(snapshot.identifier(&request.key));
                self.context().unknown(why).hinted(format!("if that stays so, unload it by hand: `{command}`"))
            }
            (_, Some(why)) => self.context().unknown(why),
            (Self::LmStudio(it), None) => it.contradicted(),
            (Self::LlamaSwap(_) | Self::LlamaCpp(_), None) => self.context().unknown("its answers do not agree"),
        }
    }

    fn context(&self) -> &'a Context<'a> {
        match self {
            Self::LmStudio(it) => it.context,
            Self::LlamaSwap(it) => it.context,
            Self::LlamaCpp(it) => it.context,
        }
    }

    /// The program's name in messages.
    pub(crate) fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// What decisions need to know of the program.
    pub(crate) fn program(&self) -> Program {
        let context_is_set_in = match self {
            Self::LmStudio(_) => None,
            Self::LlamaSwap(_) => Some("the model's `cmd` in llama-swap's configuration"),
            Self::LlamaCpp(_) => Some("`ctx-size` in its preset or on its command line"),
        };
        Program { name: self.name(), context_is_set_in }
    }

    /// Where the program tells what it did, as the subject of a sentence.
    pub(crate) fn log(&self) -> &'static str {
        match self {
            Self::LmStudio(_) => lmstudio::LOG,
            Self::LlamaSwap(_) => "llama-swap's log",
            Self::LlamaCpp(_) => "llama-server's log",
        }
    }

    /// Whether the server may be started: on this machine alone, where the program itself answers.
    pub(crate) fn may_start(&self) -> bool {
        match self {
            Self::LmStudio(it) => it.may_start(),
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => false,
        }
    }

    /// The failure of a server that is down and may not be started.
    pub(crate) fn down(&self) -> Failure {
        match self {
            Self::LmStudio(it) => it.down(),
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => {
                let Context { origin, .. } = self.context();
                let reason = format!("nothing listens at {} (from {origin})", self.context().base());
                let name = self.name();
                Failure::new(Category::ServerUnreachable, reason)
                    .hinted(format!(
                        "start {name} (lmswarm starts only LM Studio), or name its address with --base-url"
                    ))
                    .cheap()
            }
        }
    }

    /// Starts the server and waits until it answers, within `serverStartTimeoutMs`. Must never
    /// move one that runs elsewhere.
    pub(crate) async fn start(&self, progress: Progress) -> Result<(), Failure> {
        match self {
            Self::LmStudio(it) => it.start(progress).await,
            Self::LlamaSwap(_) | Self::LlamaCpp(_) => Err(self.down()),
        }
    }

    /// Downloads exactly this key.
    pub(crate) async fn download(&self, request: &ModelRequest, progress: Progress) -> Result<(), Failure> {
        match self {
            Self::LmStudio(it) => it.download(request, progress).await,
            Self::LlamaSwap(it) => Err(it.not_configured(request, &[])),
            Self::LlamaCpp(it) => Box::pin(it.download(request, progress)).await,
        }
    }
}

impl LoadTarget {
    /// The target of a backend that leaves nothing to choose.
    fn of(found: &Downloaded) -> Self {
        Self {
            base_key: found.key.clone(),
            max_context: found.max_context_length,
            size_bytes: found.size_bytes,
            warning: None,
            placement: crate::pure::lmstudio::load_args::Placement::Any,
        }
    }
}

/// Whether the sources agree on every model of the call.
pub(crate) fn is_settled(snapshot: &Snapshot, requests: &[ModelRequest]) -> bool {
    requests.iter().all(|request| snapshot.residency(&request.key) != Residency::Unknown)
}
