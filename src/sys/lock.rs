//! The lock that makes one of many callers the leader. The only file that names fs2.
//!
//! It guarantees one leader at a time for this user, machine and server. It guarantees
//! nothing on network file systems, between users, or against programs that do not ask;
//! there the explicit identifier makes LM Studio the arbiter. The kernel frees it when its
//! holder dies, however it dies, so the file is never deleted and never tells by being there.
//!
//! Another such lock is that of one load: it is lent to the child that carries the load out,
//! so that others can tell whether it goes on, whoever ordered it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::pure::json::Object;
use crate::sys::private::{make_folder, open};

/// Who leads, for messages; never for decisions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// Its process.
    pub pid: u32,
    /// The model it works on.
    pub model: String,
    /// Since when, in Unix milliseconds.
    pub since_ms: u64,
}

impl Leader {
    /// Reads the words of a lock file, if there are any.
    pub fn parse(words: &[u8]) -> Option<Self> {
        serde_json::from_slice(words).ok().map(|Object(leader)| leader)
    }
}

/// Most that is read of the words. A model name has at most 512 bytes.
const MOST_WORDS: u64 = 4096;

/// The lock file of one server.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
}

/// Leadership: held until dropped. What only a leader may do asks to be shown it.
#[derive(Debug)]
#[must_use]
pub struct Leadership {
    file: File,
}

impl LockFile {
    /// Names the lock file; nothing is opened.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Becomes the leader, or returns `None` if there is one. Never waits.
    ///
    /// # Errors
    /// When the file cannot be opened or locking does not work there.
    pub fn try_lead(&self) -> io::Result<Option<Leadership>> {
        for _ in 0..16 {
            let file = self.open()?;
            match fs2::FileExt::try_lock_exclusive(&file) {
                Ok(()) if self.still_names(&file)? => return Ok(Some(Leadership { file })),
                // Somebody deleted the file meanwhile: others will meet on a new one.
                Ok(()) => {}
                Err(error) if is_contended(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the lock file is replaced as often as it is locked"))
    }

    /// Whether there is no leader right now. Never waits, and holds nothing afterwards.
    ///
    /// # Errors
    /// When the file cannot be opened or locking does not work there.
    pub fn is_free(&self) -> io::Result<bool> {
        // Opened anew each time, so that a file that was deleted and made again is seen.
        let Some(file) = self.open_existing()? else { return Ok(true) };
        match fs2::FileExt::try_lock_shared(&file) {
            Ok(()) => Ok(true),
            Err(error) if is_contended(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Locks for a child that gets the file: the kernel frees it when the last process that
    /// has it open is gone, which may be long after this one. `None` if it is locked already.
    ///
    /// # Errors
    /// As for [`Self::try_lead`].
    pub fn lock_for_child(&self) -> io::Result<Option<File>> {
        let file = self.open()?;
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => {
                file.set_modified(SystemTime::now())?;
                Ok(Some(file))
            }
            Err(error) if is_contended(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a child has had it for less than `max_age`.
    pub fn is_held_by_child(&self, max_age: Duration) -> bool {
        let is_young = |file: File| {
            let age = file.metadata().and_then(|it| it.modified()).ok().and_then(|it| it.elapsed().ok());
            age.is_some_and(|age| age < max_age)
        };
        self.open_existing().ok().flatten().is_some_and(is_young) && matches!(self.is_free(), Ok(false))
    }

    /// Writes down who leads.
    pub fn announce(&self, leadership: &mut Leadership, leader: &Leader) {
        let words = serde_json::to_vec(leader).unwrap_or_default();
        // Only words for others' messages: a full disk must not stop the load.
        if let Err(error) = self.write_words(leadership, &words) {
            tracing::debug!(%error, "cannot write down who leads");
        }
    }

    /// Who leads, as far as the file tells.
    pub fn leader(&self) -> Option<Leader> {
        let mut words = Vec::new();
        open(OpenOptions::new().read(true), self.words_path()).ok()?.take(MOST_WORDS).read_to_end(&mut words).ok()?;
        Leader::parse(&words)
    }

    fn open(&self) -> io::Result<File> {
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

    #[cfg(unix)]
    fn words_path(&self) -> &Path {
        &self.path
    }

    #[cfg(unix)]
    #[expect(clippy::unused_self, reason = "the signature is that of the Windows one")]
    fn write_words(&self, leadership: &mut Leadership, words: &[u8]) -> io::Result<()> {
        // A hard link would carry them into somebody else's file.
        if std::os::unix::fs::MetadataExt::nlink(&leadership.file.metadata()?) > 1 {
            return Err(io::Error::other("the lock file has a second name elsewhere"));
        }
        leadership.file.set_len(0)?;
        leadership.file.rewind()?;
        leadership.file.write_all(words)
    }

    /// A locked file cannot be read by others on Windows, so the words lie beside it.
    #[cfg(not(unix))]
    fn words_path(&self) -> PathBuf {
        self.path.with_extension("leader")
    }

    #[cfg(not(unix))]
    fn write_words(&self, _: &mut Leadership, words: &[u8]) -> io::Result<()> {
        std::fs::write(self.words_path(), words)
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        // Closing the file would do; this frees the lock even if the handle was inherited.
        if let Err(error) = fs2::FileExt::unlock(&self.file) {
            tracing::debug!(%error, "cannot unlock");
        }
    }
}

fn is_contended(error: &io::Error) -> bool {
    error.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}

/// How long a waiter sleeps before it tries again: about 25 ms, and not the same for
/// everyone, so that a hundred waiters do not wake as one.
pub fn poll_interval() -> Duration {
    Duration::from_millis(20 + u64::from(std::process::id() % 11))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_leader_and_the_next_follows_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let lock = LockFile::new(folder.path().join("lock"));
        assert!(lock.is_free().unwrap());
        let mut leadership = lock.try_lead().unwrap().unwrap();
        lock.announce(&mut leadership, &Leader { pid: 7, model: "a".to_owned(), since_ms: 1 });
        assert!(lock.try_lead().unwrap().is_none());
        assert!(!lock.is_free().unwrap());
        assert_eq!(lock.leader().unwrap().pid, 7);
        drop(leadership);
        assert!(lock.is_free().unwrap());
        assert!(lock.try_lead().unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_file_that_was_deleted_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let lock = LockFile::new(folder.path().join("lock"));
        let first = lock.try_lead().unwrap().unwrap();
        std::fs::remove_file(folder.path().join("lock")).unwrap();
        let second = lock.try_lead().unwrap();
        assert!(second.is_some());
        drop(first);
        assert!(!lock.is_free().unwrap());
    }

    #[test]
    fn to_ask_makes_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let lock = LockFile::new(folder.path().join("lock"));
        assert!(lock.is_free().unwrap());
        assert!(!lock.is_held_by_child(Duration::MAX));
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_that_a_child_has_outlives_whoever_lent_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = LockFile::new(folder.path().join("lock"));
        let lent = lock.lock_for_child().unwrap().unwrap();
        let mut child = std::process::Command::new("/bin/sleep").arg("60").stdin(lent).spawn().unwrap();
        assert!(lock.lock_for_child().unwrap().is_none());
        assert!(lock.is_held_by_child(Duration::from_secs(60)));
        assert!(!lock.is_held_by_child(Duration::ZERO), "too old to be believed");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!lock.is_held_by_child(Duration::from_secs(60)));
        assert!(lock.lock_for_child().unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_symlink_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path().join("victim"), folder.path().join("lock")).unwrap();
        assert!(LockFile::new(folder.path().join("lock")).try_lead().is_err());
        assert!(!folder.path().join("victim").exists());
    }
}
