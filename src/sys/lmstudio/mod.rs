//! LM Studio's files on this machine: its home, its `lms`, its server's last port. Reads
//! only; LM Studio's own tools write the pointer file when they miss it, we do not.

pub mod lms;

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::sys::{files, paths};

/// Finds LM Studio's home the way its own tools do: the pointer file, else the folder of
/// older versions if it exists, else `~/.lmstudio`.
pub fn home() -> Option<PathBuf> {
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
pub fn last_port() -> Option<(u16, PathBuf)> {
    let path = home()?.join(".internal/http-server-config.json");
    let text = files::read(&path, 1).ok()?;
    let json: Json = serde_json::from_slice(&text).ok()?;
    let port = u16::try_from(json["port"].as_u64()?).ok().filter(|port| *port > 0)?;
    Some((port, path))
}

/// Where `lms` is, or the places where it was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Here.
    Program(PathBuf),
    /// In none of these places.
    Nowhere(Vec<String>),
}

/// Finds the `lms` program: the configured path and no other, else PATH, else LM Studio's
/// home (`lms bootstrap` need not have put it on PATH).
pub fn find_lms(configured: Option<&Path>) -> Found {
    if let Some(path) = configured {
        return if is_program(path) {
            Found::Program(path.to_owned())
        } else {
            Found::Nowhere(vec![format!("{} (configured as lmsPath)", path.display())])
        };
    }
    let name = if cfg!(windows) { "lms.exe" } else { "lms" };
    let on_path = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        // A relative entry would let the working directory choose the program.
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| is_program(path));
    if let Some(path) = on_path {
        return Found::Program(path);
    }
    let mut tried = vec!["PATH".to_owned()];
    let user = paths::home();
    let homes =
        [home(), user.as_ref().map(|it| it.join(".lmstudio")), user.as_ref().map(|it| it.join(".cache/lm-studio"))];
    for home in homes.into_iter().flatten() {
        let path = home.join("bin").join(name);
        if is_program(&path) {
            return Found::Program(path);
        }
        let place = path.display().to_string();
        if !tried.contains(&place) {
            tried.push(place);
        }
    }
    Found::Nowhere(tried)
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}
