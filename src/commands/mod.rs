//! The commands, one file each: what was typed becomes calls of the gate, and what they came
//! to becomes text or JSON. Shared by them: `call` (one call of the gate) and `error`.

mod call;
mod completions;
mod config;
mod ensure;
mod error;
mod hook;
mod look;
mod mistakes;
mod run;

use std::time::Instant;

use anyhow::Context;

use crate::cli::{Cli, OutputArgs, Request, SettingsArgs};
use crate::pure::config::Config;
use crate::pure::outcome::exit::ExitCode;
use crate::sys::output::{self, Console};
use crate::sys::runtime;
use crate::sys::{log, settings};
use error::CommandError;

/// Runs the command of a process that began at `started`.
pub(crate) fn run(cli: Cli, started: Instant) -> ExitCode {
    let console = match cli.command.output() {
        Some(OutputArgs { quiet, color, .. }) => Console::new(*quiet, *color),
        None => Console::default(),
    };
    let json = cli.command.wants_json();
    dispatch(cli.command, console, started).unwrap_or_else(|error| error.report(console, json))
}

fn dispatch(command: Request, console: Console, started: Instant) -> Result<ExitCode, CommandError> {
    let runtime = runtime::start().map_err(|error| {
        CommandError::config(format!("lmswarm cannot open the files that it works with: {error}"))
            .hinted("raise the limit on open files (`ulimit -n`)")
    })?;
    let done = match command {
        Request::Ensure(args) => runtime.block_on(ensure::run(args, console, started)),
        Request::Run(args) => runtime.block_on(run::run(args, console, started)),
        Request::Hook(args) => runtime.block_on(hook::run(args, console)),
        Request::Completions(args) => runtime.block_on(completions::run(args)),
        Request::Config(args) => config::run(args, console),
    };
    // Tasks that watch signals or draw progress are still there. They end with the process, and to
    // end them before it would take longer.
    std::mem::forget(runtime);
    done
}

/// Gathers the configuration, begins to log, and tells what is odd about it.
fn gather(args: &SettingsArgs, console: Console) -> Result<Config, CommandError> {
    let settings = settings::gather(args.config.as_deref(), args.options.0.clone())?;
    log::start(args.output.verbose, settings.config.log_file.clone());
    if log::explains() {
        for line in settings.explain() {
            tracing::debug!("{line}");
        }
    }
    for warning in &settings.warnings {
        console.warning(warning);
    }
    Ok(settings.config)
}

/// Prints what a command was asked for. A part of it would be worse than nothing, so an output
/// that fails is no success.
fn print(text: &str) -> Result<ExitCode, CommandError> {
    printed(output::print(text))
}

fn printed(done: std::io::Result<()>) -> Result<ExitCode, CommandError> {
    match done.context("the output cannot be printed") {
        Ok(()) => Ok(ExitCode::Success),
        Err(error) => Err(CommandError::unexpected(&error)),
    }
}
