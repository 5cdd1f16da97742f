//! Unloading: only what is idle, and right after the look that calls it idle.

use serde_json::{Value, json};

use crate::support::{GEMMA, LLAMA, Machine};

/// Whether LM Studio was asked nothing between the end of the last `lms ps` and the `lms unload`
/// behind it: each of our looks in between would be a time in which the instance could get to work.
fn is_unloaded_right_after_the_look(machine: &Machine) -> bool {
    let record = machine.record();
    let is_lms = |it: &Value, event: &str, command: &str| it["event"] == event && it["argv"][0] == command;
    let unload = record.iter().position(|it| is_lms(it, "lms", "unload")).expect("an unload");
    let look = record[..unload].iter().rposition(|it| is_lms(it, "lms-exit", "ps")).expect("a look");
    record[look + 1..unload].iter().all(|it| it["event"] != "request" && it["event"] != "lms")
}

#[test]
fn nothing_is_asked_between_the_look_that_calls_an_instance_idle_and_its_unload() {
    let drifted = Machine::new();
    drifted.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    drifted.ensure(&[LLAMA, "--context-length", "8192"]).expect(0).json();
    let copied = Machine::new();
    copied.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:2") }));
    copied.ensure(&[LLAMA]).expect(0).json();
    let crowded = Machine::new();
    crowded.preload(GEMMA);
    crowded.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "4000"]).expect(0).json();
    for machine in [drifted, copied, crowded] {
        assert_eq!(machine.events("unload").len(), 1);
        assert!(is_unloaded_right_after_the_look(&machine));
    }
}

/// A machine with LM Link, where `identifier` names an instance of `key` here and one there.
fn named_twice(key: &str, identifier: &str) -> Machine {
    let machine = Machine::with(json!({ "links": [{ "device": "d1", "deviceName": "big-box", "keys": [key] }] }));
    for device in [json!(null), json!("d1")] {
        let load = json!({ "key": key, "identifier": identifier, "device": device, "contextLength": 2048 });
        machine.control("load", load);
        machine.control("used", json!({ "identifier": identifier, "device": device, "lastUsedTime": 1 }));
    }
    machine
}

#[test]
fn a_name_that_two_linked_machines_have_is_unloaded_for_nothing() {
    let machine = named_twice(LLAMA, LLAMA);
    let run = machine.ensure(&[LLAMA, "--context-length", "8192"]).expect(0);
    assert_eq!(run.says("more than one machine has an instance called").model()["action"], "none");
    assert_eq!(machine.resident(), [LLAMA, LLAMA]);
    let copy = format!("{LLAMA}:2");
    let machine = named_twice(LLAMA, &copy);
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).says(&format!("`{copy}` stays")).model()["action"], "loaded");
    assert_eq!(machine.resident(), [LLAMA, &copy, &copy]);
    let machine = named_twice(GEMMA, GEMMA);
    machine.preload("gemma-3-4b-it");
    machine.control("used", json!({ "identifier": "gemma-3-4b-it", "lastUsedTime": 2 }));
    machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "10000"]).expect(0).json();
    assert_eq!(machine.resident(), [GEMMA, GEMMA, LLAMA]);
}
