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
fn a_model_that_is_loading_or_may_be_never_makes_room() {
    for config in [json!({ "holdLoads": true }), json!({ "v0": false, "holdLoads": true })] {
        let machine = Machine::with(config);
        let first = machine.start(&[GEMMA, "--state-dir", machine.path("other").to_str().unwrap()]);
        machine.wait_for_event("load-begin");
        let run = machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "4000"]).expect(5);
        assert_eq!(run.says("does not fit into ramBudgetMB").model()["category"], "load-refused");
        machine.release();
        first.end().expect(0).json();
        assert_eq!((machine.events("unload").len(), machine.events("load-cancelled").len()), (0, 0));
    }
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

/// What `lmswarm` has loaded, in order, and how often something was unloaded.
fn changes(machine: &Machine) -> (Vec<String>, usize) {
    let loads = machine.events("load-begin");
    let loads = loads.iter().filter(|it| it["by"] != "gui").map(|it| it["key"].as_str().expect("a key").to_owned());
    (loads.collect(), machine.events("unload").len())
}

#[test]
fn callers_that_alternate_do_not_evict_each_other_and_are_told_that_their_models_do_not_fit() {
    // There is room for GEMMA or for QWEN.
    let machine = Machine::with(json!({ "ramBytes": 20 * GIB }));
    machine.ensure(&[GEMMA, "--evict-on-pressure"]).expect(0).json();
    for _ in 0..3 {
        let run = machine.ensure(&[QWEN, "--evict-on-pressure", "--fresh"]).expect(5);
        run.says(&format!("`{QWEN}` and `{GEMMA}` do not fit together"));
        machine.ensure(&[GEMMA, "--evict-on-pressure"]).expect(0).json();
    }
    assert_eq!(changes(&machine), (vec![GEMMA.to_owned()], 0));
    let model = machine.ensure(&[QWEN, "--evict-on-pressure", "--fresh"]).expect(5).model();
    assert_eq!(model["category"], "load-refused");
    let hint = model["hint"].as_str().expect("a hint");
    assert!(hint.contains("contextLength") && hint.contains("evictGraceMs"), "{hint}");
}

#[test]
fn without_a_grace_the_last_caller_has_the_room() {
    let machine = Machine::with(json!({ "ramBytes": 20 * GIB }));
    for key in [GEMMA, QWEN, GEMMA] {
        machine.ensure(&[key, "--evict-on-pressure", "--evict-grace-ms", "0"]).expect(0).json();
    }
    assert_eq!(changes(&machine), ([GEMMA, QWEN, GEMMA].map(str::to_owned).to_vec(), 2));
}

#[test]
fn models_of_one_call_do_not_evict_each_other_even_without_a_grace() {
    let machine = Machine::with(json!({ "ramBytes": 20 * GIB }));
    let report = machine.ensure(&[GEMMA, QWEN, "--evict-on-pressure", "--evict-grace-ms", "0"]).expect(5).json();
    assert_eq!(report["models"][0]["addressable"], true);
    assert_eq!(report["models"][1]["category"], "load-refused");
    assert_eq!(changes(&machine), (vec![GEMMA.to_owned()], 0));
}

#[test]
fn a_grace_ends() {
    let machine = Machine::with(json!({ "ramBytes": 20 * GIB }));
    machine.ensure(&[GEMMA, "--evict-on-pressure"]).expect(0).json();
    machine.ensure(&[QWEN, "--evict-on-pressure", "--evict-grace-ms", "1"]).expect(0).json();
    assert_eq!(machine.resident(), [QWEN]);
}

#[test]
fn another_idle_model_goes_in_the_place_of_one_that_was_just_loaded() {
    let machine = Machine::with(json!({ "ramBytes": 24 * GIB }));
    machine.preload(GEMMA);
    machine.control("used", json!({ "identifier": GEMMA, "lastUsedTime": 2_000_000_000_000_u64 }));
    // Never used, so it would go first.
    machine.ensure(&[LLAMA, "--evict-on-pressure"]).expect(0).json();
    machine.ensure(&[QWEN, "--evict-on-pressure"]).expect(0).json();
    assert_eq!(machine.resident(), [LLAMA, QWEN]);
}

#[test]
fn a_budget_stands_even_where_lm_studio_would_load_beside_what_was_just_loaded() {
    let machine = Machine::new();
    machine.ensure(&[GEMMA, "--evict-on-pressure"]).expect(0).json();
    let run = machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "9000"]).expect(5);
    assert_eq!(run.says("do not fit together").model()["category"], "load-refused");
    assert_eq!(changes(&machine), (vec![GEMMA.to_owned()], 0));
}

#[test]
fn a_refusal_that_no_estimate_foresaw_names_what_was_just_loaded() {
    let machine = Machine::new();
    machine.ensure(&[GEMMA, "--evict-on-pressure"]).expect(0).json();
    machine.faults(json!([{ "on": "load", "kind": "refuse", "times": 1 }]));
    let run = machine.ensure(&[LLAMA, "--evict-on-pressure"]).expect(5);
    run.says("insufficient system resources").says(&format!("`{LLAMA}` and `{GEMMA}` do not fit together"));
    assert_eq!(machine.resident(), [GEMMA]);
}

#[test]
fn a_load_that_fits_against_the_estimate_is_kept_with_a_warning() {
    let machine = Machine::with(json!({ "ramBytes": 20 * GIB }));
    machine.ensure(&[GEMMA, "--evict-on-pressure"]).expect(0).json();
    machine.faults(json!([{ "on": "lms ps", "kind": "hold" }]));
    let caller = machine.start(&[QWEN, "--evict-on-pressure"]);
    // The estimate was against it; what is asked next is what could go.
    machine.wait_for_event("fault");
    machine.configure(json!({}));
    machine.unhold();
    let run = caller.end().expect(0).says("do not fit together");
    assert!(run.model()["warnings"][0].as_str().is_some_and(|it| it.contains("was loaded all the same")), "{run:?}");
    assert_eq!(machine.resident(), [GEMMA, QWEN]);
}
