//! The simulated llama-swap: what it is at the moment (`Engine`: one configuration and its processes) and what outlives a
//! reload (`App`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::common::{Faults, Record, Watched};
use crate::config::{Config, Group, Live, Matrix, Version};
use crate::news::News;
use crate::old::Groups;
use crate::process::{Process, Processes, State, Work, stop_all};
use crate::router::{self, Event};

/// What outlives a reload.
#[derive(Debug)]
pub struct App {
    pub record: Record,
    pub faults: Faults,
    pub news: News,
    /// The active profile.
    pub profile: Mutex<Option<String>>,
    file: PathBuf,
    live: Watched<Live>,
    engine: OnceLock<RwLock<Arc<Engine>>>,
    numbers: AtomicU64,
}

/// One configuration in force.
#[derive(Debug)]
pub struct Engine {
    pub config: Config,
    /// As it calls itself.
    pub version: String,
    pub processes: Processes,
    /// For versions before v218.
    pub groups: Groups,
    router: mpsc::UnboundedSender<Event>,
    places: Mutex<BTreeMap<String, usize>>,
}

impl App {
    /// Reads the configuration in `folder` and begins.
    pub fn start(folder: &Path) -> Result<Arc<Self>> {
        let app = Arc::new(Self {
            record: Record::open(folder)?,
            faults: Faults::new(folder),
            news: News::default(),
            profile: Mutex::new(None),
            file: folder.join("llama-swap.json"),
            live: Watched::new(folder.join("config.json")),
            engine: OnceLock::new(),
            numbers: AtomicU64::new(0),
        });
        let engine = Engine::new(&app, app.read()?);
        let _ = app.engine.set(RwLock::new(engine));
        app.preload();
        Ok(app)
    }

    /// The configuration as the file has it now.
    fn read(&self) -> Result<Config> {
        let bytes = std::fs::read(&self.file).context("cannot read the configuration")?;
        serde_json::from_slice(&bytes).context("cannot understand the configuration")
    }

    /// How models and their servers behave at the moment.
    pub fn live(&self) -> Arc<Live> {
        self.live.get(&self.record)
    }

    /// What is in force at the moment.
    pub fn engine(&self) -> Arc<Engine> {
        let engine = self.engine.get().expect("set before anything asks");
        Arc::clone(&engine.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The version that it is at the moment.
    pub fn version(&self) -> Version {
        // Processes are made before there is an engine, and ask nothing then.
        Version::of(&self.engine().version)
    }

    /// So many seconds of llama-swap's.
    pub fn seconds(&self, count: u64) -> Duration {
        Duration::from_millis(self.live().second_ms.saturating_mul(count))
    }

    /// A number that no other request has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The name of the active profile.
    pub fn active_profile(&self) -> Option<String> {
        self.profile.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the configuration in the file take over; the one in force goes on if that cannot be read.
    pub async fn reload(self: &Arc<Self>) {
        let config = match self.read() {
            Ok(config) => config,
            Err(error) => return self.record.write("reload-refused", json!({ "error": format!("{error:#}") })),
        };
        self.record.write("reload", json!({}));
        let engine = self.engine();
        engine.shut_down(self).await;
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let next = Engine::new(self, config);
        let current = self.engine.get().expect("set before anything asks");
        *current.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.record.write("reloaded", json!({}));
        self.preload();
    }

    /// Reloads when the file changes, if that is switched on.
    pub async fn watch_file(self: Arc<Self>) {
        let mut last = std::fs::read(&self.file).ok();
        loop {
            tokio::time::sleep(self.seconds(2)).await;
            let now = std::fs::read(&self.file).ok();
            if self.live().watch_config && now != last {
                self.reload().await;
            }
            last = now;
        }
    }

    fn preload(self: &Arc<Self>) {
        for id in self.engine().config.hooks.on_startup.preload.clone() {
            let app = Arc::clone(self);
            tokio::spawn(async move {
                let _ = app.load(&id, "preload").await;
            });
        }
    }

    /// Has a model ready, for nobody's request.
    pub async fn load(self: &Arc<Self>, id: &str, by: &'static str) -> Result<(), String> {
        let engine = self.engine();
        if !engine.processes.contains_key(id) {
            return Err(format!("no model {id:?}"));
        }
        if self.version().is_new() {
            engine.grant(self, id, by).await.map(drop)
        } else {
            engine.load_old(self, id, by).await
        }
    }
}

impl Engine {
    fn new(app: &Arc<App>, mut config: Config) -> Arc<Self> {
        let version = app.live().version.clone();
        for (number, (id, model)) in config.models.iter_mut().enumerate() {
            let port = 5800 + number;
            if model.cmd.is_empty() {
                model.cmd = format!("llama-server --port {port} --model /models/{id}.gguf --api-key sk-of-{number}");
            }
            if model.proxy.is_empty() {
                model.proxy = format!("http://127.0.0.1:{port}");
            }
        }
        let processes: Processes =
            config.models.iter().map(|(id, model)| (id.clone(), Arc::new(Process::new(app, id, model)))).collect();
        let (sender, events) = mpsc::unbounded_channel();
        let groups = Groups::of(&config);
        let engine = Arc::new(Self {
            config,
            version,
            processes,
            groups,
            router: sender.clone(),
            places: Mutex::new(BTreeMap::new()),
        });
        tokio::spawn(router::run(Arc::clone(app), Arc::clone(&engine), sender, events));
        engine
    }

    /// How its errors call what decides.
    pub fn router_name(&self) -> &'static str {
        if self.config.matrix.is_some() { "matrix" } else { "group" }
    }

    /// The ids of what is not stopped.
    pub fn running(&self) -> impl Iterator<Item = String> {
        self.processes.values().filter(|it| it.state() != State::Stopped).map(|it| it.id.clone())
    }

    /// These processes.
    pub fn some<'a>(&self, ids: impl IntoIterator<Item = &'a String>) -> Vec<Arc<Process>> {
        ids.into_iter().filter_map(|id| self.processes.get(id).map(Arc::clone)).collect()
    }

    /// The group of a model, by name; those that are in none are in one of their own.
    pub fn group_of(&self, id: &str) -> (String, Group) {
        let mut groups = self.config.groups.iter();
        match groups.find(|(_, group)| group.members.contains(id)) {
            Some((name, group)) => (name.clone(), group.clone()),
            None => ("(default)".to_owned(), Group::default()),
        }
    }

    /// Which of these have to go so that `id` may run.
    pub fn evicted_by(&self, id: &str, running: &BTreeSet<String>) -> BTreeSet<String> {
        let others = running.iter().filter(|other| *other != id);
        if let Some(matrix) = &self.config.matrix {
            let stays = best_set(matrix, id, running);
            return others.filter(|other| !stays.is_some_and(|set| set.contains(*other))).cloned().collect();
        }
        let (name, group) = self.group_of(id);
        let goes = |other: &&String| {
            let (its_name, its_group) = self.group_of(other);
            if its_name == name { group.swap } else { group.exclusive && !its_group.persistent }
        };
        others.filter(goes).cloned().collect()
    }

    /// Waits until `id` may answer one more request. The error is llama-swap's text.
    pub async fn grant(&self, app: &App, id: &str, by: &'static str) -> Result<Work, String> {
        /// Tells the router of a client that hung up.
        struct Cancel<'a>(&'a mpsc::UnboundedSender<Event>, u64);
        impl Drop for Cancel<'_> {
            fn drop(&mut self) {
                let _ = self.0.send(Event::Cancel(self.1));
            }
        }
        let (grant, granted) = oneshot::channel();
        let number = app.number();
        let cancel = Cancel(&self.router, number);
        let _ = self.router.send(Event::Request(router::Waiting { number, model: id.to_owned(), by, grant }));
        let result = granted.await;
        drop(cancel);
        result.unwrap_or_else(|_| Err(format!("{} is shutting down", self.router_name())))
    }

    /// Unloads, and waits for the end.
    pub async fn unload(&self, app: &App, ids: Vec<String>) {
        if Version::of(&self.version).is_new() {
            let (done, is_done) = oneshot::channel();
            let _ = self.router.send(Event::Unload(ids, done));
            let _ = is_done.await;
        } else {
            self.unload_old(app, ids).await;
        }
    }

    async fn shut_down(&self, app: &App) {
        let (done, is_done) = oneshot::channel();
        let _ = self.router.send(Event::Shutdown(done));
        let _ = is_done.await;
        stop_all(self.some(self.processes.keys()), "reload", app.seconds(10)).await;
    }

    /// A request that begins at a process.
    pub fn work(&self, process: &Arc<Process>) -> Work {
        Work::begin(process, Version::of(&self.version).is_new().then(|| self.router.clone()))
    }

    /// A place among the requests that a model takes; nothing if there is none.
    pub fn place(self: &Arc<Self>, id: &str) -> Option<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.entry(id.to_owned()).or_default();
        if *taken >= self.processes[id].limit() {
            return None;
        }
        *taken += 1;
        Some(Place { engine: Arc::clone(self), id: id.to_owned() })
    }

    /// How many places are taken.
    pub fn places(&self) -> BTreeMap<String, usize> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The first of the cheapest sets with `id`: what runs outside of a set costs.
fn best_set<'a>(matrix: &'a Matrix, id: &str, running: &BTreeSet<String>) -> Option<&'a BTreeSet<String>> {
    let cost = |set: &BTreeSet<String>| -> u64 {
        let goes = running.iter().filter(|other| *other != id && !set.contains(*other));
        goes.map(|other| matrix.evict_costs.get(other).copied().unwrap_or(1)).sum()
    };
    matrix.sets.iter().filter(|set| set.contains(id)).min_by_key(|set| cost(set))
}

/// One place among a model's requests.
#[derive(Debug)]
pub struct Place {
    engine: Arc<Engine>,
    id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.engine.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = places.get_mut(&self.id) {
            *taken -= 1;
        }
    }
}
