//! Many callers at once: one load for each key, few requests for each waiter, and one answer
//! for all.

use serde_json::{Value, json};

use crate::support::{GEMMA, LLAMA, Machine, QWEN, Running, until};

const KEYS: [&str; 5] = [QWEN, GEMMA, "gemma-3-4b-it", LLAMA, "text-embedding-nomic-embed-text-v1.5"];

/// What a leader that nobody disturbs asks for: a look before and one after it leads, and one
/// after the load. A look is two requests.
const LEADERS_REQUESTS: usize = 6;

/// The most requests of waiters: a look before and one after the wait, and one each 5 s of it.
fn most_requests<'a>(waiters: impl IntoIterator<Item = &'a Value>) -> usize {
    let seconds = |waiter: &Value| waiter["elapsedMs"].as_u64().expect("a number") / 1000;
    waiters.into_iter().map(|waiter| 4 + 2 * usize::try_from(seconds(waiter) / 5).expect("not that long")).sum()
}

fn all_models(callers: Vec<Running>, code: i32) -> Vec<Value> {
    callers.into_iter().map(|it| it.end().expect(code).model()).collect()
}

/// Waits until so many callers have looked once.
fn all_have_looked(machine: &Machine, callers: usize) {
    until("everybody's first look", || machine.requests().len() >= 2 * callers);
}

#[test]
fn two_hundred_cold_callers_make_one_load_and_look_twice_each() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let callers = machine.start_many(200, &[QWEN]);
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
    let token = "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt";
    let machine = Machine::with(json!({ "token": token, "holdLoads": true, "loadMs": 2000 }));
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
fn a_hundred_callers_over_five_keys_make_five_loads() {
    let machine = Machine::new();
    let callers: Vec<Running> = (0..100).map(|number| machine.start(&[KEYS[number % KEYS.len()]])).collect();
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
    let callers = machine.start_many(100, &[LLAMA]);
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

/// Makes what is remembered on this machine older, as if time had passed.
fn age_memory(machine: &Machine, by_ms: u64) {
    fn age(value: &mut Value, by_ms: u64) {
        match value {
            Value::Object(members) => {
                if let Some(at) = members.get("atMs").and_then(Value::as_u64) {
                    members.insert("atMs".to_owned(), (at - by_ms).into());
                }
                members.values_mut().for_each(|it| age(it, by_ms));
            }
            Value::Array(items) => items.iter_mut().for_each(|it| age(it, by_ms)),
            _ => {}
        }
    }
    let place = format!(".cache/lmswarm/http-localhost-{}.json", machine.rest_port);
    let mut facts: Value =
        serde_json::from_slice(&std::fs::read(machine.path(&place)).expect("a memory")).expect("JSON");
    age(&mut facts, by_ms);
    machine.write(&place, &facts.to_string());
}

#[test]
fn a_load_that_fails_is_tried_once_by_the_whole_herd_and_once_more_after_the_cooldown() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    machine.faults(json!([{ "on": "load", "kind": "crash", "percent": 60 }]));
    let callers = machine.start_many(50, &[LLAMA]);
    all_have_looked(&machine, 50);
    machine.release();
    let models = all_models(callers, 5);
    let (tried, told): (Vec<&Value>, Vec<&Value>) = models.iter().partition(|it| it["replayed"] == false);
    assert_eq!((tried.len(), told.len(), machine.loads(LLAMA)), (1, 49, 1));
    for model in told {
        assert_eq!((&model["category"], &model["reason"]), (&json!("load-failed"), &tried[0]["reason"]));
        assert!(model["ageMs"].as_u64().unwrap() < 60_000, "{model}");
    }
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
