//! The git work tree around a folder, found as `git` and opencode find it, and what belongs to
//! the project that the user stands in. `git` is not run.

use std::path::{Path, PathBuf};

use crate::sys::search_path::{self, NoProgram};
use crate::sys::{files, paths};

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

/// The folders whose files others may have written: the working directory, and every repository
/// around it.
#[derive(Debug)]
pub(crate) struct Project(Vec<PathBuf>);

impl Project {
    /// The project around the working directory.
    pub(crate) fn here() -> Self {
        let resolved = |path: PathBuf| path.canonicalize().unwrap_or(path);
        let working = std::env::current_dir().ok().map(resolved);
        let home = paths::home().map(resolved);
        Self(working.map_or_else(Vec::new, |working| {
            let repositories = working.ancestors().filter(|folder| is_repository(&folder.join(".git")));
            outermost_first(&working, repositories, home.as_deref())
        }))
    }

    /// The folder of the project that `path` is in, as it is written or behind its links.
    pub(crate) fn holding(&self, path: &Path) -> Option<&Path> {
        let resolved = path.canonicalize();
        let is_in = |folder: &&PathBuf| {
            path.starts_with(folder) || resolved.as_ref().is_ok_and(|resolved| resolved.starts_with(folder))
        };
        self.0.iter().find(is_in).map(PathBuf::as_path)
    }
}

/// The folders of a project. One that holds the user's home is none: everything of the user's is
/// in it, LM Studio too.
fn outermost_first<'a>(
    working: &'a Path,
    repositories: impl Iterator<Item = &'a Path>,
    home: Option<&Path>,
) -> Vec<PathBuf> {
    let is_project = |folder: &&Path| folder.parent().is_some() && home.is_none_or(|home| !home.starts_with(folder));
    let mut folders: Vec<PathBuf> =
        std::iter::once(working).chain(repositories).filter(is_project).map(Path::to_owned).collect();
    folders.sort();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_around_the_home_is_no_project() {
        for (working, repositories, project) in [
            ("/srv/app", &["/srv/app"][..], &["/srv/app"][..]),
            ("/home/me/app/src", &["/home/me/app"][..], &["/home/me/app", "/home/me/app/src"][..]),
            ("/home/me/app/sub", &["/home/me/app/sub", "/home/me/app"], &["/home/me/app", "/home/me/app/sub"]),
            // The home is a repository of dotfiles.
            ("/home/me", &["/home/me"], &[]),
            ("/home/me/app", &["/home/me"], &["/home/me/app"]),
            ("/home", &[], &[]),
            ("/", &["/"], &[]),
            ("/srv/app", &["/"], &["/srv/app"]),
        ] {
            let repositories = repositories.iter().map(Path::new);
            let found = outermost_first(Path::new(working), repositories, Some(Path::new("/home/me")));
            assert_eq!(found, project.iter().map(PathBuf::from).collect::<Vec<_>>(), "{working}");
        }
        assert!(outermost_first(Path::new("/"), std::iter::empty(), None).is_empty());
    }
}
