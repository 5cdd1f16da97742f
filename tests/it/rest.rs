//! What REST answers, and does not; loads over REST; tokens.

use serde_json::json;

use crate::support::{LLAMA, Machine, QWEN, run};

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

#[test]
fn without_lms_a_model_is_loaded_over_rest() {
    let machine = Machine::new();
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    let run = machine.ensure(&[LLAMA, "--context-length", "8192", "--ttl-seconds", "60"]).expect(0);
    let model = run.says("cannot apply ttlSeconds").model();
    assert_eq!((&model["action"], &model["instance"]["contextLength"]), (&json!("loaded"), &json!(8192)));
    assert_eq!(machine.events("load-begin")[0]["by"], "rest");
    machine.ensure(&[QWEN, "--loader", "lms"]).expect(5).says("`lms` command was not found");
    machine.faults(json!([{ "on": "load", "kind": "refuse" }]));
    machine.ensure(&[QWEN]).expect(5).says("insufficient system resources");
    machine.faults(json!([{ "on": "POST /api/v1/models/load", "kind": "status" }]));
    assert_eq!(machine.ensure(&[QWEN, "--fresh"]).expect(5).model()["category"], "load-failed");
}

#[test]
fn a_variant_is_loaded_over_rest() {
    let machine = Machine::new();
    let variant = format!("{QWEN}@q8_0");
    let model = machine.ensure(&[&variant]).expect(0).model();
    assert_eq!(model["instance"]["identifier"], variant);
    assert_eq!(machine.lms_calls().len(), 0);
    assert_eq!(machine.ensure(&[&variant]).expect(0).model()["action"], "none");
}

#[test]
fn a_copy_that_a_load_over_rest_made_is_undone() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    machine.faults(json!([{ "on": "load", "kind": "other-id", "identifier": format!("{LLAMA}:2"), "times": 1 }]));
    let caller = machine.start(&[LLAMA, "--loader", "rest"]);
    machine.wait_for_event("load-begin");
    // Somebody else's load wins the bare name meanwhile.
    machine.preload(LLAMA);
    machine.release();
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn one_answer_of_v0_that_is_missing_does_not_make_a_loading_model_ready() {
    for kind in ["status", "garbage", "reset"] {
        let machine = Machine::with(json!({ "holdLoads": true }));
        let other = machine.start(&[LLAMA, "--state-dir", machine.path("other").to_str().unwrap()]);
        machine.wait_for_event("load-begin");
        machine.faults(json!([{ "on": "GET /api/v0/models", "kind": kind }]));
        assert_eq!(machine.ensure(&[LLAMA]).expect(75).model()["category"], "unknown-state");
        machine.faults(json!([]));
        machine.release();
        other.end().expect(0).json();
    }
}

#[test]
fn a_model_is_downloaded_over_rest_where_there_is_no_lms() {
    let machine = Machine::with(json!({ "catalogue": [{ "modelKey": "acme/new-model" }], "downloadMs": 50 }));
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    machine.ensure(&["acme/new-model", "--download"]).expect(0).says("`acme/new-model` is downloaded");
}

const TOKEN: &str = "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt";

#[test]
fn a_right_token_is_all_it_takes() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    let model = run(machine.command(&["ensure", "--json", LLAMA]).env("LM_API_TOKEN", TOKEN)).expect(0).model();
    assert_eq!((&model["action"], &model["source"]), (&json!("loaded"), &json!("rest-v1")));
    let mine =
        run(machine.command(&["ensure", "--json", LLAMA, "--api-token-env", "MINE"]).env("MINE", TOKEN)).expect(0);
    assert_eq!(mine.model()["source"], "rest-v1");
}

#[test]
fn a_wrong_token_is_refused_and_nobody_else_is_asked() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    machine.preload(LLAMA);
    let wrong = run(machine.command(&["ensure", "--json", LLAMA]).env("LM_API_TOKEN", "sk-lm-wrong")).expect(7);
    let wrong = wrong.says("refuses the API token in the variable LM_API_TOKEN");
    assert!(!format!("{wrong:?}").contains("sk-lm-wrong"));
    assert_eq!(wrong.model()["category"], "unauthorized");
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_missing_token_falls_back_to_lms_ps_whose_verdict_is_cached() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    let cold = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&cold["action"], &cold["source"]), (&json!("loaded"), &json!("lms-ps")));
    let calls = machine.lms_calls().len();
    let warm = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&warm["action"], &warm["source"]), (&json!("none"), &json!("cache")));
    assert_eq!(machine.lms_calls().len(), calls);
    assert_eq!(machine.ensure(&[LLAMA, "--verify-cache-ms", "0"]).expect(0).model()["source"], "lms-ps");
    assert_eq!(machine.ensure(&[LLAMA, "--fresh"]).expect(0).model()["source"], "lms-ps");
}

#[test]
fn a_missing_token_is_an_error_where_nothing_else_can_tell() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    machine.ensure(&[LLAMA]).expect(7).says("requires an API token, and the variable LM_API_TOKEN holds none");
}
