//! Parse, run, exit.

use std::process::ExitCode;

use clap::Parser;
use lmswarm::cli::Cli;
use lmswarm::commands;

fn main() -> ExitCode {
    ExitCode::from(commands::run(Cli::parse()).number())
}
