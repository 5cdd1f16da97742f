//! The parts of the `lmswarm` program. This is no library for others: it is public so that
//! the binary, the tests and the benchmarks share it.
//!
//! # The map
//!
//! Calls point one way only, never back:
//!
//! ```text
//! main  ->  commands  ->  resolve  ->  gate  ->  backend  ->  sys  ->  pure
//! ```
//!
//! - `cli`: what can be typed; made from the table in `pure::config::options`. Read by
//!   `commands` alone.
//! - `commands`: one file each; a typed request becomes a call of the gate, and its
//!   outcome becomes text or JSON.
//! - `resolve`: words to models on servers. It asks no server.
//! - `gate`: the one place where order matters: observe, decide, lead or wait, repair, load,
//!   verify.
//! - `backend`: what the gate asks of a server, for each program that serves models.
//! - [`sys`]: effects. Each file has one job and is the only one to name its crate (reqwest
//!   in `http`, rustls in `tls`, fs2 in `lock`, dirs in `paths`, terminal_size in `progress`,
//!   sysinfo in `machine`) or its OS facility.
//! - [`pure`]: decisions. No I/O, no clock, no environment.
//!
//! # What always holds
//!
//! - Success is only ever reported from an observation that showed the model addressable (a
//!   young one, where it had to come from `lms ps`), never because a load said so.
//! - Whatever cannot be read is *unknown*, never *empty*: nothing is loaded on a guess.
//! - A warm call takes one round of two requests. It takes no lock, starts no child, and
//!   writes nothing.
//! - What changes what is loaded asks to be shown the leadership (`Lead`).
//! - Only an instance that `lms ps` calls idle, and that is not loading, is unloaded; and,
//!   at once, what our own load brought up under a wrong name.

mod backend;
mod cli;
mod commands;
mod gate;
pub mod pure;
#[cfg(test)]
mod readme;
mod resolve;
pub mod sys;

use std::process::ExitCode;
use std::time::Instant;

/// Parses the command line, runs its command, and returns how the process ends.
pub fn main() -> ExitCode {
    let started = Instant::now();
    let cli = cli::parse().unwrap_or_else(|error| error.exit());
    ExitCode::from(commands::run(cli, started).number())
}
