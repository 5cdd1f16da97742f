//! The functions that put the gate before a command, as text for each shell. Nothing is
//! installed here: the shell evaluates what it is given.

/// A shell that can be given a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "PowerShell is its name")]
pub(crate) enum Shell {
    /// bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
    /// PowerShell.
    PowerShell,
}

impl Shell {
    /// The name, as people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
            Self::PowerShell => "PowerShell",
        }
    }

    /// The builtins and keywords, in PowerShell also the aliases: the shell does not work without
    /// them, or a function of that name would not be called.
    fn reserved(self) -> &'static str {
        match self {
            Self::Bash => include_str!("reserved/bash.txt"),
            Self::Zsh => include_str!("reserved/zsh.txt"),
            Self::Fish => include_str!("reserved/fish.txt"),
            Self::PowerShell => include_str!("reserved/powershell.txt"),
        }
    }

    /// Checks that a command of this name, which [`check_name`] has let pass, can be wrapped.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(crate) fn check_wrapped(self, name: &str) -> Result<(), String> {
        let is_same = |word: &str| match self {
            Self::PowerShell => word.eq_ignore_ascii_case(name),
            _ => word == name,
        };
        if self.reserved().split_whitespace().any(is_same) {
            return Err(format!("`{name}` belongs to {} itself, which would not work any more", self.name()));
        }
        Ok(())
    }
}

/// Checks that a name can be that of a function: a plain name of a command, safe unquoted in
/// every shell.
///
/// # Errors
/// A sentence fragment that says what it must be.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_plain = name.starts_with(|it: char| it.is_ascii_alphanumeric() || it == '_')
        && name.chars().all(|it| it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | '.'))
        && name.len() <= 64;
    if !is_plain {
        return Err("it must be the plain name of a command: letters, digits, `_`, `-` and `.`".to_owned());
    }
    if name.eq_ignore_ascii_case("lmswarm") {
        return Err("the function itself calls it".to_owned());
    }
    Ok(())
}

/// The functions for these names, which [`check_name`] has let pass.
pub(crate) fn functions(shell: Shell, names: &[String]) -> String {
    script(template(shell), names)
}

/// What takes the functions for these names away again.
pub(crate) fn removal(shell: Shell, names: &[String]) -> String {
    let template = match shell {
        Shell::Bash | Shell::Zsh => "unset -f NAME 2>/dev/null\n",
        Shell::Fish => "functions --erase NAME\n",
        Shell::PowerShell => "Remove-Item -Path Function:\\NAME -ErrorAction SilentlyContinue\n",
    };
    script(template, names)
}

fn script(template: &str, names: &[String]) -> String {
    let mut script = String::from("# Made by `lmswarm hook`.\n");
    for (place, name) in names.iter().enumerate() {
        if !names[..place].contains(name) {
            script.push_str(&template.replace("NAME", name));
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
        for name in ["", "-x", "a b", "a;b", "$(x)", "a/b", "../x", "a'b", "ü", "a\nb", "lmswarm", "LMSwarm"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn what_a_shell_is_made_of_is_not_wrapped() {
        for (shell, names) in [
            (Shell::Bash, &["cd", "if", "type", "printf", "command", "return", "local"][..]),
            (Shell::Zsh, &["cd", "if", "whence", "printf", "command", "return", "foreach", "print"]),
            (Shell::Fish, &["cd", "if", "not", "command", "printf", "return", "set", "end"]),
            (Shell::PowerShell, &["cd", "CD", "if", "Function", "Get-Command", "Select-Object", "ls"]),
        ] {
            for name in names {
                assert!(shell.check_wrapped(name).unwrap_err().contains(shell.name()), "{shell:?} {name}");
            }
            assert_eq!(shell.check_wrapped("opencode"), Ok(()));
        }
        assert_eq!(Shell::Bash.check_wrapped("end"), Ok(()), "a word of another shell");
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
