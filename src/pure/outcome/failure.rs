//! Everything that can go wrong for a model, its exit code, and what the fail mode makes of it.
//! The words are written where the failure is found; this file only ranks them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pure::outcome::exit::ExitCode;

/// The kind of a failure, as `--json` names it. The names are the contract; the README explains each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    ServerUnreachable,
    NotLmStudio,
    WrongBackend,
    Unauthorized,
    NotDownloaded,
    DownloadFailed,
    LoadRefused,
    LoadFailed,
    LoadTimeout,
    NotAddressable,
    Duplicates,
    Drift,
    Conflict,
    LockTimeout,
    Deadline,
    UnknownState,
    Interrupted,
}

impl Category {
    /// Confirmed: we know it failed. Ambiguous: we could not find out.
    pub fn is_confirmed(self) -> bool {
        !matches!(self, Self::LockTimeout | Self::Deadline | Self::UnknownState | Self::Interrupted)
    }

    /// Usually expensive to find out.
    fn is_expensive(self) -> bool {
        matches!(
            self,
            Self::ServerUnreachable
                | Self::DownloadFailed
                | Self::LoadRefused
                | Self::LoadFailed
                | Self::LoadTimeout
                | Self::NotAddressable
                | Self::Conflict
        )
    }

    fn exit_code(self) -> ExitCode {
        match self {
            Self::ServerUnreachable | Self::NotLmStudio | Self::WrongBackend => ExitCode::Server,
            Self::NotDownloaded | Self::DownloadFailed => ExitCode::NotDownloaded,
            Self::LoadRefused | Self::LoadFailed | Self::LoadTimeout | Self::NotAddressable => ExitCode::Load,
            Self::Duplicates | Self::Drift | Self::Conflict => ExitCode::NotUsable,
            Self::Unauthorized => ExitCode::Unauthorized,
            Self::LockTimeout | Self::Deadline | Self::UnknownState | Self::Interrupted => ExitCode::Ambiguous,
        }
    }
}

/// Which later callers are told a failure that one caller has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// None: each looks for itself.
    Never,
    /// Those that were waiting when it was found.
    Waiters,
    /// Those, and others for as long as it took to find out.
    Cooldown,
}

/// What a person and a program are told when a model could not be ensured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub category: Category,
    /// What happened and why, in one sentence, safe to print.
    pub reason: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Names of models that were perhaps meant.
    pub suggestions: Vec<String>,
    /// How old the failure is, if it was found out by an earlier call.
    pub age: Option<Duration>,
    /// Which later callers are told the same, without trying again.
    pub replay: Replay,
    /// Whether the server answers a client's request all the same, by a load of its own.
    pub is_served: bool,
    /// The signal that ended the call, for [`Category::Interrupted`].
    pub signal: Option<u8>,
}

impl Failure {
    /// A failure that was found just now.
    pub fn new(category: Category, reason: impl Into<String>) -> Self {
        Self {
            category,
            reason: reason.into(),
            hint: None,
            suggestions: Vec::new(),
            age: None,
            replay: if category.is_expensive() { Replay::Cooldown } else { Replay::Never },
            is_served: false,
            signal: None,
        }
    }

    /// Marks a failure that costs nothing to find out again, or that concerns this caller alone.
    #[must_use]
    pub fn cheap(self) -> Self {
        Self { replay: Replay::Never, ..self }
    }

    /// Marks a failure that callers already waiting must not repeat one by one, and that means
    /// nothing to callers that come later.
    #[must_use]
    pub fn for_waiters(self) -> Self {
        Self { replay: Replay::Waiters, ..self }
    }

    /// Marks a failure in spite of which the server answers a client's request.
    #[must_use]
    pub fn served(self) -> Self {
        Self { is_served: true, ..self }
    }

    /// Adds what else is to be said, behind a semicolon.
    #[must_use]
    pub fn and(mut self, words: &str) -> Self {
        self.reason = format!("{}; {words}", self.reason);
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a caller that gates a request does with a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// Blocks on any failure.
    Closed,
    /// Blocks on confirmed failures; lets ambiguous ones through, and those in spite of which the
    /// server answers.
    Hybrid,
    /// Never blocks.
    Open,
}

/// The end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Every model is addressable.
    pub ok: bool,
    /// Whether a caller that gates a request should send it.
    pub proceed: bool,
    /// How the process ends.
    pub exit: ExitCode,
}

/// Ranks the failures of one call, in the order the models were given.
pub(crate) fn verdict(failures: &[&Failure], mode: FailMode) -> Verdict {
    // The user asked this very process to stop: no fail mode turns that into a yes.
    if let Some(signal) = failures.iter().find_map(|failure| failure.signal) {
        return Verdict { ok: false, proceed: false, exit: ExitCode::Signal(signal) };
    }
    let ok = failures.is_empty();
    let confirmed = failures.iter().find(|failure| failure.category.is_confirmed());
    let proceed = match mode {
        FailMode::Closed => ok,
        FailMode::Hybrid => failures.iter().all(|it| !it.category.is_confirmed() || it.is_served),
        FailMode::Open => true,
    };
    let exit = match (mode, confirmed) {
        _ if ok => ExitCode::Success,
        (FailMode::Open, _) => ExitCode::Success,
        (_, Some(failure)) => failure.category.exit_code(),
        (_, None) => ExitCode::Ambiguous,
    };
    Verdict { ok, proceed, exit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(categories: &[Category], mode: FailMode) -> (bool, u8) {
        let failures: Vec<Failure> = categories.iter().map(|category| Failure::new(*category, "x")).collect();
        let verdict = verdict(&failures.iter().collect::<Vec<_>>(), mode);
        assert_eq!(verdict.ok, categories.is_empty());
        (verdict.proceed, verdict.exit.number())
    }

    #[test]
    fn the_first_confirmed_failure_decides() {
        use Category::{Drift, LoadFailed, LockTimeout, NotDownloaded, UnknownState};
        use FailMode::{Closed, Hybrid, Open};
        for (categories, mode, wanted) in [
            (&[][..], Closed, (true, 0)),
            (&[], Hybrid, (true, 0)),
            (&[LockTimeout], Closed, (false, 75)),
            (&[LockTimeout], Hybrid, (true, 75)),
            (&[LockTimeout], Open, (true, 0)),
            (&[LockTimeout, NotDownloaded, LoadFailed], Hybrid, (false, 4)),
            (&[LoadFailed, NotDownloaded], Hybrid, (false, 5)),
            (&[UnknownState, Drift], Closed, (false, 6)),
            (&[Drift], Open, (true, 0)),
        ] {
            assert_eq!(verdict_of(categories, mode), wanted, "{categories:?} {mode:?}");
        }
    }

    #[test]
    fn what_the_server_answers_all_the_same_is_let_through() {
        let conflict = Failure::new(Category::Conflict, "x").served();
        let missing = Failure::new(Category::NotDownloaded, "x");
        for (failures, mode, wanted) in [
            (&[&conflict][..], FailMode::Hybrid, (true, 6)),
            (&[&conflict], FailMode::Closed, (false, 6)),
            (&[&conflict, &missing], FailMode::Hybrid, (false, 6)),
        ] {
            let verdict = verdict(failures, mode);
            assert_eq!((verdict.proceed, verdict.exit.number()), wanted, "{failures:?} {mode:?}");
        }
    }

    #[test]
    fn a_signal_is_never_a_yes() {
        let mut failure = Failure::new(Category::Interrupted, "x");
        failure.signal = Some(15);
        for mode in [FailMode::Closed, FailMode::Hybrid, FailMode::Open] {
            let verdict = verdict(&[&failure], mode);
            assert!(!verdict.proceed);
            assert_eq!(verdict.exit.number(), 143);
        }
    }
}
