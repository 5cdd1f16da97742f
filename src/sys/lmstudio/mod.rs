//! LM Studio's files on this machine: its home, its `lms`, its server's last port. Reads
//! only; LM Studio's own tools write the pointer file when they miss it, we do not.

pub(crate) mod lms;

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::sys::repository::Project;
use crate::sys::search_path::{self, executable};
use crate::sys::{files, paths};

/// Finds LM Studio's home the way its own tools do: the pointer file, else the folder of
/// older versions if it exists, else `~/.lmstudio`.
pub(crate) fn home() -> Option<PathBuf> {
    let home = paths::home()?;
    let home = home.canonicalize().unwrap_or(home);
    if let Ok(pointer) = files::read(&home.join(".lmstudio-home-pointer"), 1) {
        let path = PathBuf::from(String::from_utf8_lossy(&pointer).trim());
        if path.is_absolute() {
            return Some(path);
        }
    }
    let old = home.join(".cache/lm-studio");
    Some(if old.is_dir() { old } else { home.join(".lmstudio") })
}

/// The port LM Studio's REST server had last, and the file that says so. The file stays
/// when the server stops, and is missing if it never ran.
pub(crate) fn last_port() -> Option<(u16, PathBuf)> {
    let path = home()?.join(".internal/http-server-config.json");
    let text = files::read(&path, 1).ok()?;
    let json: Json = serde_json::from_slice(&text).ok()?;
    let port = u16::try_from(json["port"].as_u64()?).ok().filter(|port| *port > 0)?;
    Some((port, path))
}

/// Finds the `lms` program: the configured path and no other, else PATH, else LM Studio's
/// home (`lms bootstrap` need not have put it on PATH). What a project puts on PATH, such as
/// the `node_modules/.bin` of an npm script, is passed over.
///
/// # Errors
/// The places where it is not.
pub(crate) fn find_lms(configured: Option<&Path>) -> Result<PathBuf, Vec<String>> {
    if let Some(path) = configured {
        return executable(path).map_err(|_| vec![format!("{} (configured as lmsPath)", path.display())]);
    }
    let name = if cfg!(windows) { "lms.exe" } else { "lms" };
    // A relative entry would let the working directory choose the program.
    let absolute = search_path::folders().into_iter().filter(|folder| folder.is_absolute());
    let mut tried = vec!["PATH".to_owned()];
    let mut project = None;
    for folder in absolute {
        let Ok(path) = executable(&folder.join(name)) else { continue };
        let Some(top) = project.get_or_insert_with(Project::here).holding(&folder) else { return Ok(path) };
        let (shown, top) = (path.display(), top.display());
        tracing::debug!("`{shown}` is passed over, since PATH leads into the project {top}; lmsPath can name it");
        tried.push(format!("{shown}, which is passed over as part of the project {top} unless lmsPath names it"));
    }
    let user = paths::home();
    let homes =
        [home(), user.as_ref().map(|it| it.join(".lmstudio")), user.as_ref().map(|it| it.join(".cache/lm-studio"))];
    for home in homes.into_iter().flatten() {
        let path = home.join("bin").join(name);
        if let Ok(path) = executable(&path) {
            return Ok(path);
        }
        let place = path.display().to_string();
        if !tried.contains(&place) {
            tried.push(place);
        }
    }
    Err(tried)
}
