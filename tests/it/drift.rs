//! Drift: a model that is resident with less context than configured.

use serde_json::json;

use crate::support::{LLAMA, Machine, TOKEN};

#[test]
fn too_little_context_is_reloaded_when_idle() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    let model = machine.ensure(&[LLAMA, "--context-length", "8192"]).expect(0).model();
    assert_eq!((&model["action"], &model["instance"]["contextLength"]), (&json!("reloaded"), &json!(8192)));
    let more = machine.ensure(&[LLAMA, "--context-length", "4096"]).expect(0).model();
    assert_eq!(more["action"], "none", "more context than asked for is no drift");
}

#[test]
fn too_little_context_passes_with_a_warning_when_busy() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    machine.control("busy", json!({ "identifier": LLAMA, "busy": true }));
    let model = machine.ensure(&[LLAMA, "--context-length", "8192"]).expect(0).says("it is busy").model();
    assert_eq!(model["action"], "none");
    assert_eq!(model["warnings"].as_array().unwrap().len(), 1);
    assert_eq!(machine.events("unload").len(), 0);
    machine.control("busy", json!({ "identifier": LLAMA, "busy": false }));
    assert_eq!(machine.ensure(&[LLAMA, "--context-length", "8192"]).expect(0).model()["action"], "reloaded");
}

#[test]
fn too_little_context_is_what_on_mismatch_says() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    let run = machine.ensure(&[LLAMA, "--context-length", "8192", "--on-mismatch", "fail"]).expect(6);
    assert_eq!(run.says("a context of 2048 tokens, and 8192 are configured").model()["category"], "drift");
    machine.ensure(&[LLAMA, "--context-length", "8192", "--on-mismatch", "ignore"]).expect(0);
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn more_context_than_the_model_has_means_all_it_has() {
    let machine = Machine::new();
    let args = [LLAMA, "--context-length", "9999999"];
    let model = machine.ensure(&args).expect(0).says("131072 tokens at most").model();
    assert_eq!(model["instance"]["contextLength"], 131_072);
    assert_eq!(machine.ensure(&args).expect(0).model()["action"], "none");
}

#[test]
fn less_context_than_asked_for_is_a_warning_and_no_reason_to_reload_at_once() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "less-context", "contextLength": 4096 }]));
    let args = [LLAMA, "--context-length", "8192"];
    machine.ensure(&args).expect(0).says("with a context of 4096 tokens, not 8192");
    let model = machine.ensure(&args).expect(0).says("LM Studio granted no more").model();
    assert_eq!(model["action"], "none");
    assert_eq!(machine.loads(LLAMA), 1);
    let fail = Machine::new();
    fail.faults(json!([{ "on": "load", "kind": "less-context", "contextLength": 4096 }]));
    assert_eq!(
        fail.ensure(&[LLAMA, "--context-length", "8192", "--on-mismatch", "fail"]).expect(6).model()["category"],
        "drift"
    );
}

#[test]
fn too_little_context_by_somebody_elses_load_is_told() {
    let calls = ["reload", "fail"].map(|on_mismatch| {
        let machine = Machine::new();
        machine.faults(json!([{ "on": "lms load", "kind": "hold" }]));
        let caller = machine.start(&[LLAMA, "--context-length", "8192", "--on-mismatch", on_mismatch]);
        // It is about to load; somebody at the window is faster.
        machine.wait_for_event("fault");
        machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
        machine.unhold();
        (machine, caller)
    });
    let [reloaded, failed] = calls.map(|(machine, caller)| {
        let run = caller.end();
        assert_eq!(machine.events("load-refused").len(), 1);
        run.says("a context of 2048 tokens")
    });
    assert_eq!(reloaded.expect(0).says("not 8192: another client loaded it so").model()["action"], "waited");
    assert_eq!(failed.expect(6).model()["category"], "drift");
}

#[test]
fn a_reload_that_was_refused_does_not_block_what_is_resident() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    machine.faults(json!([{ "on": "load", "kind": "refuse", "times": 1 }]));
    let args = [LLAMA, "--context-length", "8192"];
    machine.ensure(&args).expect(5).says("insufficient system resources");
    assert_eq!(machine.ensure(&args).expect(5).model()["replayed"], true);
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    for busy in [true, false] {
        machine.control("busy", json!({ "identifier": LLAMA, "busy": busy }));
        let run =
            machine.ensure(&args).expect(0).says("a context of 2048 tokens, not 8192: it is not reloaded, as that");
        assert_eq!(run.model()["action"], "none");
    }
    assert_eq!(machine.events("unload").len(), 1, "by the first call");
    assert_eq!(machine.ensure(&[&args[..], &["--fresh"]].concat()).expect(0).model()["action"], "reloaded");
}

#[test]
fn drift_is_measured_against_the_models_maximum_on_an_older_server_too() {
    for config in [json!({ "restVersion": "v0" }), json!({ "token": TOKEN })] {
        let machine = Machine::with(config);
        machine.control("load", json!({ "key": LLAMA, "contextLength": 131_072 }));
        machine.control("used", json!({ "identifier": LLAMA, "lastUsedTime": 1 }));
        let model = machine.ensure(&[LLAMA, "--context-length", "999999"]).expect(0).model();
        assert_eq!(model["action"], "none");
    }
}

#[test]
fn callers_that_ask_for_different_contexts_do_not_reload_in_turn() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "less-context", "contextLength": 2048 }]));
    for context in ["8192", "16384", "8192", "16384", "8192"] {
        machine.ensure(&[LLAMA, "--context-length", context]).expect(0).json();
    }
    assert_eq!(machine.loads(LLAMA), 2, "once for each larger wish");
}

#[test]
fn nothing_is_unloaded_before_it_is_certain_that_it_can_be_loaded() {
    let machine = Machine::with(json!({ "restVersion": "v0" }));
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    machine.faults(json!([{ "on": "lms ls", "kind": "fail" }]));
    machine.ensure(&[LLAMA, "--context-length", "8192"]).expect(75).json();
    assert_eq!(machine.resident(), [LLAMA]);
}
