//! A simulated llama-swap, as a real process on a real port, of both its generations: before v218 and since.
//!
//! It is a tool for tests, benchmarks and the demonstration in the README. It must start no program and must listen on
//! this machine alone: the models' servers are simulated, too.

#![expect(unreachable_pub, reason = "nothing leaves a program; pub marks what other modules use")]

#[path = "../common/mod.rs"]
mod common;
mod config;
mod control;
mod engine;
mod fail;
mod lists;
mod model;
mod names;
mod news;
mod old;
mod process;
mod router;
mod server;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use common::program::{end_with_stdin, wait_for_end};
use engine::App;

/// A simulated llama-swap.
#[derive(Debug, Parser)]
struct Options {
    /// Where `llama-swap.json` is, and the files of the simulator
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Listen on this port (0: any)
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// End when stdin ends
    #[arg(long)]
    exit_with_stdin: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let ended = Arc::new(Notify::new());
    if options.exit_with_stdin {
        end_with_stdin(Arc::clone(&ended));
    }
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await.context("cannot listen")?;
    let for_control = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen")?;
    let (port, control_port) = (listener.local_addr()?.port(), for_control.local_addr()?.port());
    let app = App::start(&options.folder)?;
    let ready = json!({ "pid": std::process::id(), "port": port, "controlPort": control_port });
    app.record.write("start", ready.clone());
    tokio::spawn(server::serve(Arc::clone(&app), listener));
    tokio::spawn(control::serve(Arc::clone(&app), for_control));
    tokio::spawn(Arc::clone(&app).watch_file());
    tokio::spawn(reload_on_signal(Arc::clone(&app)));

    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{ready}").and_then(|()| stdout.flush());
    wait_for_end(&ended, &options.folder).await?;
    app.record.write("stop", json!({ "pid": std::process::id() }));
    // Not by returning: requests that hang on purpose would keep the process.
    std::process::exit(0)
}

#[cfg(unix)]
async fn reload_on_signal(app: Arc<App>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        app.reload().await;
    }
}

#[cfg(not(unix))]
async fn reload_on_signal(_: Arc<App>) {}
