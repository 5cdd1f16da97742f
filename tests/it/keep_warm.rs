//! `run --keep-warm`: the gate goes on beside the command.

use serde_json::{Value, json};

use crate::support::{LLAMA, Machine, Running, until};

/// What the tests use of the system; the machine's own `PATH` has `lms` alone.
const SH: &str = "/bin/sh";

/// Waits for a file, which the command writes when it is ready.
fn wait_for_file(machine: &Machine, name: &str) {
    until(name, || machine.path(name).exists());
}

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

#[test]
fn a_command_that_ends_while_its_model_is_loaded_again_cancels_the_load() {
    let machine = Machine::new();
    let script = ": > ready; until [ -e stop ]; do /bin/sleep 0.05; done; exit 5";
    let args = ["run", "--keep-warm", "1s", LLAMA, "--", "/bin/sh", "-c", script];
    let running = crate::support::Running::start(machine.command(&args).current_dir(machine.home()));
    until("the command runs", || machine.path("ready").exists());
    machine.configure(json!({ "holdLoads": true }));
    machine.control("evict", json!({ "identifier": LLAMA }));
    let loads = |record: &[Value]| record.iter().filter(|it| it["event"] == "load-begin").count();
    machine.wait_for("the second load", |record| loads(record) == 2);
    let waiter = machine.start(&[LLAMA]);
    machine.write("stop", "");
    running.end().expect(5);
    assert_eq!(machine.events("load-cancelled").len(), 1);
    machine.wait_for("the waiter's load", |record| loads(record) == 3);
    machine.release();
    assert_eq!(waiter.end().expect(0).model()["action"], "loaded");
}
