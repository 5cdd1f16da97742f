//! The argument vectors of `lms load`. Nothing is run here.

use crate::pure::load::LoadOptions;
use crate::pure::model::ModelKey;

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
    use crate::pure::load::Gpu;
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
