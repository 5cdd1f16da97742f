//! The `lms` program as typed calls. Each has its limit, since `lms` has none: a mute or
//! mismatched LM Studio makes it wait for ever. Exit codes prove little (`lms unload` of an
//! unknown identifier exits 0), so whoever calls looks afterwards.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use crate::pure::base_url::BaseUrl;
use crate::pure::eviction::Estimate;
use crate::pure::lmstudio::lms_output::{error_sentence, last_percent, parse_estimate, parse_ls, parse_ps};
use crate::pure::model::ModelKey;
use crate::pure::residency::{Downloaded, Instance};
use crate::pure::text::{duration, printable};
use crate::sys::process::{Exit, Finished, run};
use crate::sys::shutdown::{Shutdown, Stop};

const LIST_LIMIT: Duration = Duration::from_secs(15);
const SERVER_START_LIMIT: Duration = Duration::from_secs(30);
/// Longest that an `lms unload` may take.
pub(crate) const UNLOAD_LIMIT: Duration = Duration::from_secs(60);
/// How long a download takes depends on the line; this only ends what hangs for good.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Why a call of `lms` came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The whole call must end.
    Stopped(Stop),
    /// It failed.
    Failed(LmsError),
}

/// How a call of `lms` failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LmsError {
    /// Which command, and why, in one sentence.
    pub reason: String,
    /// Whether the reason lies with this process or its environment. Another caller need not meet
    /// the same, so it is no answer of LM Studio.
    pub is_local: bool,
}

impl LmsError {
    /// Says how a command failed: `` `lms ps --json` failed (exit code 1): … ``.
    pub(crate) fn of(args: &[String], finished: &Finished, limit: Duration) -> Self {
        let command = args.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" ");
        let words = error_sentence(&finished.stderr);
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        let reason = match &finished.exit {
            Exit::Code(code) => format!("`lms {command}` failed (exit code {code}){words}"),
            Exit::Signal(signal) => format!("`lms {command}` was ended by signal {signal}{words}"),
            Exit::LimitExpired => format!("`lms {command}` did not end within {}{words}", duration(limit)),
            Exit::Stopped(_) | Exit::NotStarted(_) => format!("`lms {command}` did not run{words}"),
        };
        Self { reason, is_local: finished.is_local_failure() }
    }
}

impl From<String> for LmsError {
    fn from(reason: String) -> Self {
        Self { reason, is_local: false }
    }
}

impl fmt::Display for LmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// The `lms` program and how it reaches the server.
#[derive(Debug)]
pub(crate) struct Lms {
    program: PathBuf,
    /// `--host H --port P` for a server on another machine; empty for this one, where `lms`
    /// finds LM Studio by itself and needs no token.
    reach: Vec<String>,
    /// Variables that it does not get to see: those that may hold a token.
    secrets: [String; 2],
    shutdown: Shutdown,
}

impl Lms {
    /// Uses `program` for the server at `base`, which must suit it if it is not this machine.
    /// `token_variable` is what holds the API token, if anything does.
    pub(crate) fn new(program: PathBuf, base: &BaseUrl, token_variable: &str, shutdown: Shutdown) -> Self {
        let reach = if base.is_loopback() {
            Vec::new()
        } else {
            vec!["--host".to_owned(), base.host(), "--port".to_owned(), base.port().to_string()]
        };
        // It has a key of its own for this machine and cannot show a token to another one; a
        // host that a project chose should not be where it learns to.
        let secrets = [token_variable.to_owned(), "LM_API_TOKEN".to_owned()];
        Self { program, reach, secrets, shutdown }
    }

    /// `lms ps --json`: every instance, loading ones included.
    ///
    /// # Errors
    /// When it fails twice: an instance that vanishes meanwhile fails the whole command.
    pub(crate) async fn ps(&self) -> Result<Vec<Instance>, Problem> {
        self.list("ps", parse_ps).await
    }

    /// `lms ls --json`: every downloaded model.
    ///
    /// # Errors
    /// When it fails twice.
    pub(crate) async fn ls(&self) -> Result<Vec<Downloaded>, Problem> {
        self.list("ls", parse_ls).await
    }

    async fn list<T>(&self, command: &str, parse: fn(&[u8]) -> Option<Vec<T>>) -> Result<Vec<T>, Problem> {
        let args = self.reaching(vec![command.to_owned(), "--json".to_owned()]);
        let mut problem = None;
        for _ in 0..2 {
            let finished = self.run(&args, LIST_LIMIT, |_| {}).await?;
            if finished.succeeded() {
                if let Some(list) = parse(&finished.stdout) {
                    return Ok(list);
                }
                let reason = format!("`lms {command} --json` printed no list that can be read");
                problem = Some(Problem::Failed(reason.into()));
            } else {
                let hangs = matches!(finished.exit, Exit::LimitExpired);
                problem = Some(Problem::Failed(LmsError::of(&args, &finished, LIST_LIMIT)));
                if hangs {
                    break;
                }
            }
        }
        Err(problem.unwrap_or_else(|| Problem::Failed(format!("`lms {command}` was not run").into())))
    }

    /// `lms load` with these arguments; `on_percent` sees how far the spinner says it is, and
    /// `lock` stays open while it runs. If the whole call must end, it is cancelled.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) async fn load(
        &self,
        args: Vec<String>,
        limit: Duration,
        lock: Option<File>,
        mut on_percent: impl FnMut(u8),
    ) -> Result<Finished, LmsError> {
        let args = self.reaching(args);
        let on_output = |piece: &[u8]| {
            if let Some(percent) = last_percent(piece) {
                on_percent(percent);
            }
        };
        let finished = run(&self.program, &args, &self.secrets, limit, &self.shutdown, lock, on_output).await;
        match finished.exit {
            Exit::NotStarted(error) => Err(self.not_started(&error)),
            _ => Ok(finished),
        }
    }

    /// `lms load --estimate-only`; `None` where it tells nothing.
    ///
    /// # Errors
    /// When the whole call must end.
    pub(crate) async fn estimate(&self, args: Vec<String>) -> Result<Option<Estimate>, Stop> {
        let args = self.reaching(args);
        match self.run(&args, LIST_LIMIT, |_| {}).await {
            Ok(finished) => Ok(parse_estimate(&finished.stderr)),
            Err(Problem::Stopped(stop)) => Err(stop),
            Err(Problem::Failed(_)) => Ok(None),
        }
    }

    /// `lms unload ID`. Success proves nothing; look afterwards. `lock` stays open while it runs.
    ///
    /// # Errors
    /// When it fails by its own account.
    pub(crate) async fn unload(&self, identifier: &str, lock: Option<File>) -> Result<(), Problem> {
        // It comes from a list, where anybody may have put a name that reads as an option.
        if ModelKey::parse(identifier).is_err() {
            let reason = format!("`{}` cannot be given to `lms unload`", printable(identifier));
            return Err(Problem::Failed(reason.into()));
        }
        let args = self.reaching(vec!["unload".to_owned(), identifier.to_owned()]);
        let finished = self.run_with(&args, UNLOAD_LIMIT, lock, |_| {}).await?;
        if finished.succeeded() { Ok(()) } else { Err(Problem::Failed(LmsError::of(&args, &finished, UNLOAD_LIMIT))) }
    }

    /// `lms get NAME -y`.
    ///
    /// # Errors
    /// When the download fails.
    pub(crate) async fn get(&self, name: &str, mut on_percent: impl FnMut(u8)) -> Result<(), Problem> {
        let args = vec!["get".to_owned(), name.to_owned(), "-y".to_owned()];
        self.expect_success(args, DOWNLOAD_LIMIT, |piece| {
            if let Some(percent) = last_percent(piece) {
                on_percent(percent);
            }
        })
        .await
    }

    /// `lms server start --port PORT`, within `limit` and at most 30 s. Without the port it
    /// would take the last one.
    ///
    /// # Errors
    /// When it fails by its own account.
    pub(crate) async fn start_server(&self, port: u16, limit: Duration) -> Result<(), Problem> {
        let args = ["server", "start", "--port"].map(str::to_owned).into_iter().chain([port.to_string()]);
        self.expect_success(args.collect(), limit.min(SERVER_START_LIMIT), |_| {}).await
    }

    /// `lms daemon up`: wakes LM Studio itself.
    ///
    /// # Errors
    /// When it fails by its own account.
    pub(crate) async fn wake(&self, limit: Duration) -> Result<(), Problem> {
        self.expect_success(["daemon", "up", "--json"].map(str::to_owned).to_vec(), limit, |_| {}).await
    }

    async fn expect_success(
        &self,
        args: Vec<String>,
        limit: Duration,
        on_output: impl FnMut(&[u8]),
    ) -> Result<(), Problem> {
        // `server` and `daemon` concern this machine alone, where `reach` is empty.
        let args = self.reaching(args);
        let finished = self.run(&args, limit, on_output).await?;
        if finished.succeeded() { Ok(()) } else { Err(Problem::Failed(LmsError::of(&args, &finished, limit))) }
    }

    fn reaching(&self, mut args: Vec<String>) -> Vec<String> {
        args.extend_from_slice(&self.reach);
        args
    }

    async fn run(&self, args: &[String], limit: Duration, on_output: impl FnMut(&[u8])) -> Result<Finished, Problem> {
        self.run_with(args, limit, None, on_output).await
    }

    async fn run_with(
        &self,
        args: &[String],
        limit: Duration,
        lock: Option<File>,
        on_output: impl FnMut(&[u8]),
    ) -> Result<Finished, Problem> {
        let finished = run(&self.program, args, &self.secrets, limit, &self.shutdown, lock, on_output).await;
        match finished.exit {
            Exit::Stopped(stop) => Err(Problem::Stopped(stop)),
            Exit::NotStarted(error) => Err(Problem::Failed(self.not_started(&error))),
            _ => Ok(finished),
        }
    }

    fn not_started(&self, error: &std::io::Error) -> LmsError {
        LmsError { reason: format!("{} cannot be started: {error}", self.program.display()), is_local: true }
    }
}
