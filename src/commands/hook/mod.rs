//! `lmswarm hook`: puts the gate before a command, or into opencode.

mod opencode;

use crate::cli::{HookArgs, HookPlace};
use crate::pure::outcome::exit::ExitCode;
use crate::pure::shell::wrapper::{Shell, functions};
use crate::sys::output::{self, ColorChoice, Console};

/// Runs the command.
pub(super) fn run(args: HookArgs) -> ExitCode {
    match args.place {
        HookPlace::Bash(wrap) => print(&functions(Shell::Bash, &wrap.names)),
        HookPlace::Zsh(wrap) => print(&functions(Shell::Zsh, &wrap.names)),
        HookPlace::Fish(wrap) => print(&functions(Shell::Fish, &wrap.names)),
        HookPlace::Powershell(wrap) => print(&functions(Shell::PowerShell, &wrap.names)),
        HookPlace::Opencode(args) => opencode::run(&args),
    }
}

/// Prints a script. Half a script would be worse than none, so a failure is no success.
pub(super) fn print(script: &str) -> ExitCode {
    match output::print(script) {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            Console::new(false, ColorChoice::Auto).error(&format!("the script cannot be printed: {error}"), None);
            ExitCode::Unexpected
        }
    }
}
