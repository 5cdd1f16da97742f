//! From what was typed to an exit code. One file for each command.

mod config;
mod ensure;
mod gated;
mod resolve;

use crate::cli::{Cli, Request};
use crate::pure::exit::ExitCode;
use crate::sys::term::Console;

/// Runs the command.
pub fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let console = Console::new(false, crate::sys::term::ColorChoice::Auto);
            console.error(&format!("the asynchronous runtime cannot be started: {error}"), None);
            return ExitCode::Unexpected;
        }
    };
    let exit = match cli.command {
        Request::Ensure(args) => runtime.block_on(ensure::run(args)),
        Request::Config(args) => config::run(args),
    };
    // Whatever is still running watches signals or draws progress; nobody waits for it.
    runtime.shutdown_background();
    exit
}
