//! A model that is still loading is not ready, even where no list tells the two apart.

use serde_json::{Value, json};

use crate::support::{LLAMA, Machine, TOKEN, until, with_growing_limit};

/// The machines on which a list shows an instance that is still loading like a ready one:
/// `lms ps` must tell, or there is no `/api/v0`.
fn machines_that_cannot_tell() -> [Machine; 2] {
    [json!({ "token": TOKEN, "holdLoads": true }), json!({ "v0": false, "holdLoads": true })].map(Machine::with)
}

#[test]
fn a_model_that_is_being_loaded_is_not_ready_even_where_no_list_tells() {
    for machine in machines_that_cannot_tell() {
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_event("load-begin");
        let callers = machine.start_many(3, &[LLAMA]);
        let early = machine.ensure(&[LLAMA, "--lock-wait-timeout-ms", "300"]).expect(75);
        assert_eq!(early.model()["category"], "lock-timeout");
        machine.release();
        for caller in callers {
            assert_eq!(caller.end().expect(0).model()["action"], "waited");
        }
        assert_eq!(leader.end().expect(0).model()["action"], "loaded");
        assert_eq!(machine.loads(LLAMA), 1);
    }
}

#[test]
fn a_load_that_crashes_fails_everybody_even_where_no_list_tells() {
    for machine in machines_that_cannot_tell() {
        machine.faults(json!([{ "on": "load", "kind": "crash", "percent": 60 }]));
        let callers = machine.start_many(4, &[LLAMA]);
        machine.wait_for_event("load-begin");
        machine.release();
        for caller in callers {
            assert_eq!(caller.end().expect(5).model()["category"], "load-failed");
        }
        assert_eq!(machine.ensure(&[LLAMA]).expect(5).model()["replayed"], true);
        assert_eq!(machine.loads(LLAMA), 1);
    }
}

#[test]
fn a_load_that_hangs_is_not_taken_for_ready() {
    with_growing_limit(|ms| {
        let machines = machines_that_cannot_tell();
        let calls = machines.each_ref().map(|machine| {
            machine.faults(json!([{ "on": "load", "kind": "hang" }, { "on": "lms load", "kind": "ignore-sigint" }]));
            machine.start(&[LLAMA, "--load-timeout-ms", ms])
        });
        for call in calls {
            assert_eq!(call.end().expect(5).model()["category"], "load-timeout");
        }
        machines.iter().all(|machine| machine.loads(LLAMA) == 1)
    });
}

#[cfg(unix)]
#[test]
fn a_load_that_lost_its_leader_is_not_taken_for_ready_even_where_no_list_tells() {
    for machine in machines_that_cannot_tell() {
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_event("load-begin");
        leader.signal(rustix::process::Signal::KILL);
        assert_eq!(leader.end().code, 137);
        let early = machine.ensure(&[LLAMA, "--timeout", "700ms"]).expect(75);
        assert_eq!(early.model()["category"], "deadline");
        let callers = machine.start_many(3, &[LLAMA]);
        machine.release();
        for caller in callers {
            caller.end().expect(0).json();
        }
        assert_eq!(machine.loads(LLAMA), 1);
        assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
    }
}

#[cfg(unix)]
#[test]
fn a_leader_that_is_stopped_keeps_nobody_even_where_no_list_tells() {
    use rustix::process::Signal;
    let machines = machines_that_cannot_tell();
    // Side by side: a waiter gives such a leader some time.
    let calls = machines.each_ref().map(|machine| {
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_event("load-begin");
        leader.signal(Signal::STOP);
        let before = machine.events("request").len();
        let waiter = machine.start(&[LLAMA]);
        until("it looks", || machine.events("request").len() >= before + 2);
        machine.release();
        (leader, waiter)
    });
    for (leader, waiter) in calls {
        assert_eq!(waiter.end().expect(0).model()["action"], "waited");
        leader.signal(Signal::CONT);
        leader.end().expect(0).json();
    }
}

#[test]
fn a_caller_with_less_patience_than_the_leader_does_not_take_its_load_for_over() {
    for machine in machines_that_cannot_tell() {
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_event("load-begin");
        // The file says nothing by its time: clocks are set, and laptops sleep.
        let files = std::fs::read_dir(machine.path(".cache/lmswarm")).unwrap().map(|it| it.unwrap().path());
        for load in files.filter(|it| it.extension().is_some_and(|it| it == "load")) {
            let file = std::fs::OpenOptions::new().write(true).open(load).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(7200)).unwrap();
        }
        for wait in ["--lock-wait-timeout-ms", "--timeout"] {
            let limit = if wait == "--timeout" { "300ms" } else { "300" };
            machine.ensure(&[LLAMA, "--load-timeout-ms", "1", wait, limit]).expect(75).json();
        }
        machine.release();
        leader.end().expect(0).json();
        assert_eq!(machine.loads(LLAMA), 1);
    }
}

#[cfg(unix)]
#[test]
fn a_load_over_rest_that_lost_its_leader_is_not_taken_for_ready_even_where_no_list_tells() {
    let machine = Machine::with(json!({ "v0": false, "holdLoads": true }));
    let args = [LLAMA, "--loader", "rest", "--load-timeout-ms", "60000"];
    let leader = machine.start(&args);
    machine.wait_for_event("load-begin");
    leader.signal(rustix::process::Signal::KILL);
    drop(leader.end());
    let early = machine.ensure(&[&args[..], &["--timeout", "500ms"]].concat()).expect(75);
    assert_eq!(early.model()["category"], "deadline");
    assert_eq!(machine.loads(LLAMA), 1);
}

#[cfg(unix)]
#[test]
fn a_load_that_failed_and_is_listed_for_a_moment_is_not_taken_for_ready() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::with(json!({ "token": TOKEN }));
    let real = std::fs::read_link(machine.path("bin/lms")).expect("a link to the simulated lms");
    let list = format!(r#"[{{"identifier":"{LLAMA}","modelKey":"{LLAMA}"}}]"#);
    // The first two lists after the load that failed still show its instance.
    let script = format!(
        r#"#!/bin/sh
case "$1" in
load) echo 0 > "$HOME/lists"; echo 'Error: the engine crashed' >&2; exit 1 ;;
ps) n=9; [ ! -e "$HOME/lists" ] || read n < "$HOME/lists"; echo $((n + 1)) > "$HOME/lists.new"
    [ ! -e "$HOME/lists" ] || {{ read n1 < "$HOME/lists.new"; echo $n1 > "$HOME/lists"; }}
    if [ "$n" -lt 2 ]; then echo '{list}'; else echo '[]'; fi ;;
*) exec '{}' "$@" ;;
esac
"#,
        real.display()
    );
    std::fs::remove_file(machine.path("bin/lms")).expect("the link goes");
    machine.write("bin/lms", &script);
    std::fs::set_permissions(machine.path("bin/lms"), std::fs::Permissions::from_mode(0o755)).expect("a program");
    assert_eq!(machine.ensure(&[LLAMA]).expect(5).model()["category"], "load-failed");
    machine.ensure(&[LLAMA]).expect(5).json();
}

#[cfg(unix)]
#[test]
fn a_load_over_rest_that_an_earlier_boot_was_at_is_over() {
    let machine = Machine::with(json!({ "v0": false, "holdLoads": true }));
    let leader = machine.start(&[LLAMA, "--loader", "rest"]);
    machine.wait_for_event("load-begin");
    leader.signal(rustix::process::Signal::KILL);
    drop(leader.end());
    machine.release();
    machine.wait_for_event("load-ready");
    let files = std::fs::read_dir(machine.path(".cache/lmswarm")).unwrap().map(|it| it.unwrap().path());
    let load = files.into_iter().find(|it| it.extension().is_some_and(|it| it == "load")).expect("its lock file");
    // The clock of that boot had counted further.
    let mut order: Value = serde_json::from_slice(&std::fs::read(&load).unwrap()).unwrap();
    for member in order.as_object_mut().unwrap().values_mut() {
        if let Some(at) = member.as_u64() {
            *member = (at + 1_000_000_000).into();
        }
    }
    std::fs::write(&load, order.to_string()).unwrap();
    assert_eq!(machine.ensure(&[LLAMA, "--load-timeout-ms", "1000"]).expect(0).model()["action"], "none");
}

#[test]
fn one_answer_that_gets_lost_does_not_make_an_older_lm_studio_one_that_cannot_tell() {
    for kind in ["null", "hang"] {
        let machine = Machine::with(json!({ "restVersion": "v0", "holdLoads": true }));
        machine.control("load", json!({ "key": LLAMA, "takesTime": true }));
        machine.faults(json!([{ "on": "GET /api/v0/models", "kind": kind, "times": 1 }]));
        let caller = machine.start(&[LLAMA, "--probe-timeout-ms", "3000"]);
        machine.wait_for("a look after the fault", |record| {
            let asked = record.iter().filter(|it| it["path"] == "/api/v0/models" && it["status"] == 200);
            asked.count() >= 2
        });
        machine.release();
        assert_eq!(caller.end().expect(0).model()["source"], "rest-v0", "{kind}");
        assert_eq!(machine.lms_calls().len(), 0, "{kind}: `lms ps` shows a load like a ready one");
    }
}

#[test]
fn one_answer_of_v0_that_is_missing_does_not_make_a_loading_model_ready() {
    for kind in ["status", "garbage", "reset"] {
        let machine = Machine::with(json!({ "holdLoads": true }));
        let other = machine.start(&[LLAMA, "--state-dir", machine.path("other").to_str().unwrap()]);
        machine.wait_for_event("load-begin");
        machine.faults(json!([{ "on": "GET /api/v0/models", "kind": kind }]));
        assert_eq!(machine.ensure(&[LLAMA]).expect(75).model()["category"], "unknown-state");
        machine.faults(json!([]));
        machine.release();
        other.end().expect(0).json();
    }
}
