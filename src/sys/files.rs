//! Replaces a file of the user's as a whole.

use std::fs;
use std::io;
use std::path::Path;

/// Writes `text` beside `path` and renames it there: a reader sees the old or the new,
/// never a part. Folders are made; a link is followed, so that it stays one.
///
/// # Errors
/// When it cannot be written; the old file is then still there.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = if path.is_symlink() { fs::canonicalize(path)? } else { path.to_owned() };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
