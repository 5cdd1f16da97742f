//! Eviction: which models are unloaded to make room, and which never.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, QWEN};

const GIB: u64 = 1024 * 1024 * 1024;

#[test]
fn room_is_made_by_the_least_recently_used_idle_model() {
    // GEMMA takes 8.1 GB, LLAMA 1.3 GB, QWEN 18.6 GB.
    let machine = Machine::with(json!({ "ramBytes": 27 * GIB }));
    machine.preload(GEMMA).preload(QWEN);
    machine.control("used", json!({ "identifier": GEMMA, "lastUsedTime": 2_000_000_000_000_u64 }));
    machine.control("used", json!({ "identifier": QWEN, "lastUsedTime": 1_000_000_000_000_u64 }));
    machine.ensure(&["gemma-3-4b-it"]).expect(5).says("--evict-on-pressure");
    let model = machine.ensure(&["gemma-3-4b-it", "--evict-on-pressure"]).expect(0).model();
    assert_eq!(model["action"], "loaded");
    assert_eq!(machine.resident(), ["gemma-3-4b-it", GEMMA]);
}

#[test]
fn neither_busy_nor_protected_nor_needed_models_make_room() {
    let machine = Machine::with(json!({ "ramBytes": 10 * GIB }));
    machine.preload(GEMMA).preload(LLAMA);
    machine.control("busy", json!({ "identifier": GEMMA, "busy": true }));
    let run = machine.ensure(&["gemma-3-4b-it", LLAMA, "--evict-on-pressure"]).expect(5);
    assert_eq!(run.json()["models"][0]["category"], "load-refused");
    machine.control("busy", json!({ "identifier": GEMMA, "busy": false }));
    machine.ensure(&["gemma-3-4b-it", LLAMA, "--evict-on-pressure", "--evict-protect", GEMMA, "--fresh"]).expect(5);
    assert_eq!(machine.resident(), [GEMMA, LLAMA]);
    machine.ensure(&["gemma-3-4b-it", LLAMA, "--evict-on-pressure", "--fresh"]).expect(0);
    assert_eq!(machine.resident(), ["gemma-3-4b-it", LLAMA]);
}

#[test]
fn a_memory_budget_counts_even_where_lm_studio_would_load() {
    let machine = Machine::new();
    machine.preload(GEMMA);
    machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "4000"]).expect(0);
    assert_eq!(machine.resident(), [LLAMA]);
    let run = machine.ensure(&[GEMMA, "--evict-on-pressure", "--ram-budget-mb", "4000"]).expect(5);
    assert_eq!(run.says("does not fit into ramBudgetMB").model()["category"], "load-refused");
}

#[test]
fn a_refused_load_is_tried_again_after_one_more_victim() {
    let machine = Machine::new();
    machine.preload(GEMMA);
    machine.faults(json!([{ "on": "load", "kind": "refuse", "times": 1 }]));
    let model = machine.ensure(&[LLAMA, "--evict-on-pressure"]).expect(0).says("was unloaded to make room").model();
    assert_eq!(model["action"], "loaded");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn a_model_that_is_loading_never_makes_room() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let first = machine.start(&[GEMMA, "--state-dir", machine.path("other").to_str().unwrap()]);
    machine.wait_for_event("load-begin");
    let run = machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "4000"]).expect(5);
    assert_eq!(run.says("does not fit into ramBudgetMB").model()["category"], "load-refused");
    machine.release();
    first.end().expect(0).json();
    assert_eq!((machine.events("unload").len(), machine.events("load-cancelled").len()), (0, 0));
}

#[test]
fn a_model_that_may_be_loading_never_makes_room() {
    let machine = Machine::with(json!({ "v0": false, "holdLoads": true }));
    let first = machine.start(&[GEMMA, "--state-dir", machine.path("other").to_str().unwrap()]);
    machine.wait_for_event("load-begin");
    let run = machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "4000"]).expect(5);
    assert_eq!(run.says("does not fit into ramBudgetMB").model()["category"], "load-refused");
    machine.release();
    first.end().expect(0).json();
    assert_eq!((machine.events("unload").len(), machine.events("load-cancelled").len()), (0, 0));
}

#[test]
fn nothing_is_unloaded_in_vain() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.ensure(&[GEMMA, "--evict-on-pressure", "--ram-budget-mb", "2000"]).expect(5).says("does not fit").json();
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn nothing_is_unloaded_for_a_model_larger_than_the_machine() {
    let machine = Machine::with(json!({ "ramBytes": 64_000_000_000_u64 }));
    let models = json!([{ "modelKey": LLAMA }, { "modelKey": "acme/giant", "sizeBytes": 9_000_000_000_000_000_u64 }]);
    machine.write(".lmstudio/.simulator/models.json", &models.to_string());
    machine.preload(LLAMA);
    let run = machine.ensure(&["acme/giant", "--evict-on-pressure"]).expect(5).says("insufficient system resources");
    assert_eq!(run.model()["category"], "load-refused");
    assert_eq!(machine.events("load-refused").len(), 1, "LM Studio has the last word");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn an_instance_with_an_impossible_name_is_passed_over() {
    let machine = Machine::new();
    let evil = "evil\u{1b}]0;owned\u{7}";
    machine.control("load", json!({ "key": GEMMA, "identifier": evil }));
    machine.control("used", json!({ "identifier": evil, "lastUsedTime": 1 }));
    machine.preload("gemma-3-4b-it");
    machine.control("used", json!({ "identifier": "gemma-3-4b-it", "lastUsedTime": 2 }));
    let run = machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "10000"]).expect(0);
    assert!(!run.stderr.contains('\u{1b}') && !run.stdout.contains('\u{1b}'), "{run:?}");
    assert!(machine.resident().contains(&evil.to_owned()));
    assert!(!machine.resident().contains(&"gemma-3-4b-it".to_owned()));
}

#[test]
fn no_room_is_made_and_nothing_loaded_for_a_model_that_has_come_up_meanwhile() {
    let machine = Machine::new();
    machine.preload(GEMMA);
    machine.control("used", json!({ "identifier": GEMMA, "lastUsedTime": 1 }));
    machine.faults(json!([{ "on": "lms load --estimate-only", "kind": "hold" }]));
    let caller = machine.start(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "9000"]);
    // It asks for an estimate; somebody at the window is faster.
    machine.wait_for_event("fault");
    machine.preload(LLAMA);
    machine.unhold();
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert_eq!(machine.resident(), [GEMMA, LLAMA]);
    assert!(!machine.lms_calls().iter().any(|it| it.contains("--identifier")), "{:?}", machine.lms_calls());
}
