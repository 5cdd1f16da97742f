//! The signals of the tests' own process.

use std::future::poll_fn;
use std::sync::{Once, mpsc};
use std::task::Poll;

use tokio::signal::unix::{SignalKind, signal};

/// Gives every program that the tests start its signals back. A script's `cargo test &` ignores
/// SIGINT, `nohup cargo test` SIGHUP, and both would be inherited; a signal that is caught is at
/// its default in a child. What ends this process by default still does.
pub fn restore() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (caught, all_caught) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
            let number = runtime.block_on(async {
                let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()];
                let others = [SignalKind::user_defined1(), SignalKind::user_defined2()];
                let mut streams: Vec<_> =
                    kinds.into_iter().chain(others).map(|kind| (kind, signal(kind).expect("a handler"))).collect();
                caught.send(()).expect("the test waits");
                poll_fn(|context| {
                    let first =
                        streams.iter_mut().find_map(|(kind, it)| it.poll_recv(context).is_ready().then_some(*kind));
                    first.map_or(Poll::Pending, |kind| Poll::Ready(kind.as_raw_value()))
                })
                .await
            });
            #[expect(clippy::exit, reason = "a signal ends all of it")]
            std::process::exit(128 + number);
        });
        all_caught.recv().expect("handlers");
    });
}
