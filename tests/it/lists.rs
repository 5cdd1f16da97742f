//! The lists that REST answers with: spoilt, late, of older servers.

use serde_json::json;

use crate::support::{LLAMA, Machine};

#[test]
fn garbage_is_unknown_and_never_leads_to_a_load() {
    let machine = Machine::new();
    for kind in ["garbage", "truncated", "html", "utf16", "wrapper", "empty", "null", "reset"] {
        machine.faults(json!([{ "on": "rest", "kind": kind }]));
        let code = machine.ensure(&[LLAMA]).code;
        assert!([75, 3].contains(&code), "{kind}: {code}");
    }
    for kind in ["garbage", "truncated", "html", "utf16", "wrapper", "empty", "null", "reset", "status"] {
        machine.faults(
            json!([{ "on": "GET /api/v1/models", "kind": kind }, { "on": "GET /api/v0/models", "kind": kind }]),
        );
        let model = machine.ensure(&[LLAMA]).expect(75).model();
        assert_eq!(model["category"], "unknown-state", "{kind}");
    }
    assert_eq!(machine.events("load-begin").len(), 0);
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_byte_order_mark_is_survived() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.faults(json!([{ "on": "rest", "kind": "bom" }]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
}

#[test]
fn a_hiccup_is_asked_again() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.faults(json!([{ "on": "GET /api/v1/models", "kind": "status", "times": 1 }, { "on": "GET /api/v0/models", "kind": "status", "times": 1 }]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
}

#[test]
fn a_server_that_is_mute_is_unknown() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "rest", "kind": "hang" }]));
    let run = machine.ensure(&[LLAMA, "--probe-timeout-ms", "100"]).expect(75).says("does not answer in time");
    assert_eq!(run.json()["proceed"], true);
}

#[test]
fn one_list_that_does_not_answer_leaves_the_other() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.faults(json!([{ "on": "GET /api/v1/models", "kind": "status" }]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "rest-v0");
    machine.faults(json!([{ "on": "GET /api/v0/models", "kind": "unexpected" }]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "rest-v1");
}

#[test]
fn a_huge_answer_is_cut_off() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "rest", "kind": "huge", "bytes": 200_000_000_u64 }]));
    machine.ensure(&[LLAMA, "--probe-timeout-ms", "20000"]).expect(3).says("is not LM Studio");
}

#[test]
fn an_older_lm_studio_is_understood() {
    let machine = Machine::with(json!({ "restVersion": "v0" }));
    let model = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&model["action"], &model["source"]), (&json!("loaded"), &json!("rest-v0")));
    assert_eq!(machine.lms_calls()[0], "ls --json", "v0 does not tell what is downloaded");
    machine.ensure(&["gem12"]).expect(4);
}

#[test]
fn one_that_knows_neither_list_is_asked_through_lms() {
    let machine = Machine::with(json!({ "restVersion": "openai", "v0": false }));
    let model = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&model["action"], &model["source"]), (&json!("loaded"), &json!("lms-ps")));
}
