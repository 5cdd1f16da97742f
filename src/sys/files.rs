//! Files as a whole: read if they are ordinary, and replaced in one step.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Reads a file of at most `most` MiB. No device that never ends, no pipe that never begins.
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
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

/// Replaces a file by `bytes`, whole: a reader sees the old or the new, never a part. Folders
/// are made; a link is followed, so that it stays one.
///
/// # Errors
/// When it cannot be written; the old file is then still there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = if path.is_symlink() { fs::canonicalize(path)? } else { path.to_owned() };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    replace_by(&mut OpenOptions::new(), &path, bytes)
}

/// Writes a new file beside `path`, opened with `options`, and renames it there. A link that
/// was planted under the new file's name is not written through.
pub(super) fn replace_by(options: &mut OpenOptions, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    // One that a killed process of the same number left behind.
    let _ = fs::remove_file(&temporary);
    let written = options
        .write(true)
        .create_new(true)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Where `path` leads, if it is there and that is not in `folder`.
///
/// # Errors
/// When its links cannot be followed.
pub(crate) fn outside(path: &Path, folder: &Path) -> io::Result<Option<PathBuf>> {
    match fs::canonicalize(path) {
        Ok(target) => Ok((!target.starts_with(fs::canonicalize(folder)?)).then_some(target)),
        Err(_) if !path.is_symlink() && !path.exists() => Ok(None),
        Err(error) => Err(error),
    }
}
