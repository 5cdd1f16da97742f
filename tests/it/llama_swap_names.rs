//! A name means what llama-swap takes it for: an id, an alias, a selector, what a profile pins, a
//! peer's model.

use serde_json::json;

use crate::llama_swap::LlamaSwap;
use crate::support::http;

#[test]
fn an_alias_is_the_model_it_stands_for() {
    for version in ["v250", "v217"] {
        let config = json!({ "models": { "coder": { "aliases": ["gpt-4o"] } } });
        let swap = LlamaSwap::with(config, json!({ "version": version }));
        let machine = swap.machine();
        let model = machine.ensure(&["gpt-4o"]).expect(0).model();
        assert_eq!((&model["action"], &model["instance"]["identifier"]), (&json!("loaded"), &json!("coder")));
        assert_eq!(swap.load_requests(), ["GET /upstream/gpt-4o/health"]);
        assert_eq!(machine.ensure(&["gpt-4o"]).expect(0).model()["action"], "none", "{version}");
        assert_eq!(swap.loads("coder"), 1);
    }
}

#[test]
fn an_unlisted_model_is_found_by_its_id_and_by_its_alias() {
    let swap = LlamaSwap::new(json!({ "models": { "hidden": { "unlisted": true, "aliases": ["h"] }, "coder": {} } }));
    let machine = swap.machine();
    assert_eq!(machine.ensure(&["hidden"]).expect(0).model()["action"], "loaded");
    assert_eq!(machine.ensure(&["h"]).expect(0).model()["instance"]["identifier"], "hidden");
    assert_eq!(swap.loads("hidden"), 1);
}

#[test]
fn a_selector_is_loaded_as_its_rule_says_and_ready_with_any_target_that_is() {
    let selectors = json!({
        "best": { "strategy": "warm", "targets": ["a", "b"] },
        "fixed": { "strategy": "pin", "targets": ["a", "b"] },
    });
    let swap = LlamaSwap::new(json!({ "models": { "a": {}, "b": {} }, "selectors": selectors }));
    let machine = swap.machine();
    swap.preload("b");
    let model = machine.ensure(&["best"]).expect(0).model();
    assert_eq!((&model["action"], &model["instance"]["identifier"]), (&json!("none"), &json!("b")));
    let model = machine.ensure(&["fixed"]).expect(0).model();
    assert_eq!((&model["action"], &model["instance"]["identifier"]), (&json!("loaded"), &json!("a")));
    assert_eq!(swap.load_requests(), ["GET /props?model=fixed"]);
}

#[test]
fn an_active_profile_is_honoured() {
    let profiles = json!({ "coding": { "pins": { "code": "coder", "quick": "" } } });
    let swap = LlamaSwap::new(json!({ "models": { "coder": {}, "quick": {} }, "profiles": profiles }));
    let machine = swap.machine();
    let missing = machine.ensure(&["code"]).expect(4).model();
    assert_eq!(missing["category"], "not-downloaded");
    let body = json!({ "name": "coding" }).to_string();
    assert_eq!(http("PUT", swap.port, "/api/profiles/active", &[], &body).0, 200);
    assert_eq!(machine.ensure(&["code"]).expect(0).model()["instance"]["identifier"], "coder");
    let off = machine.ensure(&["quick"]).expect(4).model();
    assert!(off["reason"].as_str().expect("a reason").contains("its profile `coding`"), "{off}");
    assert_eq!(swap.loads("quick"), 0);
}

#[test]
fn nothing_is_sent_to_a_peer_whose_models_cannot_be_told() {
    let the_box = LlamaSwap::new(json!({ "models": { "coder": {} } }));
    for version in ["v250", "v217"] {
        let peers = json!({ "box": { "proxy": the_box.base_url().trim_end_matches("/v1"), "models": ["coder"] } });
        let swap = LlamaSwap::with(json!({ "models": { "own": {} }, "peers": peers }), json!({ "version": version }));
        let name = if version == "v250" { "box/coder" } else { "coder" };
        let model = swap.machine().ensure(&[name]).expect(75).model();
        assert_eq!(model["category"], "unknown-state");
        assert!(model["reason"].as_str().expect("a reason").contains("its peer `box`"), "{model}");
    }
    assert_eq!(the_box.loads("coder"), 0);
}

#[test]
fn a_name_that_is_not_configured_changes_nothing_and_shows_the_nearest() {
    for version in ["v250", "v217", "v180"] {
        let config = json!({ "models": { "coder-model": {}, "quick": {} } });
        let swap = LlamaSwap::with(config, json!({ "version": version }));
        swap.preload("quick");
        let model = swap.machine().ensure(&["coder-modl"]).expect(4).model();
        assert_eq!((&model["category"], &model["suggestions"]), (&json!("not-downloaded"), &json!(["coder-model"])));
        assert_eq!(swap.running(), ["quick"]);
        assert!(swap.load_requests().is_empty(), "{:?}", swap.load_requests());
    }
}

#[test]
fn a_name_whose_path_means_another_model_is_loaded_by_a_query() {
    let swap = LlamaSwap::new(json!({ "models": { "a": {}, "a/health": {}, "org/b c?": {} } }));
    let machine = swap.machine();
    machine.ensure(&["a"]).expect(0);
    assert_eq!(swap.running(), ["a"]);
    machine.ensure(&["org/b c?"]).expect(0);
    assert_eq!(swap.running(), ["org/b c?"]);
    assert_eq!(swap.load_requests(), ["GET /props?model=a", "GET /upstream/org/b%20c%3F/health"]);
}
