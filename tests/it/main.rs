//! Drives the built binary against the simulator, as a user would, and asserts on what the
//! simulator recorded: loads, requests, order. Never on time.

#![expect(unreachable_pub, reason = "nothing leaves a test; pub marks what other modules use")]
#![expect(clippy::print_stderr, reason = "a test that fails prints the record")]
#![expect(clippy::needless_pass_by_value, reason = "`json!({ … })` reads better without a `&` before it")]

#[cfg(unix)]
mod campaign;
mod campaign_found;
mod config;
#[cfg(unix)]
mod e2e;
mod ensure;
mod examples;
mod failures;
mod fleet;
mod hardening;
mod herd;
mod hook_opencode;
mod inputs;
mod limits;
mod lms;
mod opencode;
mod opencode_real;
mod output;
mod planted_links;
mod proxy;
mod rest;
mod roles;
mod run;
mod security;
mod server;
mod shells;
mod simulator;
mod support;
mod token;
