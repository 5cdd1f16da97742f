//! Several models in one call.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, Run, Running};

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

#[test]
fn a_last_look_that_fails_is_no_proof_of_the_models_before() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let caller = machine.start(&[LLAMA, GEMMA]);
    machine.wait_for_loads(1);
    machine.release();
    machine.wait_for_loads(2);
    machine.control("evict", json!({ "identifier": LLAMA }));
    let lists = ["GET /api/v1/models", "GET /api/v0/models"];
    machine.faults(json!([{ "on": lists[0], "kind": "hold" }]));
    machine.release();
    // The look that proves the second load is answered; no look after it is.
    machine.wait_for_event("fault");
    machine.faults(json!(lists.map(|on| json!({ "on": on, "kind": "garbage" }))));
    let report = caller.end().expect(75).says("cannot tell what").json();
    assert_eq!((&report["models"][0]["addressable"], &report["ok"]), (&json!(false), &json!(false)));
    assert_eq!(report["models"][0]["category"], "unknown-state");
    assert_eq!(machine.resident(), [GEMMA]);
}

/// A call for LLAMA on one server, and then for GEMMA on another one.
fn start_on_both(first: &Machine, second: &Machine) -> Running {
    let provider = |machine: &Machine| json!({ "options": { "baseURL": machine.base_url() } });
    let config = json!({ "provider": { "one": provider(first), "two": provider(second) } });
    first.write(".config/opencode/opencode.json", &config.to_string());
    // Over REST, as the second server is not the one that the first machine's `lms` finds.
    let models = [&format!("one/{LLAMA}"), &format!("two/{GEMMA}")];
    let args = ["ensure", "--json", "--providers", "one,two", "--loader", "rest", models[0], models[1]];
    Running::start(first.command(&args).env_remove("LMSWARM_BASE_URL"))
}

/// Such a call where LLAMA is warm and GEMMA's load holds, and whatever happens to the first server
/// meanwhile.
fn while_another_server_loads(meanwhile: impl FnOnce(&Machine)) -> (Machine, Run) {
    let first = Machine::new();
    let second = Machine::with(json!({ "holdLoads": true }));
    first.preload(LLAMA);
    let caller = start_on_both(&first, &second);
    second.wait_until_held();
    meanwhile(&first);
    second.release();
    (first, caller.end())
}

#[test]
fn a_model_that_left_its_server_while_another_one_loaded_is_loaded_again() {
    let (first, run) = while_another_server_loads(|first| {
        first.control("evict", json!({ "identifier": LLAMA }));
    });
    let report = run.expect(0).json();
    let actions = [0, 1].map(|place| report["models"][place]["action"].clone());
    assert_eq!(actions, ["loaded", "loaded"]);
    assert_eq!(first.resident(), [LLAMA]);
}

#[test]
fn a_model_that_left_its_server_while_another_one_loaded_and_cannot_come_back_is_no_success() {
    let (first, run) = while_another_server_loads(|first| {
        first.control("evict", json!({ "identifier": LLAMA }));
        first.faults(json!([{ "on": "load", "kind": "refuse" }]));
    });
    let report = run.expect(5).json();
    assert_eq!(
        (&report["models"][0]["category"], &report["models"][1]["addressable"]),
        (&json!("load-refused"), &json!(true))
    );
    assert_eq!(first.resident().len(), 0);
    let (first, run) = while_another_server_loads(Machine::crash);
    assert_eq!(run.expect(3).json()["models"][1]["addressable"], true);
    drop(first);
}

#[cfg(unix)]
#[test]
fn a_signal_when_the_first_server_is_done_and_the_second_is_asked_again_ends_the_call() {
    let first = Machine::with(json!({ "holdLoads": true }));
    let second = Machine::new();
    let caller = start_on_both(&first, &second);
    first.wait_until_held();
    second.faults(json!([{ "on": "rest", "kind": "hold" }]));
    first.release();
    second.wait_for_event("fault");
    caller.signal(rustix::process::Signal::TERM);
    let report = caller.end().expect(143).json();
    assert_eq!((&report["models"][0]["action"], &report["proceed"]), (&json!("loaded"), &json!(false)));
    assert_eq!(report["models"][1]["category"], "interrupted");
    assert_eq!(second.loads(GEMMA), 0);
}
