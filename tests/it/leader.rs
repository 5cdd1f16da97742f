//! A leader that is killed, is stopped, or does not say what it does, and the waiters behind it.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, until};

#[cfg(unix)]
#[test]
fn a_leader_that_is_killed_leaves_its_load_to_the_next() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    for round in 1..=20 {
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_loads(round);
        let before = machine.requests().len();
        let waiters = machine.start_many(3, &[LLAMA]);
        machine.wait_for_requests(before, 2 * waiters.len());
        leader.signal(rustix::process::Signal::KILL);
        assert_eq!(leader.end().code, 137);
        machine.release();
        for waiter in waiters {
            let model = waiter.end().expect(0).model();
            assert!(["waited", "none"].contains(&model["action"].as_str().unwrap()), "{model}");
        }
        assert_eq!(machine.resident(), [LLAMA], "round {round}");
        machine.control("evict", json!({ "identifier": LLAMA }));
    }
    assert_eq!(machine.loads(LLAMA), 20);
}

#[cfg(unix)]
#[test]
fn a_leader_killed_before_its_load_is_listed_leaves_it_to_the_next() {
    let machine = Machine::new();
    for round in 1..=4 {
        machine.configure(json!({ "holdLoads": true, "listLoadingAfterMs": 60_000 }));
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_loads(round);
        leader.signal(rustix::process::Signal::KILL);
        assert_eq!(leader.end().code, 137);
        let before = machine.requests().len();
        let waiters = machine.start_many(3, &[LLAMA]);
        machine.wait_for_requests(before, 2 * waiters.len());
        // The next leader sees no load either: it tries and is refused, or it goes on looking.
        until("the next leader acts", || {
            let looks = machine.requests().len() - before;
            machine.events("load-refused").len() == round || looks > 2 * (waiters.len() + 1)
        });
        machine.configure(json!({ "holdLoads": true }));
        machine.release();
        for waiter in waiters {
            waiter.end().expect(0).json();
        }
        assert_eq!(machine.resident(), [LLAMA]);
        machine.control("evict", json!({ "identifier": LLAMA }));
    }
    assert_eq!(machine.events("load-ready").len(), 4);
}

#[cfg(unix)]
#[test]
fn a_waiter_does_not_need_a_leader_that_is_stopped() {
    use rustix::process::Signal;
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    leader.signal(Signal::STOP);
    let before = machine.requests().len();
    let waiter = machine.start(&[LLAMA]);
    machine.wait_for_requests(before, 2);
    machine.release();
    assert_eq!(waiter.end().expect(0).model()["addressable"], true);
    leader.signal(Signal::CONT);
    leader.end().expect(0);
    assert_eq!(machine.loads(LLAMA), 1);
}

#[test]
fn a_leader_that_cannot_say_what_for_may_be_loading_what_is_asked_for() {
    let machine = Machine::with(json!({ "v0": false, "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    // As on a full disk: the lock is held, and its file is empty.
    let files = std::fs::read_dir(machine.path(".cache/lmswarm")).unwrap().map(|it| it.unwrap().path());
    for lock in files.filter(|it| it.extension().is_some_and(|it| it == "lock")) {
        std::fs::OpenOptions::new().write(true).truncate(true).open(lock).unwrap();
    }
    let early = machine.ensure(&[LLAMA, "--lock-wait-timeout-ms", "300"]).expect(75);
    assert_eq!(early.model()["category"], "lock-timeout");
    machine.release();
    leader.end().expect(0).json();
    machine.ensure(&[LLAMA]).expect(0).json();
}

#[test]
fn a_lock_that_a_process_holds_without_leading_keeps_nobody() {
    let machine = Machine::new();
    machine.ensure(&[GEMMA]).expect(0).json();
    let path = machine.path(&format!(".cache/lmswarm/http-localhost-{}.lock", machine.rest_port));
    let held = std::fs::File::open(&path).expect("the lock file");
    fs2::FileExt::try_lock_shared(&held).expect("a lock like that of `flock -s`");
    let before = machine.requests().len();
    let model = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&model["action"], machine.loads(LLAMA)), (&json!("loaded"), 1));
    let warning = model["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("leads nothing") && warning.contains(path.to_str().unwrap()), "{warning}");
    let requests = machine.requests().len() - before;
    assert!(requests < 100, "{requests} requests in a few seconds");
}

#[cfg(unix)]
#[test]
fn a_leader_that_is_stopped_at_one_model_keeps_nobody_from_another() {
    use rustix::process::Signal;
    // This server does not list what is downloaded, so the leader asks `lms`, which hangs.
    let machine = Machine::with(json!({ "restVersion": "v0" }));
    machine.faults(json!([{ "on": "lms ls", "kind": "hang", "times": 1 }]));
    let leader = machine.start(&[GEMMA]);
    until("the leader asks `lms`", || machine.lms_calls().iter().any(|it| it.starts_with("ls")));
    leader.signal(Signal::STOP);
    let model = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!(model["action"], "loaded");
    let warning = model["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains(&format!("pid {}, busy with `{GEMMA}`", leader.pid())), "{warning}");
    // It ends its `lms` with itself.
    leader.signal(Signal::TERM);
    leader.signal(Signal::CONT);
    let _ = leader.end().expect(143);
}

#[cfg(unix)]
#[test]
fn an_unload_that_a_killed_leader_left_behind_is_waited_for() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    machine.faults(json!([{ "on": "lms unload", "kind": "hold" }]));
    let args = [LLAMA, "--context-length", "8192"];
    let leader = machine.start(&args);
    until("the leader unloads", || machine.lms_calls().iter().any(|it| it.starts_with("unload")));
    leader.signal(rustix::process::Signal::KILL);
    drop(leader.end());
    let before = machine.requests().len();
    let next = machine.start(&args);
    machine.wait_for_requests(before, 2);
    machine.unhold();
    next.end().expect(0).json();
    assert_eq!(machine.resident(), [LLAMA]);
    let order: Vec<String> = machine
        .record()
        .iter()
        .filter_map(|it| it["event"].as_str())
        .filter(|it| ["unload", "load-begin"].contains(it))
        .map(str::to_owned)
        .collect();
    assert_eq!(order, ["load-begin", "unload", "load-begin"], "nothing is unloaded behind the second load");
}

#[cfg(unix)]
#[test]
fn the_unload_that_undoes_a_load_under_another_name_is_waited_for_too() {
    let machine = Machine::new();
    machine.faults(json!([
        { "on": "load", "kind": "other-id", "identifier": "other", "times": 1 },
        { "on": "lms unload", "kind": "hold" },
    ]));
    let leader = machine.start(&[LLAMA]);
    until("the leader undoes its load", || machine.lms_calls().iter().any(|it| it.starts_with("unload")));
    leader.signal(rustix::process::Signal::KILL);
    drop(leader.end());
    fs2::FileExt::try_lock_exclusive(&lock_file(&machine, "unload")).expect_err("the unload goes on");
    let before = machine.requests().len();
    let next = machine.start(&[LLAMA]);
    machine.wait_for_requests(before, 2);
    machine.unhold();
    assert_eq!(next.end().expect(0).model()["action"], "loaded");
    assert_eq!(machine.resident(), [LLAMA]);
    assert_eq!(machine.loads(LLAMA), 2);
}

/// The file of this kind that callers of the machine's server lock.
fn lock_file(machine: &Machine, kind: &str) -> std::fs::File {
    let path = machine.path(&format!(".cache/lmswarm/http-localhost-{}.{kind}", machine.rest_port));
    std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a lock file")
}

#[test]
fn the_wait_for_a_lock_that_a_strange_process_has_ends_in_time() {
    let machine = Machine::new();
    machine.ensure(&[GEMMA]).expect(0).json();
    let held = lock_file(&machine, "lock");
    fs2::FileExt::try_lock_exclusive(&held).expect("a lock like that of `flock`");
    let run = machine.ensure(&[LLAMA, "--lock-wait-timeout-ms", "700"]).expect(75).says("waiting for another lmswarm");
    assert_eq!(run.model()["category"], "lock-timeout");
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn a_leader_that_shows_life_is_waited_for_whatever_its_locks_say() {
    // This server does not list what is downloaded, so the leader asks `lms`, which hangs.
    let machine = Machine::with(json!({ "restVersion": "v0" }));
    machine.ensure(&[GEMMA]).expect(0).json();
    machine.control("evict", json!({ "identifier": GEMMA }));
    let asked = lock_file(&machine, "busy");
    fs2::FileExt::try_lock_shared(&asked).expect("a lock like that of a waiter that is stopped");
    machine.faults(json!([{ "on": "lms ls", "kind": "hang", "times": 1 }]));
    let leader = machine.start(&[GEMMA]);
    until("the leader asks `lms`", || machine.lms_calls().iter().filter(|it| it.starts_with("ls")).count() == 2);
    let run = machine.ensure(&[LLAMA, "--lock-wait-timeout-ms", "12000"]).expect(75);
    assert_eq!(run.model()["category"], "lock-timeout", "longer than a leader without life is waited for");
    assert_eq!(machine.loads(LLAMA), 0);
    drop(leader);
}

#[test]
fn a_call_in_the_background_does_not_wait_for_one_that_is_stopped() {
    let machine = Machine::new();
    machine.ensure(&[GEMMA]).expect(0).json();
    let stopped = lock_file(&machine, "foreground");
    fs2::FileExt::try_lock_shared(&stopped).expect("a lock like that of a foreground call");
    machine.ensure(&[LLAMA, "--background"]).expect(0).json();
    assert_eq!(machine.loads(LLAMA), 1);
}
