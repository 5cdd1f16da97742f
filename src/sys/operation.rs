//! The lock of one load or unload. It is passed to the child that carries the operation out, so
//! that the kernel tells others whether it goes on, whichever process ordered it and whether or
//! not that process lives. For an operation that lives in the server itself there is no child to
//! hold it, and what stands in the file tells instead.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::monotonic_ms;
use super::lock::{Lock, LockFile};
use super::private::open;
use crate::pure::json::Object;

/// What a child that is asked to stop at its limit may take beyond it.
const GRACE: Duration = Duration::from_secs(10);

/// What the process that orders an operation writes down. Times are milliseconds of the monotonic
/// clock.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    /// When it was given: the clock of another boot may not have come as far.
    began_ms: u64,
    /// When it is over in any case: a process that still holds the lock then, such as a daemon
    /// that the child has left behind, is not at it.
    until_ms: u64,
    /// It goes on whether or not a process holds the lock.
    without_lock: bool,
}

/// The lock file of one operation.
#[derive(Debug)]
pub struct Operation {
    lock: LockFile,
}

impl Operation {
    /// Names the lock file; nothing is opened.
    pub fn new(path: PathBuf) -> Self {
        Self { lock: LockFile::new(path) }
    }

    /// Begins an operation of a child that is given the locked file as its stdin, which is at its
    /// end. `limit` is how long the child may take. `None` where another process keeps the lock:
    /// then the order alone tells of it.
    ///
    /// # Errors
    /// When the file cannot be opened or written, or locking does not work there.
    pub fn begin(&self, limit: Duration) -> io::Result<Option<File>> {
        let locked = self.lock.exclusive_beside_askers()?.map(Lock::into_file);
        match locked {
            Some(file) => {
                write(&file, &Order::new(limit, false))?;
                Ok(Some(file))
            }
            None => self.begin_in_server(limit).map(|()| None),
        }
    }

    /// Begins an operation that goes on in the server, with this process or without it.
    ///
    /// # Errors
    /// When the file cannot be opened or written.
    pub fn begin_in_server(&self, limit: Duration) -> io::Result<()> {
        write(&self.lock.open()?, &Order::new(limit, true))
    }

    /// The operation is known to have ended, though a process may still have the file.
    pub fn end(&self) {
        let over = Order { until_ms: 0, ..Order::new(Duration::ZERO, false) };
        if let Err(error) = self.lock.open().and_then(|file| write(&file, &over)) {
            tracing::debug!(%error, "cannot write down that an operation has ended");
        }
    }

    /// Whether it goes on.
    pub fn is_under_way(&self) -> bool {
        let is_held = matches!(self.lock.is_held(), Ok(true));
        let now = monotonic_ms();
        match self.read() {
            Some(order) => (is_held || order.without_lock) && (order.began_ms..order.until_ms).contains(&now),
            // The process that locked it has not written yet.
            None => is_held,
        }
    }

    fn read(&self) -> Option<Order> {
        let mut text = Vec::new();
        open(OpenOptions::new().read(true), self.lock.path()).ok()?.take(256).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok().map(|Object(order)| order)
    }
}

impl Order {
    fn new(limit: Duration, without_lock: bool) -> Self {
        let began_ms = monotonic_ms();
        Self { began_ms, until_ms: began_ms + millis(limit + GRACE), without_lock }
    }
}

fn write(mut file: &File, order: &Order) -> io::Result<()> {
    let text = serde_json::to_vec(order)?;
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(folder: &tempfile::TempDir) -> Operation {
        Operation::new(folder.path().join("a.load"))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn it_goes_on_while_the_child_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let operation = operation(&folder);
        assert!(!operation.is_under_way());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "to ask makes no file");
        let mut held = operation.begin(MINUTE).unwrap().unwrap();
        assert!(operation.is_under_way());
        let mut rest = Vec::new();
        held.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"", "nothing is left for the child to read");
        drop(held);
        assert!(!operation.is_under_way());
    }

    #[test]
    fn it_is_over_when_its_end_was_seen_or_its_limit_is_over_whatever_still_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let operation = operation(&folder);
        let held = operation.begin(MINUTE).unwrap().unwrap();
        operation.end();
        assert!(!operation.is_under_way());
        let now = monotonic_ms();
        write(&held, &Order { began_ms: 0, until_ms: now, without_lock: false }).unwrap();
        assert!(!operation.is_under_way());
    }

    #[test]
    fn one_whose_lock_another_process_keeps_is_told_by_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let operation = operation(&folder);
        let _other = operation.lock.try_shared().unwrap().unwrap();
        assert!(operation.begin(MINUTE).unwrap().is_none());
        assert!(operation.is_under_way());
        operation.end();
        assert!(!operation.is_under_way());
    }

    #[test]
    fn one_in_the_server_goes_on_until_its_end_is_seen_but_not_in_another_boot() {
        let folder = tempfile::tempdir().unwrap();
        let operation = operation(&folder);
        operation.begin_in_server(MINUTE).unwrap();
        assert!(operation.is_under_way());
        operation.end();
        assert!(!operation.is_under_way());
        let later = monotonic_ms() + 3_600_000;
        let order = Order { began_ms: later, until_ms: later + 60_000, without_lock: true };
        write(&operation.lock.open().unwrap(), &order).unwrap();
        assert!(!operation.is_under_way());
    }
}
