//! The server: off, elsewhere, not there, not LM Studio.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::json;

use crate::support::{LLAMA, Machine, free_port};

/// A server that answers everything with these bytes.
pub fn stranger(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(answer);
        }
    });
    port
}

#[test]
fn a_server_that_is_off_is_started_on_the_port_of_the_base_url() {
    let machine = Machine::with_server_off();
    let model = machine.ensure(&[LLAMA]).expect(0).says("starting LM Studio's server on port").model();
    assert_eq!(model["action"], "loaded");
    assert_eq!(machine.events("rest-start")[0]["port"], machine.rest_port);
    assert_eq!(machine.lms_calls()[0], format!("server start --port {}", machine.rest_port));
    assert_eq!(machine.lms_calls().len(), 2);
}

#[test]
fn the_servers_last_port_is_the_default() {
    let machine = Machine::with_server_off();
    let port = free_port();
    machine.write(".lmstudio/.internal/http-server-config.json", &json!({ "port": port }).to_string());
    let mut command = machine.command(&["ensure", "--json", LLAMA]);
    let model = crate::support::run(command.env_remove("LMSWARM_BASE_URL")).expect(0).model();
    assert_eq!(model["baseURL"], format!("http://127.0.0.1:{port}/v1"));
    assert_eq!(machine.events("rest-start")[0]["port"], port);
}

#[test]
fn a_server_on_another_port_is_never_moved() {
    let machine = Machine::new();
    let other = free_port();
    let url = format!("http://127.0.0.1:{other}/v1");
    let run = machine.ensure(&[LLAMA, "--base-url", &url]).expect(3);
    let run = run.says(&format!("runs on port {} (from ", machine.rest_port));
    let run = run.says(&format!("the base URL says {other} (from --base-url)"));
    assert_eq!(run.model()["category"], "server-unreachable");
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn lm_studio_is_woken_when_it_does_not_run() {
    let machine = Machine::bare();
    machine.install_lms();
    machine.install_app();
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "loaded");
    assert_eq!(machine.events("app-start").len(), 1);
}

#[test]
fn a_server_that_does_not_start_wakes_lm_studio_once() {
    let machine = Machine::with_server_off();
    machine.faults(json!([{ "on": "lms server start", "kind": "fail", "stderr": "Error: not today", "times": 1 }]));
    machine.ensure(&[LLAMA]).expect(0);
    let port = machine.rest_port;
    let start = format!("server start --port {port}");
    assert_eq!(machine.lms_calls()[..3], [start.clone(), "daemon up --json".to_owned(), start]);
}

#[test]
fn a_server_that_cannot_be_started_is_tried_once_per_cooldown() {
    let machine = Machine::with_server_off();
    machine.faults(json!([{ "on": "lms server start", "kind": "fail", "stderr": "Error: listen EADDRINUSE" }]));
    let first = machine
        .ensure(&[LLAMA])
        .expect(3)
        .says("could not be started: `lms server start` failed (exit code 1): listen EADDRINUSE");
    assert_eq!(first.model()["category"], "server-unreachable");
    let calls = machine.lms_calls().len();
    let second = machine.ensure(&["google/gemma-3-12b"]).expect(3).model();
    assert_eq!(second["replayed"], true);
    assert_eq!(machine.lms_calls().len(), calls);
    machine.faults(json!([]));
    machine.ensure(&[LLAMA, "--fresh"]).expect(0);
}

#[test]
fn launch_app_fallback_can_be_switched_off() {
    let machine = Machine::with_server_off();
    machine.faults(json!([{ "on": "lms server start", "kind": "fail" }]));
    machine.ensure(&[LLAMA, "--launch-app-fallback=false"]).expect(3);
    assert_eq!(machine.lms_calls().len(), 1);
}

#[test]
fn a_server_that_says_it_started_but_does_not_answer_is_down() {
    let machine = Machine::with_server_off();
    machine.faults(json!([{ "on": "lms server start", "kind": "ghost" }]));
    machine.ensure(&[LLAMA, "--server-start-timeout-ms", "700"]).expect(3).says("nothing answered within");
}

#[test]
fn a_server_whose_start_hangs_is_given_up_within_the_limit() {
    let machine = Machine::with_server_off();
    machine.faults(json!([{ "on": "lms server start", "kind": "hang" }]));
    let run = machine.ensure(&[LLAMA, "--server-start-timeout-ms", "700"]).expect(3);
    let run = run.says("`lms server start` did not end within");
    assert!(!run.stderr.contains("within 30 s"), "{}", run.stderr);
    assert_eq!(machine.lms_calls().len(), 1, "no time is left to wake LM Studio");
}

#[test]
fn an_application_that_never_comes_up_ends_within_the_limit() {
    let machine = Machine::bare();
    machine.install_lms();
    machine.install_app();
    machine.configure(json!({ "neverStarts": true }));
    machine.faults(json!([{ "on": "lms server start", "kind": "fail", "stderr": "Error: Timed out" }]));
    let run = machine.ensure(&[LLAMA, "--server-start-timeout-ms", "700"]).expect(3);
    run.says("`lms daemon up` did not end within").model();
}

#[test]
fn lm_studio_that_is_not_installed_is_said_so() {
    let machine = Machine::bare();
    let run = machine
        .ensure(&[LLAMA])
        .expect(3)
        .says("the `lms` command was not found (looked in PATH, ")
        .says("https://lmstudio.ai");
    assert_eq!(run.model()["category"], "server-unreachable");
    machine.install_lms();
    machine.ensure(&[LLAMA]).expect(3).says("no valid installation could be found");
}

#[test]
fn nothing_is_ever_started_for_another_host() {
    let machine = Machine::new();
    // A TEST-NET address would hang; one of this machine's own that is not loopback does not,
    // but not every machine has one. A name that is no name is refused at once.
    let run = machine.ensure(&[LLAMA, "--base-url", "http://lmstudio.invalid:1234"]).expect(3);
    assert_eq!(run.says("cannot be connected to").model()["category"], "server-unreachable");
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn another_program_on_the_port_is_named() {
    let machine = Machine::new();
    let port = stranger(
        b"HTTP/1.0 200 OK\r\nServer: nginx\r\nContent-Type: text/html\r\n\r\n<html>Welcome to\x1b[2J nginx</html>",
    );
    let run = machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(3);
    let run = run.says("is not LM Studio: status 200, nginx, text/html: \"<html>Welcome to\\u{1b}[2J nginx</html>\"");
    assert_eq!(run.model()["category"], "not-lm-studio");
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_program_that_speaks_no_http_is_no_lm_studio() {
    let machine = Machine::new();
    let port = stranger(b"220 mail.example ESMTP\r\n");
    machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(75).says("cannot tell what");
}

#[test]
fn a_redirect_is_not_followed() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let port = stranger(b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(3).says("status 302");
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

#[test]
fn every_spelling_of_the_base_url_works() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let port = machine.rest_port;
    for url in [
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/v1/"),
    ] {
        machine.ensure(&[LLAMA, "--base-url", &url]).expect(0).json();
    }
    machine
        .run(&["ensure", LLAMA, "--base-url", "127.0.0.1:1234"])
        .expect(2)
        .says("did you mean `http://127.0.0.1:1234`?");
}
