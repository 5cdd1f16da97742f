//! `run`: the command starts only behind the gate, and is then on its own.

use serde_json::json;

use crate::support::{LLAMA, Machine, QWEN};
#[cfg(unix)]
use crate::support::{Running, until};

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

/// Waits for a file, which the command writes when it is ready.
#[cfg(unix)]
fn wait_for_file(machine: &Machine, name: &str) {
    until(name, || machine.path(name).exists());
}

#[cfg(unix)]
#[test]
fn an_eviction_heals_while_the_command_runs() {
    let machine = Machine::new();
    let script = "trap 'exit 5' TERM; : > ready; while :; do /bin/sleep 0.05; done";
    let running = Running::start(
        machine.command(&["run", "--keep-warm", "1s", LLAMA, "--", SH, "-c", script]).current_dir(machine.home()),
    );
    wait_for_file(&machine, "ready");
    machine.control("evict", json!({ "identifier": LLAMA }));
    machine.wait_for("the second load", |record| record.iter().filter(|it| it["event"] == "load-begin").count() == 2);
    running.signal(rustix::process::Signal::TERM);
    running.end().expect(5);
}

#[cfg(unix)]
#[test]
fn a_round_that_fails_is_a_warning_and_the_command_goes_on() {
    let machine = Machine::new();
    let script = "trap 'exit 5' TERM; : > ready; while :; do /bin/sleep 0.05; done";
    let running = Running::start(
        machine
            .command(&["run", "--keep-warm", "1s", "--retry-cooldown-ms", "0", LLAMA, "--", SH, "-c", script])
            .current_dir(machine.home()),
    );
    wait_for_file(&machine, "ready");
    machine.faults(json!([{ "on": "load", "kind": "crash" }]));
    machine.control("evict", json!({ "identifier": LLAMA }));
    // The fourth load begins when two rounds have failed.
    machine.wait_for("more rounds", |record| record.iter().filter(|it| it["event"] == "load-begin").count() == 4);
    running.signal(rustix::process::Signal::TERM);
    let ended = running.end().expect(5);
    assert_eq!(ended.stderr.matches("not kept warm").count(), 1, "{}", ended.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn signals_are_passed_on_once_and_decided_by_the_command() {
    use rustix::process::Signal;
    let machine = Machine::new();
    machine.preload(LLAMA);
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::INT, "INT"), (Signal::USR1, "USR1")] {
        // In a session of its own there is no terminal, so nobody else delivers SIGINT.
        let script = format!(
            "n=0; trap 'n=$((n+1)); : > got-{name}' {name}; trap 'echo $n; exit 4' USR2; : > ready-{name}; \
             while :; do /bin/sleep 0.02; done"
        );
        let args = [
            "/usr/bin/setsid",
            env!("CARGO_BIN_EXE_lmswarm"),
            "run",
            "--keep-warm",
            "1h",
            LLAMA,
            "--",
            SH,
            "-c",
            &script,
        ];
        let mut command = std::process::Command::new(args[0]);
        command.args(&args[1..]).env_clear().envs(machine.environment()).current_dir(machine.home());
        let running = Running::start(&mut command);
        wait_for_file(&machine, &format!("ready-{name}"));
        running.signal(signal);
        wait_for_file(&machine, &format!("got-{name}"));
        running.signal(Signal::USR2);
        assert_eq!(running.end().expect(4).stdout, "1\n", "{name}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_terminals_interrupt_reaches_the_command_once_and_ends_nobody_else() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::Write;
    let machine = Machine::new();
    machine.preload(LLAMA);
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a terminal of ours");
    let name = ptsname(&terminal, Vec::new()).expect("its name").into_string().expect("UTF-8");
    let line = std::fs::File::options().read(true).write(true).open(name).expect("the other end");
    let script = "n=0; trap 'n=$((n+1)); : > got' INT; trap 'echo $n; exit 4' USR2; : > ready; \
                  while :; do /bin/sleep 0.02; done";
    let lmswarm = env!("CARGO_BIN_EXE_lmswarm");
    let mut command = std::process::Command::new("/usr/bin/setsid");
    command.args(["--ctty", lmswarm, "run", "--keep-warm", "1h", LLAMA, "--", SH, "-c", script]);
    command.env_clear().envs(machine.environment()).current_dir(machine.home()).stdin(line);
    let running = Running::start(&mut command);
    wait_for_file(&machine, "ready");
    std::fs::File::from(terminal.try_clone().expect("a handle")).write_all(b"\x03").expect("a key is pressed");
    wait_for_file(&machine, "got");
    running.signal(rustix::process::Signal::USR2);
    assert_eq!(running.end().expect(4).stdout, "1\n");
}
