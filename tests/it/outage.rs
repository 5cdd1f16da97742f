//! LM Studio goes away in the middle of a load, and is back.

use serde_json::json;

use crate::callers::all_models;
use crate::support::{LLAMA, Machine, until};

#[test]
fn a_restart_in_the_middle_of_a_load_costs_one_more_load_and_no_failure() {
    for loader in ["lms", "rest"] {
        let mut machine = Machine::with(json!({ "holdLoads": true }));
        let callers = machine.start_many(5, &[LLAMA, "--loader", loader]);
        machine.wait_until_held();
        machine.configure(json!({}));
        machine.restart();
        let models = all_models(callers, 0);
        let loaded = models.iter().filter(|it| it["action"] == "loaded").count();
        assert_eq!((loaded, machine.loads(LLAMA), machine.resident()), (1, 2, vec![LLAMA.to_owned()]), "{loader}");
    }
}

#[test]
fn a_copy_that_comes_up_while_the_server_is_away_makes_way_for_the_second_load() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let caller = machine.start(&[LLAMA, "--loader", "lms"]);
    machine.wait_until_held();
    machine.configure(json!({}));
    machine.control("rest", json!({ "on": false }));
    machine.control("evict", json!({ "identifier": LLAMA }));
    machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:2") }));
    let state = machine.path(".cache/lmswarm");
    until("the leader waits for the server", || {
        let files = std::fs::read_dir(&state).expect("the state directory");
        let texts = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        texts.into_iter().any(|text| text.contains("waiting for the server"))
    });
    machine.control("rest", json!({ "on": true, "port": machine.rest_port }));
    assert_eq!(caller.end().expect(0).model()["action"], "loaded");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn a_load_that_takes_lm_studio_down_twice_has_failed() {
    let mut machine = Machine::with(json!({ "holdLoads": true }));
    let callers = machine.start_many(3, &[LLAMA]);
    for loads in 1..=2 {
        machine.wait_for_loads(loads);
        machine.wait_until_held();
        machine.restart();
    }
    for model in all_models(callers, 5) {
        assert_eq!(model["category"], "load-failed");
        assert!(model["reason"].as_str().unwrap().contains("LM Studio went away both times"), "{model}");
    }
    assert_eq!(machine.loads(LLAMA), 2);
}

#[test]
fn a_connection_that_breaks_while_the_load_goes_on_costs_no_other_load() {
    // As a proxy answers that does not wait for the end of the load.
    for status in [504, 408] {
        let machine = Machine::with(json!({ "holdLoads": true, "onClientGone": "finish" }));
        machine.faults(json!([{ "on": "POST /api/v1/models/load", "kind": "status", "status": status, "body": "" }]));
        let caller = machine.start(&[LLAMA, "--loader", "rest"]);
        machine.wait_for_event("fault");
        machine.control("load", json!({ "key": LLAMA, "takesTime": true }));
        machine.release();
        assert_eq!(caller.end().expect(0).model()["action"], "waited");
        assert_eq!(machine.loads(LLAMA), 0);
    }
}
