//! Copies of a model (`KEY:2`): which make way, and which are left alone.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, TOKEN};

#[test]
fn an_idle_copy_makes_way_for_the_bare_key() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:2") }));
    machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:3") }));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "reconciled");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn an_instance_that_somebody_named_otherwise_is_left_alone() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "identifier": "mine" }));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded");
    assert_eq!(machine.resident(), [LLAMA, "mine"]);
}

#[test]
fn another_model_that_was_given_the_name_of_a_copy_is_left_alone() {
    let copy = format!("{LLAMA}:2");
    // Both lists, v0 alone, which tells no model, and `lms ps`.
    for config in [json!({}), json!({ "restVersion": "v0" }), json!({ "token": TOKEN })] {
        let machine = Machine::with(config);
        machine.control("load", json!({ "key": GEMMA, "identifier": copy }));
        assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded");
        assert_eq!(machine.resident(), [LLAMA, &copy]);
        assert_eq!(machine.events("unload").len(), 0);
    }
    let machine = Machine::with(json!({ "restVersion": "v0" }));
    machine.control("load", json!({ "key": GEMMA, "identifier": copy }));
    machine.ensure(&[LLAMA, "--reconcile-duplicates=false"]).expect(0).json();
}

#[test]
fn nothing_is_unloaded_where_no_list_tells_of_which_model_it_is() {
    let machine = Machine::with(json!({ "restVersion": "v0" }));
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.faults(json!([{ "on": "lms ps", "kind": "garbage" }]));
    machine.ensure(&[LLAMA]).expect(6).says("nobody can tell whether it is busy").json();
    assert_eq!(machine.resident(), [copy.as_str()]);
    machine.faults(json!([]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "reconciled");
}

#[test]
fn a_busy_copy_is_never_touched() {
    let machine = Machine::new();
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.control("busy", json!({ "identifier": copy, "busy": true }));
    let run = machine.ensure(&[LLAMA]).expect(6).says(&format!("`{copy}` is busy, so nothing was touched"));
    assert!(!run.stderr.contains("unloading"), "nothing is announced that is not done: {run:?}");
    assert_eq!(run.model()["category"], "duplicates");
    assert_eq!(machine.resident(), [copy]);
    assert_eq!(machine.events("unload").len(), 0);
}

#[test]
fn copies_are_not_touched_when_nobody_can_tell_or_the_user_says_so() {
    let machine = Machine::new();
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.ensure(&[LLAMA, "--reconcile-duplicates=false"]).expect(6).says("`reconcileDuplicates` is off");
    machine.faults(json!([{ "on": "lms ps", "kind": "garbage" }]));
    machine.ensure(&[LLAMA]).expect(6).says("nobody can tell whether it is busy");
    assert_eq!(machine.resident(), [copy]);
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn an_unload_that_says_it_worked_is_not_believed() {
    let machine = Machine::new();
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.faults(json!([{ "on": "lms unload", "kind": "ghost" }]));
    let run = machine.ensure(&[LLAMA]).expect(6).says("is still resident after `lms unload");
    assert_eq!(run.model()["category"], "duplicates");
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn somebody_elses_copy_is_not_taken_for_our_own() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "empty" }]));
    let caller = machine.start(&[LLAMA]);
    machine.wait_for_event("lms-exit");
    // Our load said it worked and brought nothing; while that is checked, another client
    // loads a copy and uses it.
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.control("busy", json!({ "identifier": copy, "busy": true }));
    assert_eq!(caller.end().expect(5).model()["category"], "not-addressable");
    assert_eq!(machine.resident(), [copy]);
}

#[test]
fn a_copy_that_gets_to_work_while_another_is_unloaded_is_left_alone() {
    let machine = Machine::new();
    let copies = [format!("{LLAMA}:2"), format!("{LLAMA}:3")];
    for copy in &copies {
        machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    }
    machine.faults(json!([{ "on": "lms unload", "kind": "hold" }]));
    let caller = machine.start(&[LLAMA]);
    machine.wait_for_event("fault");
    machine.control("busy", json!({ "identifier": copies[1], "busy": true }));
    machine.unhold();
    caller.end().expect(6).says("is busy").json();
    assert_eq!(machine.resident(), [copies[1].clone()]);
}

#[test]
fn an_unload_that_does_nothing_is_not_repeated_by_each_waiter() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:2") }));
    machine.faults(json!([{ "on": "lms ps", "kind": "hold" }]));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("fault");
    let before = machine.requests().len();
    let waiters = machine.start_many(3, &[LLAMA]);
    machine.wait_for_requests(before, 2 * waiters.len());
    machine.faults(json!([{ "on": "lms unload", "kind": "ghost" }]));
    assert_eq!(leader.end().expect(6).model()["replayed"], false);
    for waiter in waiters {
        let model = waiter.end().expect(6).model();
        assert_eq!((&model["category"], &model["replayed"]), (&json!("duplicates"), &json!(true)));
    }
    assert_eq!(machine.lms_calls().iter().filter(|it| it.starts_with("unload")).count(), 1);
}
