//! Signals and `--timeout`: what is cancelled, and what the exit code tells.

#[cfg(unix)]
use rustix::process::Signal;
use serde_json::json;

#[cfg(target_os = "linux")]
use crate::support::until;
use crate::support::{LLAMA, Machine, QWEN, with_growing_limit};

#[cfg(unix)]
#[test]
fn a_signal_cancels_the_load_and_the_next_waiter_takes_over() {
    #[cfg(unix)]
    use rustix::process::Signal;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let machine = Machine::with(json!({ "holdLoads": true }));
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_event("load-begin");
        let waiter = machine.start(&[LLAMA]);
        leader.signal(signal);
        let run = leader.end().expect(code).says(&format!("; the load of `{LLAMA}` was cancelled"));
        let report = run.json();
        assert_eq!((&report["proceed"], &report["models"][0]["category"]), (&json!(false), &json!("interrupted")));
        machine.wait_for_event("load-cancelled");
        machine.wait_for("the next load", |record| record.iter().filter(|it| it["event"] == "load-begin").count() == 2);
        machine.release();
        assert_eq!(waiter.end().expect(0).model()["action"], "loaded");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_waiter_and_nobody_else() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    let waiter = machine.start(&[LLAMA]);
    machine.wait_for("the waiter looks", |record| record.iter().filter(|it| it["event"] == "request").count() >= 6);
    waiter.signal(rustix::process::Signal::TERM);
    // It may still be on its first look, where a signal ends it the default way.
    assert_eq!(waiter.end().code, 143);
    machine.release();
    leader.end().expect(0);
    assert_eq!(machine.loads(LLAMA), 1);
}

#[test]
fn a_call_ends_when_its_time_is_over_and_cancels_its_load() {
    with_growing_limit(|ms| {
        let machine = Machine::with(json!({ "holdLoads": true }));
        let report =
            machine.ensure(&[LLAMA, QWEN, "--timeout", &format!("{ms}ms")]).expect(75).says("--timeout").json();
        assert_eq!(report["models"][0]["category"], "deadline");
        assert_eq!(
            (&report["models"][1]["category"], &report["models"][1]["action"]),
            (&json!("deadline"), &json!("skipped"))
        );
        assert_eq!(machine.loads(QWEN), 0);
        let has_begun = machine.loads(LLAMA) == 1;
        if has_begun {
            machine.wait_for_event("load-cancelled");
        }
        has_begun
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_during_a_first_look_that_takes_long_is_reported() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "rest", "kind": "hang" }]));
    let caller = machine.start(&[LLAMA]);
    until("it listens for signals", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
    });
    caller.signal(Signal::INT);
    assert_eq!(caller.end().expect(130).model()["category"], "interrupted");
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_at_once() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    machine.faults(json!([{ "on": "lms load", "kind": "ignore-sigint" }]));
    let caller = machine.start(&[LLAMA, "-vv"]);
    machine.wait_for_event("load-begin");
    // Two of a kind, sent in a row, could arrive as one.
    caller.signal(Signal::INT);
    caller.signal(Signal::TERM);
    let run = caller.end().expect(130);
    // After one signal, a deaf child has five seconds, and another line says so.
    assert_eq!(run.says("told to stop again: the child is killed at once").model()["category"], "interrupted");
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let line = format!("trap '' HUP; exec {} ensure --json {LLAMA}", env!("CARGO_BIN_EXE_lmswarm"));
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", &line]).env_clear().envs(machine.environment());
    let caller = crate::support::Running::start(&mut command);
    machine.wait_for_event("load-begin");
    caller.signal(Signal::HUP);
    machine.release();
    caller.end().expect(0).json();
}
