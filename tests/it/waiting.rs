//! Waiting for a load that another process carries out.

use serde_json::{Value, json};

use crate::callers::{LEADERS_REQUESTS, all_models, most_requests};
use crate::support::{LLAMA, Machine, QWEN, TOKEN, until};

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
    let report = machine.ensure(&args).expect(75).says(&format!("pid {}, busy with `{LLAMA}`", leader.pid())).json();
    assert_eq!((&report["proceed"], &report["models"][0]["category"]), (&json!(true), &json!("lock-timeout")));
    let closed = machine.ensure(&[&args[..], &["--fail-mode", "closed"]].concat()).expect(75).json();
    assert_eq!(closed["proceed"], false);
    let open = machine.ensure(&[&args[..], &["--fail-mode", "open"]].concat()).expect(0).says("warning:").json();
    assert_eq!((&open["proceed"], &open["ok"]), (&json!(true), &json!(false)));
    machine.release();
    leader.end().expect(0);
}
