//! Ways to a wrong answer that were found once, each as a plain test.

use serde_json::{Value, json};

use crate::support::{GEMMA, LLAMA, Machine, run, until};

const TOKEN: &str = "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt";

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
    let machines = machines_that_cannot_tell();
    let calls = machines.each_ref().map(|machine| {
        machine.faults(json!([{ "on": "load", "kind": "hang" }, { "on": "lms load", "kind": "ignore-sigint" }]));
        machine.start(&[LLAMA, "--load-timeout-ms", "400"])
    });
    for call in calls {
        assert_eq!(call.end().expect(5).model()["category"], "load-timeout");
    }
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
        let waiter = machine.start(&[LLAMA]);
        machine.release();
        (leader, waiter)
    });
    for (leader, waiter) in calls {
        assert_eq!(waiter.end().expect(0).model()["action"], "waited");
        leader.signal(Signal::CONT);
        leader.end().expect(0).json();
    }
}

#[cfg(unix)]
#[test]
fn a_warm_call_needs_no_state_directory_even_where_no_list_tells() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::with(json!({ "v0": false }));
    machine.preload(LLAMA);
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
    assert!(!machine.path(".cache").exists(), "a warm call writes nothing");
    let state = machine.path(".cache/lmswarm");
    std::fs::create_dir_all(&state).unwrap();
    machine.ensure(&[LLAMA]).expect(0).json();
    assert_eq!(state.read_dir().unwrap().count(), 0, "a warm call writes nothing");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
    machine.ensure(&[GEMMA]).expect(78).says("is writable by others");
}

#[test]
fn callers_without_a_common_lock_agree_though_a_load_is_listed_late() {
    let machine = Machine::with(json!({ "listLoadingAfterMs": 200, "loadMs": 600 }));
    let callers: Vec<_> = (0..4)
        .map(|number| machine.start(&[LLAMA, "--state-dir", machine.path(&format!("s{number}")).to_str().unwrap()]))
        .collect();
    for caller in callers {
        caller.end().expect(0).json();
    }
    assert_eq!(machine.resident(), [LLAMA]);
}

#[cfg(unix)]
#[test]
fn a_leader_killed_before_its_load_is_listed_leaves_it_to_the_next() {
    let machine = Machine::with(json!({ "listLoadingAfterMs": 200, "loadMs": 600 }));
    for round in 1..=4 {
        let leader = machine.start(&[LLAMA]);
        machine.wait_for("a load", |record| record.iter().filter(|it| it["event"] == "load-begin").count() >= round);
        let waiters = machine.start_many(3, &[LLAMA]);
        leader.signal(rustix::process::Signal::KILL);
        for waiter in waiters {
            waiter.end().expect(0).json();
        }
        assert_eq!(machine.resident(), [LLAMA]);
        machine.control("evict", json!({ "identifier": LLAMA }));
    }
    assert_eq!(machine.events("load-ready").len(), 4);
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
        assert_eq!(caller.end().expect(5).model()["category"], "load-failed");
    }
    assert_eq!(machine.loads(LLAMA), 1);
}

#[test]
fn somebody_elses_copy_is_not_taken_for_our_own() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "empty" }]));
    let caller = machine.start(&[LLAMA]);
    machine.wait_for_event("lms-exit");
    // Our load said it worked and brought nothing; while that is checked, another client
    // loads a copy and uses it.
    let copy = format!("{LLAMA}:2");
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    machine.control("busy", json!({ "identifier": copy, "busy": true }));
    assert_eq!(caller.end().expect(5).model()["category"], "not-addressable");
    assert_eq!(machine.resident(), [copy]);
}

#[test]
fn a_model_that_is_loading_never_makes_room() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let first = machine.start(&[GEMMA, "--state-dir", machine.path("other").to_str().unwrap()]);
    machine.wait_for_event("load-begin");
    let run = machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "4000"]).expect(5);
    assert_eq!(run.says("does not fit into ramBudgetMB").model()["category"], "load-refused");
    machine.release();
    first.end().expect(0).json();
    assert_eq!((machine.events("unload").len(), machine.events("load-cancelled").len()), (0, 0));
}

#[test]
fn a_model_that_may_be_loading_never_makes_room() {
    let machine = Machine::with(json!({ "v0": false, "holdLoads": true }));
    let first = machine.start(&[GEMMA, "--state-dir", machine.path("other").to_str().unwrap()]);
    machine.wait_for_event("load-begin");
    let run = machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "4000"]).expect(5);
    assert_eq!(run.says("does not fit into ramBudgetMB").model()["category"], "load-refused");
    machine.release();
    first.end().expect(0).json();
    assert_eq!((machine.events("unload").len(), machine.events("load-cancelled").len()), (0, 0));
}

#[test]
fn nothing_is_unloaded_in_vain() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.ensure(&[GEMMA, "--evict-on-pressure", "--ram-budget-mb", "2000"]).expect(5).says("does not fit").json();
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn nothing_is_unloaded_for_a_model_larger_than_the_machine() {
    let machine = Machine::with(json!({ "ramBytes": 64_000_000_000_u64 }));
    let models = json!([{ "modelKey": LLAMA }, { "modelKey": "acme/giant", "sizeBytes": 9_000_000_000_000_000_u64 }]);
    machine.write(".lmstudio/.simulator/models.json", &models.to_string());
    machine.preload(LLAMA);
    let run = machine.ensure(&["acme/giant", "--evict-on-pressure"]).expect(5).says("insufficient system resources");
    assert_eq!(run.model()["category"], "load-refused");
    assert_eq!(machine.events("load-refused").len(), 1, "LM Studio has the last word");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn a_model_lost_while_another_is_loaded_again_is_said_to_be_gone() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let caller = machine.start(&[LLAMA, GEMMA]);
    // There is room for one: each load costs the other model its place.
    for (loads, lost) in [(1, None), (2, Some(LLAMA)), (3, Some(GEMMA))] {
        machine.wait_for("a load", |record| record.iter().filter(|it| it["event"] == "load-begin").count() == loads);
        if let Some(lost) = lost {
            machine.control("evict", json!({ "identifier": lost }));
        }
        machine.release();
    }
    let report = caller.end().expect(5).says("is gone again").json();
    assert_eq!((&report["models"][0]["addressable"], &report["ok"]), (&json!(true), &json!(false)));
    assert_eq!(report["models"][1]["category"], "not-addressable");
    assert_eq!(machine.resident(), [LLAMA]);
}

#[test]
fn too_little_context_by_somebody_elses_load_is_told() {
    let calls = ["reload", "fail"].map(|on_mismatch| {
        let machine = Machine::new();
        machine.faults(json!([{ "on": "lms load", "kind": "slow", "ms": 3000, "times": 1 }]));
        let caller = machine.start(&[LLAMA, "--context-length", "8192", "--on-mismatch", on_mismatch]);
        // It is about to load; somebody at the window is faster.
        machine.wait_for_event("fault");
        machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
        (machine, caller)
    });
    let [reloaded, failed] = calls.map(|(machine, caller)| {
        let run = caller.end();
        assert_eq!(machine.events("load-refused").len(), 1);
        run.says("a context of 2048 tokens")
    });
    assert_eq!(reloaded.expect(0).says("not 8192: another client loaded it so").model()["action"], "waited");
    assert_eq!(failed.expect(6).model()["category"], "drift");
}

#[test]
fn a_reload_that_was_refused_does_not_block_what_is_resident() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    machine.faults(json!([{ "on": "load", "kind": "refuse", "times": 1 }]));
    let args = [LLAMA, "--context-length", "8192"];
    machine.ensure(&args).expect(5).says("insufficient system resources");
    assert_eq!(machine.ensure(&args).expect(5).model()["replayed"], true);
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    for busy in [true, false] {
        machine.control("busy", json!({ "identifier": LLAMA, "busy": busy }));
        let run =
            machine.ensure(&args).expect(0).says("a context of 2048 tokens, not 8192: it is not reloaded, as that");
        assert_eq!(run.model()["action"], "none");
    }
    assert_eq!(machine.events("unload").len(), 1, "by the first call");
    assert_eq!(machine.ensure(&[&args[..], &["--fresh"]].concat()).expect(0).model()["action"], "reloaded");
}

#[test]
fn a_verdict_on_disk_does_not_outlive_an_eviction() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    machine.preload(LLAMA);
    machine.control("used", json!({ "identifier": LLAMA, "lastUsedTime": 1 }));
    machine.ensure(&[LLAMA]).expect(0).json();
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "cache");
    machine.ensure(&[GEMMA, "--evict-on-pressure", "--ram-budget-mb", "8500"]).expect(0).json();
    assert_eq!(machine.resident(), [GEMMA]);
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded");
}

#[test]
fn a_copy_that_gets_to_work_while_another_is_unloaded_is_left_alone() {
    let machine = Machine::new();
    let copies = [format!("{LLAMA}:2"), format!("{LLAMA}:3")];
    for copy in &copies {
        machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    }
    machine.faults(json!([{ "on": "lms unload", "kind": "slow", "ms": 700 }]));
    let caller = machine.start(&[LLAMA]);
    until("the first is being unloaded", || machine.lms_calls().iter().any(|it| it.starts_with("unload")));
    machine.control("busy", json!({ "identifier": copies[1], "busy": true }));
    caller.end().expect(6).says("is busy").json();
    assert_eq!(machine.resident(), [copies[1].clone()]);
}

#[test]
fn a_running_server_is_not_moved_because_it_is_slow_to_greet() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "GET /lmstudio-greeting", "kind": "slow", "ms": 900 }]));
    let url = format!("http://127.0.0.1:{}/v1", crate::support::free_port());
    machine.ensure(&[LLAMA, "--base-url", &url]).expect(3).says("runs on port").json();
    machine.faults(json!([{ "on": "GET /lmstudio-greeting", "kind": "hang" }]));
    machine.ensure(&[LLAMA, "--base-url", &url, "--probe-timeout-ms", "300"]).expect(75).json();
    assert_eq!(machine.events("rest-stop").len(), 0);
}

#[test]
fn an_instance_with_an_impossible_name_is_passed_over() {
    let machine = Machine::new();
    let evil = "evil\u{1b}]0;owned\u{7}";
    machine.control("load", json!({ "key": GEMMA, "identifier": evil }));
    machine.control("used", json!({ "identifier": evil, "lastUsedTime": 1 }));
    machine.preload("gemma-3-4b-it");
    machine.control("used", json!({ "identifier": "gemma-3-4b-it", "lastUsedTime": 2 }));
    let run = machine.ensure(&[LLAMA, "--evict-on-pressure", "--ram-budget-mb", "10000"]).expect(0);
    assert!(!run.stderr.contains('\u{1b}') && !run.stdout.contains('\u{1b}'), "{run:?}");
    assert!(machine.resident().contains(&evil.to_owned()));
    assert!(!machine.resident().contains(&"gemma-3-4b-it".to_owned()));
}

#[test]
fn drift_is_measured_against_the_models_maximum_on_an_older_server_too() {
    for config in [json!({ "restVersion": "v0" }), json!({ "token": TOKEN })] {
        let machine = Machine::with(config);
        machine.control("load", json!({ "key": LLAMA, "contextLength": 131_072 }));
        machine.control("used", json!({ "identifier": LLAMA, "lastUsedTime": 1 }));
        let model = machine.ensure(&[LLAMA, "--context-length", "999999"]).expect(0).model();
        assert_eq!(model["action"], "none");
    }
}

#[test]
fn callers_that_ask_for_different_contexts_do_not_reload_in_turn() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "less-context", "contextLength": 2048 }]));
    for context in ["8192", "16384", "8192", "16384", "8192"] {
        machine.ensure(&[LLAMA, "--context-length", context]).expect(0).json();
    }
    assert_eq!(machine.loads(LLAMA), 2, "once for each larger wish");
}

#[test]
fn nothing_is_unloaded_before_it_is_certain_that_it_can_be_loaded() {
    let machine = Machine::with(json!({ "restVersion": "v0" }));
    machine.control("load", json!({ "key": LLAMA, "contextLength": 2048 }));
    machine.faults(json!([{ "on": "lms ls", "kind": "fail" }]));
    machine.ensure(&[LLAMA, "--context-length", "8192"]).expect(75).json();
    assert_eq!(machine.resident(), [LLAMA]);
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
        assert_eq!(code, if path == "/nowhere/lms" { 5 } else { 0 });
    }
}

#[test]
fn a_failure_is_not_replayed_while_somebody_loads_the_model() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "load", "kind": "crash", "times": 1 }]));
    machine.ensure(&[LLAMA]).expect(5).json();
    machine.configure(json!({ "holdLoads": true }));
    let other = machine.start(&[LLAMA, "--state-dir", machine.path("other").to_str().unwrap()]);
    machine.wait_for("a second load", |record| record.iter().filter(|it| it["event"] == "load-begin").count() == 2);
    let caller = machine.start(&[LLAMA]);
    machine.release();
    caller.end().expect(0).json();
    other.end().expect(0).json();
}

#[test]
fn a_misnamed_load_that_cannot_be_undone_is_said_so() {
    let machine = Machine::new();
    let faults =
        json!([{ "on": "load", "kind": "other-id", "identifier": "odd" }, { "on": "lms unload", "kind": "ghost" }]);
    machine.faults(faults);
    machine.ensure(&[LLAMA]).expect(5).says("unload it by hand (`lms unload odd`)").json();
    assert_eq!(machine.resident(), ["odd"]);
}

#[test]
fn only_one_of_two_ports_gets_the_server() {
    let machine = Machine::with_server_off();
    let urls = [machine.base_url(), format!("http://127.0.0.1:{}", crate::support::free_port())];
    let callers: Vec<_> = urls.iter().map(|url| machine.start(&[LLAMA, "--base-url", url])).collect();
    let mut codes: Vec<i32> = callers.into_iter().map(|it| it.end().code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 3]);
    assert_eq!(machine.events("rest-start").len(), 1);
}

#[test]
fn no_server_is_started_on_a_proxys_port_or_an_ipv6_address() {
    let machine = Machine::with_server_off();
    let port = machine.rest_port;
    let proxy = format!("http://127.0.0.1:{port}/lm/v1");
    machine.ensure(&[LLAMA, "--base-url", &proxy]).expect(3).says("start the proxy").json();
    let ipv6 = format!("http://[::1]:{port}");
    machine.ensure(&[LLAMA, "--base-url", &ipv6]).expect(3).says("write 127.0.0.1").json();
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_path_too_many_in_the_base_url_is_pointed_out() {
    let machine = Machine::new();
    let url = format!("http://127.0.0.1:{}/api/v1", machine.rest_port);
    machine.ensure(&[LLAMA, "--base-url", &url]).expect(3).says("drop the rest of the path").json();
}

#[test]
fn a_401_of_another_program_is_not_lm_studios() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let port = crate::server::stranger(b"HTTP/1.0 401 No\r\nServer: Jenkins\r\nContent-Length: 2\r\n\r\nno");
    let run = machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(3);
    assert_eq!(run.says("Jenkins").model()["category"], "not-lm-studio");
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_download_over_rest_ends_when_the_server_does() {
    let machine = Machine::with(json!({ "catalogue": [{ "modelKey": "acme/new-model" }], "downloadMs": 60_000 }));
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    let caller = machine.start(&["acme/new-model", "--download"]);
    machine.wait_for_event("download");
    machine.crash();
    assert_eq!(caller.end().expect(4).says("the server stopped answering").model()["category"], "download-failed");
}

#[test]
fn a_key_that_is_not_downloaded_needs_no_turn() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    machine.ensure(&["nowhere"]).expect(4).json();
    machine.release();
    leader.end().expect(0).json();
}

#[test]
fn a_number_in_verify_cache_ms_counts_for_rest_too() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let args = [LLAMA, "--verify-cache-ms", "60000"];
    assert_eq!(machine.ensure(&args).expect(0).model()["source"], "rest-v1");
    let before = machine.requests().len();
    assert_eq!(machine.ensure(&args).expect(0).model()["source"], "cache");
    assert_eq!(machine.requests().len(), before);
    assert_eq!(machine.ensure(&[&args[..], &["--fresh"]].concat()).expect(0).model()["source"], "rest-v1");
    let drift = [&args[..], &["--context-length", "8192"]].concat();
    assert_eq!(machine.ensure(&drift).expect(0).model()["action"], "reloaded");
}

#[test]
fn what_cannot_be_a_token_is_said_so_and_not_shown() {
    let machine = Machine::new();
    let mut command = machine.command(&["ensure", "--json", LLAMA]);
    let run = run(command.env("LM_API_TOKEN", "secret\nX-Evil: 1")).expect(78).says("LM_API_TOKEN");
    assert!(!format!("{run:?}").contains("secret"));
}

#[test]
fn a_misspelt_variable_is_a_warning() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let mut command = machine.command(&["ensure", LLAMA]);
    run(command.env("LMSWARM_FAIL_MOD", "open")).expect(0).says("did you mean `LMSWARM_FAIL_MODE`?");
}

#[test]
fn a_value_that_was_meant_for_a_flag_is_pointed_out() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.ensure(&[LLAMA, "--evict-on-pressure", "false"]).expect(4).says("--evict-on-pressure=false").json();
}

#[cfg(unix)]
mod signals {
    use rustix::process::Signal;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_signal_during_a_first_look_that_takes_long_is_reported() {
        let machine = Machine::new();
        machine.faults(json!([{ "on": "rest", "kind": "hang" }]));
        let caller = machine.start(&[LLAMA]);
        until("it listens for signals", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
        });
        caller.signal(Signal::INT);
        assert_eq!(caller.end().expect(130).model()["category"], "interrupted");
    }

    #[test]
    fn a_second_signal_ends_at_once() {
        let machine = Machine::with(json!({ "holdLoads": true }));
        machine.faults(json!([{ "on": "lms load", "kind": "ignore-sigint" }]));
        let caller = machine.start(&[LLAMA]);
        machine.wait_for_event("load-begin");
        let started = std::time::Instant::now();
        // Two of a kind, sent in a row, could arrive as one.
        caller.signal(Signal::INT);
        caller.signal(Signal::TERM);
        assert_eq!(caller.end().expect(130).model()["category"], "interrupted");
        // After one signal, a deaf child has five seconds.
        assert!(started.elapsed() < std::time::Duration::from_secs(4), "{:?}", started.elapsed());
    }

    #[test]
    fn a_command_that_ends_while_its_model_is_loaded_again_cancels_the_load() {
        let machine = Machine::new();
        let script = ": > ready; until [ -e stop ]; do /bin/sleep 0.05; done; exit 5";
        let args = ["run", "--keep-warm", "1s", LLAMA, "--", "/bin/sh", "-c", script];
        let running = crate::support::Running::start(machine.command(&args).current_dir(machine.home()));
        until("the command runs", || machine.path("ready").exists());
        machine.configure(json!({ "holdLoads": true }));
        machine.control("evict", json!({ "identifier": LLAMA }));
        let loads = |record: &[Value]| record.iter().filter(|it| it["event"] == "load-begin").count();
        machine.wait_for("the second load", |record| loads(record) == 2);
        let waiter = machine.start(&[LLAMA]);
        machine.write("stop", "");
        running.end().expect(5);
        assert_eq!(machine.events("load-cancelled").len(), 1);
        machine.wait_for("the waiter's load", |record| loads(record) == 3);
        machine.release();
        assert_eq!(waiter.end().expect(0).model()["action"], "loaded");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_signal_that_is_ignored_stays_ignored() {
        let machine = Machine::with(json!({ "holdLoads": true }));
        let line = format!("trap '' HUP; exec {} ensure --json {LLAMA}", env!("CARGO_BIN_EXE_lmswarm"));
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &line]).env_clear().envs(machine.environment());
        let caller = crate::support::Running::start(&mut command);
        machine.wait_for_event("load-begin");
        caller.signal(Signal::HUP);
        machine.release();
        caller.end().expect(0).json();
    }
}

#[cfg(unix)]
#[test]
fn a_project_cannot_put_the_environment_into_an_address() {
    let machine = Machine::new();
    let folder = machine.path("work");
    std::fs::create_dir(&folder).unwrap();
    let call = |url: &str| {
        let provider: Value = json!({ "provider": { "lmstudio": { "options": { "baseURL": url } } } });
        machine.write("work/opencode.json", &provider.to_string());
        let mut command = machine.command(&["ensure", "--json", LLAMA]);
        run(command.env_remove("LMSWARM_BASE_URL").env("LM_API_TOKEN", "hush-hush").current_dir(&folder))
    };
    machine.write(".secret", "hush-hush");
    for reference in ["{env:LM_API_TOKEN}", "${LM_API_TOKEN}", "{file:~/.secret}"] {
        let failed = call(&format!("http://llm.invalid/{reference}/v1")).expect(78).says("only this project names");
        assert!(!format!("{failed:?}").contains("hush"), "{failed:?}");
    }
    let failed = call("http://llm.invalid:1234/v1").expect(3);
    assert!(!format!("{failed:?}").contains("hush"), "{failed:?}");
    call("{file:/dev/zero}").expect(78).says("no regular file").json();
    std::fs::remove_file(machine.path("work/opencode.json")).unwrap();
    let fifo = machine.path("work/opencode.json");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut command = machine.command(&["ensure", "--json", LLAMA]);
    run(command.env_remove("LMSWARM_BASE_URL").current_dir(&folder)).expect(78).says("no regular file").json();
}
