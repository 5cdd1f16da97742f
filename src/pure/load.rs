//! What a load is asked for: the options of a model, and the argument vector of `lms load`.
//! Nothing is run here.

use std::fmt;

use crate::pure::model::ModelKey;

/// How much of a model goes to the GPU, as `lms load --gpu` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu(String);

impl Gpu {
    /// Reads `off`, `max`, or a number from 0 to 1. (`auto` is an error to `lms`.)
    pub fn parse(text: &str) -> Option<Self> {
        let is_share =
            || text.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share)) && !text.starts_with(['-', '+']);
        (matches!(text, "off" | "max") || is_share()).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a model is loaded with; what is `None` is left to LM Studio.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Unload after this many idle seconds.
    pub ttl_seconds: Option<u64>,
    /// Requests served at once.
    pub parallel: Option<u64>,
    /// Context in tokens. A minimum: more is never drift.
    pub context_length: Option<u64>,
    /// Share on the GPU.
    pub gpu: Option<Gpu>,
}

impl LoadOptions {
    /// The context to ask for and to expect of a model whose limit is `max`, if that is known.
    pub fn wanted_context(&self, max: Option<u64>) -> Option<u64> {
        self.context_length.map(|wanted| max.map_or(wanted, |max| wanted.min(max)))
    }

    /// The same options for a model whose limit is `max`.
    #[must_use]
    pub fn within(&self, max: Option<u64>) -> Self {
        Self { context_length: self.wanted_context(max), ..self.clone() }
    }
}

/// Which machine loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// This one, and no other (`--local`; not in `lms`'s help).
    Local,
    /// Whichever LM Link chooses.
    Any,
}

/// The arguments that load `key` under exactly its own name.
///
/// The explicit identifier makes LM Studio the arbiter: it refuses a second one, where a
/// load without it would stack `KEY:2`.
pub fn load_args(key: &ModelKey, options: &LoadOptions, placement: Placement) -> Vec<String> {
    let mut args = vec!["load".to_owned(), key.to_string(), "-y".to_owned()];
    args.extend(["--identifier".to_owned(), key.to_string()]);
    if placement == Placement::Local {
        args.push("--local".to_owned());
    }
    if let Some(seconds) = options.ttl_seconds {
        args.extend(["--ttl".to_owned(), seconds.to_string()]);
    }
    args.extend(size_args(options));
    args
}

/// The arguments that ask LM Studio how much memory that load would take.
pub fn estimate_args(key: &ModelKey, options: &LoadOptions, placement: Placement) -> Vec<String> {
    let mut args = vec!["load".to_owned(), key.to_string(), "-y".to_owned(), "--estimate-only".to_owned()];
    if placement == Placement::Local {
        args.push("--local".to_owned());
    }
    args.extend(size_args(options));
    args
}

/// The options that change how much memory a model takes.
fn size_args(options: &LoadOptions) -> Vec<String> {
    let mut args = Vec::new();
    if let Some(parallel) = options.parallel {
        args.extend(["--parallel".to_owned(), parallel.to_string()]);
    }
    if let Some(tokens) = options.context_length {
        args.extend(["--context-length".to_owned(), tokens.to_string()]);
    }
    if let Some(gpu) = &options.gpu {
        args.extend(["--gpu".to_owned(), gpu.to_string()]);
    }
    args
}

/// Whether `lms load KEY` could pick `candidate` where KEY itself is not to be had: its
/// letters occur in it in their order, ignoring case (the `fuzzy` match of `lms`).
pub fn matches_fuzzily(key: &ModelKey, candidate: &str) -> bool {
    let mut letters = candidate.chars().flat_map(char::to_lowercase);
    key.as_str().chars().flat_map(char::to_lowercase).all(|wanted| letters.any(|letter| letter == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> ModelKey {
        ModelKey::parse(text).unwrap()
    }

    #[test]
    fn only_what_is_set_is_passed_on() {
        let bare = load_args(&key("a/b"), &LoadOptions::default(), Placement::Any);
        assert_eq!(bare.join(" "), "load a/b -y --identifier a/b");
        let full = LoadOptions {
            ttl_seconds: Some(3600),
            parallel: Some(2),
            context_length: Some(8192),
            gpu: Gpu::parse("0.5"),
        };
        assert_eq!(
            load_args(&key("a/b"), &full, Placement::Local).join(" "),
            "load a/b -y --identifier a/b --local --ttl 3600 --parallel 2 --context-length 8192 --gpu 0.5"
        );
        assert_eq!(
            estimate_args(&key("a/b"), &full, Placement::Local).join(" "),
            "load a/b -y --estimate-only --local --parallel 2 --context-length 8192 --gpu 0.5"
        );
    }

    #[test]
    fn more_context_than_the_model_has_means_all_it_has() {
        let options = LoadOptions { context_length: Some(200_000), ..LoadOptions::default() };
        assert_eq!(options.wanted_context(Some(131_072)), Some(131_072));
        assert_eq!(options.wanted_context(Some(262_144)), Some(200_000));
        assert_eq!(options.wanted_context(None), Some(200_000));
        assert_eq!(LoadOptions::default().wanted_context(Some(1)), None);
    }

    #[test]
    fn fuzzy_matches_are_those_of_lms() {
        for (wanted, candidate, matches) in [
            ("gem12", "google/gemma-3-12b", true),
            ("coder", "Qwen3-Coder-Plus", true),
            ("QWEN3", "qwen3", true),
            ("acme/chat-7b-instruct", "acme/chat-7b", false),
            ("gemma-3-4b-it", "google/gemma-3-12b", false),
        ] {
            assert_eq!(matches_fuzzily(&key(wanted), candidate), matches, "{wanted} {candidate}");
        }
    }

    proptest! {
        #[test]
        fn no_value_is_taken_for_an_option(text in "[a-z0-9/@:. -]{1,30}") {
            if let Ok(key) = ModelKey::parse(&text) {
                let args = load_args(&key, &LoadOptions::default(), Placement::Local);
                prop_assert_eq!(&args[1], key.as_str());
                prop_assert!(args.iter().filter(|it| it.starts_with('-')).count() == 3);
            }
        }
    }
}
