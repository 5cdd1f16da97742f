//! `lmswarm run`: calls the gate, then becomes the command, or stays as its parent and keeps
//! the models warm.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::call;
use crate::cli::{GateArgs, RunArgs};
use crate::pure::arguments::{Line, split};
use crate::pure::outcome::exit::ExitCode;
use crate::sys::exec::{Program, Running};
use crate::sys::output::Console;
use crate::sys::search_path::NoProgram;

/// Runs the command.
pub(super) async fn run(args: RunArgs, started: Instant) -> ExitCode {
    let console = Console::new(args.gate.settings.output.quiet, args.gate.settings.output.color);
    let after_dashes = stand_behind_dashes(&args.words);
    let line = match split(args.words, after_dashes) {
        Ok(line) => line,
        Err(reason) => {
            console.error(&reason, Some("`lmswarm run --help` shows what can be given"));
            return ExitCode::Usage;
        }
    };
    // Before the gate: nobody should wait for a model on behalf of a misspelt command.
    let program = match Program::find(&line.command) {
        Ok(program) => program,
        Err(NoProgram::NotFound) => return cannot_start(console, &line, "not found", 127),
        Err(NoProgram::NotExecutable) => return cannot_start(console, &line, "it cannot be executed", 126),
    };
    match call::ensure(&line.models, &args.gate, console, started).await {
        Ok(gated) => {
            gated.tell(console);
            if !gated.verdict.proceed {
                return gated.verdict.exit;
            }
        }
        Err(trouble) => {
            let (exit, reason, hint) = trouble.into_message();
            console.error(&reason, hint);
            return exit;
        }
    }
    match args.keep_warm {
        Some(interval) => stay(console, &program, &line, Some((interval, &args.gate))).await,
        #[cfg(unix)]
        None => {
            let error = program.replace_us(&line.args);
            cannot_start(console, &line, &error.to_string(), 126)
        }
        #[cfg(not(unix))]
        None => stay(console, &program, &line, None).await,
    }
}

/// Whether a `--` stands before the first of these words, which are the last ones typed. clap
/// takes that one away and keeps all others.
fn stand_behind_dashes(words: &[OsString]) -> bool {
    let typed: Vec<OsString> = std::env::args_os().collect();
    typed.len().checked_sub(words.len() + 1).is_some_and(|place| typed[place] == "--")
}

fn cannot_start(console: Console, line: &Line, reason: &str, code: u8) -> ExitCode {
    console.error(&format!("cannot start `{}`: {reason}", line.command.display()), None);
    ExitCode::Command(code)
}

/// Starts the command as a child, and returns as it ended.
async fn stay(console: Console, program: &Program, line: &Line, warm: Option<(Duration, &GateArgs)>) -> ExitCode {
    let mut running = match Running::start(program, &line.args) {
        Ok(running) => running,
        Err(error) => return cannot_start(console, line, &error.to_string(), 126),
    };
    let mut complaints = Complaints { console, later: std::io::stderr().is_terminal(), heard: Vec::new() };
    let ended = {
        let rounds = async {
            let Some((interval, gate)) = warm else { return std::future::pending().await };
            loop {
                tokio::time::sleep(interval).await;
                complaints.hear(round(&line.models, gate).await);
            }
        };
        // A load that a round had begun when the command ends is cancelled; whoever waits for
        // it begins anew.
        tokio::select! {
            biased;
            ended = running.end() => ended,
            never = rounds => never,
        }
    };
    complaints.tell();
    ended.unwrap_or_else(|error| {
        console.error(&format!("cannot tell how `{}` ended: {error}", line.command.display()), None);
        ExitCode::Unexpected
    })
}

/// One more call of the gate, without a word: the terminal is the command's.
async fn round(models: &[String], gate: &GateArgs) -> Vec<String> {
    let silent = Console::new(true, gate.settings.output.color);
    match call::ensure(models, gate, silent, Instant::now()).await {
        Ok(gated) => gated.reasons(),
        Err(trouble) => vec![trouble.into_message().1],
    }
}

/// What went wrong while the command ran.
struct Complaints {
    console: Console,
    /// Whether to wait for the end of the command, which may have the whole screen.
    later: bool,
    /// Those of the latest round, or those to be told later.
    heard: Vec<String>,
}

impl Complaints {
    /// Each is told once, until it has gone away and come back.
    fn hear(&mut self, reasons: Vec<String>) {
        for reason in &reasons {
            tracing::warn!(reason, "not kept warm");
        }
        let fresh: Vec<String> = reasons.iter().filter(|it| !self.heard.contains(it)).cloned().collect();
        if self.later {
            // A session may be long, and nobody reads more.
            let room = 5_usize.saturating_sub(self.heard.len());
            self.heard.extend(fresh.into_iter().take(room));
            return;
        }
        for reason in fresh {
            self.console.warning(&format!("not kept warm: {reason}"));
        }
        self.heard = reasons;
    }

    fn tell(&self) {
        for reason in self.heard.iter().filter(|_| self.later) {
            self.console.warning(&format!("was not always kept warm: {reason}"));
        }
    }
}
