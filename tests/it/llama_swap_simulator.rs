//! Holds the simulated llama-swap to the samples in `tests/fixtures/llamaswap`, which were taken from the real one (several
//! releases, built from source, with stand-ins for model servers): a simulator that is wrong would make other tests prove
//! the wrong thing. What no sample shows is tested below them.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::{JoinHandle, spawn};

use serde_json::{Value, json};

use crate::llama_swap::LlamaSwap;
use crate::support::until;

/// A model as it was configured when the samples were taken.
fn stand_in(name: &str, port: u16, more: &str) -> Value {
    let cmd = format!("python3 fake.py --name {name} --port {port}{more}");
    json!({ "cmd": cmd, "proxy": format!("http://127.0.0.1:{port}") })
}

fn merged(mut model: Value, more: Value) -> Value {
    model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    model
}

/// "one group, swap (the default)", of the newest version.
fn one_group() -> LlamaSwap {
    let declared = json!({
        "architecture": {
            "input_modalities": ["text", "image"],
            "modality": "text+image->text",
            "output_modalities": ["text"],
        },
        "capabilities": { "function_calling": true, "vision": true },
        "supported_parameters": ["tools", "tool_choice"],
        "context_length": 32768,
    });
    let main = json!({
        "name": "Main model",
        "description": "the big one",
        "aliases": ["main-alias", "gpt-4o"],
        "metadata": { "quant": "Q4", "n": 3 },
    });
    let nocmd = json!({ "cmd": "does-not-exist-llama-server --port 15816", "proxy": "http://127.0.0.1:15816" });
    let models = json!({
        "boom": stand_in("boom", 15810, ""),
        "caps": merged(stand_in("caps", 15811, ""), json!({ "capabilities": declared })),
        "hidden": merged(stand_in("hidden", 15812, ""), json!({ "unlisted": true })),
        "limited": merged(stand_in("limited", 15813, ""), json!({ "concurrencyLimit": 1 })),
        "main": merged(stand_in("main", 15814, " --delay 3"), main),
        "nocheck": merged(stand_in("nocheck", 15815, " --bind-delay 2"), json!({ "checkEndpoint": "none" })),
        "nocmd": nocmd,
        "nohealth": stand_in("nohealth", 15817, " --delay 999"),
        "org/with-slash": stand_in("slash", 15818, ""),
        "renamed": merged(stand_in("renamed", 15819, ""), json!({ "useModelName": "upstream/name" })),
        "slow": stand_in("slow", 15820, ""),
        "slowstop": stand_in("slowstop", 15821, " --slow-stop 3"),
        "small": stand_in("small", 15822, " --delay 1"),
        "ttl3": merged(stand_in("ttl3", 15823, ""), json!({ "ttl": 3 })),
        "ttl60": merged(stand_in("ttl60", 15824, ""), json!({ "ttl": 60 })),
    });
    let servers = json!({
        "boom": { "log": "fake boom starting\nerror: failed to load model\n" },
        "nocheck": { "bindMs": 600_000 },
    });
    let swap = LlamaSwap::with(json!({ "healthCheckTimeout": 15, "models": models }), json!({ "servers": servers }));
    broken(&swap, json!([]));
    swap
}

/// The models that fail as their names say, and these faults.
fn broken(swap: &LlamaSwap, more: Value) {
    let mut faults = vec![
        json!({ "on": "load", "kind": "crash", "key": "boom" }),
        json!({ "on": "load", "kind": "fail", "key": "nocmd" }),
        json!({ "on": "load", "kind": "status", "key": "nohealth" }),
    ];
    faults.extend(more.as_array().unwrap().clone());
    swap.faults(Value::Array(faults));
}

/// Has a model's next load stop half-way.
fn hold(swap: &LlamaSwap, model: &str) {
    hold_at(swap, "load", model);
}

/// Has a model's next `load`, `stop` or `chat` stop half-way, until there is no such fault any more.
fn hold_at(swap: &LlamaSwap, what: &str, model: &str) {
    broken(swap, json!([{ "on": what, "kind": "hold", "key": model }]));
}

/// The same, of some release, with fewer models.
fn release(version: &str, first_port: u16) -> LlamaSwap {
    let port = |number| first_port + number;
    let main = json!({ "name": "Main model", "aliases": ["main-alias"], "metadata": { "quant": "Q4" } });
    let nocmd = json!({ "cmd": format!("does-not-exist-llama-server --port {}", port(2)) });
    let models = json!({
        "boom": stand_in("boom", port(0), ""),
        "main": merged(stand_in("main", port(1), " --delay 3"), main),
        "nocmd": nocmd,
        "nohealth": stand_in("nohealth", port(3), ""),
        "org/with-slash": stand_in("slash", port(4), ""),
        "slow": stand_in("slow", port(5), ""),
        "small": stand_in("small", port(6), ""),
        "ttl60": merged(stand_in("ttl60", port(7), ""), json!({ "ttl": 60 })),
    });
    let config = json!({ "healthCheckTimeout": 15, "models": models });
    // As short as can be: old versions look every five seconds.
    let swap = LlamaSwap::with(config, json!({ "version": version, "secondMs": 10 }));
    broken(&swap, json!([]));
    swap
}

fn groups() -> LlamaSwap {
    let models = json!({
        "alone": stand_in("alone", 15850, ""),
        "embed": stand_in("embed", 15851, ""),
        "main": stand_in("main", 15852, " --delay 3"),
        "side1": stand_in("side1", 15853, ""),
        "side2": stand_in("side2", 15854, ""),
        "small": stand_in("small", 15855, " --delay 3"),
    });
    let groups = json!({
        "pair": { "swap": false, "exclusive": true, "members": ["main", "small"] },
        "keep": { "swap": false, "exclusive": false, "persistent": true, "members": ["embed"] },
        "side": { "swap": true, "exclusive": false, "members": ["side1", "side2"] },
    });
    LlamaSwap::new(json!({ "models": models, "groups": groups }))
}

fn matrix() -> LlamaSwap {
    let models = json!({
        "big": stand_in("big", 15870, ""),
        "embed": stand_in("embed", 15871, ""),
        "loner": stand_in("loner", 15872, ""),
        "main": stand_in("main", 15873, " --delay 3"),
        "small": stand_in("small", 15874, " --delay 3"),
    });
    LlamaSwap::new(json!({ "models": models, "matrix": { "sets": [["main", "small"], ["big", "embed"]] } }))
}

/// "peers: box (another llama-swap with main), …", and the box.
fn peers() -> (LlamaSwap, LlamaSwap) {
    let the_box = LlamaSwap::new(json!({ "models": { "main": stand_in("main", 15990, "") } }));
    let filters = json!({ "setParamsByID": { "local:high": { "reasoning_effort": "high" } } });
    let local = json!({ "aliases": ["loc"], "filters": filters });
    let swap = LlamaSwap::new(json!({
        "includeAliasesInList": true,
        "models": {
            "local": merged(stand_in("local", 15900, ""), local),
            "other": stand_in("other", 15901, ""),
        },
        "peers": {
            "box": { "proxy": the_box.base_url().trim_end_matches("/v1"), "models": ["main"] },
            "dead": { "proxy": "http://127.0.0.1:1", "models": ["far"] },
        },
        "selectors": {
            "best": { "strategy": "warm", "targets": ["local", "other"] },
            "fixed": { "strategy": "pin", "targets": ["other"] },
        },
        "profiles": { "coding": { "description": "c", "pins": { "code": "local", "other": "" } } },
    }));
    (swap, the_box)
}

#[test]
fn what_is_loaded_and_what_is_said_of_it_is_as_in_the_samples() {
    let swap = one_group();
    same(
        &swap,
        "health version root unknown-path wrong-method running.empty models.none-loaded models.head upstream.redirect
        upstream.none upstream.unknown",
    );
    hold(&swap, "main");
    let load = begin(&swap, "load.upstream-health");
    swap.wait_for_events("load-held", 1);
    same(&swap, "running.starting models.starting");
    broken(&swap, json!([]));
    load.join().unwrap();
    same(
        &swap,
        "running.ready models.one-loaded warm.upstream-health warm.upstream-head upstream.no-slash upstream.root
        upstream.alias upstream.echo upstream.ignored-path.loaded upstream.ignored-path.not-loaded chat.ready chat.alias
        chat.unknown chat.case chat.no-model chat.no-content-type chat.bad-json chat.unknown.text chat.unknown.html
        props.get props.unknown",
    );
    hold(&swap, "small");
    let load = begin(&swap, "load.swap");
    swap.wait_for_events("load-held", 2);
    same(&swap, "running.swapping");
    broken(&swap, json!([]));
    load.join().unwrap();
    same(
        &swap,
        "running.swapped load.slash load.slash-escaped load.hidden running.hidden chat.renamed fail.exits fail.exits.chat
        fail.no-command running.after-failure logs.model.after-failure",
    );
    let load = begin(&swap, "fail.health-timeout");
    until("a start", || swap.running() == ["nohealth"]);
    same(&swap, "running.never-healthy");
    load.join().unwrap();
    same(&swap, "nocheck.cold running.nocheck load.main-again");
    same(
        &swap,
        "unload.one unload.one.again unload.unknown load.slash-again unload.slash unload.alias
        running.after-unload-alias unload.all unload.get unload.wrong-method",
    );
    hold(&swap, "slow");
    let load = begin(&swap, "load.unloaded-meanwhile");
    swap.wait_for_events("load-held", 3);
    same(&swap, "unload.starting");
    load.join().unwrap();
    same(&swap, "running.after-unload-starting load.slowstop");
    hold_at(&swap, "stop", "slowstop");
    let unload = begin(&swap, "unload.slow");
    until("a stop", || swap.control("state", json!({}))["models"]["slowstop"]["state"] == "stopping");
    same(&swap, "running.stopping models.stopping");
    broken(&swap, json!([]));
    unload.join().unwrap();
    same(&swap, "load.slowstop2");
    hold_at(&swap, "stop", "slowstop");
    let load = begin(&swap, "load.after-slow-stop");
    until("a stop", || swap.control("state", json!({}))["models"]["slowstop"]["state"] == "stopping");
    same(&swap, "running.evicting");
    broken(&swap, json!([]));
    load.join().unwrap();
}

#[test]
fn what_too_many_requests_busy_models_and_reloads_do_is_as_in_the_samples() {
    let swap = one_group();
    hold(&swap, "main");
    let waiting: Vec<_> = (0..10).map(|_| begin(&swap, "load.upstream-health")).collect();
    until("ten places taken", || swap.control("state", json!({}))["places"]["main"] == 10);
    same(&swap, "concurrency.limit");
    broken(&swap, json!([]));
    for it in waiting {
        it.join().unwrap();
    }
    assert_eq!(swap.loads("main"), 1);

    swap.control("busy", json!({ "model": "main", "busy": true }));
    let load = begin(&swap, "after-crash");
    until("a place taken", || swap.control("state", json!({}))["places"]["small"] == 1);
    same(&swap, "running.queued-swap");
    swap.control("busy", json!({ "model": "main", "busy": false }));
    load.join().unwrap();
    same(&swap, "crash after-crash");
    hold_at(&swap, "chat", "small");
    let chat = begin(&swap, "chat.unloaded-meanwhile");
    swap.wait_for_events("chat", 1);
    same(&swap, "unload.busy");
    chat.join().unwrap();

    hold(&swap, "limited");
    let first = request(swap.port, "GET", "/upstream/limited/health", &json!({}), "");
    swap.wait_for_events("load-held", 2);
    same(&swap, "concurrency.limit-1.starting");
    broken(&swap, json!([]));
    assert_eq!(read(first, None).status, 200);
    let body = json!({ "model": "limited", "sleep": 1000 }).to_string();
    let headers = json!({ "Content-Type": "application/json" });
    let chat = request(swap.port, "POST", "/v1/chat/completions", &headers, &body);
    swap.wait_for_events("chat", 2);
    same(&swap, "concurrency.limit-1.busy");
    swap.control("reload", json!({}));
    assert_eq!(read(chat, None).status, 502);

    hold(&swap, "slow");
    let load = begin(&swap, "load.reloaded-meanwhile");
    swap.wait_for_events("load-held", 3);
    swap.control("reload", json!({}));
    load.join().unwrap();
    hold_at(&swap, "chat", "small");
    swap.preload("small");
    let chat = begin(&swap, "chat.reloaded-meanwhile");
    swap.wait_for_events("chat", 3);
    swap.control("reload", json!({}));
    chat.join().unwrap();
}

#[test]
fn groups_and_a_matrix_hold_together_what_the_samples_show() {
    let swap = groups();
    swap.preload("embed");
    swap.hold("main");
    let load = request(swap.port, "GET", "/upstream/main/health", &json!({}), "");
    swap.wait_for_events("load-held", 1);
    same(&swap, "groups.running.two-starting");
    swap.unhold();
    assert_eq!(read(load, None).status, 200);
    swap.preload("small");
    same(&swap, "groups.running.two-ready");

    let swap = matrix();
    swap.hold("main");
    let load = begin(&swap, "matrix.load.unloaded-meanwhile");
    swap.wait_for_events("load-held", 1);
    assert_eq!(ask(swap.port, "POST", "/api/models/unload/main", &json!({}), "").status, 200);
    load.join().unwrap();
    swap.unhold();
    swap.preload("main").preload("small");
    same(&swap, "matrix.running.two-ready matrix.models");
}

#[test]
fn keys_open_what_the_samples_show() {
    let models = json!({ "main": stand_in("main", 15880, "") });
    let swap = LlamaSwap::new(json!({ "models": models, "apiKeys": ["sk-first", "sk-second"] }));
    same(
        &swap,
        "auth.health auth.root auth.models.none auth.models.none.text auth.models.wrong auth.models.bearer
        auth.models.bearer-lower auth.models.x-api-key auth.models.basic auth.models.wrong-bearer-good-x auth.version.none
        auth.running.none auth.unload.none auth.upstream.none auth.unload-get.none auth.events.none auth.metrics.none
        auth.logs.none auth.ui.none auth.unknown-path.none auth.upstream-redirect.none auth.chat.none auth.upstream.ok
        auth.chat.ok",
    );
}

#[test]
fn peers_selectors_and_profiles_are_as_in_the_samples() {
    let (swap, the_box) = peers();
    same(&swap, "noauth.any-key peers.models");
    the_box.preload("main");
    same(&swap, "peers.chat peers.chat.bare peers.upstream");
    assert_eq!(ask(the_box.port, "POST", "/api/models/unload", &json!({}), "").status, 200);
    same(&swap, "peers.upstream.unloaded peers.running peers.dead peers.unload peers.props");
    assert_eq!(the_box.loads("main"), 1, "by the properties, not by the health");
    swap.preload("other");
    same(&swap, "selector.warm.other-ready");
    swap.control("reload", json!({}));
    same(
        &swap,
        "selector.upstream selector.chat selector.models selector.running selector.unload selector.props profiles
        profiles.activate profiles.pinned profiles.disabled profiles.disabled.upstream profiles.pinned.upstream
        profiles.models alias.set-params",
    );
    swap.control("reload", json!({}));
    same(&swap, "selector.cold.props");
}

#[test]
fn names_in_paths_are_found_as_in_the_samples() {
    let models = json!({ "main": { "aliases": ["main-alias"] }, "small": {}, "custom": { "checkEndpoint": "/ready" } });
    let swap = LlamaSwap::new(json!({ "models": models }));
    same(&swap, "upstream.no-slash.unknown upstream.no-slash.not-loaded upstream.ignored-path.alias custom.health");
    assert_eq!(swap.loads("main") + swap.loads("small"), 0);
    let (swap, _box) = peers();
    same(&swap, "upstream.no-slash.peer upstream.no-slash.selector");
}

#[test]
fn the_last_old_version_is_as_in_the_samples() {
    let swap = release("v217", 15930);
    same(&swap, "v217.version v217.unknown-path v217.running.empty v217.models.none-loaded");
    hold(&swap, "main");
    during_load(&swap, "/upstream/main/health", || same(&swap, "v217.running.starting v217.models.starting"));
    same(
        &swap,
        "v217.running.ready v217.upstream.no-slash v217.upstream.unknown v217.upstream.unknown.json v217.chat.unknown
        v217.chat.unknown.json v217.chat.no-model v217.upstream.slash v217.fail.exits v217.fail.exits.json
        v217.fail.no-command v217.fail.health-timeout",
    );
    // Everybody waits behind the request that loads, and the eleventh of them is told so only then.
    hold(&swap, "small");
    let (port, body) = (swap.port, json!({ "model": "small", "sleep": 100_000 }).to_string());
    let load = request(port, "GET", "/upstream/small/health", &json!({}), "");
    swap.wait_for_events("load-held", 2);
    let before = swap.events("arrived").len();
    let chats: Vec<_> = (0..10).map(|_| request(port, "POST", "/v1/chat/completions", &json!({}), &body)).collect();
    swap.wait_for_events("arrived", before + 10);
    let eleventh = begin(&swap, "v217.concurrency.limit");
    swap.wait_for_events("arrived", before + 11);
    broken(&swap, json!([]));
    assert_eq!(read(load, None).status, 200);
    eleventh.join().unwrap();
    swap.control("reload", json!({}));
    for chat in chats {
        assert_eq!(read(chat, None).status, 502);
    }
    same(&swap, "v217.unload.one v217.unload.unknown");
    old_loads_meanwhile(&swap, "v217");
}

#[test]
fn an_old_version_is_as_in_the_samples() {
    let swap = release("v150", 15930);
    same(&swap, "v150.version v150.unknown-path v150.running.empty v150.models.none-loaded");
    hold(&swap, "main");
    during_load(&swap, "/upstream/main/health", || same(&swap, "v150.running.starting v150.models.starting"));
    same(
        &swap,
        "v150.running.ready v150.upstream.no-slash v150.upstream.unknown v150.upstream.unknown.json v150.chat.unknown
        v150.chat.unknown.json v150.chat.no-model v150.upstream.slash v150.fail.exits v150.fail.exits.json
        v150.fail.no-command v150.fail.health-timeout v150.unload.one v150.unload.unknown",
    );
    hold(&swap, "small");
    let waiting: Vec<_> =
        (0..10).map(|_| request(swap.port, "GET", "/upstream/small/health", &json!({}), "")).collect();
    until("ten waiting", || swap.control("state", json!({}))["models"]["small"]["inFlight"] == 10);
    same(&swap, "v150.concurrency.limit");
    broken(&swap, json!([]));
    for it in waiting {
        assert_eq!(read(it, None).status, 200);
    }
    old_loads_meanwhile(&swap, "v150");
}

/// Loads and a completion that an old version does not stop when it is asked to.
fn old_loads_meanwhile(swap: &LlamaSwap, version: &str) {
    let held = swap.events("load-held").len();
    hold(swap, "slow");
    let load = begin(swap, &format!("{version}.load.unloaded-meanwhile"));
    swap.wait_for_events("load-held", held + 1);
    let unload = begin(swap, &format!("{version}.unload.starting"));
    swap.wait_for("the order to unload", |record| {
        record.iter().any(|it| it["event"] == "arrived" && it["path"] == "/api/models/unload/slow")
    });
    broken(swap, json!([]));
    load.join().unwrap();
    unload.join().unwrap();

    let held = swap.events("load-held").len();
    hold(swap, "small");
    let chat = begin(swap, &format!("{version}.chat.unloaded-meanwhile"));
    swap.wait_for_events("load-held", held + 1);
    let unload = begin(swap, &format!("{version}.unload.all"));
    swap.wait_for("the order to unload", |record| {
        record.iter().any(|it| it["event"] == "arrived" && it["path"] == "/api/models/unload")
    });
    broken(swap, json!([]));
    chat.join().unwrap();
    unload.join().unwrap();
}

#[test]
fn versions_between_are_as_in_the_samples() {
    let swap = release("v180", 15930);
    swap.preload("main");
    same(&swap, "v180.running.ready v180.upstream.unknown v180.chat.unknown v180.fail.exits");

    let swap = release("v218", 15930);
    same(&swap, "v218.version v218.models.none-loaded");
    hold(&swap, "main");
    during_load(&swap, "/upstream/main/health", || same(&swap, "v218.running.starting"));
    same(
        &swap,
        "v218.running.ready v218.upstream.unknown v218.chat.unknown v218.fail.exits v218.fail.no-command
        v218.unload.unknown",
    );
    hold(&swap, "slow");
    let load = begin(&swap, "v218.load.unloaded-meanwhile");
    swap.wait_for_events("load-held", 2);
    assert_eq!(ask(swap.port, "POST", "/api/models/unload/slow", &json!({}), "").status, 200);
    load.join().unwrap();

    let swap = release("v235", 15930);
    same(&swap, "v235.models.none-loaded v235.upstream.unknown v235.chat.unknown v235.fail.exits v235.fail.no-command");
    too_many(&swap, "v235.concurrency.limit");
}

#[test]
fn the_last_release_is_as_in_the_samples() {
    let swap = release("v250", 15930);
    same(&swap, "v250.version v250.unknown-path v250.running.empty v250.models.none-loaded");
    hold(&swap, "main");
    during_load(&swap, "/upstream/main/health", || same(&swap, "v250.running.starting v250.models.starting"));
    same(
        &swap,
        "v250.running.ready v250.upstream.no-slash v250.upstream.unknown v250.upstream.unknown.json v250.chat.unknown
        v250.chat.unknown.json v250.chat.no-model v250.upstream.slash v250.fail.exits v250.fail.exits.json
        v250.fail.no-command v250.fail.health-timeout",
    );
    too_many(&swap, "v250.concurrency.limit");
    same(&swap, "v250.unload.one v250.unload.unknown");
    let held = swap.events("load-held").len();
    hold(&swap, "slow");
    let load = begin(&swap, "v250.load.unloaded-meanwhile");
    swap.wait_for_events("load-held", held + 1);
    same(&swap, "v250.unload.starting");
    load.join().unwrap();
    same(&swap, "v250.unload.all");
    hold_at(&swap, "chat", "small");
    swap.preload("small");
    let chat = begin(&swap, "v250.chat.unloaded-meanwhile");
    swap.wait_for_events("chat", 1);
    assert_eq!(ask(swap.port, "POST", "/api/models/unload", &json!({}), "").status, 200);
    chat.join().unwrap();
}

/// Ten requests wait for `small`, and the next one is this sample's.
fn too_many(swap: &LlamaSwap, name: &str) {
    let held = swap.events("load-held").len();
    hold(swap, "small");
    let waiting: Vec<_> =
        (0..10).map(|_| request(swap.port, "GET", "/upstream/small/health", &json!({}), "")).collect();
    swap.wait_for_events("load-held", held + 1);
    until("ten places taken", || swap.control("state", json!({}))["places"]["small"] == 10);
    same(swap, name);
    broken(swap, json!([]));
    for it in waiting {
        assert_eq!(read(it, None).status, 200);
    }
}

/// Begins a load that holds, looks, and lets it go on.
fn during_load(swap: &LlamaSwap, path: &str, look: impl FnOnce()) {
    let held = swap.events("load-held").len();
    let load = request(swap.port, "GET", path, &json!({}), "");
    swap.wait_for_events("load-held", held + 1);
    look();
    broken(swap, json!([]));
    assert_eq!(read(load, None).status, 200);
}

#[test]
fn events_begin_and_go_on_as_in_the_samples() {
    let swap = one_group();
    let mut stream = request(swap.port, "GET", "/api/events", &json!({}), "");
    let mut messages = Vec::new();
    let mut next = || {
        let mut line = String::new();
        while !line.starts_with("data:") {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        let message: Value = serde_json::from_str(&line["data:".len()..]).unwrap();
        (message["type"].as_str().unwrap().to_owned(), message["data"].as_str().unwrap().to_owned())
    };
    let sample = fixture(sample("events")["body"].as_str().unwrap());
    let wanted: Vec<String> = sample
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|it| it["type"] == "modelStatus")
        .map(|it| it["data"].as_str().unwrap().to_owned())
        .collect();
    let load = request(swap.port, "GET", "/upstream/small/health", &json!({}), "");
    while messages.len() < wanted.len() {
        let (kind, data) = next();
        if kind == "modelStatus" {
            messages.push(data);
        }
    }
    assert_eq!(messages, wanted, "at first, starting, ready");
    assert_eq!(read(load, None).status, 200);
}

#[test]
fn every_sample_is_compared() {
    let source = include_str!("llama_swap_simulator.rs");
    let words: std::collections::BTreeSet<&str> =
        source.split(|it: char| it.is_whitespace() || "\"(),{}".contains(it)).collect();
    let of_both_old = |name: &str| {
        ["v150.", "v217."].iter().any(|version| {
            let rest = name.strip_prefix(version);
            rest.is_some_and(|rest| source.contains(&format!("{{version}}.{rest}")))
        })
    };
    let left: Vec<String> = index()
        .iter()
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .filter(|name| !words.contains(name.as_str()) && !of_both_old(name))
        .collect();
    assert_eq!(left, [""; 0]);
}

// What the samples cannot show.

#[test]
fn an_exclusive_group_stops_others_also_for_a_model_that_is_ready() {
    let swap = groups();
    swap.preload("main").preload("side1").preload("embed");
    assert_eq!(swap.running(), ["embed", "main", "side1"]);
    assert_eq!(ask(swap.port, "GET", "/upstream/main/health", &json!({}), "").status, 200);
    assert_eq!(swap.running(), ["embed", "main"]);
    swap.preload("alone");
    assert_eq!(swap.running(), ["alone", "embed"]);
}

#[test]
fn a_matrix_stops_what_is_in_no_set_with_the_model() {
    let swap = matrix();
    swap.preload("main").preload("small");
    assert_eq!(swap.running(), ["main", "small"]);
    swap.preload("embed");
    assert_eq!(swap.running(), ["embed"]);
    swap.preload("big").preload("loner");
    assert_eq!(swap.running(), ["loner"]);
}

#[test]
fn a_load_goes_on_without_its_client_and_ends_at_once_if_the_model_has_a_time_to_live() {
    for (version, stays) in [("v250", false), ("v217", true)] {
        let models = json!({ "ttl": { "ttl": 3600 }, "plain": {} });
        let groups = json!({ "both": { "swap": false, "members": ["plain", "ttl"] } });
        let config = json!({ "models": models, "groups": groups });
        let swap = LlamaSwap::with(config, json!({ "version": version, "secondMs": 20 }));
        for model in ["ttl", "plain"] {
            swap.hold(model);
            let held = swap.events("load-held").len();
            let load = request(swap.port, "GET", &format!("/upstream/{model}/health"), &json!({}), "");
            swap.wait_for_events("load-held", held + 1);
            drop(load);
            // Old versions do not notice.
            if version == "v250" {
                swap.wait_for("the end of the request", |record| {
                    record.iter().any(|it| {
                        let is_it = it["path"].as_str().is_some_and(|path| path.contains(&format!("/{model}/")));
                        it["event"] == "request" && is_it && it["status"].is_null()
                    })
                });
            }
            swap.unhold();
            swap.wait_for("it is ready", |record| {
                record.iter().any(|it| it["event"] == "load-ready" && it["model"] == model)
            });
        }
        if stays {
            assert_eq!(swap.running(), ["plain", "ttl"]);
        } else {
            swap.wait_for_events("unload", 1);
            assert_eq!(swap.events("unload")[0]["reason"], "ttl");
            assert_eq!(swap.running(), ["plain"]);
        }
    }
}

#[test]
fn a_server_that_never_answers_the_check_starts_for_ever_until_it_is_unloaded() {
    let swap = LlamaSwap::with(
        json!({ "healthCheckTimeout": 15, "models": { "main": {} } }),
        json!({ "secondMs": 5, "loadMs": 0 }),
    );
    swap.faults(json!([{ "on": "load", "kind": "hang" }]));
    let load = request(swap.port, "GET", "/upstream/main/health", &json!({}), "");
    swap.wait_for_events("load-begin", 1);
    // Three times the limit of the check.
    std::thread::sleep(std::time::Duration::from_millis(5 * 15 * 3));
    assert_eq!(swap.running(), ["main"]);
    assert_eq!(ask(swap.port, "POST", "/api/models/unload/main", &json!({}), "").status, 200);
    assert_eq!(read(load, None).status, 500);
}

#[test]
fn a_busy_model_holds_up_a_swap_and_a_client_that_hangs_up_in_the_queue_loads_nothing() {
    let swap = LlamaSwap::new(json!({ "models": { "main": {}, "small": {} } }));
    swap.preload("main");
    swap.control("busy", json!({ "model": "main", "busy": true }));
    let queued = request(swap.port, "GET", "/upstream/small/health", &json!({}), "");
    until("a place taken", || swap.control("state", json!({}))["places"]["small"] == 1);
    drop(queued);
    until("a place given up", || swap.control("state", json!({}))["places"]["small"] == 0);
    swap.control("busy", json!({ "model": "main", "busy": false }));
    swap.control("state", json!({}));
    assert_eq!((swap.running(), swap.loads("small")), (vec!["main".to_owned()], 0));
}

#[test]
fn a_streamed_completion_says_200_for_a_load_that_fails() {
    let swap = LlamaSwap::new(json!({ "sendLoadingState": true, "models": { "boom": {} } }));
    swap.faults(json!([{ "on": "load", "kind": "crash" }]));
    let body = json!({ "model": "boom", "stream": true }).to_string();
    let headers = json!({ "Content-Type": "application/json" });
    let answer = ask(swap.port, "POST", "/v1/chat/completions", &headers, &body);
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("\"code\":\"internal_error\"}}"), "{answer:?}");
}

#[test]
fn a_changed_configuration_takes_over_when_it_is_watched_and_a_broken_one_does_not() {
    let swap = LlamaSwap::with(json!({ "models": { "main": {} } }), json!({ "watchConfig": true, "secondMs": 5 }));
    swap.preload("main");
    swap.write_config(json!({ "models": "none" }));
    swap.wait_for_events("reload-refused", 1);
    assert_eq!(swap.running(), ["main"]);
    swap.write_config(json!({ "models": { "other": {} }, "hooks": { "on_startup": { "preload": ["other"] } } }));
    swap.wait_for_events("load-ready", 2);
    assert_eq!(swap.running(), ["other"]);
}

// How a sample is compared.

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn fixture(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llamaswap").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn index() -> Vec<Value> {
    serde_json::from_str(&fixture("index.json")).unwrap()
}

fn sample(wanted: &str) -> Value {
    index().into_iter().find(|it| it["name"] == wanted).unwrap_or_else(|| panic!("no sample {wanted}"))
}

/// Sends these samples' requests, one after the other, and compares the answers.
fn same(swap: &LlamaSwap, names: &str) {
    for name in names.split_whitespace() {
        compare(swap.port, &sample(name));
    }
}

/// Sends a sample's request that takes its time.
fn begin(swap: &LlamaSwap, name: &str) -> JoinHandle<()> {
    let (port, sample) = (swap.port, sample(name));
    spawn(move || compare(port, &sample))
}

fn compare(port: u16, sample: &Value) {
    let name = sample["name"].as_str().unwrap();
    let asked = &sample["request"];
    let text = |member: &str| asked[member].as_str().unwrap_or_default();
    let wanted = sample["body"].as_str().map(fixture).unwrap_or_default();
    let stream = request(port, text("method"), text("path"), &asked["headers"], text("body"));
    let answer = read(stream, name.starts_with("logs.").then_some(wanted.len()));
    assert_eq!(answer.status, sample["status"], "{name}: {answer:?}");
    for header in ["Content-Type", "Location", "Www-Authenticate", "Retry-After", "Allow", "Server"] {
        assert_eq!(header_of(&answer.head, header), sample["headers"][header].as_str(), "{name}, {header}: {answer:?}");
    }
    if sample["headers"]["Server"] == "fake" && !wanted.is_empty() {
        // The model's own: what it says, not how it is written.
        let parsed = |body: &str| serde_json::from_str::<Value>(&masked(body)).unwrap();
        assert_eq!(parsed(&answer.body), parsed(&wanted), "{name}");
    } else {
        assert_eq!(masked(&answer.body), masked(&wanted), "{name}");
    }
}

/// The text without what is different every time: times, ports of llama-swap, and what it was built from.
fn masked(text: &str) -> String {
    const BEFORE: &str =
        "\"created\":|\"Host\": \"127.0.0.1:|\"Host\":\"127.0.0.1:|dial tcp 127.0.0.1:|\"build_date\":\"|\"commit\":\"";
    let varies = |letter: char| letter.is_ascii_hexdigit() || letter.is_ascii_uppercase() || "-:unkow".contains(letter);
    BEFORE.split('|').fold(text.to_owned(), |text, before| {
        let mut pieces = text.split(before);
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |text, piece| text + before + "0" + piece.trim_start_matches(varies))
    })
}

fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = head.lines().filter_map(|line| line.split_once(": "));
    line.into_iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Sends a request.
fn request(port: u16, method: &str, path: &str, headers: &Value, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAccept-Encoding: identity\r\n");
    let of_body = (!body.is_empty()).then(|| format!("Content-Length: {}\r\n", body.len()));
    let given = headers.as_object().into_iter().flatten();
    let given = given.map(|(name, value)| format!("{name}: {}\r\n", value.as_str().unwrap()));
    let head: String = [head].into_iter().chain(given).chain(of_body).collect();
    write!(stream, "{head}\r\n{body}").unwrap();
    BufReader::new(stream)
}

/// Reads an answer to its end, or so much of a body that has none.
fn read(mut stream: BufReader<TcpStream>, bytes: Option<usize>) -> Answer {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "cut off: {head:?}");
    }
    let mut body = Vec::new();
    match bytes {
        Some(bytes) => stream.take(bytes as u64).read_to_end(&mut body).unwrap(),
        None => stream.read_to_end(&mut body).unwrap(),
    };
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap();
    Answer { status, head, body: String::from_utf8(body).unwrap() }
}

fn ask(port: u16, method: &str, path: &str, headers: &Value, body: &str) -> Answer {
    read(request(port, method, path, headers, body), None)
}
