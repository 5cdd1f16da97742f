//! What the simulated application and the simulated `lms` share: where LM Studio's home is, the files a test steers with
//! and the shape of a model.
//!
//! It must not hold any state of its own: the files below `<LM Studio home>/.simulator` are the only thing the two
//! programs and a test have in common, and all of them may change while a program runs.

mod model;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::common::{Faults, Record, Watched, replace_file};

pub use model::{Model, PsRow};
pub use settings::Config;

/// The version the simulated application calls itself.
pub const VERSION: &str = "0.4.21";

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

/// The files a test steers the simulator with.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    config: Watched<Config>,
    /// What goes wrong.
    pub faults: Faults,
    models: Watched<Vec<Model>>,
}

impl Store {
    /// The files of one installation; nothing is read yet.
    pub fn new(home: &Home) -> Self {
        let directory = home.simulator();
        Self {
            config: Watched::new(directory.join("config.json")),
            faults: Faults::new(&directory),
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
