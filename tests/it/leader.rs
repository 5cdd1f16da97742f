//! A leader that is killed, is stopped, or does not say what it does, and the waiters behind it.

use serde_json::json;

use crate::support::{LLAMA, Machine, until};

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
