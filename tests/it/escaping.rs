//! Text of others, which could drive a terminal, is shown escaped.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, Run, run};
#[cfg(target_os = "linux")]
use crate::{support::until, terminal::Terminal};

/// What a stranger might put into any text: a title, a cleared screen, C1 controls, a reversed
/// line, and a line that reads as one of ours.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{8}\u{9b}31m\u{202e}boom\u{2066}\r\nlmswarm: fake\u{7f}";

/// The same without what no key may have.
const EVIL_KEY: &str = "acme/\u{202e}boom\u{2066}\u{200b}";

/// Whether nothing of it drives a terminal, and no line pretends to be another's.
#[track_caller]
fn is_tame(text: &str) {
    let is_wild = |it: char| (it.is_control() && it != '\n') || "\u{202e}\u{2066}\u{200b}\u{feff}".contains(it);
    assert!(!text.chars().any(is_wild), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("lmswarm: fake")), "{text}");
}

#[track_caller]
pub fn tame(run: Run) -> Run {
    is_tame(&run.stderr);
    is_tame(&run.stdout);
    run
}

#[test]
fn words_of_a_child_are_shown_escaped() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "fail", "stderr": format!("Error: {EVIL}") }]));
    let log = machine.path("log");
    let args = [LLAMA, "-vv", "--log-file", log.to_str().unwrap()];
    let run = tame(machine.ensure(&args).expect(5).says("boom").says("\\u{9b}").says("\\u{202e}"));
    assert!(run.json()["models"][0]["reason"].as_str().unwrap().contains("boom"));
    is_tame(&std::fs::read_to_string(&log).unwrap());
    // Also as an earlier call left them.
    tame(machine.ensure(&[LLAMA]).expect(5).says("found out").says("boom"));
}

#[test]
fn words_of_a_server_are_shown_escaped() {
    let error = json!({ "error": { "message": EVIL } }).to_string();
    for (on, status, body, code) in [
        ("POST /api/v1/models/load", 400, error.as_str(), 5),
        ("POST /api/v1/models/load", 500, EVIL, 5),
        ("rest", 500, error.as_str(), 75),
        ("rest", 400, EVIL, 3),
    ] {
        let machine = Machine::new();
        machine.faults(json!([{ "on": on, "kind": "status", "status": status, "body": body }]));
        let log = machine.path("log");
        let args = [LLAMA, "--loader", "rest", "-vv", "--log-file", log.to_str().unwrap()];
        tame(machine.ensure(&args).expect(code).says("boo")).json();
        is_tame(&std::fs::read_to_string(&log).unwrap());
    }
}

#[test]
fn names_from_a_server_are_shown_escaped() {
    let machine = Machine::new();
    let copy = format!("{LLAMA}:2");
    let other = format!("x{EVIL}");
    machine.control("load", json!({ "key": GEMMA, "identifier": other }));
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    // A name that a load came to, and names to choose from.
    machine.faults(json!([{ "on": "load", "kind": "other-id", "identifier": other.replace('x', "y") }]));
    tame(machine.ensure(&[GEMMA, "--loader", "rest", "-vv"]).expect(5).says("boom"));
    tame(machine.ensure(&[GEMMA, "--loader", "lms", "-vv", "--fresh"]).expect(5));
    // A key that looks like the one that was typed.
    machine.write(".lmstudio/.simulator/faults.json", "[]");
    let list = json!({ "models": [{ "key": format!("{EVIL_KEY}x"), "loaded_instances": [] }] });
    machine.faults(json!([{ "on": "GET /api/v1/models", "kind": "status", "status": 200, "body": list }]));
    let run = tame(machine.ensure(&["acme/boomx", "-vv"]).expect(4).says("did you mean"));
    assert_eq!(run.model()["suggestions"], json!([format!("{EVIL_KEY}x")]), "programs get the name as it is");
    let run = tame(machine.run(&["completions", "--models"]).expect(0));
    assert!(!run.stdout.contains("boom"));
}

#[test]
fn what_was_typed_is_shown_escaped() {
    let machine = Machine::bare();
    for args in [&["ensure", EVIL][..], &["ensure", "--key", EVIL], &["run", EVIL, "--", "/bin/sh"]] {
        tame(machine.run(args)).expect(2).says("boom");
    }
    for args in [
        &["ensure", EVIL_KEY][..],
        &["ensure", &format!("-{EVIL_KEY}")],
        &["ensure", "--ttl-seconds", EVIL],
        &["ensure", "--base-url", EVIL],
        &["ensure", &format!("--{EVIL}")],
        &[EVIL],
        &["hook", EVIL],
        &["run", LLAMA, "--", EVIL],
        &["run", LLAMA, "--", &format!("/{EVIL}")],
        &["ensure", LLAMA, "--config", EVIL],
        &["ensure", LLAMA, "--lms-path", EVIL],
        &["ensure", LLAMA, "--state-dir", EVIL],
        &["ensure", &format!("agent:{EVIL}")],
    ] {
        // Some of these words are taken for folders to make.
        let run = tame(run(machine.command(args).current_dir(machine.home())));
        assert_ne!(run.code, 0, "{args:?}");
    }
    for name in ["LMSWARM_PARALLEL", "LMSWARM_PROVIDERS", "LMSWARM_CONFIG", "LMSWARM_BASE_URL", "LMSWARM_FAIL_MODE"] {
        tame(run(machine.command(&["ensure", "--json", LLAMA]).env(name, EVIL).current_dir(machine.home())));
    }
    tame(run(machine.command(&["ensure", LLAMA]).env(format!("LMSWARM_{EVIL}"), "x")).says("means nothing"));
}

#[test]
fn configurations_are_shown_escaped() {
    let machine = Machine::bare();
    let own = |config: &str| machine.write(".config/lmswarm/config.json", config);
    for config in [
        json!({ EVIL: 1 }),
        json!({ "ttlSeconds": EVIL }),
        json!({ "baseURL": EVIL }),
        json!({ "perModel": { EVIL: { "ttlSeconds": 1 } } }),
        json!({ "perModel": { EVIL_KEY: { EVIL: 1 } } }),
        json!({ "providers": [EVIL] }),
        json!({ "evictProtect": [EVIL] }),
    ] {
        own(&config.to_string());
        tame(machine.ensure(&[LLAMA, "-vv"]));
    }
    for text in [EVIL.to_owned(), format!("{{{EVIL}"), format!("{{\"a\": {EVIL}}}")] {
        own(&text);
        tame(machine.ensure(&[LLAMA]).expect(78));
    }
    own("{}");
    let folder = format!("work {}", EVIL.replace('/', "|"));
    for config in [
        json!({ "model": format!("lmstudio/{EVIL}") }),
        json!({ "model": format!("lmstudio/{EVIL_KEY}"), "small_model": format!("{EVIL}/x") }),
        json!({ "model": format!("lmstudio/{LLAMA}"), "agent": { EVIL: { "model": format!("lmstudio/{EVIL_KEY}") } } }),
        json!({ "model": EVIL }),
        json!({ "model": 1, EVIL: 1 }),
        json!({ "agent": { EVIL: 1 } }),
        json!({ "disabled_providers": ["lmstudio"], "model": format!("lmstudio/{EVIL}") }),
        json!({ "provider": { "lmstudio": { "options": { "baseURL": EVIL } } } }),
        json!({ "provider": { "lmstudio": { "options": { "baseURL": "http://127.0.0.1:1", "apiKey": EVIL } } } }),
        json!({ "model": "lmstudio/x", "provider": { "lmstudio": { "models": { "x": { "id": EVIL } } } } }),
        json!({ "model": format!("{{file:{}}}", "nowhere\u{202e}") }),
        json!({ "command": { EVIL: { "model": format!("lmstudio/{EVIL_KEY}") } } }),
    ] {
        machine.write(&format!("{folder}/opencode.json"), &config.to_string());
        for args in [
            &["ensure", "--json", "-vv"][..],
            &["ensure", "all", "--json", "-vv"],
            &["ensure", "x", "--json"],
            &["config", "roles"],
            &["config", "roles", "--json"],
        ] {
            let mut command = machine.command(args);
            command.env_remove("LMSWARM_BASE_URL").current_dir(machine.path(&folder));
            tame(run(&mut command));
        }
    }
}

#[test]
fn names_of_a_project_cannot_drive_the_terminal() {
    let machine = Machine::new();
    let evil = "\u{1b}[2J\u{202e}";
    for config in [
        json!({ "model": format!("lmstudio/{evil}") }),
        json!({ "model": format!("{evil}/a") }),
        json!({ "model": "lmstudio/\u{202e}a" }),
        json!({ "provider": { "lmstudio": { "options": { "baseURL": evil } } } }),
        json!({ "provider": { "lmstudio": { "models": { evil: 1 } } } }),
        json!({ "agent": { evil: { "model": 1 } } }),
        json!({ "username": format!("{{file:{evil}}}") }),
    ] {
        machine.write("project/opencode.json", &config.to_string());
        for args in [&["ensure", "main", "lmstudio/a"][..], &["config", "roles"]] {
            let mut command = machine.command(args);
            let run = run(command.env_remove("LMSWARM_BASE_URL").current_dir(machine.path("project")));
            for text in [&run.stdout, &run.stderr] {
                let drives = |char: char| char == '\u{202e}' || (char.is_control() && char != '\n');
                assert!(!text.contains(drives), "{config}: {run:?}");
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_no_escapes_but_our_own() {
    let key = format!("{EVIL_KEY}x");
    let machine = Machine::with(json!({ "holdLoads": true, "catalogue": [{ "modelKey": key }] }));
    let leader = machine.start(&[&key, "--download"]);
    machine.wait_for_event("load-begin");
    let terminal = Terminal::start(machine.command(&["ensure", &key, "-vv"]));
    until("it waits", || terminal.shown().contains("waiting for pid"));
    machine.release();
    let (code, seen) = terminal.end();
    assert_eq!((code, tame(leader.end()).code), (0, 0), "{seen}");
    assert!(seen.contains("waiting for pid") && seen.contains("\\u{202e}boom"), "{seen:?}");
    machine.faults(json!([{ "on": "lms load", "kind": "fail", "stderr": format!("Error: {EVIL}") }]));
    let (code, failed) = Terminal::start(machine.command(&["ensure", LLAMA, "-vv"])).end();
    assert!(code == 5 && failed.contains("boom"), "{failed:?}");
    let (code, usage) = Terminal::start(machine.command(&["ensure", "--ttl-seconds", EVIL])).end();
    assert!(code == 2 && usage.contains("boom"), "{usage:?}");
    for text in [seen, failed, usage] {
        for wild in [
            "\u{1b}]",
            "\u{1b}[2J\\",
            "\u{1b}[2Jb",
            "\u{7}",
            "\u{8}",
            "\u{9b}",
            "\u{202e}",
            "\u{2066}",
            "\u{7f}",
            "\nlmswarm: fake",
        ] {
            assert!(!text.contains(wild), "{wild:?} in {text:?}");
        }
    }
}
