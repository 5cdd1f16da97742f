//! Being told to stop: SIGINT, SIGTERM, SIGHUP and `--timeout` become one event that every
//! wait watches. The only file that handles signals; those that `run` passes on to its
//! command are watched with the same means.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

/// Why the call must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A signal, by its number.
    Signal(u8),
    /// `--timeout` is over.
    Deadline,
}

/// Tells every wait of the call when it must end.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown {
    stop: watch::Receiver<Option<Stop>>,
    forced: watch::Receiver<bool>,
}

impl Shutdown {
    /// Takes over the signals from here on; `remaining` is what is left of `--timeout`.
    ///
    /// Before this is called a signal ends the process at once, which is right for a warm
    /// call: it has nothing to clean up.
    pub(crate) fn listen(remaining: Option<Duration>) -> Self {
        let (sender, stop) = watch::channel(None);
        let (force, forced) = watch::channel(false);
        let mut signals = Signals::listen();
        tokio::spawn(async move {
            let deadline = async {
                match remaining {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            let stop = tokio::select! {
                signal = signals.next() => Stop::Signal(signal),
                () = deadline => Stop::Deadline,
                // The call has ended.
                () = sender.closed() => return,
            };
            // Fails when the call has ended and nothing waits any more.
            let _ = sender.send(Some(stop));
            tokio::select! {
                _ = signals.next() => {}
                () = force.closed() => return,
            }
            let _ = force.send(true);
        });
        Self { stop, forced }
    }

    /// Whether the call must end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Waits until the call must end.
    pub(crate) async fn stopped(&self) -> Stop {
        let stop = self.stop.clone().wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
        match stop {
            Some(stop) => stop,
            None => std::future::pending().await,
        }
    }

    /// Waits for a signal after the one that ended the call: the user will not wait for a
    /// clean end.
    pub(crate) async fn forced(&self) {
        if self.forced.clone().wait_for(|forced| *forced).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Runs `work` unless the call must end first; dropping `work` must be harmless.
    ///
    /// # Errors
    /// Why the call must end.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            stop = self.stopped() => Err(stop),
            done = work => Ok(done),
        }
    }
}

/// Signals that are watched instead of ending the process.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct Signals {
    streams: Vec<(u8, tokio::signal::unix::Signal)>,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> Self {
        use tokio::signal::unix::SignalKind;
        Self::watch(&[SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()])
    }

    /// Watches these from here on, but those that this process was told to ignore.
    pub(super) fn watch(kinds: &[tokio::signal::unix::SignalKind]) -> Self {
        use tokio::signal::unix::signal;
        let ignored = ignored_signals();
        let streams = kinds
            .iter()
            .filter_map(|kind| u8::try_from(kind.as_raw_value()).ok().filter(|it| *it > 0).zip(Some(*kind)))
            // `nohup` means it.
            .filter(|(number, _)| ignored >> (number - 1) & 1 == 0)
            .filter_map(|(number, kind)| match signal(kind) {
                Ok(stream) => Some((number, stream)),
                Err(error) => {
                    // The signal then ends the process the default way.
                    tracing::debug!(number, %error, "cannot watch a signal");
                    None
                }
            })
            .collect();
        Self { streams }
    }

    /// The number of the next one.
    pub(super) async fn next(&mut self) -> u8 {
        std::future::poll_fn(|context| {
            for (number, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// The signals this process was told to ignore, as a bit set. Only Linux tells without
/// unsafe code.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Self {
        Self
    }

    async fn next(&mut self) -> u8 {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive_tasks() -> usize {
        tokio::runtime::Handle::current().metrics().num_alive_tasks()
    }

    #[tokio::test]
    async fn a_call_that_has_ended_leaves_nothing_behind() {
        for remaining in [None, Some(Duration::from_secs(3600)), Some(Duration::ZERO)] {
            let shutdown = Shutdown::listen(remaining);
            if remaining == Some(Duration::ZERO) {
                assert_eq!(shutdown.stopped().await, Stop::Deadline);
            } else {
                tokio::task::yield_now().await;
            }
            assert_eq!(alive_tasks(), 1);
            drop(shutdown);
            tokio::task::yield_now().await;
            assert_eq!(alive_tasks(), 0, "{remaining:?}");
        }
    }
}
