//! Starting LM Studio's server, and LM Studio itself.

use serde_json::json;

use crate::support::{LLAMA, Machine, free_port, with_growing_limit};

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
fn a_running_server_is_not_moved_because_it_is_slow_to_greet() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "GET /lmstudio-greeting", "kind": "slow", "ms": 900 }]));
    let url = format!("http://127.0.0.1:{}/v1", crate::support::free_port());
    let patient = ["--probe-timeout-ms", "30000"];
    machine.ensure(&[&[LLAMA, "--base-url", &url], &patient[..]].concat()).expect(3).says("runs on port").json();
    machine.faults(json!([{ "on": "GET /lmstudio-greeting", "kind": "hang" }]));
    machine.ensure(&[LLAMA, "--base-url", &url, "--probe-timeout-ms", "300"]).expect(75).json();
    assert_eq!(machine.events("rest-stop").len(), 0);
}

#[test]
fn only_one_of_two_ports_gets_the_server() {
    let machine = Machine::with_server_off();
    let urls = [machine.base_url(), format!("http://127.0.0.1:{}", crate::support::free_port())];
    let callers: Vec<_> = urls.iter().map(|url| machine.start(&[LLAMA, "--base-url", url])).collect();
    let mut codes: Vec<i32> = callers.into_iter().map(|it| it.end().code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 3]);
    assert_eq!(machine.events("rest-start").len(), 1);
}

#[test]
fn no_server_is_started_on_a_proxys_port_or_an_ipv6_address() {
    let machine = Machine::with_server_off();
    let port = machine.rest_port;
    let proxy = format!("http://127.0.0.1:{port}/lm/v1");
    machine.ensure(&[LLAMA, "--base-url", &proxy]).expect(3).says("start the proxy").json();
    let ipv6 = format!("http://[::1]:{port}");
    machine.ensure(&[LLAMA, "--base-url", &ipv6]).expect(3).says("write 127.0.0.1").json();
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
        .says("could not be started: `lms server start` failed (exit code 1): listen EADDRINUSE")
        .says(&format!("hint: another program has port {}", machine.rest_port));
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
    let run = machine.ensure(&[LLAMA, "--launch-app-fallback=false"]).expect(3).says("switch its server on");
    let (_, hint) = run.stderr.split_once("hint:").unwrap();
    assert!(!hint.contains("lms server start"), "what just failed is no advice: {hint}");
    assert_eq!(machine.lms_calls().len(), 1);
}

#[test]
fn a_server_that_says_it_started_but_does_not_answer_is_down() {
    let machine = Machine::with_server_off();
    machine.faults(json!([{ "on": "lms server start", "kind": "ghost" }]));
    with_growing_limit(|ms| {
        let run = machine.ensure(&[LLAMA, "--fresh", "--server-start-timeout-ms", ms]).expect(3);
        run.stderr.contains("nothing answered within")
    });
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
    with_growing_limit(|ms| {
        let run = machine.ensure(&[LLAMA, "--fresh", "--server-start-timeout-ms", ms]).expect(3);
        run.stderr.contains("`lms daemon up` did not end within")
    });
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
