//! A hint in the words of those who read a report: they are in front of a program, such as
//! opencode, that takes no flags of ours. What to do is decided where a failure is found.

use crate::pure::config::options::OPTIONS;
use crate::pure::text::shell_word;

/// `hint`, which is written for the command line, with the config keys in the place of the flags.
/// A flag that has no key becomes the whole command for `model`. What stands in backticks is a
/// command or a name, and stays, unless it is such a flag alone.
pub(crate) fn for_report(hint: &str, model: Option<&str>) -> String {
    let pieces = hint.split('`').enumerate().map(|(number, piece)| {
        if number.is_multiple_of(2) {
            return unquoted(piece, model);
        }
        command_flag(piece).and_then(|flag| command(flag, model)).unwrap_or_else(|| piece.to_owned())
    });
    pieces.collect::<Vec<String>>().join("`")
}

/// Text outside of backticks.
fn unquoted(text: &str, model: Option<&str>) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("--") {
        let (before, at) = rest.split_at(start);
        let end = at.find(|letter: char| !letter.is_ascii_lowercase() && letter != '-').unwrap_or(at.len());
        let (flag, after) = at.split_at(end);
        replaced.push_str(before);
        match (key(flag), command_flag(flag).and_then(|flag| command(flag, model))) {
            (Some(key), _) => replaced.push_str(key),
            (None, Some(command)) => replaced.extend(["`", &command, "`"]),
            (None, None) => replaced.push_str(flag),
        }
        rest = after;
    }
    replaced + rest
}

/// The config key that says the same as the flag.
fn key(flag: &str) -> Option<&'static str> {
    let name = flag.strip_prefix("--")?;
    let options = OPTIONS.iter().filter(|spec| !spec.is_for_file_alone());
    options.into_iter().find(|spec| spec.flag == name || spec.alias == Some(name)).map(|spec| spec.key)
}

/// The flags of one call that hints speak of.
fn command_flag(text: &str) -> Option<&str> {
    ["--fresh", "-v", "-vv"].contains(&text).then_some(text)
}

fn command(flag: &str, model: Option<&str>) -> Option<String> {
    Some(format!("lmswarm ensure {} {flag}", shell_word(model?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flags_become_config_keys_or_whole_commands() {
        for (hint, wanted) in [
            ("raise --load-timeout-ms if the model is slow", "raise loadTimeoutMs if the model is slow"),
            ("name it with --lms-path, or let --loader be `auto`", "name it with lmsPath, or let loader be `auto`"),
            ("use --base-url http://127.0.0.1:1/v1, or move", "use baseURL http://127.0.0.1:1/v1, or move"),
            ("`lms ls` lists what is; --download fetches", "`lms ls` lists what is; autoDownload fetches"),
            ("check the address (--base-url), and", "check the address (baseURL), and"),
            ("try again with --fresh", "try again with `lmswarm ensure 'a b' --fresh`"),
            ("try again; `-v` shows more", "try again; `lmswarm ensure 'a b' -v` shows more"),
            // Commands are whole already, and what is no option is left alone.
            ("did you mean `lmswarm ensure x --download`?", "did you mean `lmswarm ensure x --download`?"),
            ("start it (`lms server start --port 1`)", "start it (`lms server start --port 1`)"),
            ("raise --timeout -- or leave it out", "raise --timeout -- or leave it out"),
            ("an odd ` --loader", "an odd ` --loader"),
            ("", ""),
        ] {
            assert_eq!(for_report(hint, Some("a b")), wanted);
        }
        assert_eq!(
            for_report("try again with --fresh; `-v` shows more", None),
            "try again with --fresh; `-v` shows more"
        );
    }

    #[test]
    fn no_flag_that_has_a_key_is_left() {
        for spec in OPTIONS.iter().filter(|spec| !spec.is_for_file_alone()) {
            assert_eq!(for_report(&format!("raise --{}.", spec.flag), None), format!("raise {}.", spec.key));
        }
    }

    proptest! {
        #[test]
        fn text_without_a_flag_stays(text in "[a-z `-]{0,40}") {
            prop_assume!(!text.contains("--") && !text.contains("`-v"));
            prop_assert_eq!(for_report(&text, Some("k")), text);
        }
    }
}
