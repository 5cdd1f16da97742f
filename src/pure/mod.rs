//! Decisions: no I/O, no clock, no environment; whatever they need comes in as arguments.

pub mod base_url;
pub mod completion;
pub mod config;
pub mod eviction;
pub mod exit;
pub mod failure;
pub mod front_matter;
pub mod hook;
pub mod json;
pub mod jsonc;
pub mod lms_output;
pub mod load;
pub mod model;
pub mod opencode;
pub mod opencode_schema;
pub mod options;
pub mod plugin;
pub mod report;
pub mod residency;
pub mod rest;
pub mod roles;
pub mod run;
pub mod text;
