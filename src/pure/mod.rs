//! Decisions: no I/O, no clock, no environment; whatever they need comes in as arguments.

pub mod arguments;
pub mod base_url;
pub mod config;
pub mod cooldown;
pub mod decision;
pub mod eviction;
pub mod fnv;
pub mod http;
pub mod json;
pub mod json_list;
pub mod jsonc;
pub mod lmstudio;
pub mod load;
pub mod model;
pub mod opencode;
pub mod outcome;
pub mod residency;
pub mod shell;
pub mod text;
pub mod units;
