//! LM Link: models of this machine and of linked ones.

use serde_json::json;

use crate::support::{LLAMA, Machine};

#[test]
fn device_preferred_leaves_the_choice_to_lm_link() {
    let machine = Machine::new();
    machine.ensure(&[LLAMA, "--device", "preferred"]).expect(0);
    assert_eq!(machine.lms_calls(), [format!("load {LLAMA} -y --identifier {LLAMA}")]);
}

#[test]
fn a_model_of_a_linked_machine_alone_is_loaded_there() {
    let links = json!([{ "device": "d1", "deviceName": "big-box", "keys": ["acme/far"] }]);
    let machine = Machine::with(json!({ "links": links }));
    let model = machine.ensure(&["acme/far"]).expect(0).model();
    assert_eq!(model["addressable"], true);
    assert_eq!(machine.events("load-begin")[0]["device"], "d1");
}

#[test]
fn a_similar_model_here_is_never_taken_for_one_on_a_linked_machine() {
    let links = json!([{ "device": "d1", "deviceName": "big-box", "keys": ["gemma-3-4b"] }]);
    let machine = Machine::with(json!({ "links": links }));
    // `gemma-3-4b` is there, and `gemma-3-4b-it`, which it matches fuzzily, is here.
    machine.ensure(&["gemma-3-4b"]).expect(0).json();
    let loads = machine.events("load-begin");
    assert_eq!((loads.len(), &loads[0]["key"], &loads[0]["device"]), (1, &json!("gemma-3-4b"), &json!("d1")));
}

#[test]
fn a_model_that_is_here_and_there_is_loaded_here_though_a_similar_one_is_downloaded() {
    // LM Studio takes the first of its list, and REST does not tell which machine an entry is of.
    let links = json!([{ "device": "d1", "deviceName": "big-box", "keys": ["gemma-3-4b", "gemma-3-4b-it"] }]);
    let machine = Machine::with(json!({ "links": links, "linkedFirst": true }));
    machine.write(
        ".lmstudio/.simulator/models.json",
        &json!([{ "modelKey": "gemma-3-4b" }, { "modelKey": "gemma-3-4b-it" }]).to_string(),
    );
    machine.ensure(&["gemma-3-4b"]).expect(0).json();
    let loads = machine.events("load-begin");
    assert_eq!((loads.len(), &loads[0]["key"], &loads[0]["device"]), (1, &json!("gemma-3-4b"), &json!(null)));
    // Nothing similar to this one is downloaded, so nothing more is asked.
    machine.ensure(&["gemma-3-4b-it"]).expect(0).json();
    let lists = machine.lms_calls().iter().filter(|it| *it == "ls --json").count();
    assert_eq!((lists, machine.events("load-begin")[1]["device"].clone()), (1, json!(null)));
}

#[test]
fn where_nobody_can_tell_the_machine_of_a_model_local_first_is_not_given_up_in_silence() {
    let links = json!([{ "device": "d1", "deviceName": "big-box", "keys": ["gemma-3-4b"] }]);
    let machine = Machine::with(json!({ "links": links }));
    machine.faults(json!([{ "on": "lms ls", "kind": "garbage" }]));
    machine.ensure(&["gemma-3-4b"]).expect(0).says("`gemma-3-4b` may be loaded on another machine").json();
}
