//! `lmswarm hook`: puts the gate before a command, or into opencode.

mod opencode;

use super::error::CommandError;
use super::print;
use crate::cli::{HookArgs, HookPlace};
use crate::pure::outcome::exit::ExitCode;
use crate::pure::shell::wrapper::{Shell, functions};
use crate::sys::output::Console;

/// Runs the command.
pub(super) fn run(args: HookArgs, console: Console) -> Result<ExitCode, CommandError> {
    match args.place {
        HookPlace::Bash(wrap) => print(&functions(Shell::Bash, &wrap.names)),
        HookPlace::Zsh(wrap) => print(&functions(Shell::Zsh, &wrap.names)),
        HookPlace::Fish(wrap) => print(&functions(Shell::Fish, &wrap.names)),
        HookPlace::Powershell(wrap) => print(&functions(Shell::PowerShell, &wrap.names)),
        HookPlace::Opencode(args) => opencode::run(&args, console),
    }
}
