//! The asynchronous runtime: on this thread alone, for the whole of a command.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;

use tokio::runtime::{Builder, Runtime};

/// Starts it.
///
/// # Errors
/// When the system lets this process open too few files.
pub(crate) fn start() -> io::Result<Runtime> {
    expect_free_files()?;
    // Few files are open here; tokio would make room for 1024 of them to speak at once.
    Builder::new_current_thread().enable_all().max_io_events_per_tick(64).build()
}

/// Carries out all of these side by side; what each came to, in their order.
pub(crate) async fn join_all<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut under_way: Vec<Pin<Box<_>>> = all.map(Box::pin).collect();
    let mut results: Vec<Option<T>> = under_way.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, result) in under_way.iter_mut().zip(&mut results).filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                *result = Some(value);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// tokio opens five files at its start, and panics where one of the pair for its signals is
/// refused.
#[cfg(unix)]
fn expect_free_files() -> io::Result<()> {
    use std::os::fd::AsFd;
    let stderr = io::stderr();
    let mut held = [const { None }; 5];
    for file in &mut held {
        *file = Some(stderr.as_fd().try_clone_to_owned()?);
    }
    Ok(())
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the signature is that of the Unix one")]
fn expect_free_files() -> io::Result<()> {
    Ok(())
}
