//! The logs, and the events that llama-swap sends to who listens.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};

use crate::common::http::ChannelBody;
use crate::engine::App;
use crate::lists::{go_json, statuses};

/// The source of llama-swap's own lines.
const PROXY: &str = "proxy";

/// Logs and listeners.
#[derive(Debug)]
pub struct News {
    /// By source: `proxy`, or the id of a model.
    logs: Mutex<BTreeMap<String, String>>,
    sender: broadcast::Sender<(String, Value)>,
}

impl Default for News {
    fn default() -> Self {
        Self { logs: Mutex::new(BTreeMap::new()), sender: broadcast::Sender::new(1024) }
    }
}

impl News {
    fn log(&self, source: &str, text: &str) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).entry(source.to_owned()).or_default().push_str(text);
        let _ = self.sender.send((source.to_owned(), json!(text)));
    }

    /// What a model's server prints.
    pub fn model_log(&self, id: &str, text: &str) {
        self.log(id, text);
    }

    /// llama-swap's own line of a request.
    pub fn request(&self, line: &str) {
        self.log(PROXY, &format!("[INFO] Request 127.0.0.1 {line}\n"));
    }

    /// A state has changed.
    pub fn model_status(&self, app: &App) {
        self.event("modelStatus", &statuses(&app.engine()));
    }

    /// Anything else, as JSON.
    pub fn event(&self, kind: &str, data: &str) {
        let _ = self.sender.send((String::new(), json!({ "type": kind, "data": data })));
    }

    /// The log of one source, or of all models.
    fn history(&self, source: &str) -> String {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if source == "upstream" {
            return logs.iter().filter(|(id, _)| *id != PROXY).map(|(_, text)| text.as_str()).collect();
        }
        logs.get(source).cloned().unwrap_or_default()
    }

    /// `GET /logs`
    pub fn all(&self) -> String {
        self.history(PROXY) + &self.history("upstream")
    }

    /// `GET /logs/stream/...`: what there is, then what comes, until the client hangs up.
    pub fn stream(&self, source: Option<&str>, with_history: bool) -> Response {
        let (sender, pieces) = mpsc::unbounded_channel();
        let source = source.map(str::to_owned);
        let mut news = self.sender.subscribe();
        if with_history {
            let text = source.as_deref().map_or_else(|| self.all(), |source| self.history(source));
            let _ = sender.send(Bytes::from(text));
        }
        tokio::spawn(async move {
            while let Ok((from, text)) = news.recv().await {
                let is_wanted = match source.as_deref() {
                    None => !from.is_empty(),
                    Some("upstream") => !from.is_empty() && from != PROXY,
                    Some(source) => from == source,
                };
                let text = text.as_str().filter(|_| is_wanted).unwrap_or_default().to_owned();
                if sender.is_closed() || (!text.is_empty() && sender.send(Bytes::from(text)).is_err()) {
                    return;
                }
            }
        });
        ChannelBody::new(pieces, ()).respond("text/plain")
    }

    /// `GET /api/events`
    pub fn events(&self, app: &App) -> Response {
        let (sender, pieces) = mpsc::unbounded_channel();
        let mut news = self.sender.subscribe();
        let send = move |kind: &str, data: &str| {
            let message = go_json(&Message { r#type: kind, data });
            sender.send(Bytes::from(format!("event:message\ndata:{message}\n\n"))).is_ok()
        };
        for (source, name) in [(PROXY, PROXY), ("upstream", "upstream")] {
            send("logData", &json!({ "data": self.history(source), "source": name }).to_string());
        }
        send("modelStatus", &statuses(&app.engine()));
        if app.version().since(235) {
            send("inflight", r#"{"operation":"snapshot"}"#);
        }
        tokio::spawn(async move {
            while let Ok((from, what)) = news.recv().await {
                let sent = match (from.as_str(), what.as_str()) {
                    ("", _) => {
                        let text = |member: &str| what[member].as_str().unwrap_or_default().to_owned();
                        send(&text("type"), &text("data"))
                    }
                    (from, line) => {
                        let source = if from == PROXY { PROXY } else { "upstream" };
                        send("logData", &json!({ "data": line, "source": source }).to_string())
                    }
                };
                if !sent {
                    return;
                }
            }
        });
        ChannelBody::new(pieces, ()).respond("text/event-stream")
    }
}

#[derive(serde::Serialize)]
struct Message<'a> {
    r#type: &'a str,
    data: &'a str,
}
