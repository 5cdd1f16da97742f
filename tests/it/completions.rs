//! Completions, in the real shells.

use crate::needs::program;
use crate::shells::{SHELLS, machine, shell};
use crate::support::{LLAMA, Machine};

#[test]
fn bash_completes_models_and_passes_over_what_could_be_a_command() {
    let machine = machine();
    let Some(bash) = program("bash") else { return };
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
    assert_eq!(complete("lmswarm ensure --fail-mode "), ["closed", "hybrid", "open"]);
    assert_eq!(complete("lmswarm run --device loc"), ["local-first"]);
    review_has_a_model(&machine);
    assert_eq!(complete("lmswarm ensure agent:"), ["agent:review"]);
    assert_eq!(complete("lmswarm run main lla"), [LLAMA]);
    assert_eq!(complete("lmswarm run main -- my-too"), ["my-tool"]);
    assert!(complete("lmswarm run my-to").contains(&"my-tool".to_owned()));
    has_servers(&machine);
    assert_eq!(complete("lmswarm ensure --server "), ["rack", "desk"]);
    assert_eq!(complete("lmswarm run --server ra"), ["rack"]);
}

fn has_servers(machine: &Machine) {
    let servers = r#"{ "servers": { "rack": { "baseURL": "http://127.0.0.1:9" }, "desk": { "baseURL": "http://127.0.0.1:8" } } }"#;
    machine.write(".config/lmswarm/config.json", servers);
}

fn review_has_a_model(machine: &Machine) {
    let config = format!(r#"{{ "agent": {{ "review": {{ "model": "lmstudio/{LLAMA}" }}, "other": {{}} }} }}"#);
    machine.write(".config/opencode/opencode.json", &config);
}

#[test]
fn fish_completes_models_and_behind_the_dashes_the_command() {
    let machine = machine();
    let Some(fish) = program("fish") else { return };
    let complete = |line: &str| {
        let script =
            format!("complete -c my-tool -l from-tool; lmswarm completions fish | source; complete -C '{line}'");
        let done = shell(&machine, &fish, &script).expect(0);
        assert_eq!(done.stderr, "");
        // What stands behind the tab describes it.
        done.stdout.lines().filter_map(|it| it.split('\t').next()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("lmswarm ensure lla"), [LLAMA]);
    assert_eq!(complete("lmswarm ensure --fail-mode "), ["closed", "hybrid", "open"]);
    review_has_a_model(&machine);
    assert_eq!(complete("lmswarm ensure agent:"), ["agent:review"]);
    assert!(complete("lmswarm run lla").contains(&LLAMA.to_owned()));
    assert_eq!(complete("lmswarm run main -- my-too"), ["my-tool"]);
    assert_eq!(complete("lmswarm run --keep-warm 5m main small -- my-tool --from"), ["--from-tool"]);
    assert_eq!(complete("lmswarm run -- my-too"), ["my-tool"]);
    has_servers(&machine);
    assert_eq!(complete("lmswarm ensure --server ra"), ["rack"]);
}

#[test]
fn zsh_completes_models_and_behind_the_dashes_the_command() {
    let machine = machine();
    let Some(zsh) = program("zsh") else { return };
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
    review_has_a_model(&machine);
    has_servers(&machine);
    for (line, wanted) in [
        ("lmswarm ensure --server ra", "rack"),
        ("lmswarm ensure lla", LLAMA),
        ("lmswarm run main sma", "small"),
        ("lmswarm run main -- my-too", "my-tool"),
        ("lmswarm run my-too", "my-tool"),
        ("lmswarm ensure agent:re", "agent:review"),
        ("lmswarm ensure --fail-mode hy", "hybrid"),
    ] {
        let seen = complete(line);
        assert!(seen.contains(wanted), "{line}: {seen}");
    }
}

#[test]
fn every_shell_takes_its_completions() {
    let machine = machine();
    for name in SHELLS {
        let Some(program) = program(name) else { continue };
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
