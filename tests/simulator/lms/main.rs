//! A simulated `lms`, the command line of LM Studio: same arguments, streams, bytes and exit codes, against the simulated
//! application.
//!
//! It must never reach a real LM Studio, and it must not know anything the real one has no way to know.

#![expect(unreachable_pub, reason = "nothing leaves a program; pub marks what other modules use")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes, times and counts are small, and shown with two digits"
)]

mod args;
mod choose;
mod client;
mod commands;
#[expect(dead_code, reason = "shared with the other simulators, which use the rest")]
#[path = "../common/mod.rs"]
mod common;
mod get;
mod http;
mod list;
#[expect(dead_code, reason = "shared with the simulated application, which uses the rest")]
#[path = "../lmstudio/mod.rs"]
mod lmstudio;
mod load;
mod spoil;

use std::io::{ErrorKind, Write as _};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use args::Args;
use common::{Fault, Kind, Record};
use lmstudio::{Config, Home, Store};

/// One run of `lms`.
#[derive(Debug)]
pub struct Session {
    /// The command line.
    pub args: Args,
    /// Where LM Studio's files are.
    pub home: Home,
    /// The configuration as it was at the start.
    pub config: Arc<Config>,
    /// The fault that strikes this run.
    pub fault: Option<Fault>,
    argv: Vec<String>,
    record: Record,
    stdout: Vec<u8>,
}

impl Session {
    /// Whether a fault of this kind strikes.
    pub fn struck_by(&self, kind: Kind) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.kind == kind)
    }

    /// Says something on stderr, where `lms` says everything.
    pub fn info(&self, text: &str) {
        if !self.args.has("--quiet") {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Prints a line on stdout, at the end of the run: a fault may spoil it first.
    pub fn print(&mut self, text: &str) {
        self.stdout.extend_from_slice(text.as_bytes());
        self.stdout.push(b'\n');
    }

    /// Writes to stdout at once. False if the run is over: a Node build dies if nobody reads any more, a Bun build does
    /// not even notice.
    pub fn write_now(&self, bytes: &[u8]) -> bool {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.config.client_build != "node",
            _ => true,
        }
    }

    /// Ends the run.
    pub fn exit(&mut self, code: i32) -> ! {
        let stdout = std::mem::take(&mut self.stdout);
        let stdout = match &self.fault {
            Some(fault) if !stdout.is_empty() => spoil::spoiled(fault, stdout),
            _ => stdout,
        };
        let code = if self.write_now(&stdout) { code } else { 1 };
        self.record.write("lms-exit", json!({ "pid": std::process::id(), "code": code, "argv": self.argv }));
        std::process::exit(code)
    }

    /// Asks a question nobody answers. The Bun build, which is what is shipped, waits for ever; a Node build gives up at
    /// the end of stdin.
    pub async fn prompt(&mut self, question: &str) -> ! {
        let _ = writeln!(std::io::stderr(), "{question}");
        if self.config.client_build == "node" {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            self.exit(1);
        }
        std::future::pending().await
    }
}

/// Makes a child that outlives us and hears none of our signals.
pub fn detach(command: &mut Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        command.process_group(0);
    }
    #[cfg(windows)]
    {
        use std::os::windows::process::CommandExt as _;
        const DETACHED_PROCESS: u32 = 0x0000_0008;
        command.creation_flags(DETACHED_PROCESS);
    }
}

/// Who asked for this run: the parent, unless a wrapper around `lms` names its own.
#[cfg(unix)]
fn parent() -> Value {
    let named = std::env::var("LMS_SIMULATOR_CALLER").ok().and_then(|pid| pid.parse::<u32>().ok());
    named.unwrap_or_else(std::os::unix::process::parent_id).into()
}

#[cfg(not(unix))]
fn parent() -> Value {
    Value::Null
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let argv: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    if let [hidden, ms] = argv.as_slice()
        && hidden == spoil::GRANDCHILD
    {
        std::thread::sleep(Duration::from_millis(ms.parse()?));
        return Ok(());
    }
    let home = Home::find(&Home::of_user()?)?;
    let store = Store::new(&home);
    let record = Record::open(&home.simulator())?;
    record.write("lms", json!({ "pid": std::process::id(), "ppid": parent(), "argv": argv }));
    let config = store.config(&record);
    tokio::time::sleep(Duration::from_millis(config.lms_start_ms)).await;

    let outcome = args::parse(&argv);
    let target = match &outcome {
        Ok(parsed) if parsed.has("--estimate-only") => "lms load --estimate-only".to_owned(),
        Ok(parsed) => format!("lms {}", parsed.command),
        Err(_) => String::new(),
    };
    let fault = store.faults.strike(&record, &["lms", &target], None);
    let mut session = Session { args: Args::default(), home, config, fault, argv, record, stdout: Vec::new() };

    // The real one looks for these two before anything else, wherever they stand.
    if session.argv.iter().any(|word| word == "-v" || word == "--version") {
        session.print("CLI commit: 07b7252");
        session.exit(0);
    }
    match outcome {
        Ok(parsed) => session.args = parsed,
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "{text}");
            session.exit(1);
        }
    }
    spoil::before(&mut session).await;
    let code = match commands::run(&mut session).await {
        Ok(code) => code,
        Err(error) => {
            session.info(&format!("Error: {error}"));
            1
        }
    };
    session.exit(code)
}
