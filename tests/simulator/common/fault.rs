//! What goes wrong on purpose, as `faults.json` says.
//!
//! What a fault does is with the code that carries it out, not here.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use fs2::FileExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Record, Watched, replace_file};

/// What a fault does. Which kinds a target understands is in the modules that carry them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Bom,
    Crash,
    Empty,
    Fail,
    Flood,
    Garbage,
    Ghost,
    Grandchild,
    Hang,
    Hold,
    Html,
    Huge,
    IgnoreSigint,
    LessContext,
    Notice,
    Null,
    OtherId,
    PortTaken,
    Race,
    Refuse,
    Reset,
    Slow,
    Status,
    Truncated,
    Unexpected,
    Utf16,
    Vanish,
    Wrapper,
}

/// One entry of `faults.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Whom it strikes: `rest`, `GET /v1/models`, `lms`, `lms load`, `load`, ...
    pub on: String,
    /// What it does.
    pub kind: Kind,
    /// How often it still strikes; absent: always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// For `load`: only this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// For `slow` and `grandchild`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// For `fail`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// For `fail`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// For `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// For `status`: a string is sent as it is, anything else as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// For `flood` and `huge`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// For `crash` and `hang` of a load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    /// For `less-context`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// For `other-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
}

impl Fault {
    /// Whether it strikes one of `targets`.
    pub fn strikes(&self, targets: &[&str], key: Option<&str>) -> bool {
        self.times != Some(0)
            && targets.contains(&self.on.as_str())
            && (self.key.is_none() || self.key.as_deref() == key)
    }
}

/// The faults in force.
#[derive(Debug)]
pub struct Faults {
    folder: PathBuf,
    known: Watched<Vec<Fault>>,
}

impl Faults {
    /// Those of the file in this folder; nothing is read yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), known: Watched::new(folder.join("faults.json")) }
    }

    /// The first fault that strikes any of `targets`, counted down and recorded.
    pub fn strike(&self, record: &Record, targets: &[&str], key: Option<&str>) -> Option<Fault> {
        let known = self.known.get(record);
        let fault = known.iter().find(|fault| fault.strikes(targets, key))?;
        let fault = if fault.times.is_some() { self.count_down(targets, key).ok()?? } else { fault.clone() };
        record.write("fault", serde_json::json!({ "on": fault.on, "kind": fault.kind }));
        Some(fault)
    }

    /// Waits, where `fault` holds, until the test has taken every such fault out of the file.
    pub async fn held(&self, record: &Record, fault: &Fault) {
        let is_same = |other: &Fault| other.kind == Kind::Hold && other.on == fault.on && other.key == fault.key;
        while fault.kind == Kind::Hold && self.known.get(record).iter().any(is_same) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Takes one strike off a counted fault. Several processes do this at once, so it is done under a lock, on the file
    /// as it is now.
    fn count_down(&self, targets: &[&str], key: Option<&str>) -> Result<Option<Fault>> {
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(self.folder.join("faults.lock"))?;
        lock.lock_exclusive()?;
        let path = self.folder.join("faults.json");
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
