//! A request taken apart, and answers: bodies that are written while they are read, and the ways an answer can go wrong.
//!
//! It must not know which endpoint answers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use http_body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Fault, Kind};

/// One request, taken apart.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    /// The path without its escapes.
    pub path: String,
    /// Path and query as they were sent.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Call {
    /// Reads it to its end.
    pub async fn of(request: Request) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            method: parts.method.to_string(),
            path: percent_decoded(parts.uri.path()),
            target: parts.uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned(),
            headers: parts.headers,
            body: to_bytes(body, usize::MAX).await.unwrap_or_default(),
        }
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Undoes percent encoding; what is not an escape stays as it is.
pub fn percent_decoded(path: &str) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = path.as_bytes();
    let (mut decoded, mut place) = (Vec::with_capacity(bytes.len()), 0);
    while place < bytes.len() {
        let escape = match (bytes[place], hex(bytes.get(place + 1)), hex(bytes.get(place + 2))) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        decoded.push(escape.unwrap_or(bytes[place]));
        place += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// An answer of a status and a content type.
pub fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A body made of the messages of a channel; it ends when the sender is gone. `guard` is dropped when the body is, so it
/// notices a client that went away.
pub struct ChannelBody<G> {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    _guard: G,
}

impl<G: Send + Unpin + 'static> ChannelBody<G> {
    /// A body of the pieces to come.
    pub fn new(pieces: mpsc::UnboundedReceiver<Bytes>, guard: G) -> Self {
        Self { pieces, _guard: guard }
    }

    /// The whole answer.
    pub fn respond(self, content_type: &'static str) -> Response {
        typed(StatusCode::OK, content_type, Body::new(self))
    }
}

impl<G: Unpin> http_body::Body for ChannelBody<G> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A body of many bytes that are made only when somebody reads them.
struct Filler {
    left: u64,
    piece: Bytes,
}

impl http_body::Body for Filler {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let size = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.piece.len());
        if size == 0 {
            return Poll::Ready(None);
        }
        self.left -= size as u64;
        let piece = self.piece.slice(..size);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// A body that fails before its first byte. The head of the answer is then still in the server's buffer, and the
/// connection is closed without an answer.
struct Broken;

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
    }
}

/// A page of some other program, as a proxy or a router shows it.
const HTML: &str = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>\n<body><center><h1>502 Bad \
                        Gateway</h1></center><hr><center>nginx</center></body></html>\n";

/// Bytes that are no text in any encoding, the same each time.
fn garbage() -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(257).collect()
}

/// UTF-16 with a byte order mark, as Windows PowerShell writes it.
fn utf16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

/// Spoils an answer. `make` is called only if the real answer is wanted.
pub async fn spoiled(fault: &Fault, make: impl Future<Output = Response>) -> Response {
    const JSON: &str = "application/json; charset=utf-8";
    let ok = StatusCode::OK;
    match fault.kind {
        Kind::Hang => std::future::pending().await,
        Kind::Status => {
            let status = fault.status.and_then(|status| StatusCode::from_u16(status).ok());
            let body = match &fault.body {
                Some(Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
                None => r#"{"error":{"type":"internal_error","message":"Injected error."}}"#.to_owned(),
            };
            typed(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), JSON, body)
        }
        Kind::Garbage => typed(ok, JSON, garbage()),
        Kind::Html => typed(ok, "text/html", HTML),
        Kind::Empty => typed(ok, JSON, ""),
        Kind::Null => typed(ok, JSON, "null"),
        Kind::Reset => typed(ok, JSON, Body::new(Broken)),
        Kind::Huge => {
            let mut piece = vec![b' '; 64 * 1024];
            piece[0] = b'[';
            typed(ok, JSON, Body::new(Filler { left: fault.bytes.unwrap_or(u64::MAX), piece: piece.into() }))
        }
        Kind::Slow => {
            tokio::time::sleep(Duration::from_millis(fault.ms.unwrap_or(1000))).await;
            make.await
        }
        Kind::Truncated | Kind::Utf16 | Kind::Bom | Kind::Wrapper => {
            let (parts, body) = make.await.into_parts();
            let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let spoiled = match fault.kind {
                Kind::Truncated => bytes[..bytes.len() / 2].to_vec(),
                Kind::Utf16 => utf16(&text),
                Kind::Bom => [b"\xef\xbb\xbf", &bytes[..]].concat(),
                _ => format!("{{\"result\":{text}}}").into_bytes(),
            };
            Response::from_parts(parts, Body::from(spoiled))
        }
        // A kind that is meant for another target.
        _ => make.await,
    }
}
