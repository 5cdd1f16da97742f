//! What ends a command: the one place that turns an error into a message, a hint, a report and
//! an exit code.

use crate::gate::Refusal;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::outcome::report::Report;
use crate::resolve::ResolveError;
use crate::sys::output::{self, Console};
use crate::sys::settings::WrongSettings;
use crate::sys::tls::NoClient;

/// Why a command failed as a whole.
#[derive(Debug)]
pub(super) struct CommandError {
    exit: ExitCode,
    reason: String,
    hint: Option<String>,
}

impl CommandError {
    fn new(exit: ExitCode, reason: impl Into<String>) -> Self {
        Self { exit, reason: reason.into(), hint: None }
    }

    /// The command line is wrong.
    pub(super) fn usage(reason: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, reason).hinted("--help shows what can be given")
    }

    /// A configuration, or the state of this machine that the user must mend, is wrong.
    pub(super) fn config(reason: impl Into<String>) -> Self {
        Self::new(ExitCode::Config, reason)
    }

    /// An error of ours.
    pub(super) fn unexpected(error: &anyhow::Error) -> Self {
        Self::new(ExitCode::Unexpected, format!("{error:#}"))
            .hinted("this should not happen; please report it with the output of -vv")
    }

    /// The command that `run` was given cannot be started; `code` is what a shell would answer.
    pub(super) fn cannot_start(command: &std::ffi::OsStr, reason: &str, code: u8) -> Self {
        Self::new(ExitCode::Command(code), format!("cannot start `{}`: {reason}", command.display()))
    }

    /// Sets what to do next.
    #[must_use]
    pub(super) fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What happened.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Tells a person, and with `json` a program too, and returns how the process ends. A wrong
    /// command line is told to people alone: `--json` itself may be what is wrong in it.
    pub(super) fn report(&self, console: Console, json: bool) -> ExitCode {
        console.error(&self.reason, self.hint.as_deref());
        if json && self.exit != ExitCode::Usage {
            let report = Report::of_error(&self.reason, self.hint.as_deref(), self.exit.number());
            // What cannot be printed has just been told on stderr.
            let _ = output::print_json(&report);
        }
        self.exit
    }
}

impl From<WrongSettings> for CommandError {
    fn from(WrongSettings { reason, is_usage }: WrongSettings) -> Self {
        if is_usage { Self::usage(reason) } else { Self::config(reason) }
    }
}

impl From<ResolveError> for CommandError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Argument(reason) => Self::usage(reason),
            ResolveError::Config { reason, hint: Some(hint) } => Self::config(reason).hinted(hint),
            ResolveError::Config { reason, hint: None } => Self::config(reason),
        }
    }
}

impl From<NoClient> for CommandError {
    fn from(error: NoClient) -> Self {
        match error {
            NoClient::NoCertificates { reason, hint } => Self::config(reason).hinted(hint),
            NoClient::Unexpected(error) => Self::unexpected(&error),
        }
    }
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        Self::config(refusal.reason).hinted(refusal.hint)
    }
}
