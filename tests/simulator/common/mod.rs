//! What the simulated application and the simulated `lms` share: where LM Studio's home is, the record of what happened,
//! the files a test steers with and
//! the shape of a model.
//!
//! It must not hold any state of its own: the files below `<LM Studio home>/.simulator` are the only thing the two
//! programs and a test have in common, and all of them may change while a program runs.

mod model;
mod settings;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fs2::FileExt as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use model::{Model, PsRow};
pub use settings::{Config, Fault, Kind};

/// The version the simulated application calls itself.
pub const VERSION: &str = "0.4.21";

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds of a clock that is never set, the same for every process of this boot.
#[cfg(unix)]
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or_default() * 1000;
    whole + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000
}

/// No test of another system asks for it.
#[cfg(not(unix))]
pub fn monotonic_ms() -> u64 {
    now_ms()
}

/// Replaces a file in one step, so that no reader ever sees half of it.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.{serial}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    fs::write(&temporary, content).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("cannot replace {}", path.display()))
}

/// The directories of one simulated installation.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// Finds LM Studio's home below a user's home as LM Studio does: the pointer file, else `.cache/lm-studio`, else
    /// `.lmstudio`. Writes the pointer if there is none, as everything that belongs to LM Studio does.
    pub fn find(user_home: &Path) -> Result<Self> {
        let user_home =
            fs::canonicalize(user_home).with_context(|| format!("no such home: {}", user_home.display()))?;
        let pointer = user_home.join(".lmstudio-home-pointer");
        let root = if let Ok(content) = fs::read_to_string(&pointer) {
            PathBuf::from(content.trim())
        } else {
            let cache = user_home.join(".cache").join("lm-studio");
            let root = if cache.is_dir() { cache } else { user_home.join(".lmstudio") };
            replace_file(&pointer, root.to_string_lossy().as_bytes())?;
            root
        };
        let home = Self { root };
        fs::create_dir_all(home.internal())?;
        fs::create_dir_all(home.simulator())?;
        Ok(home)
    }

    /// The user's home of this process.
    pub fn of_user() -> Result<PathBuf> {
        let variable = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        let value = std::env::var_os(variable).with_context(|| format!("{variable} is not set"))?;
        Ok(PathBuf::from(value))
    }

    /// LM Studio's own files.
    pub fn internal(&self) -> PathBuf {
        self.root.join(".internal")
    }

    /// The simulator's files.
    pub fn simulator(&self) -> PathBuf {
        self.root.join(".simulator")
    }

    /// `{"port": N}` of the API.
    pub fn api_file(&self) -> PathBuf {
        self.internal().join("http-server.json")
    }

    /// The last settings of the REST server.
    pub fn rest_file(&self) -> PathBuf {
        self.internal().join("http-server-config.json")
    }
}

/// The file of all that happened, one JSON object a line, written by both programs.
#[derive(Debug)]
pub struct Record {
    file: File,
}

impl Record {
    /// Opens the record for appending.
    pub fn open(home: &Home) -> Result<Self> {
        let path = home.simulator().join("record.jsonl");
        let file = OpenOptions::new().append(true).create(true).open(&path);
        Ok(Self { file: file.with_context(|| format!("cannot open {}", path.display()))? })
    }

    /// Appends one event. `data` is an object with the event's own members.
    pub fn write(&self, event: &str, data: Value) {
        let mut line = Map::new();
        line.insert("event".into(), event.into());
        line.insert("atMs".into(), now_ms().into());
        line.insert("monotonicMs".into(), monotonic_ms().into());
        if let Value::Object(data) = data {
            line.extend(data);
        }
        let mut bytes = Value::Object(line).to_string().into_bytes();
        bytes.push(b'\n');
        // One write of one line at the end of the file is what makes the order of lines the order of events. A test
        // that removed its directory no longer reads them.
        let _ = (&self.file).write_all(&bytes);
    }
}

/// A JSON file that others change while we run. The bytes are read at every use and parsed only if they differ, so a
/// change is seen at once and an unchanged file costs one small read.
#[derive(Debug)]
struct Watched<T> {
    path: PathBuf,
    last: Mutex<(Vec<u8>, Arc<T>)>,
}

impl<T: DeserializeOwned + Default> Watched<T> {
    fn new(path: PathBuf) -> Self {
        Self { path, last: Mutex::new((Vec::new(), Arc::new(T::default()))) }
    }

    fn get(&self, record: &Record) -> Arc<T> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(_) => return Arc::clone(&last.1),
        };
        if bytes != last.0 {
            let parsed = if bytes.is_empty() { Ok(T::default()) } else { serde_json::from_slice(&bytes) };
            match parsed {
                Ok(value) => *last = (bytes, Arc::new(value)),
                // The last good value goes on: the file may be in the middle of being written. A lasting mistake of a
                // test's author is in the record.
                Err(error) => {
                    let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    record.write("problem", serde_json::json!({ "file": file, "error": error.to_string() }));
                    last.0 = bytes;
                }
            }
        }
        Arc::clone(&last.1)
    }
}

/// The files a test steers the simulator with.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    config: Watched<Config>,
    faults: Watched<Vec<Fault>>,
    models: Watched<Vec<Model>>,
}

impl Store {
    /// The files of one installation; nothing is read yet.
    pub fn new(home: &Home) -> Self {
        let directory = home.simulator();
        Self {
            config: Watched::new(directory.join("config.json")),
            faults: Watched::new(directory.join("faults.json")),
            models: Watched::new(directory.join("models.json")),
            directory,
        }
    }

    /// The configuration as it is now.
    pub fn config(&self, record: &Record) -> Arc<Config> {
        self.config.get(record)
    }

    /// The models downloaded on this machine.
    pub fn models(&self, record: &Record) -> Vec<Model> {
        let mut models = Vec::clone(&self.models.get(record));
        models.iter_mut().for_each(Model::complete);
        models
    }

    /// Writes the models the simulator starts with, unless there are some.
    pub fn create_models(&self) -> Result<()> {
        let path = self.directory.join("models.json");
        if path.exists() { Ok(()) } else { replace_file(&path, include_bytes!("models.json")) }
    }

    /// Adds a downloaded model.
    pub fn add_model(&self, record: &Record, model: &Model) -> Result<()> {
        let mut models = self.models(record);
        if models.iter().all(|known| known.key() != model.key()) {
            models.push(model.clone());
        }
        replace_file(&self.directory.join("models.json"), &serde_json::to_vec_pretty(&models)?)
    }

    /// The first fault that strikes any of `targets`, counted down and recorded.
    pub fn fault(&self, record: &Record, targets: &[&str], key: Option<&str>) -> Option<Fault> {
        let known = self.faults.get(record);
        let fault = known.iter().find(|fault| fault.strikes(targets, key))?;
        let fault = if fault.times.is_some() { self.count_down(targets, key).ok()?? } else { fault.clone() };
        record.write("fault", serde_json::json!({ "on": fault.on, "kind": fault.kind }));
        Some(fault)
    }

    /// Waits, where `fault` holds, until the test has taken every such fault out of the file.
    pub async fn held(&self, record: &Record, fault: &Fault) {
        let is_same = |other: &Fault| other.kind == Kind::Hold && other.on == fault.on && other.key == fault.key;
        while fault.kind == Kind::Hold && self.faults.get(record).iter().any(is_same) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Takes one strike off a counted fault. Several processes do this at once, so it is done under a lock, on the file
    /// as it is now.
    fn count_down(&self, targets: &[&str], key: Option<&str>) -> Result<Option<Fault>> {
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).open(self.directory.join("faults.lock"))?;
        lock.lock_exclusive()?;
        let path = self.directory.join("faults.json");
        let mut faults: Vec<Fault> = serde_json::from_slice(&fs::read(&path)?)?;
        let Some(fault) = faults.iter_mut().find(|fault| fault.strikes(targets, key)) else {
            return Ok(None);
        };
        if let Some(times) = &mut fault.times {
            *times -= 1;
        }
        let struck = fault.clone();
        replace_file(&path, &serde_json::to_vec(&faults)?)?;
        Ok(Some(struck))
    }
}

/// `1.23 GB`: sizes of files, by thousands.
pub fn size_1000(bytes: u64) -> String {
    let size = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.2} KB", size / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", size / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.2} GB", size / 1e9),
        _ => format!("{:.2} TB", size / 1e12),
    }
}
