//! Advisory locks on files. The only file that names fs2. The kernel frees a lock when the last
//! process that has it open is gone, however it ends, so a lock file is never deleted and never
//! tells anything by being there.
//!
//! A lock guarantees nothing on network file systems, between users, or against programs that do
//! not ask.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::private::{make_folder, open};

/// How often a lock is tried again that a process holds only to ask for it, and the pause between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// A file that is locked, never read for what it is.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
}

/// A lock: held until it is dropped, or until the last process that was given its file is gone.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    file: File,
}

impl LockFile {
    /// Names the lock file; nothing is opened.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock alone, or returns `None` if another process has it. Never waits.
    ///
    /// # Errors
    /// When the file cannot be opened or locking does not work there.
    pub fn try_exclusive(&self) -> io::Result<Option<Lock>> {
        self.try_lock(fs2::FileExt::try_lock_exclusive)
    }

    /// The same, where only processes that ask ([`Self::is_held`]) may be in the way: they let go
    /// within microseconds, and are waited for that long.
    ///
    /// # Errors
    /// As for [`Self::try_exclusive`].
    pub fn exclusive_beside_askers(&self) -> io::Result<Option<Lock>> {
        patiently(|| self.try_exclusive())
    }

    /// Takes the lock together with others that do so; `None` if one process has it alone.
    ///
    /// # Errors
    /// As for [`Self::try_exclusive`].
    pub fn shared_beside_askers(&self) -> io::Result<Option<Lock>> {
        patiently(|| self.try_shared())
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// As for [`Self::try_exclusive`].
    pub fn try_shared(&self) -> io::Result<Option<Lock>> {
        self.try_lock(fs2::FileExt::try_lock_shared)
    }

    /// Whether a process has the lock alone right now. To ask, a shared lock is taken for a
    /// moment, which no other asker notices.
    ///
    /// # Errors
    /// As for [`Self::try_exclusive`]; a file that is not there is no error.
    pub fn is_held(&self) -> io::Result<bool> {
        // Opened anew each time, so that a file that was deleted and made again is seen.
        let Some(file) = self.open_existing()? else { return Ok(false) };
        match fs2::FileExt::try_lock_shared(&file) {
            Ok(()) => Ok(false),
            Err(error) if is_contended(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn try_lock(&self, lock: fn(&File) -> io::Result<()>) -> io::Result<Option<Lock>> {
        for _ in 0..16 {
            let file = self.open()?;
            match lock(&file) {
                Ok(()) if self.still_names(&file)? => return Ok(Some(Lock { file })),
                // The file was deleted meanwhile: others will meet on a new one.
                Ok(()) => {}
                Err(error) if is_contended(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the lock file is replaced as often as it is locked"))
    }

    /// Opens the file to write to it, locked or not; makes it where it is missing.
    pub(super) fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        match open(&mut options, &self.path) {
            // The whole directory was deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.path.parent().map_or(Ok(()), make_folder)?;
                open(&mut options, &self.path)
            }
            opened => opened,
        }
    }

    fn open_existing(&self) -> io::Result<Option<File>> {
        match open(OpenOptions::new().read(true), &self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[cfg(unix)]
    fn still_names(&self, file: &File) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let held = file.metadata()?;
        match self.path.symlink_metadata() {
            Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// An open file cannot be replaced on Windows.
    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "the signature is that of the Unix one")]
    fn still_names(&self, _: &File) -> io::Result<bool> {
        Ok(true)
    }
}

fn patiently(try_lock: impl Fn() -> io::Result<Option<Lock>>) -> io::Result<Option<Lock>> {
    for _ in 1..TRIES {
        if let Some(lock) = try_lock()? {
            return Ok(Some(lock));
        }
        std::thread::sleep(PAUSE);
    }
    try_lock()
}

impl Lock {
    /// The file that is locked.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the lock away: the kernel frees it when the last process that has the file open is
    /// gone, which may be long after this one.
    pub fn into_file(self) -> File {
        self.file
    }
}

fn is_contended(error: &io::Error) -> bool {
    error.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}

/// How long a waiter sleeps before it asks again: about 25 ms, and not the same for
/// everyone, so that a hundred waiters do not wake as one.
pub(crate) fn poll_interval() -> Duration {
    Duration::from_millis(20 + u64::from(std::process::id() % 11))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock_in(folder: &tempfile::TempDir) -> LockFile {
        LockFile::new(folder.path().join("lock"))
    }

    #[test]
    fn one_process_has_it_alone_or_many_have_it_together() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock_in(&folder);
        let alone = lock.try_exclusive().unwrap().unwrap();
        assert!(lock.try_exclusive().unwrap().is_none());
        assert!(lock.try_shared().unwrap().is_none());
        assert!(lock.is_held().unwrap());
        drop(alone);
        assert!(!lock.is_held().unwrap());
        let together = [lock.try_shared().unwrap().unwrap(), lock.try_shared().unwrap().unwrap()];
        assert!(lock.try_exclusive().unwrap().is_none());
        assert!(!lock.is_held().unwrap(), "no process has it alone");
        drop(together);
        assert!(lock.try_exclusive().unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_file_that_was_deleted_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock_in(&folder);
        let first = lock.try_exclusive().unwrap().unwrap();
        std::fs::remove_file(lock.path()).unwrap();
        let second = lock.try_exclusive().unwrap();
        assert!(second.is_some());
        drop(first);
        assert!(lock.is_held().unwrap());
    }

    #[test]
    fn to_ask_makes_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!lock_in(&folder).is_held().unwrap());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_outlives_the_process_that_gave_it_away() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock_in(&folder);
        let file = lock.try_exclusive().unwrap().unwrap().into_file();
        let mut child = std::process::Command::new("/bin/sleep").arg("60").stdin(file).spawn().unwrap();
        assert!(lock.is_held().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!lock.is_held().unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn a_symlink_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path().join("victim"), folder.path().join("lock")).unwrap();
        assert!(lock_in(&folder).try_exclusive().is_err());
        assert!(!folder.path().join("victim").exists());
    }
}
