//! The `lms` program: where it is, and how it misbehaves.

use serde_json::json;

use crate::support::{LLAMA, Machine};

#[test]
fn lms_is_found_where_lm_studio_puts_it() {
    for (place, pointer) in
        [(".lmstudio/bin/lms", None), (".cache/lm-studio/bin/lms", None), ("elsewhere/bin/lms", Some("elsewhere"))]
    {
        let machine = Machine::new();
        std::fs::remove_file(machine.path("bin/lms")).unwrap();
        machine.install_lms_at(place);
        if let Some(pointer) = pointer {
            machine.write(".lmstudio-home-pointer", &format!("{}\n", machine.path(pointer).display()));
        }
        // The pointer leads lms itself away from the simulator, so its call is what counts.
        let _ = machine.ensure(&[LLAMA, "--loader", "lms"]);
        let moved = machine.path("elsewhere/.simulator/record.jsonl");
        let called = machine.lms_calls().len() + usize::from(moved.exists());
        assert!(called > 0, "{place}");
    }
}

#[test]
fn the_configured_lms_is_used_and_no_other() {
    let machine = Machine::new();
    machine.install_lms_at("mine/lms");
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    let mine = machine.path("mine/lms");
    machine.ensure(&[LLAMA, "--loader", "lms", "--lms-path", mine.to_str().unwrap()]).expect(0).json();
    assert_eq!(machine.lms_calls().len(), 1);
    machine.install_lms();
    let run = machine.ensure(&["google/gemma-3-12b", "--loader", "lms", "--lms-path", "/nowhere/lms"]).expect(78);
    run.says("--lms-path: lmsPath: `/nowhere/lms` is not there").json();
    assert_eq!(machine.lms_calls().len(), 1, "no other one is taken");
}

#[cfg(unix)]
#[test]
fn an_lms_that_somebody_kills_is_said_so() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "hang" }]));
    let caller = machine.start(&[LLAMA]);
    machine.wait_for_event("fault");
    let pid = machine.events("lms")[0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let run = caller.end().expect(5).says(&format!("`lms load {LLAMA}` was ended by signal 9"));
    assert_eq!(run.model()["category"], "load-failed");
}

#[test]
fn an_lms_that_hangs_is_ended() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "hang" }]));
    machine.ensure(&[LLAMA, "--load-timeout-ms", "300"]).expect(5).says("was not loaded after loadTimeoutMs");
}

#[test]
fn a_grandchild_that_holds_the_pipes_does_not_hold_the_call() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms", "kind": "grandchild", "ms": 120_000 }]));
    machine.ensure(&[LLAMA]).expect(0).json();
}

#[test]
fn a_flood_of_output_does_not_stop_the_load() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "flood", "bytes": 30_000_000 }]));
    machine.ensure(&[LLAMA]).expect(0).json();
}

#[test]
fn every_shape_of_a_list_is_read_or_unknown() {
    let machine = Machine::with(json!({ "token": "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt" }));
    machine.preload(LLAMA);
    for kind in ["utf16", "bom", "notice", "slow", "grandchild"] {
        machine.faults(json!([{ "on": "lms ps", "kind": kind, "ms": 50 }]));
        let run = machine.ensure(&[LLAMA, "--verify-cache-ms", "0"]).expect(0);
        assert_eq!(run.model()["source"], "lms-ps", "{kind}");
    }
    for kind in ["garbage", "truncated", "html", "wrapper", "empty", "fail"] {
        machine.faults(json!([{ "on": "lms ps", "kind": kind }]));
        machine.ensure(&[LLAMA, "--verify-cache-ms", "0"]).expect(7).json();
    }
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn a_list_that_an_unload_spoilt_is_asked_for_again() {
    let machine = Machine::with(json!({ "token": "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt" }));
    machine.preload(LLAMA);
    machine.faults(json!([{ "on": "lms ps", "kind": "race", "times": 1 }]));
    machine.ensure(&[LLAMA]).expect(0).json();
    assert_eq!(machine.lms_calls(), ["ps --json", "ps --json"]);
}
