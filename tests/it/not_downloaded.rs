//! A key that is not downloaded.

use serde_json::json;

use crate::support::{LLAMA, Machine, QWEN};

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
fn a_key_that_is_not_downloaded_needs_no_turn() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    machine.ensure(&["nowhere"]).expect(4).json();
    machine.release();
    leader.end().expect(0).json();
}
