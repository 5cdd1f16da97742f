//! The little HTTP that `lms` needs to reach the application: one request a connection, an answer that ends with it.
//!
//! Version 1.0 on purpose: the server then sends no chunks, and a body can be read as it comes.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Answer {
    /// The status, 200 and so on.
    pub status: u16,
    stream: BufReader<TcpStream>,
}

impl Answer {
    /// The next piece of the body; empty at its end.
    pub async fn piece(&mut self) -> io::Result<Vec<u8>> {
        let bytes = self.stream.fill_buf().await?.to_vec();
        self.stream.consume(bytes.len());
        Ok(bytes)
    }

    /// The whole body as JSON; an error if it was cut off.
    pub async fn json(mut self) -> io::Result<Value> {
        let mut body = Vec::new();
        self.stream.read_to_end(&mut body).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Asks `host:port`. A body makes it a POST.
pub async fn ask(host: &str, port: u16, path: &str, headers: &str, body: Option<&Value>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: lms\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(io::ErrorKind::UnexpectedEof)?;
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Answer { status, stream })
}
