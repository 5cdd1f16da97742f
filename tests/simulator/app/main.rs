//! A simulated LM Studio: the application, its API port and its REST server, as a real process.
//!
//! It is a tool for tests, benchmarks and the demonstration in the README. It must never touch a real LM Studio: all it
//! reads and writes is below the home it is given, and all it listens on is this machine.

#![expect(unreachable_pub, reason = "nothing leaves a program; pub marks what other modules use")]
#![expect(clippy::exit, reason = "a program that hangs on purpose cannot end by returning")]
#![expect(clippy::cast_precision_loss, reason = "sizes and times are shown with two digits")]
#![expect(clippy::option_option, reason = "a device can be absent, null or a name, and all three differ")]

mod catalogue;
#[expect(dead_code, reason = "shared with the other simulators, which use the rest")]
#[path = "../common/mod.rs"]
mod common;
mod control;
mod engine;
mod jobs;
#[path = "../lmstudio/mod.rs"]
mod lmstudio;
mod load;
mod native;
mod openai;
mod reply;
mod rpc;
mod server;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use common::program::{end_with_stdin, wait_for_end};
use common::{Record, replace_file};
use engine::App;
use lmstudio::{Home, Store};
use server::RestSwitch;

/// A simulated LM Studio.
#[derive(Debug, Parser)]
struct Options {
    /// The user's home directory [default: $HOME]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Start the REST server at once, on this port (0: any)
    #[arg(long, value_name = "PORT")]
    rest_port: Option<u16>,
    /// End when stdin ends
    #[arg(long)]
    exit_with_stdin: bool,
    /// Ignored: how lms starts the application
    #[arg(long)]
    run_as_service: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let user_home = match options.home {
        Some(home) => home,
        None => Home::of_user()?,
    };
    let home = Home::find(&user_home)?;
    let store = Store::new(&home);
    let record = Record::open(&home.simulator())?;
    // As the real one: whoever is started while it runs leaves at once. The kernel frees the lock, however it ends.
    let only_one = std::fs::File::create(home.simulator().join("app.lock"))?;
    if fs2::FileExt::try_lock_exclusive(&only_one).is_err() {
        return Ok(());
    }
    store.create_models()?;

    let ended = Arc::new(Notify::new());
    if options.exit_with_stdin {
        end_with_stdin(Arc::clone(&ended));
    }
    if store.config(&record).never_starts {
        record.write("app-start", json!({ "pid": std::process::id(), "apiPort": null }));
        wait_for_end(&ended, &home.simulator()).await?;
        record.write("app-stop", json!({ "pid": std::process::id() }));
        std::process::exit(0);
    }

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot open the API port")?;
    let api_port = listener.local_addr()?.port();
    let app = App::new(home, store, record, api_port);
    let switch = Arc::new(RestSwitch::default());
    app.record.write("app-start", json!({ "pid": std::process::id(), "apiPort": api_port }));
    if let Some(port) = options.rest_port {
        switch.start(&app, port, "127.0.0.1").await.map_err(anyhow::Error::msg)?;
    }
    tokio::spawn(server::serve_api(Arc::clone(&app), Arc::clone(&switch), listener));
    tokio::spawn(expire(Arc::clone(&app)));
    replace_file(&app.home.api_file(), json!({ "port": api_port }).to_string().as_bytes())?;

    let ready = json!({ "pid": std::process::id(), "apiPort": api_port, "restPort": switch.port() });
    let mut stdout = std::io::stdout();
    // Started by `lms` there is nobody to read it.
    let _ = writeln!(stdout, "{ready}").and_then(|()| stdout.flush());

    wait_for_end(&ended, &app.home.simulator()).await?;
    switch.stop(&app);
    let _ = std::fs::remove_file(app.home.api_file());
    app.record.write("app-stop", json!({ "pid": std::process::id() }));
    // Not by returning: requests that hang on purpose would keep the process.
    std::process::exit(0)
}

async fn expire(app: Arc<App>) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        app.expire();
    }
}
