//! On llama-swap a model is loaded by one request that stays, however many ask; what is ready costs
//! one round without any effect.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::llama_swap::LlamaSwap;
use crate::needs;
use crate::support::{Machine, run, until};

const ROUND: [&str; 3] = ["GET /api/profiles", "GET /running", "GET /v1/models"];

fn two() -> LlamaSwap {
    LlamaSwap::new(json!({ "models": { "coder": {}, "quick": {} } }))
}

fn sorted(mut requests: Vec<String>) -> Vec<String> {
    requests.sort();
    requests
}

#[test]
fn a_model_that_is_ready_costs_one_round_without_any_effect() {
    let swap = two();
    let machine = swap.machine();
    swap.preload("coder");
    let model = machine.ensure(&["coder"]).expect(0).model();
    assert_eq!(sorted(swap.requests()), ROUND);
    assert_eq!((&model["action"], &model["source"]), (&json!("none"), &json!("running")));
    assert_eq!((&model["backend"], &model["instance"]["identifier"]), (&json!("llama-swap"), &json!("coder")));
    assert_eq!(swap.loads("coder"), 0);
}

#[test]
fn one_that_nobody_named_is_told_and_not_used() {
    let free = TcpListener::bind(("127.0.0.1", 8080)).ok();
    if needs::have("port-8080", free).is_none() {
        return;
    }
    let swap = LlamaSwap::at(8080, json!({ "models": { "coder": {} } }), json!({}));
    let machine = Machine::bare();
    let command = || {
        let mut command = machine.command(&["ensure", "--json", "coder"]);
        command.env_remove("LMSWARM_BASE_URL");
        command
    };
    let model = run(&mut command()).expect(3).model();
    let hint = model["hint"].as_str().unwrap();
    assert!(hint.contains("llama-swap answers at http://127.0.0.1:8080/v1"), "{model}");
    assert_eq!((&model["category"], swap.loads("coder")), (&json!("server-unreachable"), 0));
    // An address that the user has given is meant, and nothing else.
    let model = machine.ensure(&["coder"]).expect(3).model();
    assert!(!model["hint"].to_string().contains("llama-swap"), "{model}");
}

#[test]
fn it_is_recognised_and_the_next_call_asks_it_at_once() {
    let swap = two();
    let machine = swap.unconfigured_machine();
    swap.preload("coder");
    assert_eq!(machine.ensure(&["coder"]).expect(0).model()["backend"], "llama-swap");
    let before = swap.requests().len();
    assert_eq!(machine.ensure(&["coder"]).expect(0).model()["backend"], "llama-swap");
    assert_eq!(sorted(swap.requests().split_off(before)), ROUND);
}

#[test]
fn a_model_is_loaded_by_one_request() {
    let swap = two();
    let model = swap.machine().ensure(&["coder"]).expect(0).model();
    assert_eq!(model["action"], "loaded");
    assert_eq!(swap.load_requests(), ["GET /upstream/coder/health"]);
    assert_eq!(swap.running(), ["coder"]);
}

#[test]
fn many_callers_send_one_request_that_loads() {
    for version in ["v250", "v217"] {
        let swap = LlamaSwap::with(json!({ "models": { "coder": {} } }), json!({ "version": version }));
        let machine = swap.machine();
        swap.hold("coder");
        let callers = machine.start_many(20, &["coder"]);
        swap.wait_for_events("load-held", 1);
        swap.wait_for("all of them", |record| {
            record.iter().filter(|it| it["event"] == "arrived" && it["path"] == "/running").count() >= 20
        });
        swap.unhold();
        for caller in callers {
            let action = caller.end().expect(0).model()["action"].clone();
            assert!(action == "loaded" || action == "waited" || action == "none", "{action}");
        }
        assert_eq!(swap.load_requests().len(), 1, "{version}");
        assert_eq!(swap.loads("coder"), 1, "{version}");
    }
}

#[test]
fn a_load_that_another_client_has_ordered_is_joined() {
    let swap = two();
    let machine = swap.machine();
    swap.hold("coder");
    let other = std::thread::spawn({
        let port = swap.port;
        move || crate::support::http("GET", port, "/upstream/coder/health", &[], "")
    });
    swap.wait_for_events("load-held", 1);
    let caller = machine.start(&["coder"]);
    until("a place taken", || swap.control("state", json!({}))["places"]["coder"] == 2);
    swap.unhold();
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert_eq!(other.join().expect("it ends").0, 200);
    assert_eq!(swap.loads("coder"), 1);
}

#[cfg(unix)]
#[test]
fn a_model_with_a_time_to_live_stays_though_the_leader_that_ordered_it_was_killed() {
    let swap = LlamaSwap::new(json!({ "models": { "coder": { "ttl": 3600 } } }));
    let machine = swap.machine();
    swap.hold("coder");
    let leader = machine.start(&["coder"]);
    swap.wait_for_events("load-held", 1);
    let waiter = machine.start(&["coder"]);
    leader.signal(rustix::process::Signal::KILL);
    // The waiter leads now, and its request keeps the model from being thrown away.
    swap.wait_for("another request", |record| {
        let loads = |it: &&Value| it["event"] == "arrived" && it["path"] == "/upstream/coder/health";
        record.iter().filter(loads).count() == 2
    });
    swap.unhold();
    assert_eq!(waiter.end().expect(0).model()["action"], "waited");
    assert_eq!((swap.loads("coder"), swap.running()), (1, vec!["coder".to_owned()]));
    assert!(swap.events("unload").is_empty());
}

#[test]
fn a_model_that_is_stopping_is_loaded_once_it_has_ended() {
    let swap = two();
    swap.preload("coder");
    swap.faults(json!([{ "on": "stop", "kind": "hold" }]));
    let unload = std::thread::spawn({
        let port = swap.port;
        move || crate::support::http("POST", port, "/api/models/unload/coder", &[], "")
    });
    until("a stop", || swap.control("state", json!({}))["models"]["coder"]["state"] == "stopping");
    let caller = swap.machine().start(&["coder"]);
    swap.wait_for("the load request", |record| {
        record.iter().any(|it| it["event"] == "arrived" && it["path"] == "/upstream/coder/health")
    });
    swap.unhold();
    assert_eq!(caller.end().expect(0).model()["action"], "loaded");
    assert_eq!(unload.join().expect("it ends").0, 200);
}

#[test]
fn a_server_that_is_not_up_yet_is_asked_until_it_answers() {
    let swap = LlamaSwap::with(
        json!({ "models": { "coder": { "checkEndpoint": "none" } } }),
        json!({ "servers": { "coder": { "bindMs": 300 } } }),
    );
    assert_eq!(swap.machine().ensure(&["coder"]).expect(0).model()["action"], "loaded");
    assert!(swap.load_requests().len() > 1);
    assert_eq!(swap.loads("coder"), 1);
}

#[test]
fn a_proxy_that_cuts_the_request_off_does_not_fail_the_load() {
    let swap = two();
    swap.faults(json!([
        { "on": "GET /upstream/coder/health", "kind": "status", "status": 504, "body": "<html>", "ms": 1, "times": 1 },
        { "on": "load", "kind": "hold", "key": "coder" },
    ]));
    let caller = swap.machine().start(&["coder"]);
    swap.wait_for("another request", |record| {
        let loads = |it: &&Value| it["event"] == "arrived" && it["path"] == "/upstream/coder/health";
        record.iter().filter(loads).count() == 2
    });
    swap.unhold();
    caller.end().expect(0);
    assert_eq!(swap.loads("coder"), 1);
}

#[test]
fn options_that_it_cannot_apply_are_named_with_where_they_are_set() {
    let swap = LlamaSwap::new(json!({ "models": { "coder": { "capabilities": { "context_length": 4096 } } } }));
    let machine = swap.machine();
    let model = machine.ensure(&["coder", "--context-length", "8192", "--ttl-seconds", "60"]).expect(0).model();
    let warnings = model["warnings"].to_string();
    for words in ["contextLength (`--ctx-size` in `cmd`)", "ttlSeconds (`ttl`)", "4096 tokens, not 8192"] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
    let model = machine.ensure(&["coder", "--context-length", "8192", "--on-mismatch", "fail"]).expect(6).model();
    assert_eq!(model["category"], "drift");
    assert_eq!(swap.loads("coder"), 1);
}

#[test]
fn a_server_that_dies_in_the_middle_of_a_load_is_waited_for_and_loads_once_more() {
    let mut swap = two();
    swap.hold("coder");
    let caller = swap.machine().start(&["coder"]);
    swap.wait_for_events("load-held", 1);
    swap.crash();
    swap.unhold();
    swap.start();
    caller.end().expect(0);
    assert_eq!((swap.loads("coder"), swap.running()), (2, vec!["coder".to_owned()]));
}

#[test]
fn a_release_that_is_too_old_is_loaded_with_a_warning() {
    for (version, warns) in [("v150", "older than v173"), ("v180", "is v180"), ("v217", "")] {
        let swap = LlamaSwap::with(json!({ "models": { "coder": {} } }), json!({ "version": version }));
        let warnings = swap.machine().ensure(&["coder"]).expect(0).model()["warnings"].to_string();
        assert_eq!(warnings != "[]", !warns.is_empty(), "{warnings}");
        assert!(warnings.contains(warns), "{warnings}");
    }
}
