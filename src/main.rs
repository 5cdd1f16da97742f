//! Parse, run, exit.

use std::process::ExitCode;
use std::time::Instant;

use lmswarm::{cli, commands};

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = cli::parse().unwrap_or_else(|error| error.exit());
    ExitCode::from(commands::run(cli, started).number())
}
