//! An `lms` that is a shell's script around the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{LLAMA, Machine, until, with_growing_limit};

/// The shell stays as the parent of the real one, and does not end on SIGINT by itself.
fn with_wrapper(config: serde_json::Value) -> Machine {
    let mut machine = Machine::bare();
    machine.install_lms_at("real/lms");
    machine.write("bin/lms", "#!/bin/sh\n\"$HOME/real/lms\" \"$@\"\ncode=$?\n: log it\nexit $code\n");
    fs::set_permissions(machine.path("bin/lms"), fs::Permissions::from_mode(0o755)).expect("a mode");
    machine.configure(config);
    machine.start_app(&["--rest-port", "0"]);
    machine
}

#[test]
fn a_load_is_cancelled_when_the_time_is_over() {
    with_growing_limit(|ms| {
        let machine = with_wrapper(json!({ "holdLoads": true }));
        machine.ensure(&[LLAMA, "--timeout", &format!("{ms}ms")]).expect(75);
        let has_begun = machine.loads(LLAMA) == 1;
        assert_eq!((machine.events("load-cancelled").len(), machine.resident().len()), (usize::from(has_begun), 0));
        has_begun
    });
}

#[test]
fn a_load_is_cancelled_by_a_signal() {
    let machine = with_wrapper(json!({ "holdLoads": true }));
    let call = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    call.signal(rustix::process::Signal::TERM);
    let _ = call.end().expect(143);
    assert_eq!(machine.events("load-cancelled").len(), 1);
}

#[test]
fn what_goes_on_behind_the_wrapper_after_it_was_asked_to_stop_is_killed() {
    with_growing_limit(|ms| {
        let machine = with_wrapper(json!({ "holdLoads": true }));
        machine.faults(json!([{ "on": "lms load", "kind": "ignore-sigint" }]));
        machine.ensure(&[LLAMA, "--timeout", &format!("{ms}ms")]).expect(75);
        if machine.loads(LLAMA) == 0 {
            return false;
        }
        let pid = machine.events("lms")[0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).unwrap();
        until("its end", || rustix::process::test_kill_process(pid).is_err());
        true
    });
}
