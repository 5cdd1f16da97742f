//! `lmswarm hook opencode`: installs the plugin that gates every request of opencode.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::cli::HookOpencodeArgs;
use crate::commands::error::CommandError;
use crate::commands::print;
use crate::pure::opencode::plugin::{self, Owner};
use crate::pure::outcome::exit::ExitCode;
use crate::sys::output::Console;
use crate::sys::{files, paths, repository};

/// Runs the command.
pub(super) fn run(args: &HookOpencodeArgs, console: Console) -> Result<ExitCode, CommandError> {
    if args.print {
        return print(plugin::text().trim_end());
    }
    install(args.project, console)?;
    Ok(ExitCode::Success)
}

fn install(for_project: bool, console: Console) -> Result<(), CommandError> {
    let path = place(for_project)?;
    let shown = path.display();
    let found = match files::read(&path, 1) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => None,
        Err(error) => return Err(CommandError::config(format!("{shown} cannot be read: {error}"))),
    };
    let refused = |why: &str| {
        Err(CommandError::config(format!("{shown} {why}, so it is left alone"))
            .hinted("move it away; `lmswarm hook opencode --print` shows what would be there instead"))
    };
    let done = match found.as_deref().map(plugin::owner) {
        Some(Owner::Current) => {
            console.note(&format!("{shown} is there already"));
            return Ok(());
        }
        Some(Owner::Changed) => return refused("was changed since lmswarm wrote it"),
        Some(Owner::Stranger) => return refused("was not written by lmswarm"),
        Some(Owner::Other(version)) => {
            format!("{shown} is of version {} now; it was of version {version}", env!("CARGO_PKG_VERSION"))
        }
        None => format!("{shown} is installed; opencode loads it when it starts next"),
    };
    files::replace(&path, plugin::text().as_bytes())
        .map_err(|error| CommandError::config(format!("{shown} cannot be written: {error}")))?;
    console.note(&done);
    Ok(())
}

/// Where the plugin belongs. opencode reads `plugin/` and `plugins/` alike: a copy in one of
/// them stays there, so that there are never two.
fn place(for_project: bool) -> Result<PathBuf, CommandError> {
    let folder = if for_project { project()?.join(".opencode") } else { global()? };
    let other = folder.join("plugins").join(plugin::FILE);
    Ok(if other.exists() { other } else { folder.join("plugin").join(plugin::FILE) })
}

fn global() -> Result<PathBuf, CommandError> {
    paths::opencode_config().ok_or_else(|| {
        CommandError::config("there is no home to find opencode's folder in")
            .hinted("set HOME, or XDG_CONFIG_HOME, to an absolute path")
    })
}

/// The top of the git work tree, else the working directory.
fn project() -> Result<PathBuf, CommandError> {
    let working = std::env::current_dir()
        .map_err(|error| CommandError::config(format!("the working directory cannot be found: {error}")))?;
    Ok(repository::root(&working).unwrap_or(working))
}
