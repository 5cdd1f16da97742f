//! What a test sets: `llama-swap.json`, the configuration of llama-swap with its own keys, in force from the start or the
//! next reload; and `config.json`, how the simulated models and their servers behave, in force at once.
//!
//! What a setting does is with the code that carries it out, not here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

/// llama-swap's own configuration. Only what changes what a client sees.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    pub health_check_timeout: u64,
    pub unload_timeout: u64,
    #[serde(rename = "globalTTL")]
    pub global_ttl: i64,
    pub include_aliases_in_list: bool,
    pub send_loading_state: bool,
    pub api_keys: Vec<String>,
    pub models: BTreeMap<String, Model>,
    pub groups: BTreeMap<String, Group>,
    pub matrix: Option<Matrix>,
    pub peers: BTreeMap<String, Peer>,
    pub selectors: BTreeMap<String, Selector>,
    pub profiles: BTreeMap<String, Profile>,
    pub hooks: Hooks,
    pub upstream: Upstream,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            health_check_timeout: 120,
            unload_timeout: 10,
            global_ttl: 0,
            include_aliases_in_list: false,
            send_loading_state: false,
            api_keys: Vec::new(),
            models: BTreeMap::new(),
            groups: BTreeMap::new(),
            matrix: None,
            peers: BTreeMap::new(),
            selectors: BTreeMap::new(),
            profiles: BTreeMap::new(),
            hooks: Hooks::default(),
            upstream: Upstream::default(),
        }
    }
}

/// One model.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Model {
    pub cmd: String,
    pub proxy: String,
    pub name: String,
    pub description: String,
    pub aliases: Vec<String>,
    pub unlisted: bool,
    pub ttl: i64,
    pub concurrency_limit: usize,
    pub check_endpoint: String,
    pub use_model_name: Option<String>,
    pub metadata: Map<String, Value>,
    pub capabilities: Map<String, Value>,
    pub filters: Filters,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            cmd: String::new(),
            proxy: String::new(),
            name: String::new(),
            description: String::new(),
            aliases: Vec::new(),
            unlisted: false,
            ttl: -1,
            concurrency_limit: 0,
            check_endpoint: "/health".into(),
            use_model_name: None,
            metadata: Map::new(),
            capabilities: Map::new(),
            filters: Filters::default(),
        }
    }
}

impl Model {
    /// Every name it has beside its id.
    pub fn other_names(&self) -> impl Iterator<Item = &String> {
        self.aliases.iter().chain(self.filters.set_params_by_id.keys())
    }
}

/// What is changed in a request on its way to the model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Filters {
    #[serde(rename = "setParamsByID")]
    pub set_params_by_id: BTreeMap<String, Map<String, Value>>,
}

/// Models that share a rule about who may run beside whom.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Group {
    pub swap: bool,
    pub exclusive: bool,
    pub persistent: bool,
    pub members: BTreeSet<String>,
}

impl Default for Group {
    fn default() -> Self {
        Self { swap: true, exclusive: true, persistent: false, members: BTreeSet::new() }
    }
}

/// The sets of models that may run together, in their order. The real one writes a set as a formula.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Matrix {
    pub sets: Vec<BTreeSet<String>>,
    #[serde(rename = "evict_costs")]
    pub evict_costs: BTreeMap<String, u64>,
}

/// Another server.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    pub proxy: String,
    #[serde(default)]
    pub api_key: Option<String>,
    pub models: Vec<String>,
}

/// A name that stands for one of several models.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    pub strategy: Strategy,
    pub targets: Vec<String>,
}

/// How a selector chooses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    Pin,
    Warm,
    Spillover,
}

impl Strategy {
    /// As the list has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Warm => "warm",
            Self::Spillover => "spillover",
        }
    }
}

/// Names that are replaced while it is active.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Profile {
    pub description: String,
    pub pins: BTreeMap<String, String>,
}

/// What is done at the start, and after a reload.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    pub on_startup: OnStartup,
}

/// See `Hooks`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnStartup {
    pub preload: Vec<String>,
}

/// Requests below `/upstream/`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Upstream {
    /// Ends of paths that load no model. The real one takes regular expressions.
    pub ignore_paths: Vec<String>,
}

impl Default for Upstream {
    fn default() -> Self {
        let endings = ["js", "json", "css", "png", "gif", "jpg", "jpeg", "ico", "txt"];
        Self { ignore_paths: endings.iter().map(|ending| format!(".{ending}")).collect() }
    }
}

/// How long things take, and what the models' own servers do.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Live {
    /// As `/api/version` tells it; read at the start and at a reload.
    pub version: String,
    /// How long a second of llama-swap's lasts, in ms: checks, limits and times to live go by it.
    pub second_ms: u64,
    /// Whether a changed `llama-swap.json` is noticed.
    pub watch_config: bool,
    /// How long a load takes.
    pub load_ms: u64,
    /// What differs for one model.
    pub servers: BTreeMap<String, Server>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            version: "v250-5-g0bdb3720".into(),
            second_ms: 50,
            watch_config: false,
            load_ms: 50,
            servers: BTreeMap::new(),
        }
    }
}

/// A model's own server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Server {
    pub load_ms: Option<u64>,
    /// How long it takes to end.
    pub stop_ms: u64,
    /// How long nobody listens on its port.
    pub bind_ms: u64,
    /// What it prints when it starts.
    pub log: Option<String>,
    /// What it answers to `/props`; absent: it has no such path.
    pub props: Option<Value>,
}

/// A version, as far as what a client sees depends on it: v250 is 250, what was built after it 251.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(u32);

impl Version {
    /// `v250-5-g0bdb3720` and the like.
    pub fn of(text: &str) -> Self {
        let mut parts = text.trim_start_matches('v').split('-');
        let number = parts.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Self(number + u32::from(parts.next().is_some()))
    }

    /// Whether it has what came with this release.
    pub fn since(self, release: u32) -> bool {
        self.0 >= release
    }

    /// Whether it is of after the rewrite.
    pub fn is_new(self) -> bool {
        self.since(218)
    }
}
