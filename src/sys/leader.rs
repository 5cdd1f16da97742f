//! The lock that makes one of many callers the leader, and what the leader tells the waiters.
//!
//! It guarantees one leader at a time for this user, machine and server; elsewhere the explicit
//! identifier makes the server the arbiter. Waiters ask at a second file, which the leader locks
//! as well: a waiter that is stopped while it asks keeps no process from leading.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::lock::{Lock, LockFile};
use super::private::open;
use crate::pure::json::Object;

/// Who leads and what for. That it changes shows that the leader lives; what it says is for
/// messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// Its process.
    pub pid: u32,
    /// The model it works on.
    pub model: String,
    /// Since when, in Unix milliseconds.
    pub since_ms: u64,
    /// What it does with the model, such as `loading`; empty while it looks around.
    #[serde(default)]
    pub doing: String,
    /// How far that is.
    #[serde(default)]
    pub percent: Option<u8>,
    /// Counts up while the leader lives and is not stopped.
    #[serde(default)]
    pub beat: u64,
}

impl Leader {
    /// Reads what a leader has written, if it can be read.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok().map(|Object(leader)| leader)
    }
}

/// Most that is read of it. A model name has at most 512 bytes.
const MAX_BYTES: u64 = 4096;

/// The leader's lock of one server.
#[derive(Debug)]
pub struct LeaderLock {
    lead: LockFile,
    busy: LockFile,
}

/// Leadership: held until dropped. What only a leader may do asks to be shown it.
#[derive(Debug)]
#[must_use]
pub struct Leadership {
    // In this order: a waiter that sees `busy` free may lead at once.
    #[cfg_attr(not(unix), expect(dead_code, reason = "held; what it says lies in a file of its own"))]
    lead: Lock,
    _busy: Option<Lock>,
    #[cfg(not(unix))]
    path: PathBuf,
}

impl LeaderLock {
    /// Names the lock at `path`; nothing is opened.
    pub fn new(path: PathBuf) -> Self {
        Self { busy: LockFile::new(path.with_extension("busy")), lead: LockFile::new(path) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.lead.path()
    }

    /// Becomes the leader, or returns `None` if there is one. Never waits for it.
    ///
    /// # Errors
    /// When the file cannot be opened or locking does not work there.
    pub fn try_lead(&self) -> io::Result<Option<Leadership>> {
        let Some(lead) = self.lead.try_exclusive()? else { return Ok(None) };
        let busy = self.busy.exclusive_beside_askers()?;
        Ok(Some(Leadership {
            lead,
            _busy: busy,
            #[cfg(not(unix))]
            path: self.lead.path().to_owned(),
        }))
    }

    /// Whether there is a leader right now. Never waits.
    ///
    /// # Errors
    /// When the file cannot be opened or locking does not work there.
    pub fn is_led(&self) -> io::Result<bool> {
        self.busy.is_held()
    }

    /// When the leader showed last that it lives; only that it changes means anything.
    pub fn sign_of_life(&self) -> Option<SystemTime> {
        self.lead.path().metadata().and_then(|it| it.modified()).ok()
    }

    /// Who leads, as far as the file tells; it may be stale.
    pub fn leader(&self) -> Option<Leader> {
        let mut text = Vec::new();
        let path = text_path(self.lead.path().to_owned());
        open(OpenOptions::new().read(true), path).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        Leader::parse(&text)
    }
}

impl Leadership {
    /// Writes down who leads and what for. A full disk must not stop the load.
    pub fn announce(&self, leader: &Leader) {
        // A hard link would carry the text into a file of another user.
        #[cfg(unix)]
        if self.lead.file().metadata().is_ok_and(|it| std::os::unix::fs::MetadataExt::nlink(&it) > 1) {
            tracing::debug!("the lock file has a second name elsewhere: nothing is written into it");
            return;
        }
        let text = serde_json::to_vec(leader).unwrap_or_default();
        if let Err(error) = self.write(&text) {
            tracing::debug!(%error, "cannot write down who leads");
            // That the leader lives shows on a full disk, too.
            let _ = self.lead.file().set_modified(SystemTime::now());
        }
    }

    #[cfg(unix)]
    fn write(&self, text: &[u8]) -> io::Result<()> {
        use std::io::Seek;
        let mut file = self.lead.file();
        file.rewind()?;
        file.write_all(text)?;
        file.set_len(text.len() as u64)
    }

    #[cfg(not(unix))]
    fn write(&self, text: &[u8]) -> io::Result<()> {
        std::fs::File::create(text_path(self.path.clone()))?.write_all(text)
    }
}

/// A locked file cannot be read by others on Windows, so the text lies beside it.
fn text_path(lock: PathBuf) -> PathBuf {
    if cfg!(unix) { lock } else { lock.with_extension("leader") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(beat: u64) -> Leader {
        Leader { pid: 7, model: "a".to_owned(), since_ms: 1, doing: "loading".to_owned(), percent: Some(3), beat }
    }

    #[test]
    fn there_is_one_leader_and_the_next_follows_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let lock = LeaderLock::new(folder.path().join("a.lock"));
        assert!(!lock.is_led().unwrap());
        let leadership = lock.try_lead().unwrap().unwrap();
        for beat in [123_456, 7] {
            leadership.announce(&leader(beat));
            assert_eq!(lock.leader(), Some(leader(beat)), "a shorter text leaves nothing of the longer one");
        }
        assert!(lock.try_lead().unwrap().is_none());
        assert!(lock.is_led().unwrap());
        drop(leadership);
        assert!(!lock.is_led().unwrap());
        assert!(lock.try_lead().unwrap().is_some());
    }

    #[test]
    fn a_process_that_asks_keeps_no_other_from_leading() {
        let folder = tempfile::tempdir().unwrap();
        let lock = LeaderLock::new(folder.path().join("a.lock"));
        let asks = LockFile::new(folder.path().join("a.busy")).try_shared().unwrap().unwrap();
        assert!(lock.try_lead().unwrap().is_some());
        drop(asks);
    }
}
