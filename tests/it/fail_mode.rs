//! The fail mode: what a failure means for the caller.

use serde_json::json;

use crate::support::Machine;

#[test]
fn with_fail_mode_open_a_failure_is_a_warning() {
    let machine = Machine::new();
    let report = machine
        .ensure(&["nowhere", "--fail-mode", "open"])
        .expect(0)
        .says("warning: `nowhere` is not downloaded")
        .json();
    assert_eq!((&report["ok"], &report["proceed"], &report["failMode"]), (&json!(false), &json!(true), &json!("open")));
}
