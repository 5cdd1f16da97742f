//! Drives the built binary against the simulator, as a user would, and asserts on what the
//! simulator recorded: loads, requests, order. Never on time.

#![expect(unreachable_pub, reason = "nothing leaves a test; pub marks what other modules use")]
#![expect(clippy::print_stderr, reason = "a test that fails prints the record")]
#![expect(clippy::needless_pass_by_value, reason = "`json!({ … })` reads better without a `&` before it")]

mod authentication;
mod base_url;
mod callers;
#[cfg(unix)]
mod campaign;
mod cancellation;
mod cold_load;
#[cfg(unix)]
mod completions;
mod config;
mod cooldown;
mod copies;
#[cfg(unix)]
mod demo;
#[cfg(unix)]
mod desk;
mod download;
mod drift;
mod endless_input;
mod escaping;
mod eviction;
mod examples;
mod fail_mode;
#[cfg(target_os = "linux")]
mod gguf;
mod help;
#[cfg(unix)]
mod keep_warm;
mod layers;
mod leader;
mod link;
mod lists;
#[cfg(target_os = "linux")]
mod llama;
#[cfg(target_os = "linux")]
mod llama_cpp;
#[cfg(target_os = "linux")]
mod llama_server;
mod llama_swap;
mod llama_swap_conflict;
mod llama_swap_failures;
mod llama_swap_load;
mod llama_swap_names;
mod llama_swap_simulator;
mod lms_program;
#[cfg(unix)]
mod lms_wrapper;
mod load_failures;
mod log_file;
mod model_names;
mod needs;
mod not_downloaded;
mod not_lm_studio;
mod one_load;
mod opencode_address;
mod opencode_config;
#[cfg(unix)]
mod opencode_from_a_shell;
mod outage;
mod output;
mod parsers;
#[cfg(unix)]
mod planted;
#[cfg(unix)]
mod plugin;
#[cfg(unix)]
mod plugin_in_node;
mod plugin_install;
mod proxy;
mod rest_load;
mod roles;
mod run;
#[cfg(unix)]
mod scarce_resources;
mod server_start;
mod several_models;
mod several_servers;
#[cfg(unix)]
mod shell_hook;
#[cfg(unix)]
mod shells;
mod simulator;
#[cfg(unix)]
mod state_dir;
mod still_loading;
mod support;
#[cfg(target_os = "linux")]
mod terminal;
mod tls;
mod token;
mod unload;
mod usage;
mod verdict_cache;
mod waiting;
mod warm;
