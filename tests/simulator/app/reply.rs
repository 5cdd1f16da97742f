//! Answers as LM Studio writes them.

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

pub use crate::common::http::{ChannelBody, spoiled, typed};

/// A JSON answer of a status, its members in the order of `body`'s fields.
pub fn json_status(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    typed(status, "application/json; charset=utf-8", bytes)
}

/// A JSON answer.
pub fn json(body: &impl Serialize) -> Response {
    json_status(StatusCode::OK, body)
}

/// What LM Studio says to a path or method it does not know, with status 200.
pub fn unexpected(method: &str, path: &str) -> Response {
    json(&serde_json::json!({ "error": format!("Unexpected endpoint or method. ({method} {path})") }))
}
