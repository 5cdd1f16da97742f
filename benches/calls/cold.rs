//! Calls that load, and those that wait for them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{LLAMA, Machine, Running, until};
use crate::table::print_line;
use crate::warm;

const WAITERS: usize = 100;

/// What a cold call takes beyond the `lms load` that it runs, each paired with a load by hand.
pub(crate) fn overhead(rounds: usize) {
    let machine = Machine::with(json!({ "loadMs": 100 }));
    let load = ["load", LLAMA, "-y", "--identifier", LLAMA, "--local"];
    let mut times = Vec::new();
    for _ in 0..rounds {
        let by_hand = timed(|| drop(crate::support::run(&mut warm::lms(&machine, &load)).expect(0)));
        machine.control("evict", json!({ "identifier": LLAMA }));
        let gated = timed(|| drop(machine.run(&["ensure", LLAMA, "--no-progress"]).expect(0)));
        machine.control("evict", json!({ "identifier": LLAMA }));
        times.push(gated.saturating_sub(by_hand));
    }
    let calls = machine.lms_calls();
    assert!(calls.iter().all(|it| it.starts_with("load ")), "other `lms` processes: {calls:?}");
    println!();
    print_line("cold `ensure` beyond its `lms load`", &times, "50 ms");
}

/// How long after the end of the load the last of many waiters is gone.
pub(crate) fn herd(rounds: usize) {
    let mut times = Vec::new();
    let mut requests = Vec::new();
    for _ in 0..rounds {
        let machine = Machine::with(json!({ "holdLoads": true }));
        let callers = machine.start_many(WAITERS + 1, &[LLAMA]);
        // Each has looked once, and one of them loads.
        until("everybody looked", || machine.requests().len() >= 2 * (WAITERS + 1));
        machine.release();
        for caller in callers {
            let _ = caller.end().expect(0);
        }
        let ready = machine.events("load-ready");
        let ready = ready[0]["atMs"].as_u64().expect("a time");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        times.push(now.saturating_sub(Duration::from_millis(ready)));
        requests.push(machine.requests().len());
    }
    print_line(&format!("{WAITERS} waiters gone after the load"), &times, "500 ms");
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let most = requests.iter().max().map_or(0.0, |most| *most as f64 / (WAITERS + 1) as f64);
    println!("requests for each of them: {most:.1} at most (budget 4, and 2 more for each 5 s of waiting)");
}

/// How long after the death of a leader a waiter leads.
pub(crate) fn takeover(rounds: usize) {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let machine = Machine::with(json!({ "holdLoads": true }));
        let leader = machine.start(&[LLAMA]);
        machine.wait_for_event("load-begin");
        let waiter = machine.start(&[LLAMA]);
        until("the waiter looked", || machine.requests().len() >= 6);
        let leads = |caller: &Running| lock_words(&machine).contains(&format!("\"pid\":{},", caller.pid()));
        assert!(leads(&leader), "it loads and does not lead");
        times.push(timed(|| {
            leader.signal(Signal::KILL);
            until("the waiter leads", || leads(&waiter));
        }));
        machine.release();
        let _ = waiter.end().expect(0);
    }
    print_line("a waiter leads after the leader was killed", &times, "200 ms");
}

fn lock_words(machine: &Machine) -> String {
    let files = std::fs::read_dir(machine.path(".cache/lmswarm")).expect("a state directory");
    let lock = files.flatten().find(|it| it.path().extension().is_some_and(|it| it == "lock")).expect("a lock file");
    std::fs::read_to_string(lock.path()).unwrap_or_default()
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}
