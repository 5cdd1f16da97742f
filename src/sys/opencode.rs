//! Finds and reads opencode's configuration: every source that needs no network, in
//! opencode's own order. `opencode debug config` would tell the same, in two seconds.

use std::path::{Path, PathBuf};

use super::paths;
use crate::pure::opencode::{self, Source, Surroundings, Trust, project_folders};

/// Most that is read of a file.
const MOST_BYTES: u64 = 1024 * 1024;

/// Reads every source, lowest first.
///
/// # Errors
/// A sentence with file, line and column for a text that opencode would refuse as well.
pub fn sources() -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    let mut add = |path: PathBuf, trust| -> Result<(), String> {
        sources.extend(read(&path, trust)?);
        Ok(())
    };
    if let Some(folder) = paths::opencode_config() {
        for name in ["config.json", "opencode.json", "opencode.jsonc"] {
            add(folder.join(name), Trust::User)?;
        }
    }
    if let Some(path) = variable("OPENCODE_CONFIG") {
        add(PathBuf::from(path), Trust::User)?;
    }
    let own = paths::home().map(|home| home.join(".opencode"));
    if !is_true("OPENCODE_DISABLE_PROJECT_CONFIG")
        && let Ok(working) = std::env::current_dir()
    {
        let root = repository_root(&working);
        let folders = project_folders(&working, root.as_deref());
        for folder in &folders {
            for name in ["opencode.json", "opencode.jsonc"] {
                add(folder.join(name), Trust::Project)?;
            }
        }
        // Among these the outer folder wins over the inner one.
        for folder in folders.iter().rev().map(|folder| folder.join(".opencode")).filter(|it| Some(it) != own.as_ref())
        {
            for name in ["opencode.json", "opencode.jsonc"] {
                add(folder.join(name), Trust::Project)?;
            }
        }
    }
    let folders = [own, variable("OPENCODE_CONFIG_DIR").map(PathBuf::from)];
    for folder in folders.into_iter().flatten() {
        for name in ["opencode.json", "opencode.jsonc"] {
            add(folder.join(name), Trust::User)?;
        }
    }
    if let Some(text) = variable("OPENCODE_CONFIG_CONTENT") {
        let name = "OPENCODE_CONFIG_CONTENT".to_owned();
        let folder = std::env::current_dir().unwrap_or_default();
        sources.push(opencode::read(&text, name, Trust::User, &Around { folder: &folder })?);
    }
    for name in ["opencode.json", "opencode.jsonc"] {
        sources.extend(read(&managed_folder().join(name), Trust::User)?);
    }
    Ok(sources)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn is_true(name: &str) -> bool {
    variable(name).is_some_and(|text| matches!(text.to_lowercase().as_str(), "1" | "true"))
}

fn managed_folder() -> PathBuf {
    if cfg!(target_os = "macos") {
        PathBuf::from("/Library/Application Support/opencode")
    } else if cfg!(windows) {
        PathBuf::from(variable("ProgramData").unwrap_or_else(|| "C:\\ProgramData".to_owned())).join("opencode")
    } else {
        PathBuf::from("/etc/opencode")
    }
}

/// The top of the git work tree around `working`. A linked work tree has a `.git` file, and
/// is a limit of its own. Without `git` on PATH opencode finds none.
pub fn repository_root(working: &Path) -> Option<PathBuf> {
    let root = working.ancestors().find(|folder| folder.join(".git").exists())?;
    let git = if cfg!(windows) { "git.exe" } else { "git" };
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).any(|folder| folder.join(git).is_file()).then(|| root.to_owned())
}

fn read(path: &Path, trust: Trust) -> Result<Option<Source>, String> {
    let name = path.display().to_string();
    let text = match read_regular(path) {
        Ok(text) => text,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(format!("{name}: cannot be read: {error}")),
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    opencode::read(&text, name, trust, &Around { folder }).map(Some)
}

/// Reads a file that a project may have chosen: no device that never ends, no pipe that
/// never begins.
fn read_regular(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind};
    let found = path.metadata()?;
    if !found.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    if found.len() > MOST_BYTES {
        return Err(Error::new(ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Not there, or no folder to look in: `.opencode` may be a file, or somebody else's.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// What stands around a source: the environment, and the files beside it.
struct Around<'a> {
    folder: &'a Path,
}

impl Surroundings for Around<'_> {
    fn variable(&self, name: &str) -> String {
        std::env::var(name).unwrap_or_default()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        let path = match (path.strip_prefix("~/"), paths::home()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.folder.join(path),
        };
        read_regular(&path).map_err(|error| error.to_string())
    }
}
