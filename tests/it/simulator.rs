//! Holds the simulator, and its `lms`, to the samples in `tests/fixtures/lmstudio`: a simulator that is wrong would make every
//! other test here prove the wrong thing. `index.json` says how each sample is had, and which of them are not verified.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{JoinHandle, spawn};

use serde_json::{Value, json};

use crate::support::{GEMMA, LLAMA, Machine, QWEN, Run, Running, http, run, until};

/// What is done first, and the samples to compare then, in this order, each by its file's name without the endings.
type Scene = (fn(&Machine), &'static str);

const LMS: &[Scene] = &[
    (
        |_| (),
        "ps.empty ps.empty.text ls ls.text ls.variants-of ls.all-variants ls.unknown load.success ps.one
        load.duplicate ps.duplicate load.identifier load.identifier-in-use load.unknown-key load.unknown-variant
        load.bad-option load.leading-dash load.exact-with-key load.fuzzy host.scheme host.port host.unreachable",
    ),
    (|it| it.write(".lmstudio/.internal/cli-pref.json", "{}"), "load.fuzzy-many"),
    (
        clear,
        "load.quiet unload.success unload.unknown unload.none unload.all-none estimate.passes estimate.options
        daemon-status.running daemon-up.running",
    ),
    (many, "ps.many ps.many.text"),
    (|it| drop(it.control("evict", json!({ "identifier": LLAMA }))), "unload.all"),
    (|it| it.configure(json!({ "ramBytes": 1000 })), "estimate.refused load.guardrail"),
    (|it| once(it, "load", "crash"), "load.failed-midway"),
    (|it| once(it, "load", "vanish"), "load.vanished"),
    (|it| once(it, "lms ps", "race"), "ps.race"),
    (|it| once(it, "lms ps", "fail"), "ps.backend-error"),
    (|it| drop(hold(it, GEMMA)), "ps.loading"),
    (linked, "ls.remote-device ps.remote-device ps.remote-device.text"),
    (
        |it| it.configure(json!({ "catalogue": [{ "modelKey": "acme/new-model" }], "downloadMs": 200 })),
        "get.success get.already-downloaded get.missing",
    ),
];

const SERVER: &[Scene] = &[
    (
        |_| (),
        "server-start.running server-status.running server-status.running.text status.text server-stop.success
        server-status.stopped server-status.stopped.text server-stop.stopped server-start.port-taken
        server-start.last-port",
    ),
    (|it| drop(lms(it, &["server", "stop"]).expect(0)), "server-start.success"),
];

const NOTHING_INSTALLED: &[Scene] =
    &[(|_| (), "no-backend.ps no-backend.load no-backend.quiet server-status.never-started daemon-status.not-running")];

const REST: &[Scene] = &[
    (
        two,
        "lmstudio-greeting v1-models.jit-on api-v0-models.jit-on api-v0-model api-v0-model.loaded api-v1-models
        api-v1-load api-v1-load.duplicate api-v1-load.unknown api-v1-unload api-v1-unload.unknown
        api-v1-unload.missing-field unexpected-endpoint chat chat.stream chat.unknown-model",
    ),
    (|it| it.configure(json!({ "ramBytes": 1000 })), "api-v1-load.guardrail chat.guardrail"),
    (fresh, "api-v1-download api-v1-download-status.downloading"),
    (downloaded, "api-v1-download-status.completed api-v1-download.already"),
    (only_llama, "v1-models.jit-off api-v0-models.jit-off chat.no-model"),
    (|it| it.configure(json!({ "token": "sk-lm-x" })), "auth.missing auth.wrong"),
    (|it| it.configure(json!({ "restVersion": "v0" })), "api-v1-models.old-version"),
];

/// The samples of a load that is interrupted, and the signal that does it.
const SIGNALS: [(&str, i32); 2] = [("load.sigint", 2), ("load.sigterm", 15)];

#[test]
fn lms_prints_what_the_samples_say() {
    play(&Machine::new(), LMS);
}

#[test]
fn lms_starts_and_stops_the_server_as_the_samples_say() {
    play(&Machine::new(), SERVER);
}

#[test]
fn lms_without_lm_studio_says_what_the_samples_say() {
    let machine = Machine::bare();
    machine.install_lms();
    play(&machine, NOTHING_INSTALLED);
}

#[test]
fn rest_answers_what_the_samples_say() {
    play(&Machine::new(), REST);
}

#[cfg(unix)]
#[test]
fn sigint_cancels_a_load_and_sigterm_leaves_it_running() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    for (name, number) in SIGNALS {
        let sample = sample(name);
        let load = Running::start(&mut lms_command(&machine, &words(&machine, &sample)));
        until_held(&machine, 1);
        load.signal(rustix::process::Signal::from_named_raw(number).unwrap());
        same_output(&sample, &load.end());
        assert_eq!(machine.resident().len(), usize::from(name == "load.sigterm"), "{name}");
    }
    assert_eq!(machine.events("load-cancelled").len(), 1);
    machine.release();
    machine.wait_for_event("load-ready");
}

#[test]
fn every_sample_is_compared() {
    let index = index();
    let known: BTreeSet<&str> = index.iter().map(name).collect();
    assert_eq!(known.len(), index.len(), "each has a name of its own");
    let scenes = [LMS, SERVER, NOTHING_INSTALLED, REST].concat();
    let compared = scenes.iter().flat_map(|(_, names)| names.split_whitespace());
    assert_eq!(compared.chain(SIGNALS.map(|(name, _)| name)).collect::<BTreeSet<_>>(), known);
}

#[test]
fn lms_load_stacks_guesses_and_refuses_only_an_identifier_in_use() {
    let machine = Machine::with(json!({ "loadMs": 0 }));
    machine.preload(LLAMA);
    lms(&machine, &["load", LLAMA, "-y"]).expect(0).says("\"llama-3.2-1b-instruct:2\"");
    lms(&machine, &["load", LLAMA, "-y", "--identifier", LLAMA]).expect(1).says("already loaded");
    assert_eq!(machine.events("load-refused")[0]["reason"], "identifier");
    lms(&machine, &["load", "gem12", "-y"]).expect(0);
    lms(&machine, &["unload", "gem12"]).expect(0).says("Cannot find a model");
    assert_eq!(machine.resident(), [GEMMA, LLAMA, "llama-3.2-1b-instruct:2"]);
}

#[test]
fn two_loads_at_once_give_two_instances() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let loads = [(); 2].map(|()| Running::start(&mut lms_command(&machine, &["load", LLAMA, "-y"])));
    until_held(&machine, 2);
    machine.release();
    assert_eq!(loads.map(|load| load.end().code), [0, 0]);
    assert_eq!(machine.resident(), [LLAMA, "llama-3.2-1b-instruct:2"]);
}

#[test]
fn a_load_under_way_is_idle_for_lms_and_loading_for_v0_and_a_chat_waits_for_it() {
    let machine = Machine::new();
    // A fault that changes nothing, to see that the request has arrived.
    machine.faults(json!([{ "on": "POST /v1/chat/completions", "kind": "slow", "ms": 0 }]));
    let load = hold(&machine, LLAMA);
    let listed: Value = serde_json::from_str(&lms(&machine, &["ps", "--json"]).expect(0).stdout).unwrap();
    assert_eq!((&listed[0]["identifier"], &listed[0]["status"]), (&json!(LLAMA), &json!("idle")));
    let model = http("GET", machine.rest_port, &format!("/api/v0/models/{LLAMA}"), &[], "").1;
    assert_eq!((&model["state"], &model["loaded_context_length"]), (&json!("loading"), &Value::Null));
    let chat = chat(&machine, LLAMA);
    machine.wait_for_event("fault");
    machine.release();
    assert_eq!((load.join().unwrap().0, chat.join().unwrap().0), (200, 200));
    let events: Vec<_> = machine.record().iter().map(|it| it["event"].clone()).collect();
    let place = |name: &str| events.iter().position(|it| it == name);
    assert!(place("fault") < place("load-ready") && place("load-ready") < place("chat"), "{events:?}");
    assert_eq!(machine.loads(LLAMA), 1);
}

#[test]
fn a_just_in_time_load_has_a_time_to_live_and_takes_the_place_of_the_one_before() {
    let machine = Machine::new();
    machine.preload(QWEN);
    let chats = [(); 3].map(|()| chat(&machine, GEMMA));
    assert_eq!(chats.map(|chat| chat.join().unwrap().0), [200; 3]);
    assert_eq!(machine.loads(GEMMA), 1);
    let instance = &machine.state()["instances"][1];
    assert_eq!((&instance["by"], &instance["ttlMs"]), (&json!("jit"), &json!(3_600_000)));
    assert_eq!(chat(&machine, LLAMA).join().unwrap().1["model"], LLAMA);
    assert_eq!(machine.resident(), [LLAMA, QWEN], "who was loaded on purpose stays");
    let evicted = &machine.events("evict")[0];
    assert_eq!((&evicted["identifier"], &evicted["reason"]), (&json!(GEMMA), &json!("jit")));
}

#[test]
fn an_instance_goes_when_its_time_to_live_is_over() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "ttlMs": 1 }));
    machine.wait_for_event("evict");
    assert_eq!(machine.events("evict")[0]["reason"], "ttl");
    assert!(machine.resident().is_empty());
}

#[test]
fn the_rest_server_is_off_until_it_is_started() {
    let machine = Machine::with_server_off();
    lms(&machine, &["ls", "--json"]).expect(0);
    assert_eq!(lms(&machine, &["server", "status", "--json"]).stdout, "{\"running\":false}\n");
    assert_eq!(machine.state()["restPort"], Value::Null);
    lms(&machine, &["server", "start", "--port", &machine.rest_port.to_string()]).expect(0);
    assert_eq!(http("GET", machine.rest_port, "/lmstudio-greeting", &[], ""), (200, json!({ "lmstudio": true })));
    let status = lms(&machine, &["server", "status", "--json"]).stdout;
    assert_eq!(status, format!("{{\"running\":true,\"port\":{}}}\n", machine.rest_port));
}

#[test]
fn a_token_opens_rest_and_the_greeting_needs_none() {
    let machine = Machine::with(json!({ "token": "sk-lm-x" }));
    let get = |path, header| http("GET", machine.rest_port, path, &[header], "").0;
    assert_eq!(get("/v1/models", "Accept: */*"), 401);
    assert_eq!(get("/v1/models", "Authorization: Bearer sk-lm-x"), 200);
    assert_eq!(get("/lmstudio-greeting", "Accept: */*"), 200);
}

#[test]
fn a_load_ends_with_the_application_that_dies() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let load = Running::start(&mut lms_command(&machine, &["load", LLAMA, "-y"]));
    until_held(&machine, 1);
    // It ends in the middle of the request, so there is no answer.
    let mut stream = TcpStream::connect(("127.0.0.1", machine.api_port)).unwrap();
    stream.write_all(b"POST /control/crash HTTP/1.0\r\n\r\n").unwrap();
    load.end().expect(1).says("WebSocket connection closed");
}

// What the scenes do first.

fn once(machine: &Machine, on: &str, kind: &str) {
    machine.configure(json!({}));
    machine.faults(json!([{ "on": on, "kind": kind, "times": 1 }]));
}

fn clear(machine: &Machine) {
    for name in machine.resident() {
        machine.control("evict", json!({ "identifier": name }));
    }
}

fn many(machine: &Machine) {
    machine.preload(LLAMA).preload(GEMMA);
    for key in [QWEN, "text-embedding-nomic-embed-text-v1.5"] {
        machine.control("load", json!({ "key": key, "ttlMs": 3_600_000 }));
    }
    machine.control("busy", json!({ "identifier": GEMMA, "busy": true, "queued": 2 }));
}

fn linked(machine: &Machine) {
    machine.release();
    machine.wait_for(GEMMA, |record| record.iter().any(|it| it["event"] == "load-ready" && it["by"] == "rest"));
    clear(machine);
    let device = "7f3a9c0e5b2d4418";
    machine.configure(json!({ "links": [{ "device": device, "deviceName": "big-box", "keys": [LLAMA] }] }));
    machine.control("load", json!({ "key": LLAMA, "device": null }));
    machine.control("load", json!({ "key": LLAMA, "device": device }));
}

fn two(machine: &Machine) {
    machine.preload(LLAMA);
    machine.control("load", json!({ "key": GEMMA, "identifier": "warm-a" }));
}

fn fresh(machine: &Machine) {
    machine.configure(json!({ "catalogue": [{ "modelKey": "acme/fresh" }] }));
    machine.faults(json!([{ "on": "download", "kind": "hold" }]));
}

fn downloaded(machine: &Machine) {
    machine.unhold();
    until("a download", || http("GET", machine.rest_port, "/v1/models", &[], "").1.to_string().contains("acme/fresh"));
}

fn only_llama(machine: &Machine) {
    clear(machine);
    machine.preload(LLAMA);
    machine.configure(json!({ "jit": false }));
}

/// Begins a load that stops half-way.
fn hold(machine: &Machine, key: &str) -> JoinHandle<(u16, Value)> {
    machine.configure(json!({ "holdLoads": true }));
    let (port, body) = (machine.rest_port, json!({ "model": key }).to_string());
    let load = spawn(move || http("POST", port, "/api/v1/models/load", &[], &body));
    until_held(machine, 1);
    load
}

fn until_held(machine: &Machine, count: usize) {
    let held = |state: Value| state["loads"].as_array().unwrap().iter().filter(|it| it["held"] == true).count();
    until("loads that hold", || held(machine.state()) == count);
}

fn chat(machine: &Machine, model: &str) -> JoinHandle<(u16, Value)> {
    let (port, body) = (machine.rest_port, json!({ "model": model, "messages": [] }).to_string());
    spawn(move || http("POST", port, "/v1/chat/completions", &[], &body))
}

fn lms_command(machine: &Machine, args: &[impl AsRef<std::ffi::OsStr>]) -> Command {
    let mut command = Command::new(machine.path(&format!("bin/lms{}", std::env::consts::EXE_SUFFIX)));
    command.args(args).env_clear().env("HOME", machine.home()).stdin(Stdio::null());
    command
}

fn lms(machine: &Machine, args: &[&str]) -> Run {
    run(&mut lms_command(machine, args))
}

// How a sample is compared.

fn fixture(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lmstudio").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn index() -> Vec<Value> {
    serde_json::from_str(&fixture("index.json")).unwrap()
}

/// The file's name without its folder and endings. One command prints nothing and has no file.
fn name(sample: &Value) -> &str {
    let file = ["file", "stdout", "stderr"].iter().find_map(|member| sample[member].as_str());
    let file = file.map_or("no-backend.quiet", |file| file.trim_start_matches("rest/"));
    let endings = [".txt", ".bin", ".json", ".sse", ".stdout", ".stderr"];
    endings.iter().fold(file, |name, ending| name.strip_suffix(ending).unwrap_or(name))
}

fn sample(wanted: &str) -> Value {
    index().into_iter().find(|it| name(it) == wanted).unwrap_or_else(|| panic!("no sample {wanted}"))
}

/// The command line, on this machine's ports: 4321 is taken.
fn words(machine: &Machine, sample: &Value) -> Vec<String> {
    let port = |word: &str| match word {
        "1234" => machine.rest_port.to_string(),
        "4321" => machine.api_port.to_string(),
        other => other.to_owned(),
    };
    sample["command"].as_str().unwrap().split(' ').skip(1).map(port).collect()
}

fn play(machine: &Machine, scenes: &[Scene]) {
    let mut job = String::new();
    for (prepare, names) in scenes {
        prepare(machine);
        for sample in names.split_whitespace().map(sample) {
            if sample["request"].is_string() {
                same_answer(machine, &sample, &mut job);
            } else {
                same_output(&sample, &run(&mut lms_command(machine, &words(machine, &sample))));
            }
        }
    }
}

fn same_output(sample: &Value, run: &Run) {
    let name = name(sample);
    let killed = |text: &str| text.strip_prefix("killed by signal ").map(|number| 128 + number.parse::<i64>().unwrap());
    let exit = sample["exit"].as_i64().or_else(|| sample["exit"].as_str().and_then(killed));
    assert_eq!(Some(i64::from(run.code)), exit, "{name}: {run:#?}");
    let wanted = |stream: &str| sample[stream].as_str().map(fixture).unwrap_or_default();
    assert_eq!(masked(&run.stderr), masked(&wanted("stderr")), "{name}, stderr");
    let view = match name.split_once('.') {
        Some(("get", _)) => plan,
        Some(("load", _)) => spinner,
        _ => masked,
    };
    assert_eq!(view(&run.stdout), view(&wanted("stdout")), "{name}, stdout");
}

fn same_answer(machine: &Machine, sample: &Value, job: &mut String) {
    let name = name(sample);
    let (method, path) = sample["request"].as_str().unwrap().split_once(' ').unwrap();
    let path = path.split_once("job_").map_or_else(|| path.to_owned(), |(start, _)| format!("{start}{job}"));
    let body = if sample["body"].is_null() { String::new() } else { sample["body"].to_string() };
    let header = if name == "auth.wrong" { "Authorization: Bearer no" } else { "Accept: */*" };
    let answer = ask(machine, method, &path, header, &body);
    let wanted = format!("{} {}", sample["status"], fixture(sample["file"].as_str().unwrap()));
    assert_eq!(masked(&answer), masked(&wanted), "{name}");
    if let Some((_, rest)) = answer.split_once("{\"job_id\":\"") {
        rest.split('"').next().unwrap().clone_into(job);
    }
}

/// One request; the status, and the body as it came, as the order of members counts.
fn ask(machine: &Machine, method: &str, path: &str, header: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", machine.rest_port)).unwrap();
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\n{header}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{} {body}", head.split(' ').nth(1).unwrap())
}

/// The text without what is different every time: times, process ids, ports, ids of jobs and chats.
fn masked(text: &str) -> String {
    const BEFORE: &str = "successfully in |on port |(port: |\"port\":|127.0.0.1:|\"pid\":|\"chatcmpl-|\"created\":|\
                          \"job_|_at\":\"|\"load_time_seconds\":|\"downloaded_bytes\":|\"bytes_per_second\":";
    let varies = |letter: char| letter.is_ascii_hexdigit() || ".:-TZms".contains(letter);
    BEFORE.split('|').fold(text.to_owned(), |text, before| {
        let mut pieces = text.split(before);
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |text, piece| text + before + "#" + piece.trim_start_matches(varies))
    })
}

const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// What the drawing of `lms load` says, however often it was drawn: the text, whether it came to 100%, and the end.
fn spinner(drawn: &str) -> String {
    let (pieces, end) = drawn.split_at(drawn.find("\r\x1b[K").unwrap_or(drawn.len()));
    let mut pieces = pieces.split("\x1b[?25l\r");
    assert_eq!(pieces.next(), Some(""), "{drawn:?}");
    let mut last = (String::new(), 0);
    for piece in pieces {
        let (text, turning) = piece.rsplit_once("% ").unwrap_or_else(|| panic!("{piece:?}"));
        assert!(turning.chars().count() == 1 && turning.starts_with(FRAMES), "{piece:?}");
        let (text, percent) = text.rsplit_once(' ').unwrap_or_else(|| panic!("{piece:?}"));
        let percent: u32 = percent.parse().unwrap();
        assert!(percent >= last.1 && (last.0.is_empty() || last.0 == text), "{drawn:?}");
        last = (text.to_owned(), percent);
    }
    format!("{} {} {end}", last.0, last.1 == 100)
}

/// What the drawing of `lms get` says: each line once, whether the bar was full, and the end.
fn plan(drawn: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    // Each piece begins with what is left of an escape sequence: `[0K`, `[?25l`.
    for piece in drawn.split('\x1b') {
        let text = piece.trim_start_matches(|letter: char| !letter.is_ascii_alphabetic());
        for line in text.get(1..).unwrap_or_default().split(['\r', '\n']) {
            let line = line.replace(FRAMES, "").trim().trim_end_matches(" (1.20 GB)").to_owned();
            if !(line.is_empty() || line.starts_with('[') || lines.contains(&line)) {
                lines.push(line);
            }
        }
    }
    format!("{lines:#?} {} {}", drawn.contains("] 100.00% | "), drawn.ends_with("\x1b[?25h"))
}
