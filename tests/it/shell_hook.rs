//! The function that `hook bash|zsh|fish` prints, run by the real shells.

use serde_json::json;

use crate::needs::program;
use crate::shells::{SHELLS, install_lmswarm, machine, shell};
use crate::support::{LLAMA, Machine};

fn hook(program: &str, wraps: &str) -> String {
    match program {
        "fish" => format!("lmswarm hook fish {wraps} | source; "),
        other => format!("eval \"$(lmswarm hook {other} {wraps})\"; "),
    }
}

/// What opencode would ask for.
fn opencode_asks_for(machine: &Machine, key: &str) {
    let model = format!("lmstudio/{key}");
    let models = json!({ key: {} });
    let config = json!({ "model": model, "small_model": model, "provider": { "lmstudio": { "models": models } } });
    machine.write(".config/opencode/opencode.json", &config.to_string());
}

#[test]
fn a_wrapped_command_starts_only_behind_the_gate() {
    let machine = machine();
    for name in SHELLS {
        let Some(program) = program(name) else { continue };
        let wrapped = |wraps: &str, call: &str| shell(&machine, &program, &(hook(name, wraps) + call));
        opencode_asks_for(&machine, "nosuch/model");
        let blocked = wrapped("", "opencode").expect(4).says("is not downloaded");
        assert_eq!(blocked.stdout, "", "{name}");
        let bypassed = wrapped("", "command opencode x").expect(7);
        assert_eq!((bypassed.stdout.as_str(), bypassed.stderr.as_str()), ("opencode[x]", ""), "{name}");
        opencode_asks_for(&machine, LLAMA);
        machine.write(".config/lmswarm/config.json", r#"{ "failMode": "open" }"#);
        let started = wrapped("", "opencode run 'a b' '' -- --help '$x'").expect(7);
        assert_eq!(started.stdout, "opencode[run][a b][][--][--help][$x]", "{name}");
        let several = wrapped("--wrap my-tool --wrap opencode", "my-tool 1; opencode 2").expect(7);
        assert_eq!(several.stdout, "my-tool[1]opencode[2]", "{name}");
        std::fs::remove_file(machine.path(".config/lmswarm/config.json")).expect("a file");
    }
}

#[test]
fn a_wrapped_command_completes_as_before() {
    let machine = machine();
    for (name, script) in [
        ("bash", "_oc() { COMPREPLY=(from-opencode); }; complete -F _oc opencode; HOOK complete -p opencode"),
        (
            "zsh",
            "autoload -U compinit && compinit -u -D; from-opencode() { }; compdef from-opencode opencode; HOOK print $_comps[opencode]",
        ),
        ("fish", "complete -c opencode -f -a from-opencode; HOOK complete -C 'opencode '"),
    ] {
        let Some(program) = program(name) else { continue };
        let done = shell(&machine, &program, &script.replace("HOOK ", &hook(name, ""))).expect(0);
        let wanted = if name == "bash" { "complete -F _oc opencode" } else { "from-opencode" };
        assert!(done.stdout.contains(wanted), "{name}: {done:?}");
    }
}

#[test]
fn an_alias_of_the_same_name_stays_and_meets_the_gate() {
    let machine = machine();
    let Some(bash) = program("bash") else { return };
    let script = format!(
        "shopt -s expand_aliases\nalias opencode='opencode --flag'\n{}\ncommand -V opencode\ndeclare -F opencode",
        hook("bash", "")
    );
    let done = shell(&machine, &bash, &script).expect(0);
    assert_eq!(done.stderr, "");
    assert!(done.stdout.contains("alias") && done.stdout.ends_with("opencode\n"), "{done:?}");
}

#[test]
fn without_lmswarm_a_wrapped_command_is_not_started_in_silence() {
    let machine = machine();
    for name in SHELLS {
        let Some(program) = program(name) else { continue };
        let script = hook(name, "") + "command rm $HOME/bin/lmswarm; opencode";
        let missing = shell(&machine, &program, &script).expect(127).says("opencode is not started: lmswarm");
        assert_eq!(missing.stdout, "");
        install_lmswarm(&machine);
    }
}

#[test]
fn only_plain_names_are_wrapped() {
    let machine = Machine::bare();
    for name in ["a b", "$(touch x)", "-x", "lmswarm", "a/b", ""] {
        let wrap = format!("--wrap={name}");
        assert_eq!(machine.run(&["hook", "bash", &wrap]).expect(2).stdout, "", "{name}");
    }
    for (shell, name) in [("bash", "cd"), ("zsh", "foreach"), ("fish", "set"), ("powershell", "Get-Command")] {
        let refused = machine.run(&["hook", shell, "--wrap", "my-tool", "--wrap", name]).expect(2);
        assert_eq!(refused.says(&format!("`{name}` belongs to ")).stdout, "");
    }
    assert_eq!(machine.run(&["hook", "powershell"]).expect(0).stdout.matches("function global:opencode").count(), 1);
}

#[test]
fn no_builtin_and_no_keyword_of_a_shell_is_wrapped() {
    let machine = machine();
    for (name, list) in [
        ("bash", "compgen -bk"),
        ("zsh", "print -l ${(k)builtins} ${(k)reswords}"),
        ("fish", "builtin --names; printf '%s\\n' if else switch case for in while begin end function"),
    ] {
        let Some(program) = program(name) else { continue };
        let words = shell(&machine, &program, list).expect(0).stdout;
        let is_plain = |word: &&str| word.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
        let words: Vec<&str> = words.split_whitespace().filter(is_plain).collect();
        assert!(words.len() > 40, "{name}: {words:?}");
        for word in words {
            machine.run(&["hook", name, "--wrap", word]).expect(2).says(&format!("`{word}` belongs to {name} itself"));
        }
    }
}

#[test]
fn a_function_is_taken_away_again() {
    let machine = machine();
    for name in SHELLS {
        let Some(program) = program(name) else { continue };
        opencode_asks_for(&machine, "nosuch/model");
        let wraps = "--wrap opencode --wrap my-tool";
        let remove = hook(name, &format!("{wraps} --remove"));
        let without =
            shell(&machine, &program, &format!("{}{remove}opencode x; my-tool y", hook(name, wraps))).expect(7);
        assert_eq!(without.stdout, "opencode[x]my-tool[y]", "{name}");
        let twice = shell(&machine, &program, &format!("{remove}opencode x")).expect(7);
        let others = |line: &&str| !line.starts_with("lmswarm: for good, take the line");
        assert_eq!(twice.stderr.lines().filter(others).count(), 0, "{name}: {twice:?}");
    }
    assert!(machine.run(&["hook", "powershell", "--remove"]).expect(0).stdout.contains("Remove-Item"));
}

#[test]
fn what_asks_no_model_starts_at_once() {
    let machine = machine();
    for name in SHELLS {
        let Some(program) = program(name) else { continue };
        // Nothing that opencode could be asked for is there, so the gate would block.
        opencode_asks_for(&machine, "nosuch/model");
        let asked = machine.requests().len();
        let call = |call: &str| shell(&machine, &program, &(hook(name, "--wrap opencode --wrap my-tool") + call));
        let passed = call("opencode --version; opencode auth login; my-tool --help").expect(7);
        assert_eq!(passed.stdout, "opencode[--version]opencode[auth][login]my-tool[--help]", "{name}");
        assert_eq!(passed.stderr, "", "{name}");
        assert_eq!(machine.requests().len(), asked);
        assert_eq!(call("opencode run --").expect(4).stdout, "", "{name}");
    }
    // Models that are named are meant.
    machine.run(&["run", "nosuch/model", "--", "opencode", "--version"]).expect(4);
}
