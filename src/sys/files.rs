//! Files as a whole: read if they are ordinary, and replaced so that nobody sees a part.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Reads a file of at most `most` MiB. No device that never ends, no pipe that never begins.
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    read_all(File::open(path)?, most)
}

/// Reads the rest of what is open, under the same limit: what the system says of a size may
/// be wrong.
pub(super) fn read_all(file: File, most: u64) -> io::Result<Vec<u8>> {
    let limit = most * 1024 * 1024;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    if size <= limit {
        file.take(limit + 1).read_to_end(&mut bytes)?;
    }
    if size > limit || bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most} MiB")));
    }
    Ok(bytes)
}

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
