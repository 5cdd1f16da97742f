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
use super::lock::LockFile;
use super::private::open;
use crate::pure::json::Object;

/// What a child that is asked to stop at its limit may take beyond it.
const GRACE: Duration = Duration::from_secs(10);

/// What the process that orders an operation writes down.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    /// When it is over in any case, in milliseconds of the monotonic clock: a process that still
    /// holds the lock then, such as a daemon that the child has left behind, is not at it.
    until_ms: u64,
    /// It goes on in the server, lock or no lock.
    in_server: bool,
}

/// The lock file of one operation.
#[derive(Debug)]
pub struct Operation {
    lock: LockFile,
}

/// An operation in the server that this process has ordered.
#[derive(Debug)]
pub struct Ordered(Option<File>);

impl Operation {
    /// Names the lock file; nothing is opened.
    pub fn new(path: PathBuf) -> Self {
        Self { lock: LockFile::new(path) }
    }

    /// Locks for a child that is given the file as its stdin, which is at its end. `limit` is how
    /// long the child may take. `None` if another operation goes on.
    ///
    /// # Errors
    /// When the file cannot be opened or written, or locking does not work there.
    pub fn lock_for_child(&self, limit: Duration) -> io::Result<Option<File>> {
        self.order(limit, false)
    }

    /// Marks an operation that goes on in the server, until the mark is taken back.
    ///
    /// # Errors
    /// As for [`Self::lock_for_child`].
    pub fn mark_in_server(&self, limit: Duration) -> io::Result<Ordered> {
        self.order(limit, true).map(Ordered)
    }

    fn order(&self, limit: Duration, in_server: bool) -> io::Result<Option<File>> {
        let Some(lock) = self.lock.exclusive_beside_askers()? else { return Ok(None) };
        let mut file = lock.into_file();
        let order = Order { until_ms: monotonic_ms() + millis(limit + GRACE), in_server };
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&serde_json::to_vec(&order)?)?;
        Ok(Some(file))
    }

    /// Whether it goes on.
    pub fn is_under_way(&self) -> bool {
        let is_held = matches!(self.lock.is_held(), Ok(true));
        match self.read() {
            Some(order) => (is_held || order.in_server) && monotonic_ms() < order.until_ms,
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

impl Ordered {
    /// Takes the mark back: the operation has ended.
    pub fn ended(self) {
        if let Some(Err(error)) = self.0.map(|file| file.set_len(0)) {
            tracing::debug!(%error, "cannot write down that an operation has ended");
        }
    }
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

    #[test]
    fn it_goes_on_while_the_child_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let operation = operation(&folder);
        assert!(!operation.is_under_way());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "to ask makes no file");
        let mut held = operation.lock_for_child(Duration::from_secs(60)).unwrap().unwrap();
        assert!(operation.is_under_way());
        assert!(operation.lock_for_child(Duration::from_secs(60)).unwrap().is_none());
        let mut rest = Vec::new();
        held.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"", "nothing is left for the child to read");
        drop(held);
        assert!(!operation.is_under_way());
    }

    #[test]
    fn it_is_over_when_its_own_limit_is_whatever_still_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let operation = operation(&folder);
        let held = operation.lock_for_child(Duration::from_secs(60)).unwrap().unwrap();
        let past = serde_json::to_vec(&Order { until_ms: monotonic_ms(), in_server: false }).unwrap();
        (&held).rewind().unwrap();
        (&held).write_all(&past).unwrap();
        held.set_len(past.len() as u64).unwrap();
        assert!(!operation.is_under_way());
    }

    #[test]
    fn one_in_the_server_goes_on_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let operation = operation(&folder);
        drop(operation.mark_in_server(Duration::from_secs(60)).unwrap());
        assert!(operation.is_under_way(), "the process that ordered it is gone, the load is not");
        operation.mark_in_server(Duration::from_secs(60)).unwrap().ended();
        assert!(!operation.is_under_way());
    }
}
