//! Waiting for a load that another process carries out.

use serde_json::{Value, json};

use crate::callers::{LEADERS_REQUESTS, all_models, most_requests};
use crate::support::{GEMMA, LLAMA, Machine, QWEN, TOKEN, until, with_growing_limit};

#[test]
fn a_load_somebody_else_began_is_waited_for() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let mut lms = std::process::Command::new(machine.path("bin/lms"))
        .args(["load", LLAMA, "-y"])
        .env("HOME", machine.home())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    machine.wait_for_event("load-begin");
    let caller = machine.start(&[LLAMA]);
    // Two looks of a poll: the caller has seen the load under way.
    machine.wait_for("the caller looks", |record| record.iter().filter(|it| it["event"] == "request").count() >= 6);
    machine.release();
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert!(lms.wait().unwrap().success());
    assert_eq!(machine.loads(LLAMA), 1);
}

#[test]
fn a_server_that_is_unclear_for_a_moment_does_not_end_the_wait_for_a_load() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    machine.control("load", json!({ "key": LLAMA, "takesTime": true }));
    machine.wait_until_held();
    let caller = machine.start(&[LLAMA]);
    // Its first look and one of the leader's: it waits for the load.
    machine.wait_for_requests(0, 6);
    // More often than one look asks.
    let times = 7;
    let lists = ["GET /api/v1/models", "GET /api/v0/models"];
    machine.faults(json!(lists.map(|on| json!({ "on": on, "kind": "garbage", "times": times }))));
    until("a look that shows nothing", || machine.events("fault").len() == 2 * times);
    machine.release();
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn a_waiter_looks_once_before_and_once_after_its_wait() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    let before = machine.requests().len();
    let waiter = machine.start(&[LLAMA]);
    until("its first look", || machine.requests().len() >= before + 2);
    machine.release();
    let waiter = waiter.end().expect(0).model();
    leader.end().expect(0);
    assert_eq!(waiter["action"], "waited");
    assert!(machine.requests().len() <= LEADERS_REQUESTS + most_requests([&waiter]));
}

#[test]
fn waiters_that_only_lms_can_tell_share_the_leaders_word() {
    let machine = Machine::with(json!({ "token": TOKEN, "holdLoads": true }));
    let callers = machine.start_many(20, &[LLAMA]);
    let lists = || machine.events("lms-exit").iter().filter(|it| it["argv"] == json!(["ps", "--json"])).count();
    // One for each first look, and one for the leader's second.
    until("everybody's first list", || lists() >= 21);
    machine.release();
    let models = all_models(callers, 0);
    let (leaders, waiters): (Vec<&Value>, Vec<&Value>) = models.iter().partition(|it| it["action"] == "loaded");
    assert_eq!((leaders.len(), machine.loads(LLAMA)), (1, 1));
    let while_waiting = (most_requests(waiters.iter().copied()) - 4 * waiters.len()) / 2;
    // The leader looks once more after its load.
    assert!(lists() <= 22 + while_waiting, "{} lists", lists());
}

#[test]
fn a_waiter_whose_time_is_over_says_whom_it_waited_for() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    let args = [QWEN, "--lock-wait-timeout-ms", "100"];
    let whom = format!("pid {}, loading `{LLAMA}`", leader.pid());
    let report = machine.ensure(&args).expect(75).says(&whom).json();
    assert_eq!((&report["proceed"], &report["models"][0]["category"]), (&json!(true), &json!("lock-timeout")));
    with_growing_limit(|ms| {
        let late = machine.ensure(&[QWEN, "--timeout", &format!("{ms}ms")]).expect(75);
        assert_eq!(late.model()["category"], "deadline");
        late.stderr.contains(&format!("it was waiting for {whom}"))
    });
    let closed = machine.ensure(&[&args[..], &["--fail-mode", "closed"]].concat()).expect(75).json();
    assert_eq!(closed["proceed"], false);
    let open = machine.ensure(&[&args[..], &["--fail-mode", "open"]].concat()).expect(0).says("warning:").json();
    assert_eq!((&open["proceed"], &open["ok"]), (&json!(true), &json!(false)));
    machine.release();
    leader.end().expect(0);
}

#[test]
fn a_waiter_shows_what_the_leader_does_and_how_far_it_is() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    let shown = machine.path("shown");
    let mut command = machine.command(&["ensure", QWEN, "--progress-every", "100ms"]);
    command.stderr(std::fs::File::create(&shown).expect("a file")).stdout(std::process::Stdio::null());
    let mut waiter = command.spawn().expect("lmswarm starts");
    until("the percentage of the leader's load", || {
        let shown = std::fs::read_to_string(&shown).expect("what it shows");
        shown.contains(&format!("pid {}, loading `{LLAMA}`, 5", leader.pid())) && shown.contains(" %")
    });
    machine.release();
    leader.end().expect(0).json();
    until("the waiter leads and loads", || machine.loads(QWEN) == 1);
    machine.release();
    assert!(waiter.wait().expect("its end").success());
}

#[test]
fn a_call_that_a_person_waits_for_goes_before_one_in_the_background() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let first = machine.start(&[GEMMA]);
    machine.wait_for_event("load-begin");
    let background = machine.start(&[LLAMA, "--background"]);
    // The leader has looked twice, and each of the others looks once.
    until("the background call's look", || machine.requests().len() >= 6);
    let foreground = machine.start(&[QWEN]);
    until("the foreground call's look", || machine.requests().len() >= 8);
    for caller in [first, foreground, background] {
        machine.release();
        caller.end().expect(0).json();
    }
    let loads: Vec<Value> = machine.events("load-begin").iter().map(|it| it["key"].clone()).collect();
    assert_eq!(loads, [GEMMA, QWEN, LLAMA]);
}
