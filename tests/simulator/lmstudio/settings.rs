//! What a test may set: how the simulated LM Studio behaves, and what goes wrong.
//!
//! What a setting or a fault does is with the code that carries it out, not here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model::Model;

/// A linked machine and the models it has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// Its LM Link identifier.
    pub device: String,
    /// What people call it.
    pub device_name: String,
    /// The keys it has downloaded.
    pub keys: Vec<String>,
}

/// `config.json`: how the simulated LM Studio behaves when nothing goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Config {
    /// How long a load takes.
    pub load_ms: u64,
    /// The same, by key.
    pub load_ms_by_key: BTreeMap<String, u64>,
    /// What starting `lms` costs.
    pub lms_start_ms: u64,
    /// The API token REST clients need.
    pub token: Option<String>,
    /// Just-in-time loading.
    pub jit: bool,
    /// How long a just-in-time load lives unused.
    pub jit_ttl_seconds: u64,
    /// Whether a just-in-time load evicts the one before.
    pub jit_evict: bool,
    /// Memory for models; none is without limit.
    pub ram_bytes: Option<u64>,
    /// Which REST generations there are: `v1`, `v0` or `openai`.
    pub rest_version: String,
    /// Whether `/api/v0` is there.
    pub v0: bool,
    /// LM Studio 0.3.14: one resident model answers for every name.
    pub answers_any_model: bool,
    /// How long a loading instance stays out of the lists.
    pub list_loading_after_ms: u64,
    /// `finish` or `cancel`: a load whose `lms` went away without a word.
    pub on_client_gone: String,
    /// `bun` or `node`: the build of `lms`.
    pub client_build: String,
    /// A load stops half-way until it is released.
    pub hold_loads: bool,
    /// Linked machines.
    pub links: Vec<Link>,
    /// Whether their models come before those of this machine in the lists.
    pub linked_first: bool,
    /// What can be downloaded.
    pub catalogue: Vec<Model>,
    /// How long a download takes.
    pub download_ms: u64,
    /// How long the REST server takes to start.
    pub server_start_ms: u64,
    /// How long a generation takes.
    pub chat_ms: u64,
    /// The application starts and never opens its API port.
    pub never_starts: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            load_ms: 300,
            load_ms_by_key: BTreeMap::new(),
            lms_start_ms: 0,
            token: None,
            jit: true,
            jit_ttl_seconds: 3600,
            jit_evict: true,
            ram_bytes: None,
            rest_version: "v1".into(),
            v0: true,
            answers_any_model: false,
            list_loading_after_ms: 0,
            on_client_gone: "finish".into(),
            client_build: "bun".into(),
            hold_loads: false,
            links: Vec::new(),
            linked_first: false,
            catalogue: Vec::new(),
            download_ms: 500,
            server_start_ms: 0,
            chat_ms: 0,
            never_starts: false,
        }
    }
}
