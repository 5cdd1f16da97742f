//! What was probably meant by words that clap takes and that turn out to mean nothing: the whole
//! command line, to be copied.

use std::ffi::{OsStr, OsString};

use super::error::CommandError;
use crate::cli;
use crate::pure::arguments::{RunWords, retyped, split_words};
use crate::pure::opencode::roles::ROLE_WORDS;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::text::similar;
use crate::sys::exec::Program;

/// An address in the place of a model.
pub(super) fn check_models(models: &[String]) -> Result<(), CommandError> {
    let is_address = |word: &&String| word.starts_with("http://") || word.starts_with("https://");
    let Some(address) = models.iter().find(is_address) else { return Ok(()) };
    let error = CommandError::usage(format!("`{address}` is an address, and no model"));
    Err(match meant(address, &["--base-url", address]) {
        Some(meant) => error.hinted(format!("did you mean `{meant}`?")),
        None => error,
    })
}

/// A word that no model is called: it may be several words, or a role. Model names are compared
/// exactly, so this is known only when the server has been asked.
pub(super) fn improve(failure: &mut Failure, requested: &str) {
    if failure.category != Category::NotDownloaded {
        return;
    }
    let several = split_words(requested);
    let with = if several.len() > 1 {
        several
    } else if requested.contains('/') {
        return;
    } else {
        similar(requested, ROLE_WORDS).into_iter().take(1).collect()
    };
    let words: Vec<&str> = with.iter().map(String::as_str).collect();
    if let Some(meant) = meant(requested, &words).filter(|_| !with.is_empty()) {
        failure.suggestions.clear();
        failure.hint = Some(format!("did you mean `{meant}`?"));
    }
}

/// `run` was given something that is no command: the `--` between models and command is missing,
/// or the command is.
pub(super) fn not_a_command(words: &RunWords) -> CommandError {
    let error = CommandError::cannot_start(&words.command, "not found", 127);
    let typed: Vec<OsString> = std::iter::once(&words.command).chain(&words.args).cloned().collect();
    let shown = |word: &OsStr| word.to_string_lossy().into_owned();
    let is_option = |word: &OsStr| word.as_encoded_bytes().starts_with(b"-");
    if !words.models.is_empty() {
        return error;
    }
    if is_option(&words.command) {
        return CommandError::usage(format!("unexpected argument `{}`", shown(&words.command))).hinted(
            "options of lmswarm come before the command, those of the command behind it; see `lmswarm run --help`",
        );
    }
    let argv = cli::argv();
    // A `--` may stand before all of them.
    let first = argv.len() - typed.len();
    let first = if argv[first - 1] == "--" { first - 1 } else { first };
    let before_options = typed.iter().take_while(|word| !is_option(word)).count();
    let command = (1..before_options).find(|place| Program::find(&typed[*place]).is_ok());
    let typed: Vec<String> = typed.iter().map(|word| shown(word)).collect();
    let model = &typed[0];
    if model.starts_with(['/', '.', '~']) {
        return error;
    }
    let is_model = ROLE_WORDS.contains(&model.as_str()) || model.starts_with("agent:") || model.contains('/');
    let Some(command) = command else {
        if !is_model {
            return error;
        }
        let ensure = retyped(&argv[..2], 1..=1, &["ensure", model]);
        let run = retyped(&argv[..2], 1..=1, &["run", model, "--"]);
        return error.hinted(format!("if that is a model: `{ensure}`, or `{run} COMMAND`"));
    };
    let (models, command) = typed.split_at(command);
    let with: Vec<&str> =
        models.iter().map(String::as_str).chain(["--"]).chain(command.iter().map(String::as_str)).collect();
    let meant = retyped(&argv, first..=argv.len(), &with);
    if is_model {
        CommandError::usage(format!("`{model}` is no command, and there is no `--` behind the models"))
            .hinted(format!("did you mean `{meant}`?"))
    } else {
        error.hinted(format!("if that is a model: `{meant}`"))
    }
}

/// The command line with `word` replaced, if it stands there.
fn meant(word: &str, with: &[&str]) -> Option<String> {
    let argv = cli::argv();
    let place = argv.iter().position(|it| it == word)?;
    Some(retyped(&argv, place..=place, with))
}
