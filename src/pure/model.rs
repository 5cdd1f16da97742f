//! Model names: what may be one, and how a ref (`provider/key`) becomes a key.
//! Whether such a model exists is not decided here.

use std::fmt;

use crate::pure::text::printable;

/// Longest key that is taken for one, in bytes. The longest real ones are
/// `publisher/repository@variant`, well below 200.
pub const MAX_KEY_BYTES: usize = 512;

/// LM Studio's name of a model: safe to put into a child's argv or a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelKey(String);

/// Why a text cannot be a model key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidModel {
    /// Nothing, or only blanks.
    Empty,
    /// `provider/` with nothing behind the slash.
    EmptyAfterProvider(String),
    /// Would be taken for an option by `lms`.
    LeadingDash(String),
    /// Holds a control character.
    ControlCharacter(String),
    /// Longer than [`MAX_KEY_BYTES`]; holds the length in bytes.
    TooLong(usize),
}

impl fmt::Display for InvalidModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a model name cannot be empty"),
            Self::EmptyAfterProvider(text) => {
                let text = printable(text);
                write!(f, "`{text}` names a provider but no model; write `{text}KEY`")
            }
            Self::LeadingDash(text) => {
                write!(f, "a model name cannot start with `-`: `{}`", printable(text))
            }
            Self::ControlCharacter(text) => {
                write!(f, "a model name cannot hold control characters: `{}`", printable(text))
            }
            Self::TooLong(bytes) => {
                write!(f, "a model name of {bytes} bytes is too long; at most {MAX_KEY_BYTES} are allowed")
            }
        }
    }
}

impl std::error::Error for InvalidModel {}

impl ModelKey {
    /// Checks that `text` can be a model key.
    ///
    /// # Errors
    /// See [`InvalidModel`].
    pub fn parse(text: &str) -> Result<Self, InvalidModel> {
        if text.trim().is_empty() {
            return Err(InvalidModel::Empty);
        }
        if text.len() > MAX_KEY_BYTES {
            return Err(InvalidModel::TooLong(text.len()));
        }
        if text.starts_with('-') {
            return Err(InvalidModel::LeadingDash(text.to_owned()));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidModel::ControlCharacter(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads a key, or a ref `provider/key` when `provider` is one of `gated`.
    ///
    /// The split is at the first slash (opencode's rule), so `qwen/qwen3` stays a key
    /// unless a provider is gated that is called `qwen`.
    ///
    /// # Errors
    /// See [`InvalidModel`].
    pub fn from_ref(text: &str, gated: &[String]) -> Result<Self, InvalidModel> {
        match text.split_once('/') {
            Some((provider, "")) if gated.iter().any(|it| it == provider) => {
                Err(InvalidModel::EmptyAfterProvider(text.to_owned()))
            }
            Some((provider, key)) if gated.iter().any(|it| it == provider) => Self::parse(key),
            _ => Self::parse(text),
        }
    }

    /// The key as LM Studio knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `KEY@variant`, which `lms load` does not know but the REST API does.
    pub fn is_variant(&self) -> bool {
        self.0.contains('@')
    }

    /// Whether an instance of the model `name` is one of this key: a list may name the model of a
    /// variant with the key before the `@` alone.
    pub fn is_of_model(&self, name: &str) -> bool {
        name == self.0 || self.0.split_once('@').is_some_and(|(base, _)| base == name)
    }

    /// Whether `identifier` is how LM Studio names a further copy of this key (`KEY:2`). Another
    /// model may be called so, too: a user can give any name.
    pub fn is_copy(&self, identifier: &str) -> bool {
        identifier
            .strip_prefix(self.as_str())
            .and_then(|rest| rest.strip_prefix(':'))
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gated() -> Vec<String> {
        vec!["lmstudio".to_owned(), "lab".to_owned()]
    }

    #[test]
    fn a_ref_is_split_at_the_first_slash_only_for_a_gated_provider() {
        for (text, key) in [
            ("qwen/qwen3-coder-30b", "qwen/qwen3-coder-30b"),
            ("lmstudio/qwen/qwen3-coder-30b", "qwen/qwen3-coder-30b"),
            ("lab/gemma", "gemma"),
            ("gpt-oss-20b@q4_k_m", "gpt-oss-20b@q4_k_m"),
            ("lmstudio", "lmstudio"),
            ("LMStudio/gemma", "LMStudio/gemma"),
            ("lmstudio/lmstudio/x", "lmstudio/x"),
        ] {
            assert_eq!(ModelKey::from_ref(text, &gated()).unwrap().as_str(), key, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_key_is_named() {
        for (text, wanted) in [
            ("", "empty"),
            ("  ", "empty"),
            ("lmstudio/", "no model"),
            ("lmstudio/-x", "start with `-`"),
            ("-x", "start with `-`"),
            ("a\nb", "control characters: `a\\nb`"),
            ("a\u{1b}[2Jb", "control characters"),
            ("-\u{1b}[2J", "start with `-`: `-\\u{1b}[2J`"),
        ] {
            let error = ModelKey::from_ref(text, &gated()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
        let long = "x".repeat(10_240);
        let error = ModelKey::parse(&long).unwrap_err().to_string();
        assert!(error.contains("10240 bytes"), "{error}");
    }

    #[test]
    fn copies_are_told_from_keys_that_merely_look_alike() {
        let key = ModelKey::parse("qwen3").unwrap();
        for (identifier, copy) in [
            ("qwen3:2", true),
            ("qwen3:17", true),
            ("qwen3", false),
            ("qwen3:", false),
            ("qwen3:8b", false),
            ("qwen3-coder:2", false),
            ("my-qwen3:2", false),
        ] {
            assert_eq!(key.is_copy(identifier), copy, "{identifier}");
        }
    }

    #[test]
    fn a_variant_is_of_the_model_before_the_at() {
        for (key, model, is_of) in [
            ("a/b", "a/b", true),
            ("a/b@q8_0", "a/b", true),
            ("a/b@q8_0", "a/b@q8_0", true),
            ("a/b@q8_0", "a/b@q4_0", false),
            ("a/b", "a/b@q8_0", false),
            ("a/b", "a/c", false),
        ] {
            assert_eq!(ModelKey::parse(key).unwrap().is_of_model(model), is_of, "{key} {model}");
        }
    }

    proptest! {
        #[test]
        fn a_ref_of_a_gated_provider_and_its_key_mean_the_same(text in "[a-z0-9][a-z0-9/@:._-]{0,40}") {
            let by_ref = ModelKey::from_ref(&format!("lmstudio/{text}"), &gated());
            prop_assert_eq!(by_ref, ModelKey::parse(&text));
        }
    }
}
