//! The functions that put the gate before a command, as text for each shell. Nothing is
//! installed here: the shell evaluates what it is given.

/// A shell that can be given a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
    /// PowerShell.
    PowerShell,
}

/// What the functions themselves are made of: wrapping one of these would break the shell.
const NEVER: [&str; 34] = [
    "lmswarm", "command", "builtin", "exec", "eval", "function", "source", "type", "whence", "printf", "echo",
    "return", "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "select",
    "time", "in", "end", "not", "begin", "switch", "and", "or", "test",
];

/// Checks that a name can be wrapped: a plain name of a command, safe unquoted in every shell.
///
/// # Errors
/// A sentence fragment that says what it must be.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_plain = name.starts_with(|it: char| it.is_ascii_alphanumeric() || it == '_')
        && name.chars().all(|it| it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | '.'))
        && name.len() <= 64;
    if !is_plain {
        return Err("it must be the plain name of a command: letters, digits, `_`, `-` and `.`".to_owned());
    }
    if NEVER.contains(&name.to_ascii_lowercase().as_str()) {
        return Err("it is needed by the function itself, or a word of the shell".to_owned());
    }
    Ok(())
}

/// The functions for these names, which [`check_name`] has let pass.
pub fn functions(shell: Shell, names: &[String]) -> String {
    let mut script = String::from("# Made by `lmswarm hook`.\n");
    for (place, name) in names.iter().enumerate() {
        if !names[..place].contains(name) {
            script.push_str(&template(shell).replace("NAME", name));
        }
    }
    script.trim_end().to_owned()
}

/// The function for one command, whose name stands there as `NAME`. In bash and zsh it begins
/// with the word `function`, so that an alias of the same name does not get in the way.
fn template(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("wrapper.bash"),
        Shell::Zsh => include_str!("wrapper.zsh"),
        Shell::Fish => include_str!("wrapper.fish"),
        Shell::PowerShell => include_str!("wrapper.ps1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_plain_names_can_be_wrapped() {
        for name in ["opencode", "crush", "my-tool", "tool.sh", "7z", "_x"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in
            ["", "-x", "a b", "a;b", "$(x)", "a/b", "../x", "a'b", "ü", "a\nb", "lmswarm", "if", "command", "Function"]
        {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_given_twice_is_wrapped_once() {
        let names = ["a", "b", "a"].map(str::to_owned);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            assert_eq!(functions(shell, &names).matches("run").count(), if shell == Shell::PowerShell { 4 } else { 2 });
        }
    }

    proptest! {
        #[test]
        fn a_name_that_passes_needs_no_quoting(name in any::<String>()) {
            if check_name(&name).is_ok() {
                prop_assert!(name.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-.".contains(&it)));
                prop_assert!(!name.starts_with('-') && !name.starts_with('.'));
            }
        }
    }
}
