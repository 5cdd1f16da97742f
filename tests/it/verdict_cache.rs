//! Verdicts that are kept on disk.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, Running, TOKEN};

#[test]
fn a_missing_token_falls_back_to_lms_ps_whose_verdict_is_cached() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    let cold = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&cold["action"], &cold["source"]), (&json!("loaded"), &json!("lms-ps")));
    let calls = machine.lms_calls().len();
    let warm = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&warm["action"], &warm["source"]), (&json!("none"), &json!("cache")));
    assert_eq!(machine.lms_calls().len(), calls);
    assert_eq!(machine.ensure(&[LLAMA, "--verify-cache-ms", "0"]).expect(0).model()["source"], "lms-ps");
    assert_eq!(machine.ensure(&[LLAMA, "--fresh"]).expect(0).model()["source"], "lms-ps");
}

#[test]
fn a_verdict_on_disk_does_not_outlive_an_eviction() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    machine.preload(LLAMA);
    machine.control("used", json!({ "identifier": LLAMA, "lastUsedTime": 1 }));
    machine.ensure(&[LLAMA]).expect(0).json();
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "cache");
    machine.ensure(&[GEMMA, "--evict-on-pressure", "--ram-budget-mb", "8500"]).expect(0).json();
    assert_eq!(machine.resident(), [GEMMA]);
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded");
}

#[test]
fn a_number_in_verify_cache_ms_counts_for_rest_too() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let args = [LLAMA, "--verify-cache-ms", "60000"];
    assert_eq!(machine.ensure(&args).expect(0).model()["source"], "rest-v1");
    let before = machine.requests().len();
    assert_eq!(machine.ensure(&args).expect(0).model()["source"], "cache");
    assert_eq!(machine.requests().len(), before);
    assert_eq!(machine.ensure(&[&args[..], &["--fresh"]].concat()).expect(0).model()["source"], "rest-v1");
    let drift = [&args[..], &["--context-length", "8192"]].concat();
    assert_eq!(machine.ensure(&drift).expect(0).model()["action"], "reloaded");
}

/// A machine that only `lms` can tell of, where LLAMA is resident and makes room for GEMMA's load,
/// which holds; and the call that loads GEMMA. `hold` is the step of `lms` that it stops at first.
fn making_room(hold: &str) -> (Machine, Running) {
    let machine = Machine::with(json!({ "token": TOKEN, "holdLoads": true }));
    machine.preload(LLAMA);
    machine.control("used", json!({ "identifier": LLAMA, "lastUsedTime": 1 }));
    machine.faults(json!([{ "on": hold, "kind": "hold" }]));
    let caller = machine.start(&[GEMMA, "--evict-on-pressure", "--ram-budget-mb", "8500"]);
    machine.wait_for_event("fault");
    (machine, caller)
}

#[test]
fn a_verdict_that_is_found_while_room_is_made_does_not_outlive_the_unload() {
    let (machine, caller) = making_room("lms load --estimate-only");
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "lms-ps");
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "cache");
    machine.unhold();
    machine.wait_until_held();
    assert_eq!(machine.resident(), [GEMMA]);
    let late = machine.ensure(&[LLAMA, "--lock-wait-timeout-ms", "0"]).expect(75);
    assert_eq!(late.model()["category"], "lock-timeout", "it is gone, and GEMMA is not loaded yet");
    machine.release();
    caller.end().expect(0).json();
}

#[cfg(unix)]
#[test]
fn a_verdict_that_is_found_during_an_unload_is_not_kept_though_its_leader_was_killed() {
    let (machine, caller) = making_room("lms unload");
    caller.signal(rustix::process::Signal::KILL);
    drop(caller.end());
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "lms-ps");
    machine.unhold();
    machine.wait_for_event("unload");
    machine.configure(json!({ "token": TOKEN }));
    let model = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&model["action"], &model["source"]), (&json!("loaded"), &json!("lms-ps")));
}
