//! What the simulated application knows: downloaded models, instances and loads under way.
//!
//! Nothing here knows HTTP, and nothing waits while it holds the lock: whoever waits does it on a load's phase. The
//! record is written under the lock, so its order is the order in which things happened.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::common::{Fault, Record, monotonic_ms, now_ms};
use crate::lmstudio::{Config, Home, Model, PsRow, Store};
use crate::load::{self, LoadRequest, find, guardrail_text};

/// Who asked for something; the record's `by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The `lms` command.
    Lms,
    /// `/api/v1`.
    Rest,
    /// A request for a model that was not loaded.
    Jit,
    /// Somebody at the application's window: a test's control request.
    Gui,
}

impl By {
    /// The name in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lms => "lms",
            Self::Rest => "rest",
            Self::Jit => "jit",
            Self::Gui => "gui",
        }
    }
}

/// How far a load is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Percent done.
    Loading(u64),
    /// Reported as loaded. With what the client sees when it looks at the instance; nothing if it is gone already.
    Ready(Option<Info>),
    /// The engine's text.
    Failed(String),
    /// Cancelled, or unloaded before it was ready.
    Cancelled,
}

/// What a client learns about the instance it loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    pub identifier: String,
    pub device: Option<String>,
    pub size_bytes: u64,
    pub context_length: u64,
}

/// Why a load did not begin.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// No such model.
    Unknown,
    /// The application's text: identifier in use, not enough memory.
    Text(String),
}

/// A load that has begun.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The instance's number, unique in this process.
    pub id: u64,
    /// The instance's name.
    pub identifier: String,
    /// Where it is.
    pub phase: watch::Receiver<Phase>,
}

impl Ticket {
    /// Waits for the end of the load.
    pub async fn finished(&mut self) -> Phase {
        match self.phase.wait_for(|phase| !matches!(phase, Phase::Loading(_))).await {
            Ok(phase) => phase.clone(),
            Err(_) => Phase::Cancelled,
        }
    }
}

/// One instance, loading or ready.
#[derive(Debug)]
pub struct Instance {
    pub id: u64,
    pub identifier: String,
    pub model: Model,
    pub context_length: u64,
    pub ttl_ms: Option<u64>,
    pub parallel: Option<u32>,
    pub by: By,
    pub began: Instant,
    pub last_used: Option<u64>,
    /// When its time to live last began to run.
    pub idle_since: Instant,
    pub running: u32,
    /// Set by a test: the status and the queue.
    pub busy: Option<(String, u32)>,
    /// When it last went from idle to busy, in monotonic milliseconds; only recorded.
    pub busy_since_ms: u64,
    pub phase: watch::Sender<Phase>,
    pub cancel: Arc<Notify>,
    pub held: bool,
    pub token: Option<String>,
}

impl Instance {
    /// Whether it is still loading.
    pub fn loading(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Loading(_))
    }

    /// Whether it works on a request.
    pub fn is_busy(&self) -> bool {
        self.running > 0 || self.busy.is_some()
    }

    /// Changes what it works on, and notes when it begins to.
    pub fn work(&mut self, change: impl FnOnce(&mut Self)) {
        let was_busy = self.is_busy();
        change(self);
        if !was_busy && self.is_busy() {
            self.busy_since_ms = monotonic_ms();
        }
    }

    /// Whether the lists show it already.
    pub fn listed(&self, config: &Config) -> bool {
        !self.loading() || self.began.elapsed() >= Duration::from_millis(config.list_loading_after_ms)
    }

    /// The machine it is on; none is this one.
    pub fn device(&self) -> Option<&str> {
        self.model.head.device_identifier.as_deref()
    }

    /// As `lms ps --json` shows it. A loading one is idle, like any other.
    pub fn row(&self) -> PsRow {
        let (status, queued) = match &self.busy {
            Some((status, queued)) => (status.as_str(), *queued),
            None if self.running > 0 && self.model.is_embedding() => ("computingEmbedding", self.running),
            None if self.running > 0 => ("generating", self.running),
            None => ("idle", 0),
        };
        PsRow {
            head: self.model.head.clone(),
            identifier: self.identifier.clone(),
            ttl_ms: self.ttl_ms,
            last_used_time: self.last_used,
            tail: self.model.tail.clone(),
            context_length: self.context_length,
            status: status.to_owned(),
            queued,
            parallel: self.parallel,
        }
    }
}

/// The application.
#[derive(Debug)]
pub struct App {
    /// Where its files are.
    pub home: Home,
    /// What a test steers it with.
    pub store: Store,
    /// What happened.
    pub record: Record,
    /// The port of the API.
    pub api_port: u16,
    /// Releases held loads.
    pub release: Notify,
    /// The tools that the next answers call, with their arguments as JSON.
    pub tool_calls: Mutex<VecDeque<(String, String)>>,
    instances: Mutex<Vec<Instance>>,
    serial: AtomicU64,
}

impl App {
    /// An application with nothing loaded.
    pub fn new(home: Home, store: Store, record: Record, api_port: u16) -> Arc<Self> {
        let app = Self {
            home,
            store,
            record,
            api_port,
            release: Notify::new(),
            tool_calls: Mutex::default(),
            instances: Mutex::new(Vec::new()),
            serial: AtomicU64::new(1),
        };
        Arc::new(app)
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Arc<Config> {
        self.store.config(&self.record)
    }

    /// The instances, all of them. The guard must not live across an await.
    pub fn instances(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number nothing else in this process has.
    pub fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// The models downloaded here and those of linked machines.
    pub fn downloaded(&self) -> Vec<Model> {
        let config = self.config();
        let mut models = self.store.models(&self.record);
        let mut linked = Vec::new();
        for link in &config.links {
            for key in &link.keys {
                let known = models.iter().chain(&config.catalogue).find(|model| model.key() == key).cloned();
                let model = known.map_or_else(
                    || Model::named(key),
                    |mut model| {
                        model.complete();
                        Ok(model)
                    },
                );
                linked.extend(model.ok().map(|model| model.on_device(&link.device)));
            }
        }
        if config.linked_first {
            linked.append(&mut models);
            return linked;
        }
        models.append(&mut linked);
        models
    }

    /// Why the guardrail refuses to load a model, if it does.
    pub fn guardrail(&self, instances: &[Instance], model: &Model) -> Option<String> {
        let limit = self.config().ram_bytes?;
        if model.head.device_identifier.is_some() {
            return None;
        }
        let local = instances.iter().filter(|instance| instance.device().is_none());
        let used: u64 = local.map(|instance| instance.model.head.size_bytes).sum();
        (used.saturating_add(model.head.size_bytes) > limit).then(|| guardrail_text(model))
    }

    /// Begins a load, which goes on by itself.
    pub fn begin(self: &Arc<Self>, request: LoadRequest) -> Result<Ticket, Refusal> {
        let downloaded = self.downloaded();
        let fault = self.load_fault(&downloaded, &request.name);
        load::begin(self, &mut self.instances(), &downloaded, request, fault)
    }

    /// The fault that strikes a load of `name`.
    pub fn load_fault(&self, downloaded: &[Model], name: &str) -> Option<Fault> {
        let key = find(downloaded, name, None)?.0.key().to_owned();
        self.store.faults.strike(&self.record, &["load"], Some(&key))
    }

    /// Takes an instance out. A load of it ends as cancelled.
    pub fn remove(&self, instances: &mut Vec<Instance>, id: u64) -> Option<Instance> {
        let place = instances.iter().position(|instance| instance.id == id)?;
        let instance = instances.remove(place);
        if instance.loading() {
            self.record.write("load-cancelled", json!({ "id": instance.id, "identifier": instance.identifier }));
            instance.phase.send_replace(Phase::Cancelled);
            instance.cancel.notify_one();
        }
        Some(instance)
    }

    /// Unloads because somebody asked. False if there is no such instance.
    pub fn unload(&self, identifier: &str, device: Option<Option<&str>>, by: By) -> bool {
        let mut instances = self.instances();
        let wanted = |instance: &&Instance| {
            instance.identifier == identifier && device.is_none_or(|device| instance.device() == device)
        };
        let Some(found) = instances.iter().find(wanted) else {
            return false;
        };
        let (id, busy) = (found.id, found.is_busy());
        if let Some(instance) = self.remove(&mut instances, id) {
            self.record.write(
                "unload",
                json!({
                    "id": instance.id,
                    "identifier": instance.identifier,
                    "key": instance.model.key(),
                    "by": by.name(),
                    "busy": busy,
                    "busySinceMs": busy.then_some(instance.busy_since_ms),
                }),
            );
        }
        true
    }

    /// Unloads for the application's own reasons.
    pub fn evict(&self, instances: &mut Vec<Instance>, id: u64, reason: &str) {
        if let Some(instance) = self.remove(instances, id) {
            let event = json!({ "id": instance.id, "identifier": instance.identifier, "reason": reason });
            self.record.write("evict", event);
        }
    }

    /// Cancels the load a client named; true if there was one.
    pub fn cancel(&self, token: &str) -> bool {
        let mut instances = self.instances();
        let wanted = |instance: &&Instance| instance.loading() && instance.token.as_deref() == Some(token);
        let found = instances.iter().find(wanted).map(|instance| instance.id);
        found.is_some_and(|id| self.remove(&mut instances, id).is_some())
    }

    /// Unloads what has been idle for longer than it may.
    pub fn expire(&self) {
        let mut instances = self.instances();
        let over = |instance: &&Instance| {
            let ttl = instance.ttl_ms.map(Duration::from_millis);
            !instance.loading() && !instance.is_busy() && ttl.is_some_and(|ttl| instance.idle_since.elapsed() >= ttl)
        };
        let expired: Vec<u64> = instances.iter().filter(over).map(|instance| instance.id).collect();
        for id in expired {
            self.evict(&mut instances, id, "ttl");
        }
    }

    /// Runs a request on an instance for as long as the answer lives.
    pub fn run(self: &Arc<Self>, id: u64) -> Option<Run> {
        let mut instances = self.instances();
        let instance = instances.iter_mut().find(|instance| instance.id == id)?;
        instance.work(|instance| instance.running += 1);
        instance.last_used = Some(now_ms());
        Some(Run { app: Arc::clone(self), id })
    }
}

/// A request that runs on an instance.
#[derive(Debug)]
pub struct Run {
    app: Arc<App>,
    id: u64,
}

impl Run {
    /// Whether its instance is still there.
    pub fn alive(&self) -> bool {
        self.app.instances().iter().any(|instance| instance.id == self.id)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(instance) = self.app.instances().iter_mut().find(|instance| instance.id == self.id) {
            instance.running -= 1;
            instance.last_used = Some(now_ms());
            instance.idle_since = Instant::now();
        }
    }
}
