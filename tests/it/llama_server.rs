//! Holds the real `llama-server`, and what the tests do to it, to what the other tests suppose.

use serde_json::{Value, json};

use crate::gguf::{ANSWER, Damage, TinyModel};
use crate::llama::Llama;
use crate::support::until;

#[test]
fn a_router_lists_loads_and_answers() {
    let Some(llama) = Llama::router_with(&["main", "small"], &["--models-max", "1"]) else { return };
    assert_eq!(llama.resident(), Vec::<String>::new());
    llama.preload("main");
    let (status, answer) = llama.chat("main");
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!(ANSWER)), "{answer}");
    llama.preload("small");
    assert_eq!((llama.resident(), llama.loads("main"), llama.loads("small")), (vec!["small".to_owned()], 1, 1));
    let (_, props) = llama.ask("GET", "/props", json!({}));
    assert_eq!((&props["role"], &props["max_instances"]), (&json!("router"), &json!(1)), "{props}");
}

#[test]
fn a_load_holds_until_it_is_released_and_fails_when_it_is_killed() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add_holdable("main", &TinyModel::default(), "ctx-size = 2048\nparallel = 2");
    llama.start_router(&[]);
    let mut hold = llama.hold("main");
    assert_eq!(llama.ask("POST", "/models/load", json!({ "model": "main" })).0, 200);
    hold.reached();
    assert_eq!(llama.status("main")["value"], "loading");
    hold.release();
    llama.wait_until("main", "loaded");
    let (status, props) = llama.ask("GET", "/props?model=main&autoload=false", json!({}));
    assert_eq!((status, &props["default_generation_settings"]["n_ctx"]), (200, &json!(1024)), "{props}");
    llama.signal("main", rustix::process::Signal::KILL);
    llama.wait_until("main", "unloaded");
    assert_eq!(llama.status("main")["failed"], true);
}

#[test]
fn a_model_that_never_ends_is_busy_as_long_as_its_client_wants() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add("main", &TinyModel { endless: true, trained_context: 131_072, ..TinyModel::default() }, "");
    llama.start_router(&[]);
    llama.preload("main");
    let busy = |llama: &Llama| {
        let (status, slots) = llama.ask("GET", "/slots?model=main&autoload=false", json!({}));
        assert_eq!(status, 200, "{slots}");
        slots.as_array().unwrap().iter().any(|it| it["is_processing"] == true)
    };
    assert!(!busy(&llama));
    let client = llama.occupy("main");
    assert!(busy(&llama));
    drop(client);
    until("an idle model", || !busy(&llama));
}

#[test]
fn a_router_that_was_killed_is_back_with_nothing_loaded() {
    let Some(mut llama) = Llama::router_with(&["main"], &[]) else { return };
    llama.preload("main");
    llama.kill();
    llama.restart();
    assert_eq!(llama.resident(), Vec::<String>::new());
    llama.preload("main");
}

#[test]
fn each_kind_of_damage_makes_a_load_fail() {
    let Some(mut llama) = Llama::new() else { return };
    let kinds = [("magic", Damage::Magic), ("truncated", Damage::Truncated), ("tensor", Damage::MissingTensor)];
    for (name, damage) in kinds {
        llama.add(name, &TinyModel { damage: Some(damage), ..TinyModel::default() }, "");
    }
    llama.start_router(&[]);
    for (name, _) in kinds {
        llama.ask("POST", "/models/load", json!({ "model": name }));
        llama.wait_until(name, "unloaded");
        assert_eq!(llama.status(name)["exit_code"], 1, "{name}");
    }
}

#[test]
fn a_single_model_is_served_by_any_name_once_it_is_loaded() {
    let Some(mut llama) = Llama::new() else { return };
    llama.add("main", &TinyModel::default(), "");
    let mut hold = llama.hold("main");
    llama.start_single("main", &["--alias", "main,other"]);
    hold.reached();
    assert_eq!(llama.ask("GET", "/v1/models", json!({})).0, 503);
    hold.release();
    until("a loaded model", || llama.ask("GET", "/v1/models", json!({})).0 == 200);
    let (_, list) = llama.ask("GET", "/v1/models", json!({}));
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["status"]), (&json!("main"), &Value::Null), "{list}");
    assert_eq!(llama.chat("nope").1["choices"][0]["message"]["content"], ANSWER);
}

#[test]
fn a_recorder_notes_what_is_asked_and_changes_nothing() {
    let Some(mut llama) = Llama::router_with(&["main"], &["--api-key", "secret"]) else { return };
    let recorder = llama.record();
    llama.preload("main");
    assert_eq!(llama.chat("main").1["choices"][0]["message"]["content"], ANSWER);
    let requests = recorder.take();
    assert_eq!(requests[..2], ["POST /models/load", "GET /models"], "{requests:?}");
    assert_eq!(requests.last().map(String::as_str), Some("POST /v1/chat/completions"));
}
