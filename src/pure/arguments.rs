//! Which of the words of `lmswarm run` are models and which are the command.

use std::ffi::OsString;

/// What is asked when no models are named.
pub const DEFAULT_MODELS: [&str; 2] = ["main", "small"];

/// A command line of `run`, read.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// What must be addressable.
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
pub fn split(mut words: Vec<OsString>, after_dashes: bool) -> Result<Line, String> {
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
    let models = if models.is_empty() { DEFAULT_MODELS.map(str::to_owned).to_vec() } else { models };
    Ok(Line { models, command, args })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(words: &[&str], after_dashes: bool) -> Result<(Vec<String>, Vec<String>), String> {
        let line = split(words.iter().map(OsString::from).collect(), after_dashes)?;
        let command = [vec![line.command], line.args].concat();
        Ok((line.models, command.into_iter().map(|it| it.into_string().unwrap()).collect()))
    }

    #[test]
    fn models_stand_before_the_first_dashes_and_nowhere_else() {
        for (words, after_dashes, models, command) in [
            (&["opencode"][..], false, &["main", "small"][..], &["opencode"][..]),
            (&["opencode", "-c"], false, &["main", "small"], &["opencode", "-c"]),
            (&["a", "b", "--", "opencode", "-c"], false, &["a", "b"], &["opencode", "-c"]),
            (&["a", "--", "npm", "--", "-x"], false, &["a"], &["npm", "--", "-x"]),
            (&["npm", "--", "-x"], true, &["main", "small"], &["npm", "--", "-x"]),
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
            if let Ok(line) = split(given, after_dashes) {
                prop_assert!(!line.models.is_empty());
                let command = [vec![line.command], line.args].concat();
                prop_assert_eq!(&command[..], &words.iter().map(OsString::from).collect::<Vec<_>>()[words.len() - command.len()..]);
            }
        }
    }
}
