//! From what was typed to an exit code. One file for each command.

pub(crate) mod call;
mod completions;
mod config;
mod ensure;
mod hook;
mod run;

use std::time::Instant;

use crate::cli::{Cli, Deferred, Request};
use crate::pure::outcome::exit::ExitCode;
use crate::sys::output::Console;

/// Runs the command of a process that began at `started`.
pub fn run(cli: Cli, started: Instant) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let console = Console::new(false, crate::sys::output::ColorChoice::Auto);
            console.error(&format!("the asynchronous runtime cannot be started: {error}"), None);
            return ExitCode::Unexpected;
        }
    };
    let exit = match cli.command {
        Request::Ensure(Deferred(args)) => runtime.block_on(ensure::run(args, started)),
        Request::Run(Deferred(args)) => runtime.block_on(run::run(args, started)),
        Request::Hook(args) => hook::run(args),
        Request::Completions(args) => runtime.block_on(completions::run(args)),
        Request::Config(args) => config::run(args),
    };
    // Whatever is still running watches signals or draws progress; nobody waits for it.
    runtime.shutdown_background();
    exit
}
