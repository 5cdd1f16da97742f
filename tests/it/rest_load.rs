//! Loads over REST, where `lms` cannot.

use serde_json::json;

use crate::support::{LLAMA, Machine, QWEN, until};

#[test]
fn without_lms_a_model_is_loaded_over_rest() {
    let machine = Machine::new();
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    let run = machine.ensure(&[LLAMA, "--context-length", "8192", "--ttl-seconds", "60"]).expect(0);
    let model = run.says("cannot apply ttlSeconds").model();
    assert_eq!((&model["action"], &model["instance"]["contextLength"]), (&json!("loaded"), &json!(8192)));
    assert_eq!(machine.events("load-begin")[0]["by"], "rest");
    machine.ensure(&[QWEN, "--loader", "lms"]).expect(5).says("`lms` command was not found");
    machine.faults(json!([{ "on": "load", "kind": "refuse" }]));
    machine.ensure(&[QWEN]).expect(5).says("insufficient system resources");
    machine.faults(json!([{ "on": "POST /api/v1/models/load", "kind": "status" }]));
    assert_eq!(machine.ensure(&[QWEN, "--fresh"]).expect(5).model()["category"], "load-failed");
}

#[test]
fn a_variant_is_loaded_over_rest() {
    let machine = Machine::new();
    let variant = format!("{QWEN}@q8_0");
    let model = machine.ensure(&[&variant]).expect(0).model();
    assert_eq!(model["instance"]["identifier"], variant);
    assert_eq!(machine.lms_calls().len(), 0);
    assert_eq!(machine.ensure(&[&variant]).expect(0).model()["action"], "none");
}

#[test]
fn a_copy_that_a_load_over_rest_made_is_undone() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    machine.faults(json!([{ "on": "load", "kind": "other-id", "identifier": format!("{LLAMA}:2"), "times": 1 }]));
    let caller = machine.start(&[LLAMA, "--loader", "rest"]);
    machine.wait_for_event("load-begin");
    // Somebody else's load wins the bare name meanwhile.
    machine.preload(LLAMA);
    machine.release();
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn two_hosts_that_load_over_rest_leave_no_copy_behind() {
    // No load is listed before it is done, so both load.
    let machine = Machine::with(json!({ "holdLoads": true, "listLoadingAfterMs": 60_000 }));
    let host = |name: &str| {
        machine.start(&[LLAMA, "--loader", "rest", "--state-dir", machine.path(name).to_str().expect("UTF-8")])
    };
    let first = host("one");
    until("a load that holds", || machine.state()["loads"][0]["held"] == true);
    machine.configure(json!({ "listLoadingAfterMs": 60_000 }));
    let second = host("two");
    // The copy is done first, and gone again before the first load ends.
    machine.wait_for_event("unload");
    machine.release();
    assert_eq!(first.end().expect(0).model()["action"], "loaded");
    assert_eq!(second.end().expect(0).model()["action"], "waited");
    assert_eq!(machine.events("load-ready").len(), 2);
    assert_eq!(machine.resident(), [LLAMA]);
}
