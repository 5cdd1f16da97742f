//! What goes wrong on llama-swap is told by its kind, with the reason from the model's own output,
//! and without what may be secret.

use serde_json::{Value, json};

use crate::llama_swap::LlamaSwap;

fn one(settings: Value) -> LlamaSwap {
    LlamaSwap::with(json!({ "healthCheckTimeout": 15, "models": { "coder": {}, "quick": {} } }), settings)
}

#[test]
fn a_start_that_fails_is_tried_once_by_all_and_told_with_the_models_own_words() {
    for version in ["v250-5-g0bdb3720", "v220", "v217"] {
        let log = "loading\nerror: no such file: /m.gguf, --api-key sk-12345678\n";
        let swap = one(json!({ "version": version, "servers": { "coder": { "log": log } } }));
        swap.faults(json!([{ "on": "load", "kind": "crash", "key": "coder" }]));
        swap.preload("quick");
        let machine = swap.machine();
        for caller in machine.start_many(4, &["coder"]) {
            let model = caller.end().expect(5).model();
            assert_eq!(model["category"], "load-failed");
            let reason = model["reason"].as_str().expect("a reason");
            for words in
                ["ended before it was ready", "error: no such file: /m.gguf, --api-key …", "has stopped `quick`"]
            {
                assert!(reason.contains(words), "{version}: {reason}");
            }
        }
        assert_eq!(swap.loads("coder"), 1, "{version}");
    }
}

#[test]
fn the_command_line_of_a_start_that_cannot_begin_is_not_shown() {
    for version in ["v250-5-g0bdb3720", "v220", "v217"] {
        let swap = one(json!({ "version": version }));
        swap.faults(json!([{ "on": "load", "kind": "fail", "key": "coder" }]));
        let run = swap.machine().ensure(&["coder"]).expect(5);
        assert!(!run.stdout.contains("--api-key") && !run.stderr.contains("--api-key"), "{run:?}");
        assert!(run.model()["reason"].as_str().expect("a reason").contains("executable file not found in $PATH"));
    }
}

#[test]
fn a_model_that_is_never_healthy_is_a_load_that_took_too_long() {
    for version in ["v250", "v217"] {
        let swap = one(json!({ "version": version, "secondMs": 10 }));
        swap.faults(json!([{ "on": "load", "kind": "status", "key": "coder" }]));
        let model = swap.machine().ensure(&["coder"]).expect(5).model();
        assert_eq!(model["category"], "load-timeout");
        assert!(model["reason"].as_str().expect("a reason").contains("health check timed out after 15s"), "{model}");
    }
}

#[test]
fn a_start_that_hangs_is_left_and_the_message_names_what_ends_it() {
    let swap = one(json!({}));
    swap.faults(json!([{ "on": "load", "kind": "hang", "key": "coder" }]));
    let model = swap.machine().ensure(&["coder", "--load-timeout-ms", "1500"]).expect(5).model();
    assert_eq!(model["category"], "load-timeout");
    assert!(model["hint"].as_str().expect("a hint").contains("/api/models/unload/coder` ends it"), "{model}");
    assert_eq!(swap.running(), ["coder"]);
}

#[test]
fn a_start_that_is_broken_off_is_tried_once_more() {
    let swap = one(json!({}));
    let machine = swap.machine();
    for (place, order) in ["unload", "reload"].into_iter().enumerate() {
        // Only the first start stops half-way.
        swap.faults(json!([{ "on": "load", "kind": "hold", "key": "coder", "times": 1 }]));
        let caller = machine.start(&["coder"]);
        swap.wait_for_events("load-held", place + 1);
        if order == "reload" {
            swap.control("reload", json!({}));
        } else {
            assert_eq!(crate::support::http("POST", swap.port, "/api/models/unload/coder", &[], "").0, 200);
        }
        caller.end().expect(0);
        assert_eq!(crate::support::http("POST", swap.port, "/api/models/unload", &[], "").0, 200);
    }
}

#[test]
fn a_key_that_is_missing_or_wrong_is_told() {
    let swap = LlamaSwap::new(json!({ "models": { "coder": {} }, "apiKeys": ["sk-right-12345"] }));
    for machine in [swap.machine(), swap.unconfigured_machine()] {
        let model = machine.ensure(&["coder"]).expect(7).model();
        assert_eq!(model["category"], "unauthorized");
        let with =
            |key: &str| crate::support::run(machine.command(&["ensure", "--json", "coder"]).env("LM_API_TOKEN", key));
        let run = with("sk-wrong-54321").expect(7);
        assert!(!run.stdout.contains("sk-wrong-54321"), "{run:?}");
        with("sk-right-12345").expect(0);
    }
    assert_eq!(swap.loads("coder"), 1);
}

#[test]
fn a_model_whose_places_are_all_taken_is_waited_for() {
    let swap = LlamaSwap::new(json!({ "models": { "coder": { "concurrencyLimit": 1 } } }));
    swap.hold("coder");
    let other = std::thread::spawn({
        let port = swap.port;
        move || crate::support::http("GET", port, "/upstream/coder/health", &[], "")
    });
    swap.wait_for_events("load-held", 1);
    let caller = swap.machine().start(&["coder"]);
    swap.wait_for("a refusal", |record| record.iter().any(|it| it["status"] == 429));
    swap.unhold();
    caller.end().expect(0);
    assert_eq!(other.join().expect("it ends").0, 200);
    assert_eq!(swap.loads("coder"), 1);
}

#[test]
fn a_server_that_is_not_there_is_not_started() {
    let mut swap = one(json!({}));
    let machine = swap.machine();
    swap.crash();
    let model = machine.ensure(&["coder"]).expect(3).model();
    assert_eq!(model["category"], "server-unreachable");
    assert!(model["hint"].as_str().expect("a hint").contains("start llama-swap"), "{model}");
}

#[test]
fn an_answer_that_cannot_be_read_is_unknown_and_never_empty() {
    for kind in ["truncated", "empty", "garbage", "null"] {
        for path in ["GET /running", "GET /v1/models"] {
            let swap = one(json!({}));
            swap.faults(json!([{ "on": path, "kind": kind }]));
            let run = swap.machine().ensure(&["coder"]);
            assert!(run.code == 75 || run.code == 3, "{kind} {path}: {run:?}");
            assert_eq!(swap.loads("coder"), 0);
        }
    }
}
