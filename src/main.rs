//! Parse, run, exit.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use lmswarm::cli::Cli;
use lmswarm::commands;

fn main() -> ExitCode {
    let started = Instant::now();
    ExitCode::from(commands::run(Cli::parse(), started).number())
}
