//! What a test does to the application by hand: `/control/...` on the API port.
//!
//! LM Studio has nothing like it. It must not offer what a test can have through `lms`, REST or the files.

use std::sync::{Arc, PoisonError};

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::engine::{App, By, Instance, Phase, Refusal};
use crate::load::LoadRequest;
use crate::reply;
use crate::server::RestSwitch;

/// Carries out one order.
pub async fn answer(app: &Arc<App>, switch: &Arc<RestSwitch>, method: &str, what: &str, body: &[u8]) -> Response {
    let body: Value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(_) if body.is_empty() => json!({}),
        Err(error) => return refuse(&error.to_string()),
    };
    let result = match (method, what) {
        ("GET", "state") => Ok(state(app, switch)),
        ("POST", "evict") => with_instance(app, &body, |app, instances, id| {
            app.evict(instances, id, "gui");
        }),
        ("POST", "load") => load(app, &body),
        ("POST", "busy") => with_instance(app, &body, |_, instances, id| {
            let status = body["status"].as_str().unwrap_or("generating").to_owned();
            let queued = body["queued"].as_u64().and_then(|queued| u32::try_from(queued).ok()).unwrap_or(1);
            let busy = (body["busy"] == true).then_some((status, queued));
            change(instances, id, |instance| instance.work(|instance| instance.busy = busy));
        }),
        ("POST", "used") => with_instance(app, &body, |_, instances, id| {
            change(instances, id, |instance| {
                instance.last_used = body["lastUsedTime"].as_u64();
            });
        }),
        // The next request that offers this tool is answered with a call of it.
        ("POST", "call-tool") => {
            let call = (body["name"].as_str().unwrap_or_default().to_owned(), body["arguments"].to_string());
            app.tool_calls.lock().unwrap_or_else(PoisonError::into_inner).push_back(call);
            Ok(json!({}))
        }
        ("POST", "rest") => rest(app, switch, &body).await,
        ("POST", "release") => {
            let held = app.instances().iter().filter(|instance| instance.held).count();
            app.release.notify_waiters();
            Ok(json!({ "released": held }))
        }
        // As by `kill -9`: no file is removed, no connection is closed in good order. Only the moment is recorded.
        ("POST", "crash") => {
            app.record.write("crash", json!({ "pid": std::process::id() }));
            std::process::exit(137)
        }
        _ => Err(format!("unknown order: {method} /control/{what}")),
    };
    match result {
        Ok(value) => reply::json(&value),
        Err(text) => refuse(&text),
    }
}

fn refuse(text: &str) -> Response {
    reply::json_status(StatusCode::BAD_REQUEST, &json!({ "error": text }))
}

fn change(instances: &mut [Instance], id: u64, change: impl FnOnce(&mut Instance)) {
    if let Some(instance) = instances.iter_mut().find(|instance| instance.id == id) {
        change(instance);
    }
}

fn with_instance(app: &App, body: &Value, act: impl FnOnce(&App, &mut Vec<Instance>, u64)) -> Result<Value, String> {
    let identifier = body["identifier"].as_str().unwrap_or_default();
    let device = body.get("device").map(Value::as_str);
    let mut instances = app.instances();
    let wanted = |instance: &&Instance| {
        instance.identifier == identifier && device.is_none_or(|device| instance.device() == device)
    };
    let id = instances.iter().find(wanted).map(|instance| instance.id);
    let id = id.ok_or_else(|| format!("no instance {identifier:?}"))?;
    act(app, &mut instances, id);
    Ok(json!({}))
}

fn load(app: &Arc<App>, body: &Value) -> Result<Value, String> {
    let mut request = LoadRequest::new(body["key"].as_str().unwrap_or_default(), By::Gui);
    request.identifier = body["identifier"].as_str().map(str::to_owned);
    request.context_length = body["contextLength"].as_u64();
    request.ttl_ms = body["ttlMs"].as_u64();
    request.parallel = body["parallel"].as_u64().and_then(|parallel| u32::try_from(parallel).ok());
    request.device = body.get("device").map(|device| device.as_str().map(str::to_owned));
    request.at_once = body["takesTime"] != true;
    match app.begin(request) {
        Ok(ticket) => Ok(json!({ "identifier": ticket.identifier })),
        Err(Refusal::Unknown) => Err(format!("no model {}", body["key"])),
        Err(Refusal::Text(text)) => Err(text),
    }
}

async fn rest(app: &Arc<App>, switch: &Arc<RestSwitch>, body: &Value) -> Result<Value, String> {
    if body["on"] == true {
        let port = body["port"].as_u64().and_then(|port| u16::try_from(port).ok()).or(switch.port()).unwrap_or(0);
        let port = switch.start(app, port, "127.0.0.1").await?;
        Ok(json!({ "port": port }))
    } else {
        switch.stop(app);
        Ok(json!({ "port": null }))
    }
}

fn state(app: &App, switch: &RestSwitch) -> Value {
    let instances = app.instances();
    let loads = instances.iter().filter_map(|instance| match *instance.phase.borrow() {
        Phase::Loading(percent) => Some(json!({
            "identifier": instance.identifier,
            "key": instance.model.key(),
            "by": instance.by.name(),
            "percent": percent,
            "held": instance.held,
        })),
        _ => None,
    });
    let loads: Vec<Value> = loads.collect();
    let rows: Vec<Value> = instances
        .iter()
        .map(|instance| {
            let mut row = serde_json::to_value(instance.row()).unwrap_or_default();
            row["by"] = instance.by.name().into();
            row["loading"] = instance.loading().into();
            row
        })
        .collect();
    json!({ "instances": rows, "loads": loads, "restPort": switch.port(), "apiPort": app.api_port })
}
