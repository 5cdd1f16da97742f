//! Which of opencode's command lines ask no model, so that nothing need be warmed for them.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What opencode 1.18 does without a model, one a line. The plugin has the same list.
const WORDS: &str = include_str!("no_model.txt");

/// What ends opencode at once, wherever it stands among its options.
const FLAGS: [&str; 4] = ["-h", "--help", "-v", "--version"];

/// Whether a command ends without having asked a model. In doubt it does not.
pub fn asks_no_model(command: &OsStr, args: &[OsString]) -> bool {
    let Some(args) = args.iter().map(|arg| arg.to_str()).collect::<Option<Vec<&str>>>() else { return false };
    if Path::new(command).file_stem() != Some(OsStr::new("opencode")) {
        // Most programs know these two, and alone they mean nothing else.
        return matches!(args[..], ["--help" | "--version"]);
    }
    let mut options = args.iter().take_while(|arg| **arg != "--");
    // Behind an option, a word may be its value.
    options.any(|arg| FLAGS.contains(arg))
        || WORDS.lines().any(|words| args.starts_with(&words.split(' ').collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_asks_no_model_passes() {
        for (line, passes) in [
            ("opencode --version", true),
            ("/usr/bin/opencode -v", true),
            ("opencode run --help", true),
            ("opencode auth login", true),
            ("opencode agent list", true),
            ("opencode models lmstudio --refresh", true),
            ("opencode", false),
            ("opencode .", false),
            ("opencode agent create", false),
            ("opencode agent", false),
            ("opencode run models", false),
            ("opencode run -- --help", false),
            ("opencode --prompt stats", false),
            ("opencode serve", false),
            ("opencode github run", false),
            ("crush --version", true),
            ("crush --help", true),
            ("crush -v", false),
            ("crush models", false),
            ("crush --help me", false),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(asks_no_model(&words[0], &words[1..]), passes, "{line}");
        }
    }

    #[test]
    fn the_plugin_has_the_same_list() {
        let words: Vec<String> = WORDS.lines().map(|words| format!("{words:?}")).collect();
        let plugin = include_str!("../../opencode-plugin/lmswarm.js");
        let list: Vec<&str> = plugin
            .split("const NO_MODEL = [")
            .nth(1)
            .unwrap()
            .split(']')
            .next()
            .unwrap()
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect();
        assert_eq!(list, words);
    }
}
