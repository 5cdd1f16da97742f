//! What was probably meant by a command line that clap refuses: the whole of it, to be copied.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::pure::arguments::retyped;
use crate::pure::base_url::BaseUrl;
use crate::pure::text::printable;
use crate::sys::exec::Program;

/// Words that other programs use for what `ensure` does.
const LIKE_ENSURE: [&str; 5] = ["load", "warm", "wait", "check", "preload"];

/// Flags of other programs that say to look and change nothing.
const DRY_RUN: [&str; 3] = ["--dry-run", "--dryrun", "--no-load"];

/// Replaces clap's own tips by this one.
pub(super) fn put(error: &mut clap::Error, tip: &str) {
    for kind in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
        error.remove(kind);
    }
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(printable(tip))]));
}

/// The command line that was meant, where that can be told. `argv` is the one that was typed,
/// program included; `commands` are the commands that there are.
pub(super) fn tip(error: &clap::Error, argv: &[String], commands: &[String]) -> Option<String> {
    let meant = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let place = place_of(argv, &text(error, ContextKind::InvalidSubcommand)?)?;
            match suggested(error, ContextKind::SuggestedSubcommand) {
                Some(command) => retyped(argv, place..=place, &[&command]),
                // Below a command of its own there is nothing else that a word could be.
                None if place > 1 => return None,
                None if LIKE_ENSURE.contains(&argv[1].as_str()) => retyped(argv, 1..=1, &["ensure"]),
                None if Program::find(argv[1].as_ref()).is_ok() => retyped(argv, 1..=1, &["run", &argv[1]]),
                None => retyped(argv, 1..=1, &["ensure", &argv[1]]),
            }
        }
        ErrorKind::UnknownArgument => {
            let wrong = text(error, ContextKind::InvalidArg)?;
            if DRY_RUN.contains(&wrong.as_str()) {
                return Some(
                    "`lmswarm config roles` shows which models and servers are meant, and asks none".to_owned(),
                );
            }
            let place = place_of(argv, &wrong)?;
            match suggested(error, ContextKind::SuggestedArg) {
                Some(flag) => {
                    // With its value, if that is in the same word.
                    let value = argv[place].split_once('=').map_or(String::new(), |(_, value)| format!("={value}"));
                    retyped(argv, place..=place, &[&format!("{flag}{value}")])
                }
                // Options stand behind their command.
                None if place == 1 => {
                    let command = argv.iter().position(|word| commands.contains(word))?;
                    let moved: Vec<&str> = [argv[command].as_str()]
                        .into_iter()
                        .chain(argv[1..command].iter().map(String::as_str))
                        .collect();
                    retyped(argv, 1..=command, &moved)
                }
                None => return None,
            }
        }
        ErrorKind::ValueValidation => {
            let wrong = text(error, ContextKind::InvalidValue)?;
            text(error, ContextKind::InvalidArg).filter(|arg| arg.starts_with("--base-url "))?;
            let meant = BaseUrl::meant(&wrong)?;
            let place = place_of(argv, &wrong).or_else(|| place_of(argv, &format!("--base-url={wrong}")))?;
            let with_flag = argv[place].strip_suffix(wrong.as_str()).map(|flag| format!("{flag}{meant}"))?;
            retyped(argv, place..=place, &[&with_flag])
        }
        _ => return None,
    };
    Some(format!("did you mean `{meant}`?"))
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// The first of the names that clap found to be similar.
fn suggested(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(name) => Some(name.clone()),
        ContextValue::Strings(names) => names.first().cloned(),
        _ => None,
    }
}

/// Where a word stands behind the program's name, alone or with a value behind `=`.
fn place_of(argv: &[String], word: &str) -> Option<usize> {
    let is_it = |typed: &String| typed == word || typed.split_once('=').is_some_and(|(name, _)| name == word);
    Some(1 + argv.iter().skip(1).position(is_it)?)
}
