//! The OpenAI-compatible endpoints: the list of models, and chat with just-in-time loading.
//!
//! It must not decide what an instance is; it only picks one, waits for it and speaks for it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::common::now_ms;
use crate::engine::{App, By, Phase, Refusal, Run, Ticket};
use crate::lmstudio::{Config, Model};
use crate::load;
use crate::load::{LoadRequest, find};
use crate::reply::{self, ChannelBody};

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    owned_by: &'static str,
}

/// A list as OpenAI's API has it.
#[derive(Serialize)]
pub struct List<T> {
    /// What is listed.
    pub data: Vec<T>,
    /// Always `list`.
    pub object: &'static str,
}

/// The ids of the lists of `/v1` and `/api/v0`: instances first, then, with just-in-time loading, every key that is not
/// the id of one.
pub fn ids(app: &App, config: &Config) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    let mut add = |id: &str| {
        if ids.iter().all(|known| known != id) {
            ids.push(id.to_owned());
        }
    };
    for instance in app.instances().iter().filter(|instance| instance.listed(config)) {
        add(&instance.identifier);
    }
    if config.jit {
        app.downloaded().iter().for_each(|model| add(model.key()));
    }
    ids
}

/// `GET /v1/models`
pub fn models(app: &App, config: &Config) -> Response {
    let ids = ids(app, config);
    let entry = |id| Entry { id, object: "model", owned_by: "organization_owner" };
    reply::json(&List { data: ids.iter().map(|id| entry(id.as_str())).collect(), object: "list" })
}

/// Why a chat request is not answered.
struct Problem {
    message: String,
    code: Option<&'static str>,
}

impl Problem {
    fn new(message: impl Into<String>, code: Option<&'static str>) -> Self {
        Self { message: message.into(), code }
    }

    fn respond(&self) -> Response {
        #[derive(Serialize)]
        struct Outer<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'static str,
            param: &'static str,
            code: Option<&'static str>,
        }
        let error = Inner { message: &self.message, r#type: "invalid_request_error", param: "model", code: self.code };
        reply::json_status(StatusCode::BAD_REQUEST, &Outer { error })
    }
}

/// `POST /v1/chat/completions`
pub async fn chat(app: &Arc<App>, body: &Value) -> Response {
    let model = body["model"].as_str().unwrap_or_default();
    let record = |instance: Option<&str>, status: u16| {
        app.record.write("chat", json!({ "model": model, "instance": instance, "status": status }));
    };
    let ttl = body["ttl"].as_u64();
    let (run, identifier) = match instance_for(app, model, ttl).await {
        Ok(found) => found,
        Err(problem) => {
            record(None, 400);
            return problem.respond();
        }
    };
    let chat_ms = Duration::from_millis(app.config().chat_ms);
    let head = Head::new(&identifier);
    let saying = Saying::to(app, body);
    if body["stream"] == true {
        record(Some(&identifier), 200);
        return stream(run, head, saying, chat_ms);
    }
    tokio::time::sleep(chat_ms).await;
    if !run.alive() {
        // The text is [open].
        record(Some(&identifier), 400);
        return Problem::new("Model was unloaded while the request was still running.", None).respond();
    }
    record(Some(&identifier), 200);
    drop(run);
    let text = format!(
        r#"{{{},"choices":[{{"index":0,"message":{},"logprobs":null,"finish_reason":{}}}],"usage":{{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}},"stats":{{}},"system_fingerprint":{}}}"#,
        head.members("chat.completion"),
        saying.delta,
        saying.reason,
        head.model
    );
    reply::typed(StatusCode::OK, "application/json; charset=utf-8", text)
}

/// What the model says.
struct Saying {
    delta: String,
    reason: &'static str,
}

impl Saying {
    /// "ok", unless a test wants a tool called that this request offers.
    fn to(app: &App, body: &Value) -> Self {
        let offered = |name: &str| {
            let tools = body["tools"].as_array();
            tools.is_some_and(|tools| tools.iter().any(|tool| tool["function"]["name"] == name))
        };
        let mut calls = app.tool_calls.lock().unwrap_or_else(PoisonError::into_inner);
        match calls.front().is_some_and(|(name, _)| offered(name)).then(|| calls.pop_front()).flatten() {
            Some((name, arguments)) => {
                app.record.write("tool-call", json!({ "name": name }));
                let call = json!([{
                    "index": 0,
                    "id": format!("{}", now_ms() % 1_000_000_000),
                    "type": "function",
                    "function": { "name": name, "arguments": arguments },
                }]);
                let delta = json!({ "role": "assistant", "tool_calls": call }).to_string();
                Self { delta, reason: r#""tool_calls""# }
            }
            None => Self { delta: r#"{"role":"assistant","content":"ok"}"#.to_owned(), reason: r#""stop""# },
        }
    }
}

/// What every piece of an answer begins with.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn new(identifier: &str) -> Self {
        let noise = [RandomState::new().hash_one(now_ms()), RandomState::new().hash_one(identifier)];
        Self {
            id: format!("{:016x}{:08x}", noise[0], noise[1] >> 32),
            created: now_ms() / 1000,
            model: Value::from(identifier).to_string(),
        }
    }

    fn members(&self, object: &str) -> String {
        let Self { id, created, model } = self;
        format!(r#""id":"chatcmpl-{id}","object":"{object}","created":{created},"model":{model}"#)
    }
}

fn stream(run: Run, head: Head, saying: Saying, chat_ms: Duration) -> Response {
    let (sender, pieces) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let chunk = |delta: &str, reason: &str| {
            let members = head.members("chat.completion.chunk");
            Bytes::from(format!(
                "data: {{{members},\"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{reason}}}]}}\n\n"
            ))
        };
        let _ = sender.send(chunk(&saying.delta, "null"));
        tokio::select! {
            () = tokio::time::sleep(chat_ms) => {}
            // The client hung up: the generation stops.
            () = sender.closed() => return,
        }
        if !run.alive() {
            let _ = sender.send(Bytes::from_static(b"event: error\ndata: {\"error\":\"Model unloaded.\"}\n\n"));
            return;
        }
        let _ = sender.send(chunk("{}", saying.reason));
        drop(run);
        let _ = sender.send(Bytes::from_static(b"data: [DONE]\n\n"));
    });
    ChannelBody::new(pieces, ()).respond("text/event-stream")
}

/// Picks the instance that answers for `model`, loads it if need be, and waits until it is ready.
async fn instance_for(app: &Arc<App>, model: &str, ttl: Option<u64>) -> Result<(Run, String), Problem> {
    let gone = || Problem::new("Model was unloaded while the request was still in queue.", None);
    let mut ticket = pick(app, model, ttl)?;
    match ticket.finished().await {
        Phase::Ready(Some(_)) => {}
        Phase::Failed(text) => {
            return Err(Problem::new(format!("Failed to load model \"{model}\". Error: {text}"), None));
        }
        Phase::Ready(None) | Phase::Cancelled | Phase::Loading(_) => return Err(gone()),
    }
    let run = app.run(ticket.id).ok_or_else(gone)?;
    Ok((run, ticket.identifier))
}

fn pick(app: &Arc<App>, model: &str, ttl: Option<u64>) -> Result<Ticket, Problem> {
    let config = app.config();
    let downloaded = app.downloaded();
    let mut instances = app.instances();
    let ticket = |instance: &crate::engine::Instance| Ticket {
        id: instance.id,
        identifier: instance.identifier.clone(),
        phase: instance.phase.subscribe(),
    };
    // [open] which of two instances of one name, here and on a linked machine, answers: the one here.
    let same = instances.iter().filter(|instance| instance.identifier == model);
    if let Some(instance) = same.min_by_key(|instance| instance.device().is_some()) {
        return Ok(ticket(instance));
    }
    let none = "No models loaded. Please load a model in the developer page or use the 'lms load' command.";
    if model.is_empty() {
        return match instances.as_slice() {
            [] => Err(Problem::new(none, None)),
            [only] => Ok(ticket(only)),
            _ => Err(Problem::new(
                "Multiple models are loaded. Please specify a model by providing a 'model' field.",
                Some("model_not_found"),
            )),
        };
    }
    if config.answers_any_model {
        // For every name, also one that could have been loaded.
        if let [only] = instances.as_slice() {
            return Ok(ticket(only));
        }
    }
    if !config.jit && instances.is_empty() {
        return Err(Problem::new(none, None));
    }
    if config.jit && find(&downloaded, model, None).is_some() {
        if config.jit_evict {
            let before = instances.iter().filter(|instance| instance.by == By::Jit && !instance.loading());
            for id in before.map(|instance| instance.id).collect::<Vec<_>>() {
                app.evict(&mut instances, id, "jit");
            }
        }
        let seconds = ttl.unwrap_or(config.jit_ttl_seconds);
        let mut request = LoadRequest::new(model, By::Jit);
        request.ttl_ms = Some(seconds.saturating_mul(1000));
        let fault = app.load_fault(&downloaded, model);
        return load::begin(app, &mut instances, &downloaded, request, fault).map_err(|refusal| match refusal {
            Refusal::Unknown => unknown(model, &[]),
            Refusal::Text(text) => Problem::new(format!("Failed to load model \"{model}\". Error: {text}"), None),
        });
    }
    let names: Vec<String> = if config.jit {
        downloaded.iter().map(|model| Model::key(model).to_owned()).collect()
    } else {
        instances.iter().map(|instance| instance.identifier.clone()).collect()
    };
    Err(unknown(model, &names))
}

fn unknown(model: &str, names: &[String]) -> Problem {
    let some = names[..names.len().min(3)].join(", ");
    Problem::new(
        format!("Invalid model identifier \"{model}\". Please specify a valid downloaded model (e.g., {some})."),
        Some("model_not_found"),
    )
}
