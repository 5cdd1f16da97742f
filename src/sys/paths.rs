//! Where things live for this user. The only file that names dirs.

use std::path::PathBuf;

/// The user's home, if it is known and absolute.
pub(crate) fn home() -> Option<PathBuf> {
    dirs::home_dir().filter(|path| path.is_absolute())
}

/// `$NAME` as a folder; unset, empty or relative counts as not set (XDG's own rule).
fn folder_from(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The folder for `lmswarm/config.json`: `$XDG_CONFIG_HOME`, else `~/.config`, on every
/// platform but Windows.
pub(crate) fn config_home() -> Option<PathBuf> {
    folder_from("XDG_CONFIG_HOME")
        .or_else(|| if cfg!(windows) { dirs::config_dir() } else { home().map(|home| home.join(".config")) })
}

/// opencode's own folder: `$XDG_CONFIG_HOME/opencode`, else `~/.config/opencode`, on
/// every platform, Windows too.
pub(crate) fn opencode_config() -> Option<PathBuf> {
    folder_from("XDG_CONFIG_HOME")
        .or_else(|| home().map(|home| home.join(".config")))
        .map(|folder| folder.join("opencode"))
}

/// opencode's data folder.
pub(crate) fn opencode_data() -> Option<PathBuf> {
    folder_from("XDG_DATA_HOME")
        .or_else(|| home().map(|home| home.join(".local/share")))
        .map(|folder| folder.join("opencode"))
}

/// opencode's cache folder.
pub(crate) fn opencode_cache() -> Option<PathBuf> {
    folder_from("XDG_CACHE_HOME")
        .or_else(|| home().map(|home| home.join(".cache")))
        .map(|folder| folder.join("opencode"))
}

/// The default state directory. Not a runtime directory: a cron job and a login shell must
/// meet on the same lock.
pub(crate) fn state_dir() -> Option<PathBuf> {
    folder_from("XDG_CACHE_HOME")
        .or_else(|| home().map(|home| home.join(".cache")))
        .map(|folder| folder.join("lmswarm"))
}
