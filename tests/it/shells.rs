//! The scripts for shells, run by the real ones. A shell that is not installed is passed over,
//! and says so.

#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{LLAMA, Machine, Run, run};

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

fn find(shell: &str) -> Option<PathBuf> {
    let path =
        ["/bin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"].map(|folder| PathBuf::from(folder).join(shell));
    let found = path.into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("{shell} is not installed: its part of this test is passed over");
    }
    found
}

/// A machine with `lmswarm`, and a command that is wrapped and tells what it was given.
fn machine() -> Machine {
    let machine = Machine::new();
    install_lmswarm(&machine);
    for name in ["opencode", "my-tool"] {
        let place = format!("bin/{name}");
        machine.write(&place, &format!("#!/bin/sh\nprintf '{name}'; printf '[%s]' \"$@\"; exit 7\n"));
        std::fs::set_permissions(machine.path(&place), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    machine
}

fn install_lmswarm(machine: &Machine) {
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lmswarm"), machine.path("bin/lmswarm")).expect("a link");
}

/// Runs a script in a shell that reads nothing of its user's.
fn shell(machine: &Machine, program: &PathBuf, script: &str) -> Run {
    let mut command = Command::new(program);
    if program.ends_with("bash") {
        command.args(["--norc", "--noprofile"]);
    } else if program.ends_with("zsh") {
        command.arg("-f");
    } else {
        command.arg("--no-config");
    }
    command.args(["-c", script]).env_clear().envs(machine.environment()).stdin(Stdio::null());
    // The shells' own helpers stand behind the machine's.
    command.env("PATH", format!("{}:/usr/bin:/bin", machine.path("bin").display()));
    run(&mut command)
}

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
        let Some(program) = find(name) else { continue };
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
        let Some(program) = find(name) else { continue };
        let done = shell(&machine, &program, &script.replace("HOOK ", &hook(name, ""))).expect(0);
        let wanted = if name == "bash" { "complete -F _oc opencode" } else { "from-opencode" };
        assert!(done.stdout.contains(wanted), "{name}: {done:?}");
    }
}

#[test]
fn an_alias_of_the_same_name_stays_and_meets_the_gate() {
    let machine = machine();
    let Some(bash) = find("bash") else { return };
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
        let Some(program) = find(name) else { continue };
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
    assert_eq!(machine.run(&["hook", "powershell"]).expect(0).stdout.matches("function global:opencode").count(), 1);
}

#[test]
fn bash_completes_models_and_passes_over_what_could_be_a_command() {
    let machine = machine();
    let Some(bash) = find("bash") else { return };
    let complete = |line: &str| {
        let words = line.split(' ').map(|it| format!("'{it}'")).collect::<Vec<_>>().join(" ");
        let script = format!(
            "eval \"$(lmswarm completions bash)\"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; \
             _lmswarm_with_models lmswarm \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let done = shell(&machine, &bash, &script).expect(0);
        assert_eq!(done.stderr, "");
        done.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("lmswarm ensure lla"), [LLAMA]);
    assert_eq!(complete("lmswarm ensure main sm"), ["small"]);
    assert!(complete("lmswarm ensure ").contains(&"main".to_owned()));
    assert_eq!(complete("lmswarm ensure --quie"), ["--quiet"]);
    assert_eq!(complete("lmswarm ensure --color n"), ["never"]);
    assert_eq!(complete("lmswarm run main lla"), [LLAMA]);
    assert_eq!(complete("lmswarm run main -- my-too"), ["my-tool"]);
    assert!(complete("lmswarm run my-to").contains(&"my-tool".to_owned()));
}

#[test]
fn fish_completes_models_and_behind_the_dashes_the_command() {
    let machine = machine();
    let Some(fish) = find("fish") else { return };
    let complete = |line: &str| {
        let script =
            format!("complete -c my-tool -l from-tool; lmswarm completions fish | source; complete -C '{line}'");
        let done = shell(&machine, &fish, &script).expect(0);
        assert_eq!(done.stderr, "");
        // What stands behind the tab describes it.
        done.stdout.lines().filter_map(|it| it.split('\t').next()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("lmswarm ensure lla"), [LLAMA]);
    assert!(complete("lmswarm run lla").contains(&LLAMA.to_owned()));
    assert_eq!(complete("lmswarm run main -- my-too"), ["my-tool"]);
    assert_eq!(complete("lmswarm run --keep-warm 5m main small -- my-tool --from"), ["--from-tool"]);
    assert_eq!(complete("lmswarm run -- my-too"), ["my-tool"]);
}

#[test]
fn zsh_completes_models_and_behind_the_dashes_the_command() {
    let machine = machine();
    let Some(zsh) = find("zsh") else { return };
    // Completion needs a line editor, and the line editor a terminal.
    let complete = |line: &str| {
        let script = format!(
            r#"zmodload zsh/zpty
zpty z zsh -f
send() {{ zpty -w z "$1" }}
await() {{ zpty -r -m z seen "*$1*" }}
send "PS1=''; unsetopt prompt_cr prompt_sp; autoload -U compinit; compinit -u -D; eval \"\$(lmswarm completions zsh)\"; echo READ''Y"
await READY
zpty -w -n z $'{line}\t \C-a: \C-e; echo EN""D\n'
await END
print -r -- "$seen""#
        );
        let done = shell(&machine, &zsh, &script).expect(0);
        done.stdout
    };
    for (line, wanted) in [
        ("lmswarm ensure lla", LLAMA),
        ("lmswarm run main sma", "small"),
        ("lmswarm run main -- my-too", "my-tool"),
        ("lmswarm run my-too", "my-tool"),
    ] {
        let seen = complete(line);
        assert!(seen.contains(wanted), "{line}: {seen}");
    }
}

#[test]
fn every_shell_takes_its_completions() {
    let machine = machine();
    for name in SHELLS {
        let Some(program) = find(name) else { continue };
        let script = match name {
            "fish" => "lmswarm completions fish | source; complete -C 'lmswarm ensure lla'".to_owned(),
            "zsh" => {
                "autoload -U compinit && compinit -u -D; eval \"$(lmswarm completions zsh)\"; print $_comps[lmswarm]"
                    .to_owned()
            }
            _ => "eval \"$(lmswarm completions bash)\"; complete -p lmswarm".to_owned(),
        };
        let done = shell(&machine, &program, &script).expect(0);
        assert_eq!(done.stderr, "", "{name}");
        let wanted = if name == "fish" { LLAMA } else { "_lmswarm" };
        assert!(done.stdout.contains(wanted), "{name}: {done:?}");
    }
    for name in ["powershell", "elvish"] {
        assert!(machine.run(&["completions", name]).expect(0).stdout.contains("ensure"));
    }
}

#[test]
fn completing_a_model_never_fails_and_never_speaks() {
    let machine = Machine::new();
    let models = machine.run(&["completions", "--models"]).expect(0);
    assert!(models.stdout.starts_with("main\nsmall\nall\n") && models.stdout.contains(LLAMA), "{models:?}");
    machine.crash();
    let roles = machine.run(&["completions", "--models"]).expect(0);
    assert_eq!((roles.stdout.as_str(), roles.stderr.as_str()), ("main\nsmall\nall\n", ""));
    machine.write(".config/lmswarm/config.json", "{ broken");
    let roles = machine.run(&["completions", "--models"]).expect(0);
    assert_eq!((roles.stdout.as_str(), roles.stderr.as_str()), ("main\nsmall\nall\n", ""));
}
