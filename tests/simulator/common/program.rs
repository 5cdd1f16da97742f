//! How a simulator ends.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Notify;

/// Reads stdin to its end on a thread of its own: the runtime must not wait for it.
pub fn end_with_stdin(ended: Arc<Notify>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        ended.notify_one();
    });
}

/// Waits for a signal, for the end of stdin, or for the program's folder to be deleted: one that has no parent to look
/// after it sees so that the test that owned the folder is over.
pub async fn wait_for_end(ended: &Notify, folder: &Path) -> Result<()> {
    let deleted = async {
        while folder.is_dir() {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::select! {
        signal = signalled() => signal,
        () = ended.notified() => Ok(()),
        () = deleted => Ok(()),
    }
}

#[cfg(unix)]
async fn signalled() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn signalled() -> Result<()> {
    Ok(tokio::signal::ctrl_c().await?)
}
