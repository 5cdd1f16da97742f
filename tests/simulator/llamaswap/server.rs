//! llama-swap's port: who may ask, what is recorded, which fault strikes, and which path does what.

use std::sync::Arc;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::common::http::{Call, ChannelBody, spoiled, typed};
use crate::common::{Fault, Kind};
use crate::config::{Peer, Version};
use crate::engine::{App, Engine};
use crate::names::Meant;
use crate::process::State;
use crate::{fail, lists};

const TEXT: &str = "text/plain; charset=utf-8";

/// Serves the port for ever.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> std::io::Result<()> {
    let router = Router::new().fallback(move |request| answer(Arc::clone(&app), request));
    axum::serve(listener, router).await
}

/// Writes the request into the record when it is over, also if the client did not wait for the answer.
struct Recorded {
    app: Arc<App>,
    members: Value,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.app.record.write("request", std::mem::take(&mut self.members));
    }
}

async fn answer(app: Arc<App>, request: Request) -> Response {
    let call = Call::of(request).await;
    let text = |name| call.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let members = json!({
        "method": call.method,
        "path": call.target,
        "authorization": text(header::AUTHORIZATION),
        "accept": text(header::ACCEPT),
        "userAgent": text(header::USER_AGENT),
    });
    app.record.write("arrived", members.clone());
    let mut recorded = Recorded { app: Arc::clone(&app), members };
    let target = format!("{} {}", call.method, call.path);
    let response = match app.faults.strike(&app.record, &["http", &target], None) {
        Some(fault) => {
            app.faults.held(&app.record, &fault).await;
            faulty(&app, &call, &fault).await
        }
        None => route(&app, &call).await,
    };
    let status = response.status().as_u16();
    recorded.members["status"] = status.into();
    app.news.request(&format!("\"{} {} HTTP/1.1\" {status}", call.method, call.target));
    response
}

/// An answer that goes wrong. A status with a time is that of a proxy in front, which gives up after it.
async fn faulty(app: &Arc<App>, call: &Call, fault: &Fault) -> Response {
    let answer = route(app, call);
    match (fault.kind, fault.ms) {
        (Kind::Status, Some(ms)) => match tokio::time::timeout(std::time::Duration::from_millis(ms), answer).await {
            Ok(response) => response,
            Err(_) => spoiled(fault, std::future::pending()).await,
        },
        (Kind::Unexpected, _) => fail::no_such_path(app.version()),
        _ => spoiled(fault, answer).await,
    }
}

/// The methods of a fixed path; nothing if there is no such path.
fn methods(version: Version, path: &str) -> Option<&'static str> {
    const GET: &str = "GET, HEAD";
    let (release, methods) = match path {
        "/" | "/health" | "/wol-health" | "/v1/models" | "/upstream" | "/unload" | "/logs" | "/logs/stream" => (0, GET),
        "/running" => (94, GET),
        "/api/events" => (135, GET),
        "/api/version" => (173, GET),
        "/props" => (234, GET),
        "/api/profiles" => (241, GET),
        "/models" => (250, GET),
        "/api/profiles/active" => (241, "PUT"),
        "/api/models/unload" | "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" => (0, "POST"),
        _ if path.starts_with("/logs/stream/") => (0, GET),
        _ if path.starts_with("/api/models/unload/") => (161, "POST"),
        _ if path.starts_with("/upstream/") => (0, "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"),
        "/ui" | "/ui/" | "/metrics" => (0, GET),
        _ => return None,
    };
    version.since(release).then_some(methods)
}

async fn route(app: &Arc<App>, call: &Call) -> Response {
    let engine = app.engine();
    let version = Version::of(&engine.version);
    let (method, path) = (call.method.as_str(), call.path.as_str());
    let Some(methods) = methods(version, path) else { return fail::no_such_path(version) };
    if !methods.split(", ").any(|it| it == method) {
        return fail::wrong_method(version, methods);
    }
    match path {
        "/" => return redirect(302, "/ui"),
        "/upstream" => return redirect(302, "/ui/models"),
        "/health" | "/wol-health" => return typed(StatusCode::OK, TEXT, "OK"),
        _ => {}
    }
    let is_open = (path == "/metrics" || path.starts_with("/ui")) && version.is_new() && !version.since(225);
    if !is_open && !is_allowed(version, &engine.config.api_keys, &call.headers) {
        return fail::unauthorized(version, &call.headers);
    }
    if let Some(rest) = path.strip_prefix("/upstream/") {
        return upstream(app, &engine, call, rest).await;
    }
    if let Some(name) = path.strip_prefix("/api/models/unload/") {
        return unload(app, &engine, call, name).await;
    }
    if let Some(name) = path.strip_prefix("/logs/stream/") {
        let source = match name {
            "proxy" | "upstream" => Some(name),
            _ => engine.real_id(name),
        };
        let with_history = !query(call).any(|(name, _)| name == "no-history");
        return match source {
            Some(source) => app.news.stream(Some(source), with_history),
            None => fail::error(version, &call.headers, 400, "invalid logger"),
        };
    }
    match path {
        "/running" => lists::running(&engine),
        "/v1/models" | "/models" => lists::models(app, &engine),
        "/api/version" => lists::version(&engine),
        "/api/profiles" => lists::profiles(app, &engine),
        "/api/profiles/active" => choose_profile(app, &engine, call),
        "/api/events" => app.news.events(app),
        "/logs" => typed(StatusCode::OK, TEXT, app.news.all()),
        "/logs/stream" => app.news.stream(None, !query(call).any(|(name, _)| name == "no-history")),
        "/unload" => {
            engine.unload(app, engine.processes.keys().cloned().collect()).await;
            typed(StatusCode::OK, TEXT, "OK")
        }
        "/api/models/unload" => {
            engine.unload(app, engine.processes.keys().cloned().collect()).await;
            lists::respond(version, &json!({ "msg": "ok" }))
        }
        "/props" => {
            let name = query(call).find(|(name, _)| name == "model").map(|(_, value)| value);
            inference(app, &engine, call, name.as_deref()).await
        }
        "/ui" | "/ui/" => typed(StatusCode::OK, "text/html; charset=utf-8", "<!doctype html>"),
        "/metrics" => typed(StatusCode::OK, TEXT, ""),
        _ => {
            let json = call.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let is_json = !version.is_new() || json.is_some_and(|json| json.starts_with("application/json"));
            let body = call.json();
            inference(app, &engine, call, body["model"].as_str().filter(|_| is_json)).await
        }
    }
}

/// Whether the request shows a key, where one is wanted. Only the first of the three ways that is there is looked at.
fn is_allowed(version: Version, keys: &[String], headers: &HeaderMap) -> bool {
    if keys.is_empty() || !version.since(179) {
        return true;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let given = match text("authorization").and_then(|value| value.split_once(' ')) {
        Some(("Basic", encoded)) if version.since(181) => {
            base64_decoded(encoded).and_then(|pair| pair.split_once(':').map(|(_, password)| password.to_owned()))
        }
        Some((scheme, key)) if scheme == "Bearer" || (version.since(225) && scheme.eq_ignore_ascii_case("bearer")) => {
            Some(key.to_owned())
        }
        _ => text("x-api-key").map(str::to_owned),
    };
    given.is_some_and(|given| keys.contains(&given))
}

fn base64_decoded(text: &str) -> Option<String> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.trim_end_matches('=').chars() {
        bits = (bits << 6) | u32::try_from(DIGITS.find(letter)?).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Names and values of the query, without their escapes.
fn query(call: &Call) -> impl Iterator<Item = (String, String)> {
    let query = call.target.split_once('?').map_or("", |(_, query)| query);
    query.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| crate::common::http::percent_decoded(&text.replace('+', " "));
        (decoded(name), decoded(value))
    })
}

fn redirect(status: u16, to: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    let page = format!("<a href=\"{to}\">{reason}</a>.\n\n");
    let mut response = typed(status, "text/html; charset=utf-8", page);
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// `/upstream/NAME/...`
async fn upstream(app: &Arc<App>, engine: &Arc<Engine>, call: &Call, rest: &str) -> Response {
    let version = Version::of(&engine.version);
    let raw = call.target.split('?').next().unwrap_or_default();
    if !version.since(162) && !rest.contains('/') {
        return redirect(301, &format!("{raw}/"));
    }
    let Some((name, path)) = engine.in_path(app, rest) else {
        let first = rest.split('/').next().unwrap_or_default();
        return if version.since(210) {
            fail::error(version, &call.headers, 404, "model not found")
        } else if version.since(178) {
            fail::error(version, &call.headers, 400, "model id required in path")
        } else {
            let error = format!("error swapping process group: could not find real modelID for {first}");
            fail::error(version, &call.headers, 500, &error)
        };
    };
    if path.is_empty() {
        return redirect(301, &format!("{raw}/"));
    }
    let path = call.target.split_once('?').map_or(path.to_owned(), |(_, query)| format!("{path}?{query}"));
    match engine.meant(app, name, false) {
        Meant::Peer(peer, _) => ask_peer(version, call, &engine.config.peers[&peer], &path, &call.body).await,
        Meant::Model(id) => {
            let process = &engine.processes[&id];
            let is_ignored = version.since(229)
                && engine
                    .config
                    .upstream
                    .ignore_paths
                    .iter()
                    .any(|end| path.split('?').next().is_some_and(|it| it.ends_with(end)));
            if is_ignored && process.state() != State::Ready {
                let error = format!("model {id} is not loaded; path matches upstream.ignorePaths");
                return fail::error(version, &call.headers, 409, &error);
            }
            pass_on(app, engine, &id, call, path, version.since(227)).await
        }
        Meant::SwitchedOff | Meant::Unknown => fail::error(version, &call.headers, 404, "model not found"),
    }
}

/// A request that names its model.
async fn inference(app: &Arc<App>, engine: &Arc<Engine>, call: &Call, name: Option<&str>) -> Response {
    let version = Version::of(&engine.version);
    let meant = name.filter(|name| !name.is_empty()).map(|name| engine.meant(app, name, true));
    match meant {
        None | Some(Meant::SwitchedOff) if version.is_new() => {
            fail::error(version, &call.headers, 404, "no model id could be identified")
        }
        None | Some(Meant::SwitchedOff) => fail::error(version, &call.headers, 400, "missing or invalid 'model' key"),
        Some(Meant::Unknown) => {
            let name = name.unwrap_or_default();
            let (status, error) = if version.is_new() {
                (404, "no router for requested model".to_owned())
            } else if version.since(178) {
                (400, format!("could not find suitable inference handler for {name}"))
            } else {
                (400, format!("could not find real modelID for {name}"))
            };
            fail::error(version, &call.headers, status, &error)
        }
        Some(Meant::Peer(peer, model)) => {
            let (target, body) = (renamed_in_query(call, &model), renamed(call, &model));
            ask_peer(version, call, &engine.config.peers[&peer], &target, &body).await
        }
        Some(Meant::Model(id)) => {
            let config = &engine.config.models[&id];
            let sent = name.unwrap_or_default();
            // A selector's or profile's name is not known there.
            let known = if engine.real_id(sent).is_some() { sent } else { id.as_str() };
            let mut body = renamed(call, config.use_model_name.as_deref().unwrap_or(known));
            if let Some(params) = config.filters.set_params_by_id.get(sent) {
                let mut json: Value = serde_json::from_slice(&body).unwrap_or_default();
                params.iter().for_each(|(name, value)| json[name] = value.clone());
                body = json.to_string().into();
            }
            let call = Call { body, ..call.clone() };
            if engine.config.send_loading_state && version.is_new() && call.json()["stream"] == true {
                return with_loading_state(app, engine, id, call);
            }
            let target = call.target.clone();
            pass_on(app, engine, &id, &call, target, version.is_new()).await
        }
    }
}

/// The body, with another `model`.
fn renamed(call: &Call, model: &str) -> Bytes {
    match call.json() {
        Value::Object(mut members) => {
            members.insert("model".into(), model.into());
            Value::Object(members).to_string().into()
        }
        _ => call.body.clone(),
    }
}

/// Path and query, with another `model`.
fn renamed_in_query(call: &Call, model: &str) -> String {
    if call.path == "/props" { format!("/props?model={model}") } else { call.path.clone() }
}

/// Has the model answer, once it is ready.
async fn pass_on(
    app: &Arc<App>,
    engine: &Arc<Engine>,
    id: &str,
    call: &Call,
    path: String,
    takes_place: bool,
) -> Response {
    let version = Version::of(&engine.version);
    let mut call = call.clone();
    if !engine.config.api_keys.is_empty() && !version.since(225) {
        call.headers.remove(header::AUTHORIZATION);
        call.headers.remove("x-api-key");
    }
    call.headers.insert("x-forwarded-for", HeaderValue::from_static("127.0.0.1"));
    if !version.is_new() {
        return engine.answer_old(app, id, call, path).await;
    }
    let place = if takes_place { engine.place(id) } else { None };
    if takes_place && place.is_none() {
        return fail::too_many(version, &call.headers);
    }
    let inflight = (call.method == "POST" && version.since(235)).then(|| InFlight::new(app, id, &call));
    let answer = match engine.grant(app, id, "request").await {
        Ok(work) => engine.processes[id].answer(&call, &path, work).await,
        Err(error) => fail::start(version, &call.headers, &error),
    };
    drop((place, inflight));
    answer
}

/// The events of a request that is answered.
struct InFlight {
    app: Arc<App>,
    id: u64,
}

impl InFlight {
    fn new(app: &Arc<App>, model: &str, call: &Call) -> Self {
        let id = app.number();
        let request = json!({ "id": id.to_string(), "model": model, "req_path": call.path, "method": call.method });
        app.news.event("inflight", &json!({ "operation": "upsert", "request": request }).to_string());
        Self { app: Arc::clone(app), id }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let message = json!({ "operation": "remove", "id": self.id.to_string() });
        self.app.news.event("inflight", &message.to_string());
    }
}

/// Status 200 and chatter at once; the answer, or the error, follows in the same body.
fn with_loading_state(app: &Arc<App>, engine: &Arc<Engine>, id: String, call: Call) -> Response {
    let (sender, pieces) = mpsc::unbounded_channel();
    let (app, engine) = (Arc::clone(app), Arc::clone(engine));
    tokio::spawn(async move {
        let chatter = json!({ "choices": [{ "delta": { "reasoning_content": "llama-swap loading model: " } }] });
        let _ = sender.send(Bytes::from(format!("data: {chatter}\n\n")));
        let target = call.target.clone();
        let answer = pass_on(&app, &engine, &id, &call, target, true).await;
        let _ = sender.send(to_bytes(answer.into_body(), usize::MAX).await.unwrap_or_default());
    });
    ChannelBody::new(pieces, ()).respond("text/event-stream")
}

async fn unload(app: &App, engine: &Engine, call: &Call, name: &str) -> Response {
    let version = Version::of(&engine.version);
    match engine.real_id(name) {
        Some(id) => {
            engine.unload(app, vec![id.to_owned()]).await;
            typed(StatusCode::OK, TEXT, "OK")
        }
        None if version.is_new() => fail::error(version, &call.headers, 404, "model not found"),
        None => fail::error(version, &call.headers, 404, "Model not found"),
    }
}

fn choose_profile(app: &App, engine: &Engine, call: &Call) -> Response {
    let version = Version::of(&engine.version);
    let name = call.json()["name"].as_str().map(str::to_owned);
    if name.as_ref().is_some_and(|name| !engine.config.profiles.contains_key(name)) {
        return fail::error(version, &call.headers, 404, "profile not found");
    }
    app.profile.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone_from(&name);
    app.news.event("profileChanged", &json!({ "active": name }).to_string());
    lists::respond(version, &json!({ "active": name }))
}

/// Asks another server, which is told nothing but what it needs.
async fn ask_peer(version: Version, call: &Call, peer: &Peer, target: &str, body: &[u8]) -> Response {
    let address = peer.proxy.trim_start_matches("http://").trim_end_matches('/');
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let key = peer.api_key.as_ref().map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let head = format!(
            "{} {target} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n",
            call.method,
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let Ok(answer) = ask.await else {
        let error = format!("peer proxy error: dial tcp {address}: connect: connection refused");
        return fail::error(version, &call.headers, 502, &error);
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(502);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = typed(status, TEXT, body.to_owned());
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        let name = [header::CONTENT_TYPE, header::SERVER].into_iter().find(|it| it.as_str().eq_ignore_ascii_case(name));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
