//! Files and folders that are this user's alone.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use crate::sys::files;

/// Why a folder is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoStore {
    /// It cannot be used here (read-only, full, no home): the gate goes on without.
    Unavailable(String),
    /// It is not this user's alone: what needs it must not go on.
    Refused(Refusal),
}

/// Why a folder must not be used, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

/// Makes an open give a new file to this user alone, not go through a symlink (the one
/// who planted it would choose what is written to), and not wait for the other end of a pipe.
#[cfg(unix)]
pub(super) fn no_follow(options: &mut OpenOptions) {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    options.mode(0o600).custom_flags(flags);
}

#[cfg(not(unix))]
pub(super) fn no_follow(_: &mut OpenOptions) {}

/// Opens a file of ours. What is no regular file was not made by us, and is neither read nor
/// changed.
///
/// # Errors
/// When it is none such, or cannot be opened.
pub(super) fn open(options: &mut OpenOptions, path: impl AsRef<Path>) -> io::Result<File> {
    no_follow(options);
    let file = options.open(path)?;
    match strangeness(&file.metadata()?) {
        Some(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
        None => Ok(file),
    }
}

/// Replaces a file of ours by `bytes`, whole. A link in its place is replaced, not followed.
///
/// # Errors
/// When it cannot be written; the old file is then still there.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    no_follow(&mut options);
    files::replace_by(&mut options, path, bytes)
}

/// Says what is wrong with such a file, if it is there.
pub(super) fn check(what: &str, path: &Path) -> Result<(), NoStore> {
    match path.symlink_metadata().ok().as_ref().and_then(strangeness) {
        Some(why) => Err(NoStore::Refused(Refusal {
            reason: format!("{what} {} {why}", path.display()),
            hint: "remove it, or name another folder with --state-dir".to_owned(),
        })),
        None => Ok(()),
    }
}

fn strangeness(found: &Metadata) -> Option<&'static str> {
    if found.is_symlink() {
        return Some("is a symlink");
    }
    (!found.is_file()).then_some("is no regular file")
}

/// Makes a folder, and those above it that are missing, for this user alone.
///
/// # Errors
/// When it cannot be made. One that is there already is no error.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

/// Makes the folder, for this user alone, or checks that no other user can write to it.
pub(super) fn make_private(folder: &Path) -> Result<(), NoStore> {
    let unavailable = |error: io::Error| {
        NoStore::Unavailable(format!("the state directory {} cannot be used: {error}", folder.display()))
    };
    if !folder.is_symlink() && !folder.exists() {
        make_folder(folder).map_err(unavailable)?;
    }
    let found = folder.symlink_metadata().map_err(unavailable)?;
    let refused = |why: &str, hint: &str| {
        let reason = format!("the state directory {} {why}", folder.display());
        Err(NoStore::Refused(Refusal { reason, hint: hint.to_owned() }))
    };
    if found.is_symlink() {
        return refused("is a symlink", "name the folder that it leads to, or another, with --state-dir");
    }
    if !found.is_dir() {
        return Err(unavailable(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let me = rustix::process::geteuid().as_raw();
        let owner = found.uid();
        if owner != me && me == 0 {
            // `sudo` may keep the user's HOME.
            return refused(
                &format!("belongs to user {owner}, and this call runs as root"),
                "run it as that user, without `sudo`, or give root a folder of its own with --state-dir",
            );
        }
        if owner != me {
            return refused(
                &format!("belongs to user {owner}, and this call runs as user {me}"),
                "run it as that user, or name a folder of your own with --state-dir",
            );
        }
        if found.mode() & 0o022 != 0 {
            return refused(
                &format!("is writable by others (mode {:o})", found.mode() & 0o777),
                &format!("`chmod go-w {}`, or name another with --state-dir", folder.display()),
            );
        }
    }
    Ok(())
}
