//! Finds programs in the folders of `PATH`. Which of these folders count is for the caller to
//! say: a shell takes all of them, the search for `lms` does not.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Why a program cannot be started.
#[derive(Debug)]
pub(crate) enum NoProgram {
    /// There is none of that name.
    NotFound,
    /// There is, but it cannot be executed.
    NotExecutable,
}

/// The folders of `PATH`, in order. An empty one is the working directory, as for a shell.
pub(crate) fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let current = |folder: PathBuf| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    std::env::split_paths(&path).map(current).collect()
}

/// Where a shell looks when `PATH` is not set.
#[cfg(unix)]
const DEFAULT_PATH: &str = "/bin:/usr/bin";
#[cfg(not(unix))]
const DEFAULT_PATH: &str = "";

/// Looks for a program called `name` in each of `folders`.
///
/// # Errors
/// What a shell would answer with 127 or 126.
pub(crate) fn find_in(
    folders: impl IntoIterator<Item = PathBuf>,
    name: impl AsRef<OsStr>,
) -> Result<PathBuf, NoProgram> {
    let mut reason = NoProgram::NotFound;
    for folder in folders {
        match executable(&folder.join(name.as_ref())) {
            Ok(path) => return Ok(path),
            Err(NoProgram::NotExecutable) => reason = NoProgram::NotExecutable,
            Err(NoProgram::NotFound) => {}
        }
    }
    Err(reason)
}

/// The path of the program at `path`, which on Windows may be without its ending.
///
/// # Errors
/// As [`find_in`].
#[cfg(unix)]
pub(crate) fn executable(path: &Path) -> Result<PathBuf, NoProgram> {
    match std::fs::metadata(path) {
        // A shell takes an entry that cannot be looked at for absent, too.
        Err(_) => Err(NoProgram::NotFound),
        Ok(entry) if !entry.is_file() => Err(NoProgram::NotExecutable),
        Ok(_) => match rustix::fs::access(path, rustix::fs::Access::EXEC_OK) {
            Ok(()) => Ok(path.to_owned()),
            Err(_) => Err(NoProgram::NotExecutable),
        },
    }
}

/// The path of the program at `path`, which may be without its ending: npm's commands are
/// `NAME.cmd`, which Windows finds only by its list of endings.
///
/// # Errors
/// As [`find_in`].
#[cfg(not(unix))]
pub fn executable(path: &Path) -> Result<PathBuf, NoProgram> {
    if path.extension().is_some() && path.is_file() {
        return Ok(path.to_owned());
    }
    let endings = std::env::var("PATHEXT").unwrap_or_else(|_| ".COM;.EXE;.BAT;.CMD".to_owned());
    let with_ending = endings.split(';').filter(|ending| !ending.is_empty()).map(|ending| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    });
    with_ending.into_iter().find(|path| path.is_file()).ok_or(NoProgram::NotFound)
}
