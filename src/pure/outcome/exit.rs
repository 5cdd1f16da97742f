//! The exit codes: the only place with the numbers.

/// Why the process ends. Stable: scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Every model is addressable (or `failMode` is `open`).
    Success,
    /// An error of ours.
    Unexpected,
    /// The command line is wrong.
    Usage,
    /// No server to reach or to start, or it is not LM Studio.
    Server,
    /// The model is not downloaded, or its download failed.
    NotDownloaded,
    /// The load was refused, crashed, timed out, or left nothing addressable.
    Load,
    /// Resident, but not usable: busy duplicates, or drift with `onMismatch: fail`.
    NotUsable,
    /// The token is missing or refused.
    Unauthorized,
    /// Not known: a wait ran out, or the state could not be determined (`EX_TEMPFAIL`).
    Ambiguous,
    /// The configuration is wrong (`EX_CONFIG`).
    Config,
    /// Ended by this signal: 128 + its number.
    Signal(u8),
    /// Not ours: that of the command that `run` started, or a shell's number for one that
    /// cannot be started (126, 127).
    Command(u8),
}

impl ExitCode {
    /// The number for the operating system.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Server => 3,
            Self::NotDownloaded => 4,
            Self::Load => 5,
            Self::NotUsable => 6,
            Self::Unauthorized => 7,
            Self::Ambiguous => 75,
            Self::Config => 78,
            Self::Signal(number) => 128 | number,
            Self::Command(number) => number,
        }
    }
}

/// The table for `--help` and the README.
pub(crate) const HELP: &str = "\
Exit codes:
  0    every model named is addressable (with --fail-mode open: or you said not to be stopped)
  1    unexpected error in lmswarm itself
  2    usage: the command line is wrong
  3    server not reachable and could not be started, or not LM Studio
  4    model not downloaded, or download failed
  5    load failed: refused, crashed, timed out, or not addressable afterwards
  6    resident but not usable: busy duplicates, or drift with --on-mismatch fail
  7    authentication: the token is missing or refused
  75   not known: lock wait or --timeout ran out, or the state could not be determined
  78   configuration error
  129, 130, 143   stopped by SIGHUP, SIGINT, SIGTERM";

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn the_readme_has_these_exit_codes() {
        let mut table = "| code | meaning |\n|---|---|\n".to_owned();
        for line in HELP.lines().skip(1) {
            let line = line.trim();
            let (codes, meaning) = line.split_once("   ").or_else(|| line.split_once("  ")).unwrap();
            let _ = writeln!(table, "| {codes} | {} |", meaning.trim());
        }
        crate::readme::assert_has("exit codes", &table);
    }
}
