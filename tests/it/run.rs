//! `run`: the command starts only behind the gate, and is then on its own.

use serde_json::json;

use crate::support::{LLAMA, Machine, QWEN, Running};

/// What the tests use of the system; the machine's own `PATH` has `lms` alone.
#[cfg(unix)]
const SH: &str = "/bin/sh";

#[cfg(unix)]
#[test]
fn the_command_takes_the_place_of_lmswarm_once_the_model_is_there() {
    let machine = Machine::new();
    let running = Running::start(&mut machine.command(&["run", LLAMA, "--", SH, "-c", "echo $$; exit 7"]));
    let pid = running.pid();
    let ended = running.end().expect(7);
    assert_eq!(ended.stdout, format!("{pid}\n"));
    assert_eq!(machine.resident(), [LLAMA]);
    assert_eq!(machine.loads(LLAMA), 1);
}

#[cfg(unix)]
#[test]
fn a_key_given_to_run_is_the_only_model() {
    let machine = Machine::new();
    // opencode's configuration sets no model, so `main small` would end the call.
    machine.run(&["run", "--key", LLAMA, "--", SH, "-c", "exit 7"]).expect(7);
    assert_eq!(machine.resident(), [LLAMA]);
}

#[cfg(unix)]
#[test]
fn arguments_reach_the_command_as_they_are() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let script = "printf '[%s]' \"$@\"";
    let args = ["run", "--quiet", LLAMA, "--", SH, "-c", script, "sh", "--quiet", "--", "a b", "", "$x", "-h"];
    assert_eq!(machine.run(&args).expect(0).stdout, "[--quiet][--][a b][][$x][-h]");
}

#[cfg(unix)]
#[test]
fn a_signal_that_ends_the_command_is_its_own() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.run(&["run", LLAMA, "--", SH, "-c", "kill -TERM $$"]).expect(143);
    machine.run(&["run", "--keep-warm", "1h", LLAMA, "--", SH, "-c", "kill -TERM $$"]).expect(143);
    machine.run(&["run", "--keep-warm", "1h", LLAMA, "--", SH, "-c", "exit 9"]).expect(9);
}

#[cfg(unix)]
#[test]
fn a_confirmed_failure_keeps_the_command_from_starting() {
    let machine = Machine::new();
    let blocked = machine.run(&["run", "nosuch/model", "--", SH, "-c", "echo started"]).expect(4);
    assert_eq!(blocked.says("`nosuch/model` is not downloaded").stdout, "");
    let open = machine.run(&["run", "--fail-mode", "open", "nosuch/model", "--", SH, "-c", "echo started"]).expect(0);
    assert_eq!(open.says("warning:").stdout, "started\n");
}

#[cfg(unix)]
#[test]
fn an_ambiguous_failure_lets_the_command_start_with_a_warning_unless_closed() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    let args = ["--lock-wait-timeout-ms", "100", QWEN, "--", SH, "-c", "echo started"];
    let passed = machine.run(&[&["run"], &args[..]].concat()).expect(0);
    assert_eq!(passed.says("lmswarm: ").says("gave up waiting").stdout, "started\n");
    let closed = machine.run(&[&["run", "--fail-mode", "closed"], &args[..]].concat()).expect(75);
    assert_eq!(closed.says("error:").stdout, "");
    machine.release();
    leader.end().expect(0);
}

#[cfg(unix)]
#[test]
fn a_command_that_cannot_be_started_costs_no_load() {
    let machine = Machine::new();
    machine.write("bin/plain", "echo");
    machine.run(&["run", LLAMA, "--", "nosuch-command"]).expect(127).says("`nosuch-command`: not found");
    machine.run(&["run", LLAMA, "--", "plain"]).expect(126).says("cannot be executed");
    machine.run(&["run", LLAMA, "--", "/bin"]).expect(126).says("cannot be executed");
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn what_is_no_command_line_is_a_usage_error() {
    let machine = Machine::bare();
    machine.run(&["run"]).expect(2);
    machine.run(&["run", "a", "--"]).expect(2).says("no command behind `--`");
    machine.run(&["run", "a", "--json", "--", "b"]).expect(2).says("options of lmswarm come before");
    machine.run(&["run", "--keep-warm", "1ms", "a", "--", "b"]).expect(2).says("a second or more");
}

#[cfg(unix)]
#[test]
fn a_script_without_its_first_line_runs_as_in_a_shell() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.write("bin/old", "echo \"old $1\"; exit 3\n");
    std::fs::set_permissions(machine.path("bin/old"), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    assert_eq!(machine.run(&["run", LLAMA, "--", "old", "x"]).expect(3).stdout, "old x\n");
    assert_eq!(machine.run(&["run", "--keep-warm", "1h", LLAMA, "--", "old", "x"]).expect(3).stdout, "old x\n");
}
