//! What was typed behind a command and its options: which words are models and what each of
//! them asks for, and which are the command that `lmswarm run` starts.

use std::ffi::OsString;
use std::ops::RangeInclusive;

use crate::pure::opencode::roles::Role;
use crate::pure::text::shell_word;

/// What a word on the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelArgument {
    /// A model key or ref, as typed.
    Model(String),
    /// A model key that looks like something else.
    Key(String),
    /// A role.
    Role(Role),
    /// Every model that opencode's configuration names on a gated provider.
    All,
}

/// Reads what was typed: words, and keys that are meant literally. Nothing at all means
/// `main small`.
pub fn parse_models(words: &[String], keys: &[String]) -> Vec<ModelArgument> {
    let both = || [Role::Main, Role::Small].map(ModelArgument::Role);
    if words.is_empty() && keys.is_empty() {
        return both().to_vec();
    }
    let mut arguments = Vec::with_capacity(words.len() + keys.len());
    for word in words {
        match word.as_str() {
            "main" => arguments.push(ModelArgument::Role(Role::Main)),
            "small" => arguments.push(ModelArgument::Role(Role::Small)),
            "main/small" => arguments.extend(both()),
            "all" => arguments.push(ModelArgument::All),
            _ => arguments.push(match word.strip_prefix("agent:") {
                Some(name) => ModelArgument::Role(Role::Agent(name.to_owned())),
                None => ModelArgument::Model(word.clone()),
            }),
        }
    }
    arguments.extend(keys.iter().cloned().map(ModelArgument::Key));
    arguments
}

/// The words in one that was quoted as a whole, or joined with commas.
pub fn split_words(word: &str) -> Vec<String> {
    let parts = word.split(|it: char| it == ',' || it.is_whitespace());
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The command line as it could be typed again, with the words at these places replaced. `argv`
/// begins with the program's name.
pub fn retyped(argv: &[String], places: RangeInclusive<usize>, with: &[&str]) -> String {
    let before = argv.iter().take(*places.start()).skip(1).map(String::as_str);
    let behind = argv.iter().skip(places.end() + 1).map(String::as_str);
    let words = before.chain(with.iter().copied()).chain(behind).map(shell_word);
    std::iter::once("lmswarm".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The words of `lmswarm run`, read.
#[derive(Debug, PartialEq, Eq)]
pub struct RunWords {
    /// The models, as typed; there may be none.
    pub models: Vec<String>,
    /// The command as typed.
    pub command: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// Splits the words at the first `--`. Without one, or when `after_dashes` says that a `--`
/// stood before all of them, they are the command alone.
///
/// # Errors
/// A sentence for exit code 2.
pub fn split_run(mut words: Vec<OsString>, after_dashes: bool) -> Result<RunWords, String> {
    let dashes = if after_dashes { None } else { words.iter().position(|word| word == "--") };
    let mut rest = match dashes {
        Some(place) => words.split_off(place).split_off(1),
        None => std::mem::take(&mut words),
    };
    if rest.is_empty() {
        return Err("there is no command behind `--`".to_owned());
    }
    let args = rest.split_off(1);
    let command = rest.pop().filter(|it| !it.is_empty()).ok_or("the command is an empty word")?;
    let models: Vec<String> = words
        .into_iter()
        .map(|word| {
            let word =
                word.into_string().map_err(|word| format!("a model name must be UTF-8 text: `{}`", word.display()))?;
            if word.starts_with('-') {
                return Err(format!(
                    "a model name cannot start with `-`: `{word}`; options of lmswarm come before the first MODEL"
                ));
            }
            Ok(word)
        })
        .collect::<Result<_, _>>()?;
    Ok(RunWords { models, command, args })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(words: &[&str], after_dashes: bool) -> Result<(Vec<String>, Vec<String>), String> {
        let line = split_run(words.iter().map(OsString::from).collect(), after_dashes)?;
        let command = [vec![line.command], line.args].concat();
        Ok((line.models, command.into_iter().map(|it| it.into_string().unwrap()).collect()))
    }

    #[test]
    fn words_are_roles_and_keys_are_keys() {
        let parse = |words: &[&str], keys: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
            parse_models(&owned(words), &owned(keys))
        };
        let (main, small) = (ModelArgument::Role(Role::Main), ModelArgument::Role(Role::Small));
        assert_eq!(parse(&[], &[]), [main.clone(), small.clone()]);
        assert_eq!(parse(&["main/small"], &[]), [main.clone(), small.clone()]);
        assert_eq!(parse(&["small", "main"], &[]), [small, main]);
        assert_eq!(parse(&[], &["main"]), [ModelArgument::Key("main".into())]);
        assert_eq!(parse(&["all", "Main"], &[]), [ModelArgument::All, ModelArgument::Model("Main".into())]);
        assert_eq!(parse(&["agent:a/b"], &[]), [ModelArgument::Role(Role::Agent("a/b".into()))]);
    }

    #[test]
    fn models_stand_before_the_first_dashes_and_nowhere_else() {
        for (words, after_dashes, models, command) in [
            (&["opencode"][..], false, &[][..], &["opencode"][..]),
            (&["opencode", "-c"], false, &[], &["opencode", "-c"]),
            (&["a", "b", "--", "opencode", "-c"], false, &["a", "b"], &["opencode", "-c"]),
            (&["a", "--", "npm", "--", "-x"], false, &["a"], &["npm", "--", "-x"]),
            (&["npm", "--", "-x"], true, &[], &["npm", "--", "-x"]),
        ] {
            let wanted = (
                models.iter().map(|it| (*it).to_owned()).collect(),
                command.iter().map(|it| (*it).to_owned()).collect(),
            );
            assert_eq!(read(words, after_dashes), Ok(wanted), "{words:?}");
        }
        assert!(read(&["a", "--"], false).unwrap_err().contains("no command"));
        assert!(read(&["--quiet", "--", "x"], false).unwrap_err().contains("before the first MODEL"));
        assert!(read(&[""], false).is_err());
        assert!(read(&[], false).is_err());
    }

    proptest! {
        #[test]
        fn no_word_is_lost(words in proptest::collection::vec("(--|[a-z-]{0,3})", 0..6), after_dashes: bool) {
            let given: Vec<OsString> = words.iter().map(OsString::from).collect();
            if let Ok(line) = split_run(given, after_dashes) {
                let command = [vec![line.command], line.args].concat();
                prop_assert_eq!(&command[..], &words.iter().map(OsString::from).collect::<Vec<_>>()[words.len() - command.len()..]);
            }
        }
    }
}
