//! What goes wrong with a load, and what the user is told.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, QWEN};

#[test]
fn a_key_that_is_not_downloaded_is_refused_with_the_near_ones() {
    let machine = Machine::new();
    let run = machine.ensure(&["qwen/qwen3-coder-3b"]).expect(4);
    let run = run.says("`qwen/qwen3-coder-3b` is not downloaded").says("did you mean `qwen/qwen3-coder-30b`?");
    let model = run.model();
    assert_eq!((&model["category"], &model["suggestions"]), (&json!("not-downloaded"), &json!([QWEN])));
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_key_that_would_match_another_model_fuzzily_loads_nothing() {
    let machine = Machine::new();
    for key in ["gem12", "coder", "QWEN/QWEN3-CODER-30B", "llama"] {
        machine.ensure(&[key]).expect(4);
    }
    assert_eq!(machine.resident().len(), 0);
    assert_eq!(machine.events("load-begin").len(), 0);
}

#[test]
fn a_refused_load_says_why_and_what_helps() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "refuse" }]));
    let run = machine.ensure(&[QWEN]).expect(5).says("insufficient system resources").says("--evict-on-pressure");
    assert_eq!(run.model()["category"], "load-refused");
}

#[test]
fn a_load_that_crashes_says_so() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "crash" }]));
    let run = machine.ensure(&[LLAMA]).expect(5).says("`lms load llama-3.2-1b-instruct` failed (exit code 1): ");
    assert_eq!(run.model()["category"], "load-failed");
}

#[test]
fn a_load_that_hangs_is_cancelled_at_its_limit() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "hang" }]));
    let run = machine
        .ensure(&[LLAMA, "--load-timeout-ms", "600"])
        .expect(5)
        .says("was not loaded after loadTimeoutMs (600 ms)");
    assert_eq!(run.model()["category"], "load-timeout");
    machine.wait_for_event("load-cancelled");
    assert_eq!(machine.resident().len(), 0);
}

#[test]
fn a_load_that_ignores_being_asked_is_killed() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "hang" }, { "on": "lms load", "kind": "ignore-sigint" }]));
    machine.ensure(&[LLAMA, "--load-timeout-ms", "300"]).expect(5).says("was not loaded");
    assert_eq!(machine.events("lms-exit").len(), 0, "it had no chance to say goodbye");
}

#[test]
fn a_load_that_says_it_worked_is_not_believed() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "ghost" }]));
    let run = machine.ensure(&[LLAMA]).expect(5).says("said it loaded `llama-3.2-1b-instruct`, but it is not resident");
    assert_eq!(run.model()["category"], "not-addressable");
}

#[test]
fn a_model_that_is_gone_at_once_is_not_reported_as_ready() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "vanish" }]));
    machine.ensure(&[LLAMA]).expect(5).says("already been unloaded");
}

#[test]
fn a_load_under_another_name_is_undone() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "other-id", "identifier": "odd" }]));
    let run = machine.ensure(&[LLAMA]).expect(5).says("under the name `odd`").says("it was unloaded again");
    assert_eq!(run.model()["category"], "not-addressable");
    assert_eq!(machine.resident().len(), 0);
}

#[test]
fn an_lms_that_exits_0_without_doing_anything_is_not_believed() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "empty" }]));
    machine.ensure(&[LLAMA]).expect(5).says("is not resident");
}

#[test]
fn a_model_that_is_missing_is_downloaded_when_asked_for() {
    let catalogue = json!({ "catalogue": [{ "modelKey": "acme/new-model" }], "downloadMs": 50 });
    let machine = Machine::with(catalogue);
    machine.ensure(&["acme/new-model"]).expect(4).says("--download");
    let model =
        machine.ensure(&["acme/new-model", "--download"]).expect(0).says("downloading `acme/new-model`").model();
    assert_eq!(model["action"], "loaded");
    assert_eq!(machine.lms_calls()[0], "get acme/new-model -y");
    let run = machine.ensure(&["acme/missing", "--download"]).expect(4).says("does not exist");
    assert_eq!(run.model()["category"], "download-failed");
}

#[test]
fn a_name_that_lms_would_search_for_is_not_downloaded() {
    let machine = Machine::with(json!({ "catalogue": [{ "modelKey": "acme/gemma" }] }));
    machine.ensure(&["gemma", "--download"]).expect(4).says("publisher/model");
    assert_eq!(machine.events("download").len(), 0);
}

#[test]
fn with_fail_mode_open_a_failure_is_a_warning() {
    let machine = Machine::new();
    let report = machine
        .ensure(&["nowhere", "--fail-mode", "open"])
        .expect(0)
        .says("warning: `nowhere` is not downloaded")
        .json();
    assert_eq!((&report["ok"], &report["proceed"], &report["failMode"]), (&json!(false), &json!(true), &json!("open")));
}

#[test]
fn a_model_that_another_load_evicted_is_loaded_again() {
    let machine = Machine::new();
    machine.ensure(&[LLAMA]).expect(0);
    // LM Studio drops one model while the other is loaded, once.
    machine.faults(json!([{ "on": "load", "key": GEMMA, "kind": "slow", "ms": 600 }]));
    let caller = machine.start(&[LLAMA, GEMMA]);
    machine.wait_for("the second load", |record| {
        record.iter().any(|it| it["event"] == "load-begin" && it["key"] == GEMMA)
    });
    machine.control("evict", json!({ "identifier": LLAMA }));
    caller.end().expect(0);
    assert_eq!(machine.resident(), [GEMMA, LLAMA]);
}
