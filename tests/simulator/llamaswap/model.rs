//! A model's own server, behind llama-swap: a stand-in, as was used when the samples were taken.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::common::http::{Call, ChannelBody, typed};
use crate::config::Server;
use crate::engine::App;
use crate::process::{Process, State, Work};

/// Answers a request.
pub async fn answer(
    app: &Arc<App>,
    process: &Arc<Process>,
    server: &Server,
    call: &Call,
    path: &str,
    work: Work,
) -> Response {
    let without_query = path.split('?').next().unwrap_or_default();
    let mut response = match (call.method.as_str(), without_query) {
        ("GET" | "HEAD", "/health") => json_answer(200, &json!({ "status": "ok" })),
        ("GET", "/props") => match &server.props {
            Some(Value::Bool(false)) => not_found(),
            Some(props) => json_answer(200, props),
            None => json_answer(200, &json!({ "model_path": process.id })),
        },
        ("GET", "/echo") => json_answer(200, &json!({ "path": path, "headers": echo(&call.headers) })),
        ("GET", "/die") => {
            process.die();
            std::future::pending().await
        }
        ("POST", "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings") => chat(app, process, call, work).await,
        _ => not_found(),
    };
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("fake"));
    response
}

fn json_answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or_default();
    typed(status, "application/json", Body::from(body.to_string()))
}

fn not_found() -> Response {
    json_answer(404, &json!({ "error": { "code": 404, "message": "File Not Found", "type": "not_found_error" } }))
}

/// The headers that came, as Python names them.
fn echo(headers: &HeaderMap) -> Map<String, Value> {
    let title = |name: &str| {
        let words = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
        words.collect::<Vec<_>>().join("-")
    };
    let text = |value: &HeaderValue| Value::from(value.to_str().unwrap_or_default());
    headers.iter().map(|(name, value)| (title(name.as_str()), text(value))).collect()
}

/// One word; `sleep` in the request says after how many seconds of llama-swap's.
async fn chat(app: &Arc<App>, process: &Arc<Process>, call: &Call, work: Work) -> Response {
    let body = call.json();
    let takes = app.seconds(body["sleep"].as_u64().unwrap_or(0));
    app.record.write("chat", json!({ "model": process.id, "asked": body["model"] }));
    if let Some(fault) = app.faults.strike(&app.record, &["chat"], Some(&process.id)) {
        app.faults.held(&app.record, &fault).await;
    }
    if body["stream"] != true {
        tokio::time::sleep(takes).await;
        drop(work);
        return json_answer(
            200,
            &json!({
                "id": "x",
                "object": "chat.completion",
                "model": body["model"],
                "server": process.id,
                "choices": [{
                    "index": 0,
                    "finish_reason": "length",
                    "message": { "role": "assistant", "content": "." },
                }],
                "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 },
                "got": body,
            }),
        );
    }
    let (sender, pieces) = mpsc::unbounded_channel();
    let process = Arc::clone(process);
    tokio::spawn(async move {
        let chunk = |delta: Value, reason: Value| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
            let chunk =
                json!({ "id": "x", "object": "chat.completion.chunk", "model": body["model"], "choices": [choice] });
            Bytes::from(format!("data: {chunk}\n\n"))
        };
        let _ = sender.send(chunk(json!({ "role": "assistant", "content": "." }), Value::Null));
        tokio::select! {
            () = tokio::time::sleep(takes) => {}
            () = sender.closed() => return,
        }
        if process.state() == State::Ready {
            let _ = sender.send(chunk(json!({}), json!("stop")));
            let _ = sender.send(Bytes::from_static(b"data: [DONE]\n\n"));
        }
    });
    ChannelBody::new(pieces, work).respond("text/event-stream")
}
