//! A load that goes well: one `lms load`, with all that was asked for.

use serde_json::json;

use crate::support::{LLAMA, Machine};

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
fn an_evicted_model_is_loaded_again() {
    let machine = Machine::new();
    machine.ensure(&[LLAMA]).expect(0);
    machine.control("evict", json!({ "identifier": LLAMA }));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded");
    assert_eq!(machine.loads(LLAMA), 2);
}
