//! The private protocol between the simulated `lms` and the application: `POST /rpc/METHOD` with a JSON object, answered
//! with one, or with one line of JSON per piece of news.
//!
//! LM Studio's own protocol is another one (a WebSocket); nothing but the simulated `lms` may rely on this.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::catalogue;
use crate::engine::{App, By, Phase, Refusal, Ticket};
use crate::lmstudio::VERSION;
use crate::load::{LoadRequest, find};
use crate::reply::{self, ChannelBody};
use crate::server::RestSwitch;

fn error(text: &str) -> Response {
    reply::json_status(StatusCode::BAD_REQUEST, &json!({ "error": text }))
}

/// A device as `lms` names it: absent, null or a string.
fn device(value: Option<&Value>) -> Option<Option<String>> {
    value.map(|value| value.as_str().map(str::to_owned))
}

/// Answers one call of `lms`.
pub async fn answer(app: &Arc<App>, switch: &Arc<RestSwitch>, method: &str, body: &Value) -> Response {
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    match method {
        "info" => reply::json(&json!({ "pid": std::process::id(), "version": VERSION })),
        "downloaded" => reply::json(&json!({ "models": app.downloaded(), "devices": devices(app) })),
        "loaded" => loaded(app),
        "load" => load(app, body),
        "cancel" => reply::json(&json!({ "cancelled": app.cancel(text("token")) })),
        "estimate" => estimate(app, body),
        "unload" => {
            let device = device(body.get("device"));
            if app.unload(text("identifier"), device.as_ref().map(|device| device.as_deref()), By::Lms) {
                reply::json(&json!({}))
            } else {
                error("This model has already been unloaded")
            }
        }
        "resolve" => match catalogue::resolve(app, text("name")) {
            Ok((model, downloaded)) => reply::json(&json!({ "model": model, "downloaded": downloaded })),
            Err(text) => error(&text),
        },
        "download" => match catalogue::resolve(app, text("name")) {
            Ok((model, _)) => {
                catalogue::download(app, &model, text("name"), By::Lms).await;
                reply::json(&json!({}))
            }
            Err(text) => error(&text),
        },
        "server-start" => {
            tokio::time::sleep(std::time::Duration::from_millis(app.config().server_start_ms)).await;
            let port = body["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(1234);
            let interface = body["interface"].as_str().unwrap_or("127.0.0.1");
            match switch.start(app, port, interface).await {
                Ok(port) => reply::json(&json!({ "port": port })),
                Err(text) => error(&text),
            }
        }
        "server-stop" => reply::json(&json!({ "stopped": switch.stop(app) })),
        _ => error(&format!("Unknown endpoint {method}")),
    }
}

fn devices(app: &App) -> Value {
    app.config().links.iter().map(|link| (link.device.clone(), Value::from(link.device_name.clone()))).collect()
}

fn loaded(app: &App) -> Response {
    let config = app.config();
    let instances = app.instances();
    let listed = || instances.iter().filter(|instance| instance.listed(&config));
    let llms = listed().filter(|instance| !instance.model.is_embedding());
    let embeddings = listed().filter(|instance| instance.model.is_embedding());
    let rows: Vec<_> = llms.chain(embeddings).map(crate::engine::Instance::row).collect();
    reply::json(&json!({ "instances": rows, "devices": devices(app) }))
}

fn load(app: &Arc<App>, body: &Value) -> Response {
    let mut request = LoadRequest::new(body["key"].as_str().unwrap_or_default(), By::Lms);
    request.identifier = body["identifier"].as_str().map(str::to_owned);
    request.device = device(body.get("device"));
    request.context_length = body["contextLength"].as_u64();
    request.ttl_ms = body["ttlMs"].as_u64();
    request.parallel = body["parallel"].as_u64().and_then(|parallel| u32::try_from(parallel).ok());
    request.gpu = body["gpu"].as_f64();
    request.local_only = body["localOnly"] == true;
    request.token = body["token"].as_str().map(str::to_owned);
    let token = request.token.clone().unwrap_or_default();
    let ticket = match app.begin(request) {
        Ok(ticket) => ticket,
        Err(Refusal::Unknown) => return error("Model not found"),
        Err(Refusal::Text(text)) => return error(&text),
    };
    let (sender, pieces) = mpsc::unbounded_channel();
    tokio::spawn(tell(ticket, sender));
    // The body is dropped when the load is over, and when the client is gone; in the first case there is nothing left to
    // cancel.
    let guard = ClientGone { app: Arc::clone(app), token };
    ChannelBody::new(pieces, guard).respond("application/x-ndjson")
}

struct ClientGone {
    app: Arc<App>,
    token: String,
}

impl Drop for ClientGone {
    fn drop(&mut self) {
        if self.app.config().on_client_gone == "cancel" {
            self.app.cancel(&self.token);
        }
    }
}

/// Tells a client how its load goes on, one line a step.
async fn tell(mut ticket: Ticket, sender: mpsc::UnboundedSender<Bytes>) {
    let line = |value: Value| sender.send(Bytes::from(format!("{value}\n"))).is_ok();
    loop {
        let phase = ticket.phase.borrow_and_update().clone();
        let told = match phase {
            Phase::Loading(percent) => line(json!({ "percent": percent })),
            Phase::Ready(info) => {
                let info = info.map(|info| {
                    json!({ "identifier": info.identifier, "device": info.device, "sizeBytes": info.size_bytes })
                });
                line(json!({ "percent": 100, "ready": true, "info": info }));
                return;
            }
            Phase::Failed(text) => {
                line(json!({ "error": text }));
                return;
            }
            Phase::Cancelled => {
                // The text is [open].
                line(json!({ "error": "Model load was cancelled." }));
                return;
            }
        };
        if !told || ticket.phase.changed().await.is_err() {
            return;
        }
    }
}

/// LM Studio's estimator, after the samples: the file, 32 KiB for each token of context, and the share of the GPU.
fn estimate(app: &App, body: &Value) -> Response {
    let downloaded = app.downloaded();
    let device = device(body.get("device"));
    let device = device.as_ref().map(|device| device.as_deref());
    let name = body["key"].as_str().unwrap_or_default();
    let Some((model, _)) = find(&downloaded, name, device) else {
        return error("Model not found");
    };
    let context = body["contextLength"].as_u64().unwrap_or(4096);
    let total = model.head.size_bytes + context.min(model.tail.max_context_length) * 32 * 1024;
    let gpu = total as f64 * body["gpu"].as_f64().unwrap_or(1.0);
    let passes = app.guardrail(&app.instances(), model).is_none();
    reply::json(&json!({ "totalBytes": total, "gpuBytes": gpu, "passes": passes }))
}
