//! What the simulators share: the record of what happened, the files that a test steers with, and how an answer goes
//! wrong. It must know none of the programs that are simulated.

pub mod fault;
pub mod http;
pub mod program;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use fault::{Fault, Faults, Kind};

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

/// The file of all that happened, one JSON object a line. Several processes may write it.
#[derive(Debug)]
pub struct Record {
    file: File,
}

impl Record {
    /// Opens the record of this folder for appending.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("record.jsonl");
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
pub struct Watched<T> {
    path: PathBuf,
    last: Mutex<(Vec<u8>, Arc<T>)>,
}

impl<T: DeserializeOwned + Default> Watched<T> {
    /// The file at `path`; nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, last: Mutex::new((Vec::new(), Arc::new(T::default()))) }
    }

    /// The content as it is now; the default where there is no file.
    pub fn get(&self, record: &Record) -> Arc<T> {
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
