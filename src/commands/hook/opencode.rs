//! `lmswarm hook opencode`: installs the plugin that gates every request of opencode, and removes
//! it again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cli::HookOpencodeArgs;
use crate::commands::error::CommandError;
use crate::commands::look::LIMIT;
use crate::commands::print;
use crate::pure::config::options::Layer;
use crate::pure::http::Reply;
use crate::pure::lmstudio::rest::is_greeting;
use crate::pure::opencode::plugin::{self, Owner};
use crate::pure::opencode::roles::Role;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::text::shell_word;
use crate::resolve::{Endpoint, ResolveError, Resolver};
use crate::sys::http::Server;
use crate::sys::output::Console;
use crate::sys::{files, paths, repository, settings};

/// Runs the command.
pub(super) async fn run(args: &HookOpencodeArgs, console: Console) -> Result<ExitCode, CommandError> {
    if args.print {
        return print(plugin::text().trim_end());
    }
    let folder = if args.project { project_folder()? } else { global()? };
    if args.remove {
        remove(&folder, console)?;
    } else {
        install(&folder, console)?;
        tell_what_is_gated(console).await;
    }
    Ok(ExitCode::Success)
}

/// The two places of the plugin: opencode reads `plugin/` and `plugins/` alike.
fn places(folder: &Path) -> [PathBuf; 2] {
    ["plugin", "plugins"].map(|name| folder.join(name).join(plugin::FILE))
}

/// What is at that place, if anything.
fn read(path: &Path) -> Result<Option<String>, CommandError> {
    match files::read(path, 1) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => Ok(None),
        Err(error) => Err(CommandError::config(format!("{} cannot be read: {error}", path.display()))),
    }
}

fn left_alone(path: &Path, why: &str, hint: String) -> CommandError {
    CommandError::config(format!("{} {why}, so it is left alone", path.display())).hinted(hint)
}

fn install(folder: &Path, console: Console) -> Result<(), CommandError> {
    let [usual, other] = places(folder);
    // A copy in the other place stays there, so that there are never two.
    let path = if other.exists() { other } else { usual };
    let shown = path.display();
    let refused = |why: &str| {
        let hint = "move it away; `lmswarm hook opencode --print` shows what would be there instead";
        Err(left_alone(&path, why, hint.to_owned()))
    };
    let done = match read(&path)?.as_deref().map(plugin::owner) {
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

/// Removes what lmswarm wrote, in both places.
fn remove(folder: &Path, console: Console) -> Result<(), CommandError> {
    let mut is_gone = true;
    for path in places(folder) {
        let refused = |why: &str| {
            let hint =
                format!("if you do not need it, remove it yourself: `rm {}`", shell_word(&path.display().to_string()));
            Err(left_alone(&path, why, hint))
        };
        match read(&path)?.as_deref().map(plugin::owner) {
            None => continue,
            Some(Owner::Changed) => return refused("was changed since lmswarm wrote it"),
            Some(Owner::Stranger) => return refused("was not written by lmswarm"),
            Some(Owner::Current | Owner::Other(_)) => {}
        }
        std::fs::remove_file(&path)
            .map_err(|error| CommandError::config(format!("{} cannot be removed: {error}", path.display())))?;
        console.note(&format!("{} is removed; an opencode that runs keeps it until it ends", path.display()));
        is_gone = false;
    }
    if is_gone {
        console.note(&format!("there is no plugin of lmswarm in {}", folder.display()));
    }
    Ok(())
}

/// Says what an installation comes to here: which models are gated, and whether their server is
/// up. The plugin is installed whatever comes of it.
async fn tell_what_is_gated(console: Console) {
    let config = match settings::gather(None, Layer::default()) {
        Ok(settings) => settings.config,
        Err(wrong) => return console.warning(&wrong.reason),
    };
    let located = Resolver::with_roles(&config).and_then(|resolver| locate(&resolver));
    let (roles, endpoint) = match located {
        Ok(located) => located,
        Err(ResolveError::Argument(reason) | ResolveError::Config { reason, .. }) => return console.warning(&reason),
    };
    let Some(Endpoint { base, token, .. }) = endpoint else {
        return console.warning(&format!("{roles}; no request of these is gated: see `--providers` in the README"));
    };
    let server = Server::new(base.clone(), token, LIMIT);
    let reply = match &server {
        Ok(server) => server.get("lmstudio-greeting").await,
        Err(_) => Reply::TimedOut,
    };
    let state = match reply {
        Reply::Answer(answer) if is_greeting(&answer.body) => "is up",
        Reply::Answer(_) => "answers, but not as LM Studio does",
        Reply::Refused if base.is_loopback() => "is off, and will be started when it is needed",
        _ => "does not answer",
    };
    console.note(&format!("{roles}; the server {base} {state}"));
}

/// What `main` and `small` are, and the server of the first that is gated.
fn locate<'a>(resolver: &Resolver<'a>) -> Result<(String, Option<Endpoint<'a>>), ResolveError> {
    let roles = resolver.roles();
    let mut said = Vec::new();
    let mut endpoint = None;
    for role in [Role::Main, Role::Small] {
        match roles.model_of(&role) {
            Ok(model) if roles.is_gated(&model.provider) => {
                let (_, located) = resolver.locate(&model)?;
                endpoint = endpoint.or(located.into_iter().next());
                said.push(format!("{role} is {}", model.reference()));
            }
            Ok(model) => said.push(format!("{role} is {}, which is not gated", model.reference())),
            Err(_) => said.push(format!("{role} is not set")),
        }
    }
    Ok((said.join(", "), endpoint))
}

fn global() -> Result<PathBuf, CommandError> {
    paths::opencode_config().ok_or_else(|| {
        CommandError::config("there is no home to find opencode's folder in")
            .hinted("set HOME, or XDG_CONFIG_HOME, to an absolute path")
    })
}

/// opencode's folder at the top of the git work tree, else in the working directory. The project
/// may have put links there, and through none of them is anything written or removed elsewhere.
fn project_folder() -> Result<PathBuf, CommandError> {
    let working = std::env::current_dir()
        .map_err(|error| CommandError::config(format!("the working directory cannot be found: {error}")))?;
    let top = repository::root(&working).unwrap_or(working);
    let folder = top.join(".opencode");
    let files = places(&folder);
    let folders = files.iter().filter_map(|file| file.parent());
    for path in std::iter::once(folder.as_path()).chain(folders).chain(files.iter().map(PathBuf::as_path)) {
        let shown = path.display();
        let refused = |why: String| {
            let hint = "put a folder in the place of the link, or install the plugin for all projects: `lmswarm hook opencode`";
            CommandError::config(why).hinted(hint)
        };
        match files::outside(path, &top) {
            Ok(None) => {}
            Ok(Some(target)) => {
                let (target, top) = (target.display(), top.display());
                return Err(refused(format!("{shown} leads to {target}, outside of the project {top}")));
            }
            Err(error) => return Err(refused(format!("{shown} cannot be followed: {error}"))),
        }
    }
    Ok(folder)
}
