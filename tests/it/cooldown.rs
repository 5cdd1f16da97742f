//! The cooldown: failures that are replayed, and those that are not.

use serde_json::{Value, json};

use crate::callers::{PATIENT, all_have_looked, all_models};
use crate::support::{GEMMA, LLAMA, Machine, run, until};

/// Makes what is remembered on this machine older, as if time had passed.
fn age_memory(machine: &Machine, by_ms: u64) {
    fn age(value: &mut Value, by_ms: u64) {
        match value {
            Value::Object(members) => {
                if let Some(at) = members.get("monotonicMs").and_then(Value::as_u64) {
                    members.insert("monotonicMs".to_owned(), (at - by_ms).into());
                }
                members.values_mut().for_each(|it| age(it, by_ms));
            }
            Value::Array(items) => items.iter_mut().for_each(|it| age(it, by_ms)),
            _ => {}
        }
    }
    let text = std::fs::read(machine.path(&memory(machine))).expect("a memory");
    let mut memory_of: Value = serde_json::from_slice(&text).expect("JSON");
    age(&mut memory_of, by_ms);
    machine.write(&memory(machine), &memory_of.to_string());
}

#[test]
fn a_load_that_fails_is_tried_once_by_the_whole_herd_and_once_more_after_the_cooldown() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    machine.faults(json!([{ "on": "load", "kind": "crash", "percent": 60 }]));
    let callers = machine.start_many(50, &[&[LLAMA], &PATIENT[..]].concat());
    all_have_looked(&machine, 50);
    machine.release();
    let models = all_models(callers, 5);
    let (tried, told): (Vec<&Value>, Vec<&Value>) = models.iter().partition(|it| it["replayed"] == false);
    assert_eq!((tried.len(), told.len(), machine.loads(LLAMA)), (1, 49, 1));
    for model in told {
        assert_eq!((&model["category"], &model["reason"]), (&json!("load-failed"), &tried[0]["reason"]));
        assert!(model["ageMs"].as_u64().unwrap() < 60_000, "{model}");
    }
    stretch_memory(&machine, 60_000);
    machine.ensure(&[LLAMA]).expect(5).says("`--fresh` tries again now").json();
    assert_eq!(machine.loads(LLAMA), 1);
    machine.configure(json!({}));
    age_memory(&machine, 60_000);
    assert_eq!(machine.ensure(&[LLAMA]).expect(5).model()["replayed"], false);
    assert_eq!(machine.loads(LLAMA), 2);
    machine.faults(json!([]));
    age_memory(&machine, 60_000);
    machine.ensure(&[LLAMA]).expect(0).json();
    assert_eq!(machine.loads(LLAMA), 3);
}

/// The place of what is remembered of the machine's server.
fn memory(machine: &Machine) -> String {
    format!(".cache/lmswarm/http-localhost-{}.json", machine.rest_port)
}

/// Lets every failure on this machine have taken so long to find out.
fn stretch_memory(machine: &Machine, took_ms: u64) {
    let text = std::fs::read(machine.path(&memory(machine))).expect("a memory");
    let mut memory_of: Value = serde_json::from_slice(&text).expect("JSON");
    for failure in memory_of["failures"].as_object_mut().expect("failures").values_mut() {
        failure["tookMs"] = took_ms.into();
    }
    machine.write(&memory(machine), &memory_of.to_string());
}

#[test]
fn a_failure_is_replayed_for_as_long_as_it_took_to_find_out() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "refuse" }]));
    machine.ensure(&[LLAMA]).expect(5).json();
    stretch_memory(&machine, 30_000);
    age_memory(&machine, 20_000);
    assert_eq!(machine.ensure(&[LLAMA]).expect(5).model()["replayed"], true);
    let short = [LLAMA, "--retry-cooldown-ms", "10000"];
    assert_eq!(machine.ensure(&short).expect(5).model()["replayed"], false, "the most is configured");
    stretch_memory(&machine, 1000);
    age_memory(&machine, 3000);
    assert_eq!(machine.ensure(&[LLAMA]).expect(5).model()["replayed"], false, "it took a second to find out");
}

#[cfg(unix)]
#[test]
fn a_clock_that_is_set_neither_voids_a_failure_nor_keeps_it() {
    for hour in [3_600_000, -3_600_000] {
        let machine = Machine::new();
        machine.faults(json!([{ "on": "load", "kind": "refuse" }]));
        machine.ensure(&[LLAMA]).expect(5).json();
        stretch_memory(&machine, 60_000);
        crate::campaign::ruin::move_clock(&machine.path(".cache/lmswarm"), hour);
        assert_eq!(machine.ensure(&[LLAMA]).expect(5).model()["replayed"], true);
        age_memory(&machine, 60_000);
        assert_eq!(machine.ensure(&[LLAMA]).expect(5).model()["replayed"], false);
    }
}

#[test]
fn a_failure_is_void_at_once_when_the_world_has_changed() {
    let mut machine = Machine::new();
    machine.preload(GEMMA);
    let fails = |machine: &Machine| {
        machine.faults(json!([{ "on": "load", "kind": "refuse", "times": 1 }]));
        machine.ensure(&[LLAMA, "--fresh"]).expect(5).json();
        stretch_memory(machine, 60_000);
        assert_eq!(machine.ensure(&[LLAMA]).expect(5).model()["replayed"], true);
    };
    let works = |machine: &Machine| {
        machine.ensure(&[LLAMA]).expect(0).json();
        machine.control("evict", json!({ "identifier": LLAMA }));
    };
    fails(&machine);
    machine.control("evict", json!({ "identifier": GEMMA }));
    works(&machine);
    fails(&machine);
    let models = json!([{ "modelKey": LLAMA }, { "modelKey": "acme/new" }]);
    machine.write(".lmstudio/.simulator/models.json", &models.to_string());
    works(&machine);
    #[cfg(target_os = "linux")]
    {
        fails(&machine);
        machine.restart();
        works(&machine);
    }
}

#[test]
fn fresh_tries_again_at_once() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "crash", "times": 1 }]));
    let first = machine.ensure(&[LLAMA]).expect(5).model();
    assert_eq!((&first["replayed"], &first["ageMs"]), (&json!(false), &json!(null)));
    stretch_memory(&machine, 60_000);
    let second = machine.ensure(&[LLAMA]).expect(5).model();
    assert_eq!(second["replayed"], true);
    assert!(second["ageMs"].is_u64());
    machine.ensure(&[LLAMA, "--fresh"]).expect(0);
    assert_eq!(machine.loads(LLAMA), 2);
}

#[test]
fn other_options_deserve_another_try() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "refuse", "times": 1 }]));
    machine.ensure(&[LLAMA, "--context-length", "100000"]).expect(5);
    machine.ensure(&[LLAMA, "--context-length", "4096"]).expect(0);
}

#[test]
fn a_load_that_takes_lm_studio_down_is_not_repeated_by_every_waiter() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    machine.install_app();
    let callers = machine.start_many(4, &[LLAMA]);
    machine.wait_for_event("load-begin");
    until("the load holds", || machine.state()["loads"][0]["held"] == true);
    machine.crash();
    for caller in callers {
        assert_eq!(caller.end().expect(3).model()["category"], "server-unreachable");
    }
    assert_eq!(machine.loads(LLAMA), 1);
    // Later callers do not hear of it.
    machine.configure(json!({}));
    machine.ensure(&[LLAMA]).expect(0).json();
}

#[test]
fn a_failure_that_no_longer_holds_is_not_replayed() {
    let catalogue = json!({ "catalogue": [{ "modelKey": "acme/new-model" }], "downloadMs": 50 });
    let machine = Machine::with(catalogue);
    machine.faults(json!([{ "on": "lms get", "kind": "fail", "times": 1 }]));
    machine.ensure(&["acme/new-model", "--download"]).expect(4).json();
    let mut lms = std::process::Command::new(machine.path("bin/lms"));
    assert!(run(lms.args(["get", "acme/new-model", "-y"]).env("HOME", machine.home())).code == 0);
    machine.ensure(&["acme/new-model", "--download"]).expect(0).json();
    for _ in 0..2 {
        assert_eq!(machine.ensure(&["gemma", "--download"]).expect(4).model()["replayed"], false);
    }
    for path in ["/nowhere/lms", machine.path("bin/lms").to_str().unwrap()] {
        let code = machine.ensure(&[LLAMA, "--loader", "lms", "--lms-path", path]).code;
        assert_eq!(code, if path == "/nowhere/lms" { 78 } else { 0 });
    }
}

#[test]
fn a_failure_is_not_replayed_while_somebody_loads_the_model() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "crash", "times": 1 }]));
    machine.ensure(&[LLAMA]).expect(5).json();
    stretch_memory(&machine, 60_000);
    machine.configure(json!({ "holdLoads": true }));
    let other = machine.start(&[LLAMA, "--state-dir", machine.path("other").to_str().unwrap()]);
    machine.wait_for_loads(2);
    let before = machine.requests().len();
    let caller = machine.start(&[LLAMA]);
    machine.wait_for_requests(before, 2);
    machine.release();
    caller.end().expect(0).json();
    other.end().expect(0).json();
}

/// What one caller meets says nothing about what LM Studio would answer the next one.
#[cfg(unix)]
#[test]
fn trouble_of_one_callers_own_is_not_replayed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    let real = std::fs::read_link(machine.path("bin/lms")).unwrap();
    for script in [
        "#!/nowhere/sh\n",
        "#!/bin/sh\nexec /nowhere/lms\n",
        "#!/bin/sh\nexec /dev/null\n",
        "#!/bin/sh\nkill -KILL $$\n",
        "#!/bin/sh\necho 'Error: EMFILE: too many open files, open x' >&2; exit 1\n",
    ] {
        std::fs::remove_file(machine.path("bin/lms")).unwrap();
        machine.write("bin/lms", script);
        std::fs::set_permissions(machine.path("bin/lms"), std::fs::Permissions::from_mode(0o755)).unwrap();
        machine.ensure(&[LLAMA]).expect(5).json();
        let again = machine.ensure(&[LLAMA]).expect(5).model();
        assert_eq!((&again["replayed"], &again["category"]), (&json!(false), &json!("load-failed")), "{script}");
        std::fs::remove_file(machine.path("bin/lms")).unwrap();
        std::os::unix::fs::symlink(&real, machine.path("bin/lms")).unwrap();
        assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded", "{script}");
        machine.control("evict", json!({ "identifier": LLAMA }));
    }
    // Nor is a server that could not be started for such a reason.
    let machine = Machine::with_server_off();
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    machine.write("bin/lms", "#!/nowhere/sh\n");
    std::fs::set_permissions(machine.path("bin/lms"), std::fs::Permissions::from_mode(0o755)).unwrap();
    machine.ensure(&[LLAMA]).expect(3).json();
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    std::os::unix::fs::symlink(&real, machine.path("bin/lms")).unwrap();
    machine.ensure(&[LLAMA]).expect(0).json();
}
