//! What became of an HTTP request: the transport's view, the same for every kind of server. What a
//! body means is read by the room of the server that sent it.

use super::text::excerpt;

/// What became of one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The server answered.
    Answer(Answer),
    /// Nothing listens on that port.
    Refused,
    /// It cannot be connected to: an unknown name, no route, no trusted certificate.
    Unreachable(String),
    /// No answer in time.
    TimedOut,
    /// Anything else; says what.
    Broken(String),
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `Server` and `Content-Type` headers, to name who answered.
    pub signature: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Names what answered: `status 200, nginx, text/html: "<html>…"`.
pub fn describe(answer: &Answer) -> String {
    let body = excerpt(&String::from_utf8_lossy(&answer.body), 60);
    let signature = if answer.signature.is_empty() { String::new() } else { format!(", {}", answer.signature) };
    format!("status {}{signature}: \"{body}\"", answer.status)
}
