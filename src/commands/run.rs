//! `lmswarm run`: calls the gate, then becomes the command, or stays as its parent and keeps
//! the models warm.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::error::CommandError;
use super::{call, mistakes};
use crate::cli::{GateArgs, RunArgs};
use crate::pure::arguments::{RunWords, split_run};
use crate::pure::opencode::no_model::asks_no_model;
use crate::pure::outcome::exit::ExitCode;
use crate::sys::exec::{Program, Running};
use crate::sys::output::Console;
use crate::sys::search_path::NoProgram;

/// Runs the command.
pub(super) async fn run(args: RunArgs, console: Console, started: Instant) -> Result<ExitCode, CommandError> {
    let after_dashes = stand_behind_dashes(&args.words);
    let words = split_run(args.words, after_dashes)
        .map_err(|reason| CommandError::usage(reason).hinted("`lmswarm run --help` shows what can be given"))?;
    // Before the gate: no model is loaded on behalf of a misspelt command.
    let program = Program::find(&words.command).map_err(|why| match why {
        NoProgram::NotFound => mistakes::not_a_command(&words),
        NoProgram::NotExecutable => CommandError::cannot_start(&words.command, "it cannot be executed", 126),
    })?;
    if words.models.is_empty() && args.gate.key.is_empty() && asks_no_model(&words.command, &words.args) {
        return become_command(console, &program, &words).await;
    }
    let outcome = call::ensure(&words.models, &args.gate, console, started).await?;
    outcome.tell(console);
    if !outcome.verdict.proceed {
        return Ok(outcome.verdict.exit);
    }
    match args.keep_warm {
        Some(interval) => stay(console, &program, &words, Some((interval, &args.gate))).await,
        None => become_command(console, &program, &words).await,
    }
}

/// Lets the command take our place. Returns only when that fails; on Windows, with its end.
#[cfg_attr(unix, expect(clippy::unused_async, reason = "on Windows it waits for the command"))]
async fn become_command(console: Console, program: &Program, words: &RunWords) -> Result<ExitCode, CommandError> {
    #[cfg(unix)]
    {
        let _ = console;
        let error = program.replace_us(&words.args);
        Err(CommandError::cannot_start(&words.command, &error.to_string(), 126))
    }
    #[cfg(not(unix))]
    stay(console, program, words, None).await
}

/// Whether a `--` stands before the first of these words, which are the last ones typed. clap
/// takes that one away and keeps all others.
fn stand_behind_dashes(words: &[OsString]) -> bool {
    let typed: Vec<OsString> = std::env::args_os().collect();
    typed.len().checked_sub(words.len() + 1).is_some_and(|place| typed[place] == "--")
}

/// Starts the command as a child, and returns as it ended.
async fn stay(
    console: Console,
    program: &Program,
    words: &RunWords,
    warm: Option<(Duration, &GateArgs)>,
) -> Result<ExitCode, CommandError> {
    let mut running = Running::start(program, &words.args)
        .map_err(|error| CommandError::cannot_start(&words.command, &error.to_string(), 126))?;
    let mut complaints = Complaints { console, later: std::io::stderr().is_terminal(), heard: Vec::new() };
    let ended = {
        let rounds = async {
            let Some((interval, gate)) = warm else { return std::future::pending().await };
            loop {
                tokio::time::sleep(interval).await;
                complaints.hear(round(console, &words.models, gate).await);
            }
        };
        // A load that a round had begun when the command ends is cancelled; other callers that
        // wait for it begin anew.
        tokio::select! {
            biased;
            ended = running.end() => ended,
            never = rounds => never,
        }
    };
    complaints.tell();
    ended
        .with_context(|| format!("cannot tell how `{}` ended", words.command.display()))
        .map_err(|error| CommandError::unexpected(&error))
}

/// One more call of the gate, without a word: the terminal is the command's.
async fn round(console: Console, models: &[String], gate: &GateArgs) -> Vec<String> {
    match call::ensure(models, gate, console.quieted(), Instant::now()).await {
        Ok(outcome) => outcome.reasons(),
        Err(error) => vec![error.reason().to_owned()],
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
            // A session may be long; more than a few would not be read.
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
