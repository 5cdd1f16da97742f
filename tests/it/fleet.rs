//! Callers side by side: those that fail, stop, or die, and what the others make of it.

use serde_json::json;

use crate::support::{LLAMA, Machine, QWEN};

#[test]
fn fresh_tries_again_at_once() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "crash", "times": 1 }]));
    let first = machine.ensure(&[LLAMA]).expect(5).model();
    assert_eq!((&first["replayed"], &first["ageMs"]), (&json!(false), &json!(null)));
    let second = machine.ensure(&[LLAMA]).expect(5).model();
    assert_eq!(second["replayed"], true);
    assert!(second["ageMs"].is_u64());
    machine.ensure(&[LLAMA, "--fresh"]).expect(0);
    assert_eq!(machine.loads(LLAMA), 2);
}

#[test]
fn other_options_deserve_another_try() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "refuse", "times": 1 }]));
    machine.ensure(&[LLAMA, "--context-length", "100000"]).expect(5);
    machine.ensure(&[LLAMA, "--context-length", "4096"]).expect(0);
}

#[cfg(unix)]
#[test]
fn a_leader_that_is_killed_leaves_its_load_to_the_next() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    for round in 1..=20 {
        let leader = machine.start(&[LLAMA]);
        machine.wait_for("a load", |record| record.iter().filter(|it| it["event"] == "load-begin").count() == round);
        let waiters = machine.start_many(3, &[LLAMA]);
        leader.signal(rustix::process::Signal::KILL);
        assert_eq!(leader.end().code, 137);
        machine.release();
        for waiter in waiters {
            let model = waiter.end().expect(0).model();
            assert!(["waited", "none"].contains(&model["action"].as_str().unwrap()), "{model}");
        }
        assert_eq!(machine.resident(), [LLAMA], "round {round}");
        machine.control("evict", json!({ "identifier": LLAMA }));
    }
    assert_eq!(machine.loads(LLAMA), 20);
}

#[cfg(unix)]
#[test]
fn a_signal_cancels_the_load_and_the_next_waiter_takes_over() {
    use rustix::process::Signal;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let machine = Machine::with(json!({ "holdLoads": true }));
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_event("load-begin");
        let waiter = machine.start(&[LLAMA]);
        leader.signal(signal);
        let report = leader.end().expect(code).json();
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
fn a_waiter_whose_time_is_over_says_whom_it_waited_for() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    let args = [QWEN, "--lock-wait-timeout-ms", "100"];
    let report = machine.ensure(&args).expect(75).says(&format!("pid {}, busy with `{LLAMA}`", leader.pid())).json();
    assert_eq!((&report["proceed"], &report["models"][0]["category"]), (&json!(true), &json!("lock-timeout")));
    let closed = machine.ensure(&[&args[..], &["--fail-mode", "closed"]].concat()).expect(75).json();
    assert_eq!(closed["proceed"], false);
    let open = machine.ensure(&[&args[..], &["--fail-mode", "open"]].concat()).expect(0).says("warning:").json();
    assert_eq!((&open["proceed"], &open["ok"]), (&json!(true), &json!(false)));
    machine.release();
    leader.end().expect(0);
}

#[test]
fn a_call_ends_when_its_time_is_over_and_cancels_its_load() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let report = machine.ensure(&[LLAMA, QWEN, "--timeout", "500ms"]).expect(75).says("--timeout 500 ms").json();
    assert_eq!(report["models"][0]["category"], "deadline");
    assert_eq!(
        (&report["models"][1]["category"], &report["models"][1]["action"]),
        (&json!("deadline"), &json!("skipped"))
    );
    machine.wait_for_event("load-cancelled");
    assert_eq!(machine.loads(QWEN), 0);
}

#[cfg(unix)]
#[test]
fn a_waiter_does_not_need_a_leader_that_is_stopped() {
    use rustix::process::Signal;
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    leader.signal(Signal::STOP);
    let waiter = machine.start(&[LLAMA]);
    machine.release();
    assert_eq!(waiter.end().expect(0).model()["addressable"], true);
    leader.signal(Signal::CONT);
    leader.end().expect(0);
    assert_eq!(machine.loads(LLAMA), 1);
}
