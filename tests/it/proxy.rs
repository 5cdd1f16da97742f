//! Proxies: a reverse proxy in front of LM Studio (a path prefix, a host that `lms` cannot be pointed
//! at), and those of the environment. `tls` is about one that speaks https.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::support::{LLAMA, Machine, free_port, run};

/// Forwards requests below `/lm` to `upstream`; returns its port.
pub fn proxy(upstream: u16, tls: Option<Arc<ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tls = tls.clone();
            // A client that does not trust us hangs up; that is what one test is about.
            std::thread::spawn(move || match tls {
                Some(config) => {
                    let connection = ServerConnection::new(config).expect("a TLS connection");
                    forward(StreamOwned::new(connection, stream), upstream)
                }
                None => forward(stream, upstream),
            });
        }
    });
    port
}

fn forward(mut client: impl Read + Write, upstream: u16) -> std::io::Result<()> {
    let mut head = String::new();
    let mut body = Vec::new();
    {
        let mut reader = BufReader::new(&mut client);
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
        let length = head.lines().find_map(|it| it.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        body.resize(length.and_then(|it| it.parse().ok()).unwrap_or(0), 0);
        reader.read_exact(&mut body)?;
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let head = head.replacen(" /lm/", " /", 1).replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.flush()
}

#[test]
fn a_path_prefix_is_kept_and_the_load_goes_over_rest() {
    let machine = Machine::new();
    let url = format!("http://127.0.0.1:{}/lm/v1", proxy(machine.rest_port, None));
    let model = machine.ensure(&[LLAMA, "--base-url", &url]).expect(0).model();
    assert_eq!((&model["action"], &model["baseURL"]), (&"loaded".into(), &url.clone().into()));
    assert_eq!(machine.lms_calls().len(), 0);
    let without_v1 = url.trim_end_matches("/v1");
    assert_eq!(machine.ensure(&[LLAMA, "--base-url", without_v1]).expect(0).model()["action"], "none");
}

/// A reverse proxy that answers everything with this status; counts the requests.
fn answers_with(status: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = write!(stream, "HTTP/1.1 {status}\r\nServer: nginx\r\nConnection: close\r\n\r\n<html>");
        }
    });
    (port, asked)
}

#[test]
fn a_proxy_that_cannot_answer_now_tells_nothing_of_what_is_behind_it() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    for status in ["408 Request Timeout", "425 Too Early", "429 Too Many Requests", "502 Bad Gateway"] {
        let (port, asked) = answers_with(status);
        let run = machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}/lm")]).expect(75);
        let run = run.says(&format!("it answers with status {}, nginx", &status[..3]));
        assert_eq!(run.model()["category"], "unknown-state");
        assert_eq!(run.json()["proceed"], true);
        // Too many requests are not answered by more of them.
        assert_eq!(asked.load(Ordering::SeqCst) == 2, status.starts_with("429"), "{status}: {asked:?}");
    }
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_load_that_a_proxy_lets_not_through_for_now_is_not_known() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "POST /api/v1/models/load", "kind": "status", "status": 429, "body": "" }]));
    let run = machine.ensure(&[LLAMA, "--loader", "rest"]).expect(75).says("could not be loaded over REST: status 429");
    assert_eq!(run.model()["category"], "unknown-state");
    assert_eq!(machine.loads(LLAMA), 0);
    machine.faults(json!([]));
    // And is not held against later calls.
    assert_eq!(machine.ensure(&[LLAMA, "--loader", "rest"]).expect(0).model()["action"], "loaded");
}

#[test]
fn a_proxy_of_the_environment_that_is_dead_is_named() {
    let machine = Machine::new();
    let dead = format!("127.0.0.1:{}", free_port());
    for (scheme, variable) in
        [("http", "HTTP_PROXY"), ("http", "http_proxy"), ("http", "ALL_PROXY"), ("https", "HTTPS_PROXY")]
    {
        let url = format!("{scheme}://llm.test:1234/v1");
        let mut command = machine.command(&["ensure", "--json", LLAMA, "--base-url", &url]);
        let run = run(command.env(variable, format!("http://me:secret@{dead}"))).expect(3);
        let run = run.says(&format!(
            "{url} (from --base-url) cannot be reached through the proxy http://{dead} (from {variable}): nothing \
             listens at the proxy"
        ));
        let run = run.says(&format!("start the proxy, correct {variable}, or put llm.test into NO_PROXY"));
        assert_eq!(run.model()["category"], "server-unreachable");
        assert!(!format!("{run:?}").contains("secret"));
    }
}

#[test]
fn a_proxy_of_the_environment_that_does_not_do_its_work_is_named() {
    let machine = Machine::new();
    let call = |scheme: &str, variable: &str, status: &'static str| {
        let proxy = format!("http://127.0.0.1:{}", answers_with(status).0);
        let mut command = machine.command(&["ensure", "--json", LLAMA, "--base-url"]);
        let run = run(command.arg(format!("{scheme}://llm.test")).env(variable, &proxy));
        run.says(&format!("through the proxy {proxy} (from {variable})"))
    };
    let wants_login = call("http", "HTTP_PROXY", "407 Proxy Authentication Required").expect(3);
    wants_login.says("wants a user name and a password");
    call("https", "HTTPS_PROXY", "407 Proxy Authentication Required").expect(3).says("authorization required");
    call("https", "HTTPS_PROXY", "502 Bad Gateway").expect(3).says("tunnel error: unsuccessful");
    // This is about the server, but the proxy says it.
    call("http", "HTTP_PROXY", "502 Bad Gateway").expect(75).says("it answers with status 502");
    call("http", "HTTP_PROXY", "404 Not Found").expect(3).says("is not LM Studio");
}

#[test]
fn a_proxy_of_the_environment_is_not_asked_for_this_machine() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let dead = format!("http://127.0.0.1:{}", free_port());
    for url in [machine.base_url(), format!("http://localhost:{}", machine.rest_port)] {
        let mut command = machine.command(&["ensure", "--json", LLAMA, "--base-url", &url]);
        command.envs([("HTTP_PROXY", &dead), ("http_proxy", &dead), ("ALL_PROXY", &dead)]);
        crate::support::run(&mut command).expect(0).json();
    }
}
