//! What people read: messages on stderr, data on stdout. The only file that writes to
//! either, so that one place knows about colour, `--quiet`, pipes that are closed, and what
//! would drive a terminal.

use std::io::{self, IsTerminal, Write};

use crate::pure::outcome::failure::Failure;
use crate::pure::text::{duration, listed, printable, printable_json};

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How to speak to people.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Console {
    quiet: bool,
    color: bool,
}

const RED: &str = "\u{1b}[1;31m";
const YELLOW: &str = "\u{1b}[1;33m";
const CYAN: &str = "\u{1b}[36m";
const PLAIN: &str = "\u{1b}[0m";

impl Default for Console {
    fn default() -> Self {
        Self::new(false, ColorChoice::default())
    }
}

impl Console {
    /// Decides how to speak.
    pub(crate) fn new(quiet: bool, choice: ColorChoice) -> Self {
        let color = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
            }
        };
        Self { quiet, color }
    }

    /// The same, with errors alone.
    #[must_use]
    pub(crate) fn quieted(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// Whether only errors are shown.
    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Says what is going on.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            write_line(&format!("lmswarm: {}", printable(text)));
        }
    }

    /// Says something worth knowing that stops nothing.
    pub(crate) fn warning(self, text: &str) {
        if !self.quiet {
            write_line(&format!("lmswarm: {} {}", self.paint(YELLOW, "warning:"), printable(text)));
        }
    }

    /// Says what went wrong and what to do next.
    pub(crate) fn error(self, reason: &str, hint: Option<&str>) {
        write_line(&format!("lmswarm: {} {}", self.paint(RED, "error:"), printable(reason)));
        self.hint(hint);
    }

    /// Says why a model is not addressable; `blocks` tells an error from a warning.
    pub(crate) fn failure(self, failure: &Failure, blocks: bool) {
        if failure.signal.is_some() {
            return self.note(&failure.reason);
        }
        let age = failure
            .age
            .map_or(String::new(), |age| format!(", found out {} ago (`--fresh` tries again now)", duration(age)));
        let reason = format!("{}{age}", failure.reason);
        let near = match failure.suggestions.as_slice() {
            [] => None,
            names => Some(format!("did you mean {}?", listed(names.iter().map(String::as_str), "or"))),
        };
        let hint = match (near, &failure.hint) {
            (Some(near), Some(hint)) => Some(format!("{near} {hint}")),
            (near, hint) => near.or_else(|| hint.clone()),
        };
        if blocks {
            self.error(&reason, hint.as_deref());
        } else {
            self.warning(&reason);
            self.hint(hint.as_deref().filter(|_| !self.quiet));
        }
    }

    fn hint(self, hint: Option<&str>) {
        if let Some(hint) = hint {
            write_line(&format!("  {} {}", self.paint(CYAN, "hint:"), printable(hint)));
        }
    }

    fn paint(self, color: &str, text: &str) -> String {
        if self.color { format!("{color}{text}{PLAIN}") } else { text.to_owned() }
    }
}

/// A warning of the log, which has no console.
pub(crate) fn warn_early(text: &str) {
    write_line(&format!("lmswarm: warning: {}", printable(text)));
}

/// Prints data. A reader that went away is no error of ours.
///
/// # Errors
/// When stdout cannot be written to for another reason.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Prints a report.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(report: &impl serde::Serialize) -> io::Result<()> {
    print(&printable_json(&serde_json::to_string(report)?))
}

/// When stderr is closed there is no place left to tell it.
fn write_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
