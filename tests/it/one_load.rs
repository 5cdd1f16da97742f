//! However many callers ask at once, a model is loaded once.

use serde_json::{Value, json};

use crate::callers::{LEADERS_REQUESTS, PATIENT, all_have_looked, all_models, most_requests};
use crate::support::{GEMMA, LLAMA, Machine, QWEN, Running, until};

const KEYS: [&str; 5] = [QWEN, GEMMA, "gemma-3-4b-it", LLAMA, "text-embedding-nomic-embed-text-v1.5"];

#[test]
fn two_hundred_cold_callers_make_one_load_and_look_twice_each() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let callers = machine.start_many(200, &[&[QWEN], &PATIENT[..]].concat());
    all_have_looked(&machine, 200);
    machine.release();
    let models = all_models(callers, 0);
    let (leaders, waiters): (Vec<&Value>, Vec<&Value>) = models.iter().partition(|it| it["action"] == "loaded");
    assert_eq!((leaders.len(), machine.loads(QWEN), machine.lms_calls().len()), (1, 1, 1));
    assert!(waiters.iter().all(|it| it["action"] == "waited" || it["action"] == "none"), "{waiters:#?}");
    assert_eq!(machine.resident(), [QWEN]);
    let requests = machine.requests().len();
    // A look is taken again when its two lists disagree, or one does not come in time.
    let asked_again = 10 * 2;
    assert!(requests <= LEADERS_REQUESTS + most_requests(waiters) + asked_again, "{requests} requests");
}

#[test]
fn a_hundred_callers_over_five_keys_make_five_loads() {
    let machine = Machine::new();
    let callers: Vec<Running> =
        (0..100).map(|number| machine.start(&[&[KEYS[number % KEYS.len()]], &PATIENT[..]].concat())).collect();
    let models = all_models(callers, 0);
    assert_eq!(models.iter().filter(|it| it["action"] == "loaded").count(), KEYS.len());
    assert_eq!(KEYS.map(|key| machine.loads(key)), [1; 5]);
    assert_eq!(machine.lms_calls().len(), KEYS.len());
    assert_eq!(machine.resident().len(), KEYS.len());
}

#[cfg(unix)]
#[test]
fn half_of_a_hundred_callers_are_killed_and_the_rest_share_one_load() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let callers = machine.start_many(100, &[&[LLAMA], &PATIENT[..]].concat());
    all_have_looked(&machine, 100);
    machine.wait_for_event("load-begin");
    let leader = machine.events("lms")[0]["ppid"].clone();
    let (mut killed, mut spared): (Vec<Running>, Vec<Running>) = callers.into_iter().partition(|it| leader == it.pid());
    killed.extend(spared.split_off(50));
    for caller in &killed {
        caller.signal(rustix::process::Signal::KILL);
    }
    for caller in killed {
        assert_eq!(caller.end().code, 137);
    }
    machine.release();
    for model in all_models(spared, 0) {
        assert!(["waited", "none"].contains(&model["action"].as_str().unwrap()), "{model}");
    }
    assert_eq!((machine.loads(LLAMA), machine.lms_calls().len()), (1, 1));
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn two_users_that_share_no_lock_share_the_instance() {
    let machine = Machine::new();
    let folders = ["one", "two"].map(|name| machine.path(name));
    let callers: Vec<Running> =
        (0..20).map(|number| machine.start(&[LLAMA, "--state-dir", folders[number % 2].to_str().unwrap()])).collect();
    for model in all_models(callers, 0) {
        assert_eq!(model["instance"]["identifier"], LLAMA);
    }
    assert_eq!((machine.resident(), machine.loads(LLAMA)), (vec![LLAMA.to_owned()], 1));
}

#[test]
fn callers_without_a_common_lock_agree_though_a_load_is_listed_late() {
    let machine = Machine::with(json!({ "listLoadingAfterMs": 200, "holdLoads": true }));
    machine.faults(json!([{ "on": "lms load", "kind": "hold" }]));
    let callers: Vec<_> = (0..4)
        .map(|number| machine.start(&[LLAMA, "--state-dir", machine.path(&format!("s{number}")).to_str().unwrap()]))
        .collect();
    // All of them have seen nothing and are about to load.
    until("four loads", || machine.events("fault").len() == callers.len());
    machine.unhold();
    until("three refusals", || machine.events("load-refused").len() == callers.len() - 1);
    machine.release();
    for caller in callers {
        caller.end().expect(0).json();
    }
    assert_eq!((machine.resident(), machine.loads(LLAMA)), (vec![LLAMA.to_owned()], 1));
}
