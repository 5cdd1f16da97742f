//! Completing a MODEL: what is added to the completions that clap makes, and what may be
//! offered. Scripts ask `lmswarm completions --models`, so that they never go stale.

use crate::pure::opencode::roles::ROLE_WORDS;

/// What may be offered: the roles, and those agents and keys that mean themselves to every
/// shell. A server chooses its keys and a project its agents, and some shells put what is
/// offered on the line unquoted.
pub(crate) fn candidates(
    agents: impl IntoIterator<Item = String>,
    keys: impl IntoIterator<Item = String>,
) -> Vec<String> {
    let is_plain = |word: &String| {
        word.starts_with(|it: char| it.is_ascii_alphanumeric())
            && word.chars().all(|it| it.is_ascii_alphanumeric() || "._/@:+-".contains(it))
    };
    let mut keys: Vec<String> = keys.into_iter().filter(is_plain).collect();
    keys.sort();
    keys.dedup();
    let agents = agents.into_iter().map(|name| format!("agent:{name}")).filter(is_plain);
    ROLE_WORDS.map(str::to_owned).into_iter().chain(agents).chain(keys).collect()
}

/// Lets clap's script for bash complete a MODEL. `takes_value` are the flags behind which
/// no MODEL can stand.
pub(crate) fn for_bash(script: &str, takes_value: &[String]) -> String {
    let ours = BASH.replace("FLAGS", &takes_value.join("|"));
    format!("{}{ours}", script.replace("complete -F _lmswarm ", "complete -F _lmswarm_with_models "))
}

/// The candidates are compared here and not by `compgen -W`, which would run what is in them.
/// bash splits words at `:` and `@`, and wants only what stands behind the last of these.
const BASH: &str = include_str!("completion.bash");

/// Lets clap's script for zsh complete a MODEL.
pub(crate) fn for_zsh(script: &str) -> String {
    let script: Vec<String> = script
        .lines()
        .map(|line| match line {
            models if models.starts_with("'*::models ") => models.replace(":_default'", ":_lmswarm_models'"),
            server if server.trim_start_matches('*').starts_with("'*--server=") => {
                server.replace(":_default'", ":_lmswarm_servers'")
            }
            words if words.starts_with("'*::words ") => words.replace(":_cmdambivalent'", ":_lmswarm_words'"),
            // The script ends by completing or by announcing itself; both need our functions.
            end if end.starts_with("if [ \"$funcstack[1]\"") => format!("{ZSH}\n{end}"),
            other => other.to_owned(),
        })
        .collect();
    script.join("\n")
}

const ZSH: &str = include_str!("completion.zsh");

/// Lets clap's script for fish complete a MODEL.
pub(crate) fn for_fish(script: &str) -> String {
    format!("{script}{FISH}")
}

const FISH: &str = include_str!("completion.fish");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn roles_come_first_and_keys_are_sorted() {
        let keys = ["qwen/qwen3-coder-30b", "gpt-oss-20b@q4_k_m", "gpt-oss-20b@q4_k_m"].map(str::to_owned);
        assert_eq!(
            candidates(["review", "my agent"].map(str::to_owned), keys),
            ["main", "small", "all", "agent:review", "gpt-oss-20b@q4_k_m", "qwen/qwen3-coder-30b"]
        );
    }

    proptest! {
        #[test]
        fn what_is_offered_means_itself_to_every_shell(name in any::<String>(), key in any::<String>()) {
            let offered = candidates([name], [key]);
            prop_assert!(offered.iter().all(|it| !it.contains(|it: char| !(it.is_ascii_alphanumeric() || "._/@:+-".contains(it)))));
            prop_assert!(!offered.iter().any(|it| it.starts_with('-')));
        }
    }
}
