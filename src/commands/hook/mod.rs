//! `lmswarm hook`: puts the gate before a command, or into opencode, and takes it away again.

mod opencode;

use super::error::CommandError;
use super::print;
use crate::cli::{HookArgs, HookPlace, WrapArgs};
use crate::pure::outcome::exit::ExitCode;
use crate::pure::shell::wrapper::{Shell, functions, removal};
use crate::sys::output::Console;

/// Runs the command.
pub(super) async fn run(args: HookArgs, console: Console) -> Result<ExitCode, CommandError> {
    match args.place {
        HookPlace::Bash(args) => wrap(Shell::Bash, &args, console),
        HookPlace::Zsh(args) => wrap(Shell::Zsh, &args, console),
        HookPlace::Fish(args) => wrap(Shell::Fish, &args, console),
        HookPlace::Powershell(args) => wrap(Shell::PowerShell, &args, console),
        HookPlace::Opencode(args) => opencode::run(&args, console).await,
    }
}

fn wrap(shell: Shell, WrapArgs { names, remove }: &WrapArgs, console: Console) -> Result<ExitCode, CommandError> {
    if *remove {
        let file = match shell {
            Shell::Bash => "~/.bashrc",
            Shell::Zsh => "~/.zshrc",
            Shell::Fish => "~/.config/fish/config.fish",
            Shell::PowerShell => "$PROFILE",
        };
        // What is printed is for the shell, and concerns the one that evaluates it.
        console.note(&format!("for good, take the line with `lmswarm hook` out of {file} as well"));
        return print(&removal(shell, names));
    }
    for name in names {
        shell.check_wrapped(name).map_err(|why| {
            CommandError::usage(why).hinted("wrap a program, such as `opencode`; see `lmswarm hook --help`")
        })?;
    }
    print(&functions(shell, names))
}
