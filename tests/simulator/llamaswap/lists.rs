//! What llama-swap tells of itself: `/running`, `/v1/models`, `/api/profiles`, `/api/version`, and the list of models in
//! its events.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::common::http::typed;
use crate::common::now_ms;
use crate::config::{Model, Strategy, Version};
use crate::engine::{App, Engine};
use crate::process::{Process, State};

/// JSON as Go writes it.
pub fn go_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// An answer, with the members in the order of `value`'s fields in new versions, and by name in old ones.
pub fn respond(version: Version, value: &impl Serialize) -> Response {
    if version.is_new() {
        return typed(StatusCode::OK, "application/json", go_json(value) + "\n");
    }
    let sorted = serde_json::to_value(value).unwrap_or_default();
    typed(StatusCode::OK, "application/json; charset=utf-8", go_json(&sorted))
}

#[derive(Serialize)]
struct Row<'a> {
    model: &'a str,
    state: &'static str,
    #[serde(flatten)]
    more: Option<More<'a>>,
}

#[derive(Serialize)]
struct More<'a> {
    cmd: &'a str,
    proxy: &'a str,
    ttl: i64,
    name: &'a str,
    description: &'a str,
}

/// `GET /running`
pub fn running(engine: &Engine) -> Response {
    #[derive(Serialize)]
    struct Running<'a> {
        running: Vec<Row<'a>>,
    }
    let version = Version::of(&engine.version);
    let shows = |process: &&Arc<Process>| match process.state() {
        State::Ready => true,
        State::Stopped => false,
        State::Starting | State::Stopping => version.is_new() || engine.config.matrix.is_some(),
    };
    let rows = engine.processes.values().filter(shows).map(|process| {
        let Model { cmd, proxy, ttl, name, description, .. } = &process.config;
        let ttl = if *ttl < 0 { engine.config.global_ttl } else { *ttl };
        let more = version.since(186).then_some(More { cmd, proxy, ttl, name, description });
        Row { model: &process.id, state: process.state().name(), more }
    });
    let mut response = respond(version, &Running { running: rows.collect() });
    // The one answer that old versions write without a character set.
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[derive(Serialize)]
struct Entry {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported_parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
}

/// `GET /v1/models`
pub fn models(app: &App, engine: &Engine) -> Response {
    #[derive(Serialize)]
    struct List {
        data: Vec<Entry>,
        object: &'static str,
    }
    let version = Version::of(&engine.version);
    let mut entries = BTreeMap::new();
    let mut add = |entry: Entry| drop(entries.insert(entry.id.clone(), entry));
    for (id, model) in engine.config.models.iter().filter(|(_, model)| !model.unlisted) {
        add(of_model(version, engine, id, model));
        if engine.config.include_aliases_in_list {
            for alias in model.other_names() {
                let meta = json!({ "modelID": id, "type": "alias" });
                add(entry(version, alias, "", &meta, is_loaded(engine, id)));
            }
        }
    }
    for (id, peer) in engine.config.peers.iter().filter(|_| version.since(179)) {
        for model in &peer.models {
            let full = format!("{id}/{model}");
            let listed = if version.since(242) { &full } else { model };
            let meta = json!({ "peerID": id, "type": "peer" });
            add(entry(version, listed, &format!("{id}: {model}"), &meta, false));
        }
    }
    if version.since(241) {
        for (id, selector) in &engine.config.selectors {
            let (targets, strategy) = (&selector.targets, selector.strategy);
            let is_up = |target: &String| {
                engine
                    .real_id(target)
                    .is_some_and(|id| matches!(engine.processes[id].state(), State::Ready | State::Starting))
            };
            let loaded =
                if strategy == Strategy::Pin { targets.first().is_some_and(is_up) } else { targets.iter().any(is_up) };
            let meta = json!({ "strategy": strategy.name(), "targets": targets, "type": "selector" });
            add(entry(version, id, "", &meta, loaded));
        }
        let active = app.active_profile();
        let profile = active.and_then(|active| engine.config.profiles.get(&active));
        for name in profile.iter().flat_map(|profile| profile.pins.keys()) {
            if engine.real_id(name).is_none() && !engine.config.selectors.contains_key(name) {
                add(entry(version, name, "", &json!({ "type": "profile" }), false));
            }
        }
    }
    respond(version, &List { data: entries.into_values().collect(), object: "list" })
}

fn is_loaded(engine: &Engine, id: &str) -> bool {
    engine.processes[id].state() != State::Stopped
}

fn entry(version: Version, id: &str, name: &str, meta: &Value, loaded: bool) -> Entry {
    let value = if loaded { "loaded" } else { "unloaded" };
    Entry {
        id: id.to_owned(),
        object: "model",
        created: now_ms() / 1000,
        owned_by: "llama-swap",
        name: name.to_owned(),
        description: String::new(),
        architecture: None,
        capabilities: None,
        supported_parameters: None,
        context_length: None,
        meta: version.since(241).then(|| json!({ "llamaswap": meta })),
        status: version.since(236).then(|| json!({ "value": value })),
    }
}

fn of_model(version: Version, engine: &Engine, id: &str, model: &Model) -> Entry {
    let mut own = model.metadata.clone();
    if version.since(241) {
        own.insert("type".into(), "model".into());
        let aliases: Vec<&String> = model.other_names().collect();
        if !aliases.is_empty() {
            own.insert("aliases".into(), json!(aliases));
        }
    }
    // The configuration's free metadata came somewhere between v150 and v217.
    let mut meta = Map::new();
    if version.since(178) && !own.is_empty() {
        meta.insert("llamaswap".into(), own.into());
    }
    let declared = |member: &str| model.capabilities.get(member).cloned().filter(|_| version.since(236));
    if let Some(context) = declared("context_length") {
        meta.insert("n_ctx".into(), context);
    }
    Entry {
        name: model.name.clone(),
        description: model.description.clone(),
        architecture: declared("architecture"),
        capabilities: declared("capabilities"),
        supported_parameters: declared("supported_parameters"),
        context_length: declared("context_length"),
        meta: (!meta.is_empty()).then(|| meta.into()),
        ..entry(version, id, "", &Value::Null, is_loaded(engine, id))
    }
}

/// `GET /api/version`
pub fn version(engine: &Engine) -> Response {
    #[derive(Serialize)]
    struct Of<'a> {
        build_date: &'static str,
        commit: &'a str,
        version: &'a str,
    }
    let commit = engine.version.split("-g").nth(1).unwrap_or("unknown");
    respond(Version::of(&engine.version), &Of { build_date: "unknown", commit, version: &engine.version })
}

/// `GET /api/profiles`
pub fn profiles(app: &App, engine: &Engine) -> Response {
    #[derive(Serialize)]
    struct Profiles<'a> {
        active: Option<String>,
        profiles: Vec<Profile<'a>>,
    }
    #[derive(Serialize)]
    struct Profile<'a> {
        id: &'a str,
        description: &'a str,
        pins: &'a BTreeMap<String, String>,
    }
    let profiles = engine.config.profiles.iter();
    let profiles = profiles.map(|(id, it)| Profile { id, description: &it.description, pins: &it.pins }).collect();
    respond(Version::of(&engine.version), &Profiles { active: app.active_profile(), profiles })
}

/// All models, as the events have them.
pub fn statuses(engine: &Engine) -> String {
    #[derive(Serialize)]
    struct Status<'a> {
        id: &'a str,
        name: &'a str,
        description: &'a str,
        state: &'static str,
        unlisted: bool,
        #[serde(rename = "peerID")]
        peer_id: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        aliases: Vec<&'a String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        capabilities: Option<&'a Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        context_length: Option<&'a Value>,
    }
    let version = Version::of(&engine.version);
    let own = engine.processes.values().map(|process| Status {
        id: &process.id,
        name: &process.config.name,
        description: &process.config.description,
        state: process.state().name(),
        unlisted: process.config.unlisted,
        peer_id: "",
        aliases: process.config.other_names().filter(|_| version.since(194)).collect(),
        capabilities: process.config.capabilities.get("capabilities"),
        context_length: process.config.capabilities.get("context_length"),
    });
    let of_peers = engine.config.peers.iter().flat_map(|(peer, it)| {
        it.models.iter().map(move |model| Status {
            id: model,
            name: "",
            description: "",
            state: "stopped",
            unlisted: false,
            peer_id: peer,
            aliases: Vec::new(),
            capabilities: None,
            context_length: None,
        })
    });
    go_json(&own.chain(of_peers).collect::<Vec<_>>())
}
