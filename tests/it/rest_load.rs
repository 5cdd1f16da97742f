//! Loads over REST, where `lms` cannot.

use serde_json::json;

use crate::support::{LLAMA, Machine, QWEN, until};

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
fn two_hosts_that_load_over_rest_leave_no_copy_behind() {
    // No load is listed before it is done, so both load.
    let machine = Machine::with(json!({ "holdLoads": true, "listLoadingAfterMs": 60_000 }));
    let host = |name: &str| {
        machine.start(&[LLAMA, "--loader", "rest", "--state-dir", machine.path(name).to_str().expect("UTF-8")])
    };
    let first = host("one");
    until("a load that holds", || machine.state()["loads"][0]["held"] == true);
    machine.configure(json!({ "listLoadingAfterMs": 60_000 }));
    let second = host("two");
    // The copy is done first, and gone again before the first load ends.
    machine.wait_for_event("unload");
    machine.release();
    assert_eq!(first.end().expect(0).model()["action"], "loaded");
    assert_eq!(second.end().expect(0).model()["action"], "waited");
    assert_eq!(machine.events("load-ready").len(), 2);
    assert_eq!(machine.resident(), [LLAMA]);
}

#[cfg(unix)]
#[test]
fn a_copy_is_undone_though_its_caller_was_told_to_stop() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    machine.faults(json!([{ "on": "load", "kind": "other-id", "identifier": format!("{LLAMA}:2"), "times": 1 }]));
    let log = machine.path("log");
    let caller = machine.start(&[LLAMA, "--loader", "rest", "-vv", "--log-file", log.to_str().expect("UTF-8")]);
    machine.wait_until_held();
    machine.preload(LLAMA);
    caller.signal(rustix::process::Signal::TERM);
    until("it was told", || std::fs::read_to_string(&log).unwrap().contains("told to stop while a load over REST"));
    machine.release();
    let run = caller.end().expect(143);
    let run = run.says(&format!("stopped by SIGTERM; `{LLAMA}:2`, which it had loaded, was unloaded again"));
    assert_eq!(run.model()["category"], "interrupted");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[cfg(unix)]
#[test]
fn a_load_that_goes_on_without_its_caller_is_said_to_and_waited_for_by_the_next_one() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let caller = machine.start(&[LLAMA, "--loader", "rest"]);
    machine.wait_until_held();
    // The second one says that the user does not wait for the load.
    caller.signal(rustix::process::Signal::INT);
    caller.signal(rustix::process::Signal::TERM);
    let run = caller.end().expect(130);
    assert!(run.stderr.ends_with(&format!("so that of `{LLAMA}` goes on in LM Studio\n")), "{run:?}");
    let next = machine.start(&[LLAMA, "--loader", "rest"]);
    machine.wait_for_requests(machine.requests().len(), 4);
    machine.release();
    assert_eq!(next.end().expect(0).model()["action"], "waited");
    assert_eq!((machine.loads(LLAMA), machine.resident()), (1, vec![LLAMA.to_owned()]));
}
