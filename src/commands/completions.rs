//! `lmswarm completions`: prints completions for a shell, and for those what can stand for
//! MODEL.

use clap::CommandFactory;

use super::hook::print;
use crate::cli::{Cli, CompletionsArgs};
use crate::pure::exit::ExitCode;

/// Runs the command.
pub(super) async fn run(args: CompletionsArgs) -> ExitCode {
    let Some(shell) = args.shell else { return ExitCode::Success };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lmswarm", &mut script);
    print(&String::from_utf8_lossy(&script))
}
