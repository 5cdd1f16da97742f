//! `ensure` on a real llama.cpp: what is loaded is counted by what its router logged.

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::json;

use crate::callers::all_models;
use crate::gguf::{ANSWER, Damage, TinyModel};
use crate::llama::Llama;
use crate::support::{Machine, TOKEN, run, until};

/// A model that may be called as a role is.
const MAIN: &[&str] = &["--key", "main"];

fn answers(llama: &Llama, model: &str) {
    let (status, answer) = llama.chat(model);
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!(ANSWER)), "{answer}");
}

#[test]
fn a_cold_model_is_loaded_once_and_then_answers() {
    let Some(llama) = Llama::router_with(&["main", "small"], &[]) else { return };
    let model = llama.machine.ensure(MAIN).expect(0).model();
    assert_eq!(
        (&model["action"], &model["backend"], &model["source"]),
        (&json!("loaded"), &json!("llama.cpp"), &json!("models"))
    );
    assert_eq!(model["instance"]["contextLength"], 4096);
    answers(&llama, "main");
    assert_eq!((llama.loads("main"), llama.loads("small")), (1, 0));
}

#[test]
fn a_warm_call_is_one_round_of_the_list_and_the_proof_once_the_program_is_known() {
    let Some(mut llama) = Llama::router_with(&["main"], &[]) else { return };
    llama.preload("main");
    let recorder = llama.record();
    for backend in [&[][..], &["--backend", "llama.cpp"]] {
        // The first call finds out which program it is, and remembers it.
        llama.machine.ensure(MAIN).expect(0);
        recorder.take();
        assert_eq!(llama.machine.ensure(&[MAIN, backend].concat()).expect(0).model()["action"], "none");
        let mut requests = recorder.take();
        requests.sort();
        assert_eq!(requests, ["GET /models", "GET /props?model=main&autoload=false"]);
    }
}

#[test]
fn fifty_callers_cause_one_load() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add_holdable("main", &TinyModel::default(), "");
    llama.start_router(&[]);
    let mut hold = llama.hold("main");
    let callers = llama.machine.start_many(50, MAIN);
    hold.reached();
    hold.release();
    let models = all_models(callers, 0);
    assert_eq!(models.iter().filter(|it| it["action"] == "loaded").count(), 1);
    assert_eq!(llama.loads("main"), 1);
}

#[test]
fn a_killed_leader_costs_no_second_load() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add_holdable("main", &TinyModel::default(), "");
    llama.start_router(&[]);
    let mut hold = llama.hold("main");
    let leader = llama.machine.start(MAIN);
    hold.reached();
    let waiters = llama.machine.start_many(3, MAIN);
    leader.signal(Signal::KILL);
    drop(leader.end());
    hold.release();
    for model in all_models(waiters, 0) {
        assert_ne!(model["action"], "loaded");
    }
    assert_eq!(llama.loads("main"), 1);
}

#[test]
fn a_load_whose_caller_is_stopped_goes_on() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add_holdable("main", &TinyModel::default(), "");
    llama.start_router(&[]);
    let mut hold = llama.hold("main");
    let caller = llama.machine.start(MAIN);
    hold.reached();
    caller.signal(Signal::INT);
    caller.end().expect(130).says("the load of `main` goes on in llama.cpp");
    hold.release();
    llama.wait_until("main", "loaded");
}

#[test]
fn a_model_whose_process_was_killed_is_loaded_again() {
    let Some(llama) = Llama::router_with(&["main"], &[]) else { return };
    llama.preload("main");
    llama.signal("main", Signal::KILL);
    llama.wait_until("main", "unloaded");
    assert_eq!(llama.machine.ensure(MAIN).expect(0).model()["action"], "loaded");
    answers(&llama, "main");
}

#[test]
fn a_process_that_is_listed_and_serves_nothing_is_not_taken_for_the_model() {
    let Some(llama) = Llama::router_with(&["main"], &[]) else { return };
    llama.preload("main");
    llama.signal("main", Signal::TERM);
    // Until it hears of it, it answers.
    until("the end of its answers", || llama.ask("GET", "/props?model=main&autoload=false", json!({})).0 == 500);
    let model = llama.machine.ensure(MAIN).expect(75).model();
    assert_eq!(model["category"], "unknown-state", "{model}");
    assert!(model["hint"].as_str().unwrap().contains("/models/unload`"), "{model}");
    assert!(model["reason"].as_str().unwrap().contains("`main` is listed as loaded, and does not answer"), "{model}");
    assert_eq!(llama.loads("main"), 1);
}

#[test]
fn one_that_is_being_unloaded_is_loaded_again() {
    let Some(llama) = Llama::router_with(&["main"], &[]) else { return };
    llama.preload("main");
    assert_eq!(llama.ask("POST", "/models/unload", json!({ "model": "main" })).0, 200);
    assert_eq!(llama.machine.ensure(MAIN).expect(0).model()["action"], "loaded");
    assert_eq!(llama.loads("main"), 2);
}

#[test]
fn two_models_for_one_place_are_a_conflict_and_no_dance() {
    let Some(llama) = Llama::router_with(&["main", "small"], &["--models-max", "1"]) else { return };
    let run = llama.machine.ensure(&["--key", "main", "--key", "small"]).expect(6);
    let report = run.json();
    assert_eq!(
        (&report["models"][0]["addressable"], &report["models"][1]["category"]),
        (&json!(true), &json!("conflict"))
    );
    // The router answers a client all the same.
    assert_eq!(report["proceed"], true);
    run.says("--models-max");
    assert_eq!((llama.loads("main"), llama.loads("small")), (1, 0));
    assert_eq!(llama.resident(), ["main"]);
}

#[test]
fn two_models_that_fit_are_both_loaded() {
    let Some(llama) = Llama::router_with(&["main", "small"], &["--models-max", "2"]) else { return };
    llama.machine.ensure(&["--key", "main", "--key", "small"]).expect(0);
    assert_eq!(llama.resident(), ["main", "small"]);
}

#[test]
fn a_busy_model_of_another_client_keeps_its_place() {
    let Some(mut llama) = Llama::new() else { return };
    let endless = TinyModel { endless: true, trained_context: 131_072, ..TinyModel::default() };
    llama.add("busy", &endless, "");
    llama.add("main", &TinyModel::default(), "");
    llama.start_router(&["--models-max", "1"]);
    llama.preload("busy");
    let client = llama.occupy("busy");
    let model = llama.machine.ensure(&["--key", "main", "--load-timeout-ms", "1000"]).expect(5).model();
    assert_eq!(model["category"], "load-refused");
    assert!(model["reason"].as_str().unwrap().contains("`busy`"), "{model}");
    assert_eq!((llama.resident(), llama.loads("main")), (vec!["busy".to_owned()], 0));
    drop(client);
    llama.machine.ensure(&["--key", "main", "--fresh"]).expect(0);
}

#[test]
fn a_wrong_name_is_not_loaded_and_the_nearest_is_named() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add("qwen3-coder", &TinyModel::default(), "alias = coder");
    llama.start_router(&[]);
    let model = llama.machine.ensure(&["qwen3-codr"]).expect(4).model();
    assert_eq!((&model["category"], &model["suggestions"][0]), (&json!("not-downloaded"), &json!("qwen3-coder")));
    assert_eq!(llama.machine.ensure(&["coder"]).expect(0).model()["instance"]["identifier"], "qwen3-coder");
    assert_eq!(llama.loads("qwen3-coder"), 1);
}

#[test]
fn a_model_that_is_new_on_the_disk_is_found_when_nothing_old_is_wanted() {
    let Some(mut llama) = Llama::router_with(&["main"], &[]) else { return };
    llama.add("new", &TinyModel::default(), "");
    llama.write_presets();
    llama.machine.ensure(&["new"]).expect(4).says("--fresh");
    llama.machine.ensure(&["new", "--fresh"]).expect(0);
}

#[test]
fn a_broken_file_fails_with_how_its_process_ended() {
    let Some(mut llama) = Llama::new() else { return };
    for (name, damage) in [("magic", Damage::Magic), ("cut", Damage::Truncated), ("tensor", Damage::MissingTensor)] {
        llama.add(name, &TinyModel { damage: Some(damage), ..TinyModel::default() }, "");
    }
    llama.start_router(&[]);
    for name in ["magic", "cut", "tensor"] {
        let run = llama.machine.ensure(&[name]).expect(5);
        assert_eq!(run.model()["category"], "load-failed");
        run.says("its process ended with exit code 1")
            .says("what llama-server writes to its terminal or log tells why");
        assert_eq!(llama.loads(name), 1);
    }
}

#[test]
fn a_sleeping_model_is_woken_and_not_loaded() {
    let Some(llama) = Llama::router_with(&["main"], &["--sleep-idle-seconds", "1"]) else { return };
    llama.preload("main");
    llama.wait_until("main", "sleeping");
    assert_eq!(llama.machine.ensure(MAIN).expect(0).model()["action"], "loaded");
    assert_eq!(llama.loads("main"), 1);
    answers(&llama, "main");
}

#[test]
fn a_load_by_another_client_is_waited_for() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add_holdable("main", &TinyModel::default(), "");
    llama.start_router(&[]);
    let mut hold = llama.hold("main");
    assert_eq!(llama.ask("POST", "/models/load", json!({ "model": "main" })).0, 200);
    hold.reached();
    let recorder = llama.record();
    let caller = llama.machine.start(MAIN);
    recorder.wait_for("GET /models", 3);
    hold.release();
    assert_eq!(caller.end().expect(0).model()["action"], "waited");
    assert_eq!(llama.loads("main"), 1);
}

#[test]
fn a_load_that_does_not_end_is_given_up_and_left() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add_holdable("main", &TinyModel::default(), "");
    llama.start_router(&[]);
    let hold = llama.hold("main");
    let model = llama.machine.ensure(&["--key", "main", "--load-timeout-ms", "1000"]).expect(5).model();
    assert_eq!(model["category"], "load-timeout");
    assert_eq!(llama.status("main")["value"], "loading");
    hold.release();
    llama.wait_until("main", "loaded");
}

#[test]
fn a_key_that_is_missing_or_wrong_is_said() {
    let Some(llama) = Llama::router_with(&["main"], &["--api-key", TOKEN]) else { return };
    let with = |key: Option<&str>| {
        let mut command = llama.machine.command(&["ensure", "--json", "--key", "main"]);
        key.map(|key| command.env("LM_API_TOKEN", key));
        run(&mut command)
    };
    for key in [None, Some("sk-wrong")] {
        let run = with(key).expect(7);
        assert_eq!(run.model()["category"], "unauthorized", "{run:?}");
        assert!(!format!("{run:?}").contains("LM Studio"), "{run:?}");
    }
    assert_eq!(llama.loads("main"), 0);
    with(Some(TOKEN)).expect(0);
}

#[test]
fn a_router_that_is_restarted_in_the_middle_of_a_load_loads_once_more() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add_holdable("main", &TinyModel::default(), "");
    llama.start_router(&[]);
    let mut hold = llama.hold("main");
    let callers = llama.machine.start_many(5, MAIN);
    hold.reached();
    llama.kill();
    hold.lift();
    llama.restart();
    let models = all_models(callers, 0);
    assert_eq!(models.iter().filter(|it| it["action"] == "loaded").count(), 1);
    assert_eq!(llama.loads("main"), 2);
    answers(&llama, "main");
}

#[test]
fn a_router_that_is_gone_is_said_to_be() {
    let Some(mut llama) = Llama::router_with(&["main"], &[]) else { return };
    llama.machine.ensure(MAIN).expect(0);
    llama.kill();
    let model = llama.machine.ensure(MAIN).expect(3).model();
    assert_eq!(model["category"], "server-unreachable");
    assert!(model["hint"].as_str().unwrap().contains("start llama.cpp"), "{model}");
}

#[test]
fn less_context_than_is_wanted_is_a_warning_that_names_where_it_is_set() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add("main", &TinyModel::default(), "ctx-size = 2048\nparallel = 2");
    llama.start_router(&[]);
    // Of the loaded model and of the resident one.
    for _ in 0..2 {
        let run = llama.machine.ensure(&["--key", "main", "--context-length", "4096"]).expect(0);
        assert!(run.model()["warnings"].to_string().contains("`ctx-size` in its preset"), "{run:?}");
        assert_eq!(run.model()["instance"]["contextLength"], 1024);
    }
    let model =
        llama.machine.ensure(&["--key", "main", "--context-length", "4096", "--on-mismatch", "fail"]).expect(6).model();
    assert_eq!(model["category"], "drift");
    assert_eq!(llama.loads("main"), 1);
}

#[test]
fn options_that_a_load_cannot_apply_are_named() {
    let Some(llama) = Llama::router_with(&["main"], &[]) else { return };
    let args = ["--key", "main", "--ttl-seconds", "60", "--parallel", "2", "--gpu", "max"];
    let warnings = llama.machine.ensure(&args).expect(0).model()["warnings"].to_string();
    for option in ["ttlSeconds (`sleep-idle-seconds` there)", "parallel", "gpu (`n-gpu-layers`)"] {
        assert!(warnings.contains(option), "{warnings}");
    }
}

#[test]
fn a_load_that_fails_beside_others_is_tried_once_more_with_room() {
    let Some(mut llama) = Llama::new() else { return };
    for name in ["idle", "other"] {
        llama.add(name, &TinyModel::default(), "");
    }
    llama.add("broken", &TinyModel { damage: Some(Damage::Truncated), ..TinyModel::default() }, "");
    llama.start_router(&[]);
    llama.preload("idle").preload("other");
    let run = llama.machine.ensure(&["broken", "--evict-on-pressure", "--evict-protect", "other"]).expect(5);
    assert_eq!(run.model()["category"], "load-failed");
    assert_eq!((llama.loads("broken"), llama.resident()), (2, vec!["other".to_owned()]));
}

#[test]
fn a_server_with_a_single_model_has_the_one_that_it_names() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add("main", &TinyModel::default(), "");
    let mut hold = llama.hold("main");
    llama.start_single("main", &["--alias", "main,other", "--sleep-idle-seconds", "1"]);
    hold.reached();
    let hasty = llama.machine.ensure(&["--key", "main", "--load-timeout-ms", "300"]).expect(5).model();
    assert_eq!(hasty["category"], "load-timeout");
    let recorder = llama.record();
    let callers = [llama.machine.start(MAIN), llama.machine.start(&["other"])];
    recorder.wait_for("GET /models", 4);
    hold.release();
    for model in all_models(callers.into(), 0) {
        assert_eq!(model["action"], "waited");
    }
    llama.machine.ensure(&["nope"]).expect(4).says("serves `main` alone").says("--alias nope");
    until("sleep", || llama.ask("GET", "/props", json!({})).1["is_sleeping"] == true);
    llama.machine.ensure(MAIN).expect(0);
    assert_eq!(llama.ask("GET", "/props", json!({})).1["is_sleeping"], false);
    answers(&llama, "anything");
}

#[test]
fn a_model_that_is_being_downloaded_is_waited_for() {
    let Some(mut llama) = Llama::new() else { return };
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    llama.hub = hub.local_addr().unwrap().port();
    // It says nothing of the repository, and keeps the download waiting.
    let held = Arc::new(Mutex::new(Some(Vec::new())));
    let of_hub = Arc::clone(&held);
    std::thread::spawn(move || {
        for (number, stream) in hub.incoming().flatten().enumerate() {
            if let Some(held) = of_hub.lock().unwrap().as_mut().filter(|_| number > 0) {
                held.push(stream);
            } else {
                let nothing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                drop((&stream).write_all(nothing));
            }
        }
    });
    llama.add("main", &TinyModel::default(), "");
    llama.start_router(&[]);
    let name = "acme/tiny:Q4_K_M";
    let caller = llama.machine.start(&[name, "--download"]);
    llama.wait_until(name, "downloading");
    let waiter = llama.machine.ensure(&[name, "--timeout", "1s"]).expect(75).model();
    assert_eq!(waiter["category"], "deadline", "{waiter}");
    held.lock().unwrap().take();
    // The hub has no such model, and the router does not list it for long.
    let model = caller.end().expect(4).model();
    assert!(!model["hint"].to_string().contains("`lms "), "{model}");
}

#[test]
fn what_is_configured_as_llama_cpp_and_is_not_is_named() {
    let machine = Machine::new();
    let model = machine.ensure(&["--key", "main", "--backend", "llama.cpp"]).expect(3).model();
    assert_eq!(model["category"], "wrong-backend", "{model}");
}
