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
