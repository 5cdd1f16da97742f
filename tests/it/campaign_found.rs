//! What the fault campaign found, each as a plain test.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, until};

#[test]
fn one_answer_that_gets_lost_does_not_make_an_older_lm_studio_one_that_cannot_tell() {
    for kind in ["null", "hang"] {
        let machine = Machine::with(json!({ "restVersion": "v0", "holdLoads": true }));
        machine.control("load", json!({ "key": LLAMA, "takesTime": true }));
        machine.faults(json!([{ "on": "GET /api/v0/models", "kind": kind, "times": 1 }]));
        let caller = machine.start(&[LLAMA, "--probe-timeout-ms", "1000"]);
        machine.wait_for("a look after the fault", |record| {
            let asked = record.iter().filter(|it| it["path"] == "/api/v0/models" && it["status"] == 200);
            asked.count() >= 2
        });
        machine.release();
        assert_eq!(caller.end().expect(0).model()["source"], "rest-v0", "{kind}");
        assert_eq!(machine.lms_calls().len(), 0, "{kind}: `lms ps` shows a load like a ready one");
    }
}

#[test]
fn no_room_is_made_and_nothing_loaded_for_a_model_that_has_come_up_meanwhile() {
    let machine = Machine::new();
    machine.preload(GEMMA);
    machine.control("used", json!({ "identifier": GEMMA, "lastUsedTime": 1 }));
    machine.faults(json!([{ "on": "lms load --estimate-only", "kind": "slow", "ms": 700 }]));
    let caller = machine.start(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "9000"]);
    until("it asks for an estimate", || machine.lms_calls().iter().any(|it| it.contains("--estimate-only")));
    machine.preload(LLAMA);
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert_eq!(machine.resident(), [GEMMA, LLAMA]);
    assert!(!machine.lms_calls().iter().any(|it| it.contains("--identifier")), "{:?}", machine.lms_calls());
}

#[test]
fn a_leader_that_cannot_say_what_for_may_be_loading_what_is_asked_for() {
    let machine = Machine::with(json!({ "v0": false, "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    // As on a full disk: the lock is held, and its file is empty.
    let files = std::fs::read_dir(machine.path(".cache/lmswarm")).unwrap().map(|it| it.unwrap().path());
    for lock in files.filter(|it| it.extension().is_some_and(|it| it == "lock")) {
        std::fs::OpenOptions::new().write(true).truncate(true).open(lock).unwrap();
    }
    let early = machine.ensure(&[LLAMA, "--lock-wait-timeout-ms", "300"]).expect(75);
    assert_eq!(early.model()["category"], "lock-timeout");
    machine.release();
    leader.end().expect(0).json();
    machine.ensure(&[LLAMA]).expect(0).json();
}
