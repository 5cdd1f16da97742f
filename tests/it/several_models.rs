//! Several models in one call.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine};

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
fn a_model_that_another_load_evicted_is_loaded_again() {
    let machine = Machine::new();
    machine.ensure(&[LLAMA]).expect(0);
    // LM Studio drops one model while the other is loaded, once.
    machine.configure(json!({ "holdLoads": true }));
    let caller = machine.start(&[LLAMA, GEMMA]);
    machine.wait_until_held();
    machine.control("evict", json!({ "identifier": LLAMA }));
    // The next load does not hold.
    machine.configure(json!({}));
    machine.release();
    caller.end().expect(0);
    assert_eq!(machine.resident(), [GEMMA, LLAMA]);
}

#[test]
fn a_model_lost_while_another_is_loaded_again_is_said_to_be_gone() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let caller = machine.start(&[LLAMA, GEMMA]);
    // There is room for one: each load costs the other model its place.
    for (loads, lost) in [(1, None), (2, Some(LLAMA)), (3, Some(GEMMA))] {
        machine.wait_for("a load", |record| record.iter().filter(|it| it["event"] == "load-begin").count() == loads);
        if let Some(lost) = lost {
            machine.control("evict", json!({ "identifier": lost }));
        }
        machine.release();
    }
    let report = caller.end().expect(5).says("is gone again").json();
    assert_eq!((&report["models"][0]["addressable"], &report["ok"]), (&json!(true), &json!(false)));
    assert_eq!(report["models"][1]["category"], "not-addressable");
    assert_eq!(machine.resident(), [LLAMA]);
}
