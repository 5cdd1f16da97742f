//! The git work tree around a folder, found as `git` and opencode find it. `git` is not run.

use std::path::{Path, PathBuf};

use crate::sys::files;
use crate::sys::search_path::{self, NoProgram};

/// The top of the work tree around `working`. A linked work tree has a `.git` file, and is a
/// limit of its own. Without `git` on `PATH` opencode finds none.
pub(crate) fn root(working: &Path) -> Option<PathBuf> {
    let root = working.ancestors().find(|folder| is_repository(&folder.join(".git")))?;
    let git = if cfg!(windows) { "git.exe" } else { "git" };
    let has_git = !matches!(search_path::find_in(search_path::folders(), git), Err(NoProgram::NotFound));
    has_git.then(|| root.to_owned())
}

/// What `git` takes for a repository: a folder with these three, or a file that points to one.
/// A folder that is none is passed over, as `git` does.
fn is_repository(path: &Path) -> bool {
    let pointer = || files::read(path, 1).is_ok_and(|text| text.starts_with(b"gitdir:"));
    (path.join("HEAD").exists() && path.join("objects").is_dir() && path.join("refs").is_dir()) || pointer()
}
