//! The main road: warm, cold, duplicates, drift, eviction, several models.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, QWEN};

#[test]
fn a_cold_model_takes_one_lms_load_and_no_other_lms_process() {
    let machine = Machine::new();
    let cold = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&cold["action"], &cold["source"]), (&json!("loaded"), &json!("rest-v1")));
    assert_eq!(cold["instance"]["identifier"], LLAMA);
    assert!(cold["loadMs"].is_u64());
    assert_eq!(machine.lms_calls(), [format!("load {LLAMA} -y --identifier {LLAMA} --local")]);
}

#[test]
fn a_warm_model_takes_two_requests_and_nothing_else() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let warm = machine.run(&["ensure", "--json", LLAMA]).expect(0);
    assert_eq!(warm.model()["action"], "none");
    assert_eq!(warm.stderr, "", "a warm call says nothing");
    let mut requests = machine.requests();
    requests.sort();
    assert_eq!(requests, ["GET /api/v0/models", "GET /api/v1/models"]);
    assert_eq!(machine.lms_calls().len(), 0);
    assert!(!machine.path(".cache").exists(), "a warm call writes nothing");
}

#[test]
fn every_option_of_a_load_reaches_lms() {
    let machine = Machine::new();
    machine
        .ensure(&[LLAMA, "--ttl-seconds=3600", "--parallel", "2", "--context-length", "8192", "--gpu", "0.5"])
        .expect(0);
    let load = &machine.events("load-begin")[0];
    assert_eq!(
        (&load["ttlMs"], &load["parallel"], &load["contextLength"], &load["identifier"], &load["localOnly"]),
        (&json!(3_600_000), &json!(2), &json!(8192), &json!(LLAMA), &json!(true))
    );
    assert!(machine.lms_calls()[0].ends_with("--ttl 3600 --parallel 2 --context-length 8192 --gpu 0.5"));
}

#[test]
fn device_preferred_leaves_the_choice_to_lm_link() {
    let machine = Machine::new();
    machine.ensure(&[LLAMA, "--device", "preferred"]).expect(0);
    assert_eq!(machine.lms_calls(), [format!("load {LLAMA} -y --identifier {LLAMA}")]);
}

#[test]
fn an_evicted_model_is_loaded_again() {
    let machine = Machine::new();
    machine.ensure(&[LLAMA]).expect(0);
    machine.control("evict", json!({ "identifier": LLAMA }));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded");
    assert_eq!(machine.loads(LLAMA), 2);
}

#[test]
fn a_ref_of_a_gated_provider_is_its_key() {
    let machine = Machine::new();
    let requested = format!("lmstudio/{QWEN}");
    let model = machine.ensure(&[&requested]).expect(0).model();
    assert_eq!((&model["key"], &model["requested"]), (&json!(QWEN), &json!(requested)));
    let lab = format!("lab/{QWEN}");
    assert_eq!(machine.ensure(&[&lab, "--providers", "lab,other"]).expect(0).model()["key"], QWEN);
    assert_eq!(machine.ensure(&[&lab]).expect(4).model()["key"], lab);
}

#[test]
fn several_models_are_ensured_in_one_call_and_each_once() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let again = format!("lmstudio/{GEMMA}");
    let report = machine.ensure(&[GEMMA, LLAMA, &again]).expect(0).json();
    let actions: Vec<_> = report["models"].as_array().unwrap().iter().map(|it| (&it["key"], &it["action"])).collect();
    assert_eq!(actions, [(&json!(GEMMA), &json!("loaded")), (&json!(LLAMA), &json!("none"))]);
    assert_eq!((machine.loads(GEMMA), machine.loads(LLAMA)), (1, 0));
}

#[test]
fn the_first_confirmed_failure_decides_and_the_rest_is_still_done() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "key": GEMMA, "kind": "crash" }]));
    let report = machine.ensure(&[GEMMA, "nowhere/model", LLAMA]).expect(5).json();
    assert_eq!(report["models"][0]["category"], "load-failed");
    assert_eq!(report["models"][1]["category"], "not-downloaded");
    assert_eq!(report["models"][2]["addressable"], true);
    assert_eq!((&report["ok"], &report["proceed"]), (&json!(false), &json!(false)));
}

#[test]
fn an_idle_copy_makes_way_for_the_bare_key() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:2") }));
    machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:3") }));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "reconciled");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn an_instance_that_somebody_named_otherwise_is_left_alone() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "identifier": "mine" }));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded");
    assert_eq!(machine.resident(), [LLAMA, "mine"]);
}

#[test]
fn a_busy_copy_is_never_touched() {
    let machine = Machine::new();
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.control("busy", json!({ "identifier": copy, "busy": true }));
    let run = machine.ensure(&[LLAMA]).expect(6).says(&format!("`{copy}` is busy, so nothing was touched"));
    assert_eq!(run.model()["category"], "duplicates");
    assert_eq!(machine.resident(), [copy]);
    assert_eq!(machine.events("unload").len(), 0);
}

#[test]
fn copies_are_not_touched_when_nobody_can_tell_or_the_user_says_so() {
    let machine = Machine::new();
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.ensure(&[LLAMA, "--reconcile-duplicates=false"]).expect(6).says("`reconcileDuplicates` is off");
    machine.faults(json!([{ "on": "lms ps", "kind": "garbage" }]));
    machine.ensure(&[LLAMA]).expect(6).says("nobody can tell whether it is busy");
    assert_eq!(machine.resident(), [copy]);
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn an_unload_that_says_it_worked_is_not_believed() {
    let machine = Machine::new();
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.faults(json!([{ "on": "lms unload", "kind": "ghost" }]));
    let run = machine.ensure(&[LLAMA]).expect(6).says("is still resident after `lms unload");
    assert_eq!(run.model()["category"], "duplicates");
    assert_eq!(machine.loads(LLAMA), 0);
}

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
fn a_load_somebody_else_began_is_waited_for() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let mut lms = std::process::Command::new(machine.path("bin/lms"))
        .args(["load", LLAMA, "-y"])
        .env("HOME", machine.home())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    machine.wait_for_event("load-begin");
    let caller = machine.start(&[LLAMA]);
    // Two looks of a poll: the caller has seen the load under way.
    machine.wait_for("the caller looks", |record| record.iter().filter(|it| it["event"] == "request").count() >= 6);
    machine.release();
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert!(lms.wait().unwrap().success());
    assert_eq!(machine.loads(LLAMA), 1);
}

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
