//! Decisions: no I/O, no clock, no environment; whatever they need comes in as arguments.

pub mod arguments;
pub mod backend;
pub mod base_url;
pub(crate) mod choice;
pub mod config;
pub mod cooldown;
pub(crate) mod decision;
pub(crate) mod eviction;
pub(crate) mod fnv;
pub mod http;
pub(crate) mod json;
pub(crate) mod json_list;
pub(crate) mod jsonc;
pub(crate) mod llamacpp;
pub mod llamaswap;
pub mod lmstudio;
pub mod load;
pub mod model;
pub mod opencode;
pub(crate) mod outcome;
pub mod residency;
pub(crate) mod shell;
pub mod text;
pub mod units;
