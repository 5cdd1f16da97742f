//! Mistakes on the command line, and what is said of them.

use crate::support::{GEMMA, LLAMA, Machine, QWEN, run};

#[test]
fn a_value_that_was_meant_for_a_flag_is_pointed_out() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.ensure(&[LLAMA, "--evict-on-pressure", "false"]).expect(4).says("--evict-on-pressure=false").json();
}

#[test]
fn a_command_line_that_is_refused_is_shown_as_it_was_meant() {
    let machine = Machine::bare();
    for (args, meant) in [
        (&[QWEN, "--json"][..], format!("lmswarm ensure {QWEN} --json")),
        (&["main"], "lmswarm ensure main".to_owned()),
        (&["load", "a b"], "lmswarm ensure 'a b'".to_owned()),
        (&["insure", "main"], "lmswarm ensure main".to_owned()),
        (&["config", "role", "--json"], "lmswarm config roles --json".to_owned()),
        (&["-q", "ensure", "main"], "lmswarm ensure -q main".to_owned()),
        (&["ensure", "--contextlength=5", "main"], "lmswarm ensure --context-length=5 main".to_owned()),
        (&["ensure", "--base-url", "35003", "a"], "lmswarm ensure --base-url http://127.0.0.1:35003/v1 a".to_owned()),
        (&["ensure", "--base-url=h:1", "a"], "lmswarm ensure --base-url=http://h:1 a".to_owned()),
        (&["ensure", "http://h:1/v1", "a"], "lmswarm ensure --base-url http://h:1/v1 a".to_owned()),
    ] {
        let refused = machine.run(args).expect(2).says(&format!("did you mean `{meant}`?"));
        assert_eq!(refused.stderr.matches("did you mean `lmswarm").count(), 1, "{refused:?}");
    }
    machine.run(&["ensure", "--dry-run", "main"]).expect(2).says("tip: `lmswarm config roles` shows which models");
    let evil = machine.run(&["\u{1b}[2Jx", "\u{202e}"]).expect(2);
    assert!(!evil.stderr.contains(['\u{1b}', '\u{202e}']), "{evil:?}");
}

#[cfg(unix)]
#[test]
fn a_program_in_the_place_of_a_command_is_run() {
    let machine = Machine::bare();
    let mut command = machine.command(&["sh", "-c", "exit 7"]);
    run(command.env("PATH", "/usr/bin:/bin")).expect(2).says("did you mean `lmswarm run sh -c 'exit 7'`?");
}

#[cfg(unix)]
#[test]
fn the_dashes_that_are_missing_between_models_and_command_are_named() {
    let machine = Machine::new();
    let typed = |args: &[&str]| run(machine.command(&[&["run"], args].concat()).env("PATH", "/usr/bin:/bin"));
    for (args, meant) in [
        (&[QWEN, "sh", "-c", "exit 7"][..], format!("lmswarm run {QWEN} -- sh -c 'exit 7'")),
        (&["-q", "main", LLAMA, "sh"], format!("lmswarm run -q main {LLAMA} -- sh")),
        (&["--", "small", "sh"], "lmswarm run small -- sh".to_owned()),
    ] {
        typed(args).expect(2).says(&format!("did you mean `{meant}`?"));
    }
    // A command that is misspelt may have such words behind it, too.
    typed(&["gemma-3-4b-it", "sh"]).expect(127).says("if that is a model: `lmswarm run gemma-3-4b-it -- sh`");
    typed(&[QWEN]).expect(127).says(&format!("`lmswarm ensure {QWEN}`, or `lmswarm run {QWEN} -- COMMAND`"));
    let misspelt = typed(&["./nosuch", "sh"]).expect(127);
    assert!(!misspelt.stderr.contains("hint"), "{misspelt:?}");
    typed(&["--dry-run", "sh"]).expect(2).says("unexpected argument `--dry-run`");
    assert_eq!(machine.requests().len(), 0);
}

#[test]
fn words_that_no_model_is_called_are_shown_as_they_were_meant() {
    let machine = Machine::new();
    for (word, meant) in [
        ("a,b", "lmswarm ensure --json a b -q".to_owned()),
        ("main, small", "lmswarm ensure --json main small -q".to_owned()),
        ("Main", "lmswarm ensure --json main -q".to_owned()),
        ("mian", "lmswarm ensure --json main -q".to_owned()),
        ("smal", "lmswarm ensure --json small -q".to_owned()),
    ] {
        let entry = machine.ensure(&[word, "-q"]).expect(4).says(&format!("did you mean `{meant}`?")).model();
        assert_eq!(entry["suggestions"], serde_json::json!([]), "{word}");
    }
    // A key that is meant literally, or that is near to another, is told so as before.
    let literal = machine.ensure(&["--key", "Main"]).expect(4);
    assert!(!literal.stderr.contains("lmswarm ensure"), "{literal:?}");
    machine.ensure(&["gemma-3-12b"]).expect(4).says(&format!("did you mean `{GEMMA}` or"));
}
