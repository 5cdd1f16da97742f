//! llama-swap's own errors, as each of its versions words them.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use crate::common::http::typed;
use crate::config::Version;
use crate::lists::go_json;

const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Serialize)]
struct AsObject<'a> {
    src: &'static str,
    error: Object<'a>,
}

#[derive(Serialize)]
struct Object<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<()>,
    code: &'static str,
}

#[derive(Serialize)]
struct AsText<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<&'static str>,
}

/// An error of this status.
pub fn error(version: Version, headers: &HeaderMap, status: u16, message: &str) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !version.is_new() {
        return if accept.contains("application/json") {
            let body = serde_json::json!({ "error": message });
            typed(code, "application/json; charset=utf-8", body.to_string())
        } else {
            typed(code, TEXT, message.to_owned())
        };
    }
    if accept.contains("text/plain") {
        return typed(code, "text/plain", format!("llama-swap: {message}"));
    }
    if accept.contains("text/html") {
        return typed(code, "text/html", format!("<html><body><h1>llama-swap</h1><p>{message}</p></body></html>"));
    }
    let body = if version.since(251) {
        let (kind, code) = kind(status);
        go_json(&AsObject { src: "llama-swap", error: Object { message, r#type: kind, param: None, code } })
    } else if version.since(225) {
        go_json(&AsText { error: message, src: Some("llama-swap") })
    } else {
        // As it is: what has a quote in it is no JSON.
        format!(r#"{{"src":"llama-swap", "error": "{message}"}}"#)
    };
    typed(code, "application/json", body)
}

fn kind(status: u16) -> (&'static str, &'static str) {
    let kind = match status {
        401 | 403 => "authentication_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let code = match status {
        400 => "bad_request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        429 => "concurrency_limit",
        502 => "bad_gateway",
        503 => "service_unavailable",
        504 => "gateway_timeout",
        _ => "internal_error",
    };
    (kind, code)
}

/// A model that could not be started, or was stopped before it was ready.
pub fn start(version: Version, headers: &HeaderMap, message: &str) -> Response {
    if version.is_new() {
        error(version, headers, 500, &format!("unspecific error: {message}"))
    } else {
        plain(502, &format!("unable to start process: {message}"))
    }
}

/// One request more than the model may have.
pub fn too_many(version: Version, headers: &HeaderMap) -> Response {
    const MESSAGE: &str = "Too many requests";
    let mut response = if version.since(251) {
        error(version, headers, 429, MESSAGE)
    } else if version.since(227) {
        let body = go_json(&AsText { error: MESSAGE, src: None });
        typed(StatusCode::TOO_MANY_REQUESTS, "application/json", body)
    } else {
        return plain(429, MESSAGE);
    };
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A key is wanted.
pub fn unauthorized(version: Version, headers: &HeaderMap) -> Response {
    let mut response = error(version, headers, 401, "unauthorized: invalid or missing API key");
    if version.since(181) {
        let realm = HeaderValue::from_static("Basic realm=\"llama-swap\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    }
    response
}

/// Text, with the line end that Go's `http.Error` adds.
pub fn plain(status: u16, message: &str) -> Response {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = typed(code, TEXT, format!("{message}\n"));
    let nosniff = (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response.headers_mut().insert(nosniff.0, nosniff.1);
    response
}

/// A status, and nothing else.
pub fn bare(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// A path that there is not.
pub fn no_such_path(version: Version) -> Response {
    if version.is_new() { plain(404, "404 page not found") } else { bare(StatusCode::NOT_FOUND) }
}

/// A path that there is, for other methods.
pub fn wrong_method(version: Version, allowed: &'static str) -> Response {
    if !version.is_new() {
        return bare(StatusCode::NOT_FOUND);
    }
    let mut response = plain(405, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}
