//! Loads that fail, hang, or say they worked, and what the user is told.

use serde_json::json;

use crate::support::{LLAMA, Machine, QWEN, with_growing_limit};

#[test]
fn a_refused_load_says_why_and_what_helps() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "refuse" }]));
    let run = machine.ensure(&[QWEN]).expect(5).says("insufficient system resources").says("--evict-on-pressure");
    assert_eq!(run.model()["category"], "load-refused");
}

#[test]
fn a_load_that_crashes_says_so() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "crash" }]));
    let run = machine.ensure(&[LLAMA]).expect(5).says("`lms load llama-3.2-1b-instruct` failed (exit code 1): ");
    assert_eq!(run.model()["category"], "load-failed");
}

#[test]
fn a_load_that_hangs_is_cancelled_at_its_limit() {
    with_growing_limit(|ms| {
        let machine = Machine::new();
        machine.faults(json!([{ "on": "load", "kind": "hang" }]));
        let run =
            machine.ensure(&[LLAMA, "--load-timeout-ms", ms]).expect(5).says("was not loaded after loadTimeoutMs (");
        assert_eq!(run.model()["category"], "load-timeout");
        let has_begun = machine.loads(LLAMA) == 1;
        if has_begun {
            machine.wait_for_event("load-cancelled");
            assert_eq!(machine.resident().len(), 0);
        }
        has_begun
    });
}

#[test]
fn a_load_that_ignores_being_asked_is_killed() {
    with_growing_limit(|ms| {
        let machine = Machine::new();
        machine.faults(json!([{ "on": "load", "kind": "hang" }, { "on": "lms load", "kind": "ignore-sigint" }]));
        machine.ensure(&[LLAMA, "--load-timeout-ms", ms]).expect(5).says("was not loaded");
        assert_eq!(machine.events("lms-exit").len(), 0, "it had no chance to say goodbye");
        machine.loads(LLAMA) == 1
    });
}

#[test]
fn a_load_that_says_it_worked_is_not_believed() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "ghost" }]));
    let run = machine.ensure(&[LLAMA]).expect(5).says("said it loaded `llama-3.2-1b-instruct`, but it is not resident");
    assert_eq!(run.model()["category"], "not-addressable");
}

#[test]
fn a_model_that_is_gone_at_once_is_not_reported_as_ready() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "vanish" }]));
    machine.ensure(&[LLAMA]).expect(5).says("already been unloaded");
}

#[test]
fn a_load_under_another_name_is_undone() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "other-id", "identifier": "odd" }]));
    let run = machine.ensure(&[LLAMA]).expect(5).says("under the name `odd`").says("it was unloaded again");
    assert_eq!(run.model()["category"], "not-addressable");
    assert_eq!(machine.resident().len(), 0);
}

#[test]
fn a_misnamed_load_that_cannot_be_undone_is_said_so() {
    let machine = Machine::new();
    let faults =
        json!([{ "on": "load", "kind": "other-id", "identifier": "odd" }, { "on": "lms unload", "kind": "ghost" }]);
    machine.faults(faults);
    machine.ensure(&[LLAMA]).expect(5).says("unload it by hand (`lms unload odd`)").json();
    assert_eq!(machine.resident(), ["odd"]);
}

#[test]
fn an_lms_that_exits_0_without_doing_anything_is_not_believed() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "empty" }]));
    machine.ensure(&[LLAMA]).expect(5).says("is not resident");
}

#[test]
fn the_reason_of_a_failed_load_is_found_behind_a_flood() {
    let machine = Machine::new();
    for flood in ["y".repeat(100_000), "y\n".repeat(100_000)] {
        let stderr = format!("{flood}\nout of disk space");
        machine.faults(json!([{ "on": "lms load", "kind": "fail", "stderr": stderr }]));
        let run = machine.ensure(&[LLAMA, "--fresh"]).expect(5);
        run.says("`lms load llama-3.2-1b-instruct` failed (exit code 1): out of disk space").json();
    }
}
