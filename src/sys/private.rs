//! Files and folders that are this user's alone.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::path::Path;

/// Why a folder is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoStore {
    /// It cannot be used here (read-only, full, no home): the gate goes on without.
    Unavailable(String),
    /// Somebody else could write to it: whoever needs it must not go on.
    Refused(String),
}

/// Opens for this user alone, and not through a symlink: whoever could plant one would
/// choose what is written to.
#[cfg(unix)]
pub(super) fn no_follow(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    let flag = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    options.mode(0o600).custom_flags(flag);
}

#[cfg(not(unix))]
pub(super) fn no_follow(_: &mut OpenOptions) {}

/// Makes a folder for this user alone.
///
/// # Errors
/// When it cannot be made. One that is there already is no error.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    let builder = DirBuilder::new();
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = builder;
        builder.mode(0o700);
        builder
    };
    match builder.create(folder) {
        // Another caller was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Makes the folder, for this user alone, or checks that nobody else can write to it.
pub(super) fn make_private(folder: &Path) -> Result<(), NoStore> {
    let unavailable = |error: io::Error| {
        NoStore::Unavailable(format!("the state directory {} cannot be used: {error}", folder.display()))
    };
    if !folder.is_symlink() && !folder.exists() {
        make_folder(folder).map_err(unavailable)?;
    }
    let found = folder.symlink_metadata().map_err(unavailable)?;
    let refused = |why: String| Err(NoStore::Refused(format!("the state directory {} {why}", folder.display())));
    if found.is_symlink() {
        return refused("is a symlink".to_owned());
    }
    if !found.is_dir() {
        return Err(unavailable(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let me = rustix::process::geteuid().as_raw();
        if found.uid() != me {
            return refused(format!("belongs to user {}, not to {me}", found.uid()));
        }
        if found.mode() & 0o022 != 0 {
            return refused(format!("is writable by others (mode {:o})", found.mode() & 0o777));
        }
    }
    Ok(())
}
