//! The lists that REST answers with: spoilt, late, of older servers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use crate::support::{LLAMA, Machine};

#[test]
fn garbage_is_unknown_and_never_leads_to_a_load() {
    let machine = Machine::new();
    for kind in ["garbage", "truncated", "html", "utf16", "wrapper", "empty", "null", "reset"] {
        machine.faults(json!([{ "on": "rest", "kind": kind }]));
        let code = machine.ensure(&[LLAMA]).code;
        assert!([75, 3].contains(&code), "{kind}: {code}");
    }
    for kind in ["garbage", "truncated", "html", "utf16", "wrapper", "empty", "null", "reset", "status"] {
        machine.faults(
            json!([{ "on": "GET /api/v1/models", "kind": kind }, { "on": "GET /api/v0/models", "kind": kind }]),
        );
        let model = machine.ensure(&[LLAMA]).expect(75).model();
        assert_eq!(model["category"], "unknown-state", "{kind}");
    }
    assert_eq!(machine.events("load-begin").len(), 0);
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_byte_order_mark_is_survived() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.faults(json!([{ "on": "rest", "kind": "bom" }]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
}

#[test]
fn a_hiccup_is_asked_again() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.faults(json!([{ "on": "GET /api/v1/models", "kind": "status", "times": 1 }, { "on": "GET /api/v0/models", "kind": "status", "times": 1 }]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
}

#[test]
fn a_server_that_is_mute_is_unknown() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "rest", "kind": "hang" }]));
    let run = machine.ensure(&[LLAMA, "--probe-timeout-ms", "100"]).expect(75).says("does not answer in time");
    assert_eq!(run.json()["proceed"], true);
}

#[test]
fn one_list_that_does_not_answer_leaves_the_other() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.faults(json!([{ "on": "GET /api/v1/models", "kind": "status" }]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "rest-v0");
    machine.faults(json!([{ "on": "GET /api/v0/models", "kind": "unexpected" }]));
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["source"], "rest-v1");
}

#[test]
fn a_huge_answer_is_cut_off() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "rest", "kind": "huge", "bytes": 200_000_000_u64 }]));
    machine.ensure(&[LLAMA, "--probe-timeout-ms", "20000"]).expect(3).says("is not LM Studio");
}

#[test]
fn an_older_lm_studio_is_understood() {
    let machine = Machine::with(json!({ "restVersion": "v0" }));
    let model = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&model["action"], &model["source"]), (&json!("loaded"), &json!("rest-v0")));
    assert_eq!(machine.lms_calls()[0], "ls --json", "v0 does not tell what is downloaded");
    machine.ensure(&["gem12"]).expect(4);
}

#[test]
fn one_that_knows_neither_list_is_asked_through_lms() {
    let machine = Machine::with(json!({ "restVersion": "openai", "v0": false }));
    let model = machine.ensure(&[LLAMA]).expect(0).model();
    assert_eq!((&model["action"], &model["source"]), (&json!("loaded"), &json!("lms-ps")));
}

/// The entry of a model in the first list, or in the second.
fn entry(is_v1: bool, key: &str, is_loaded: bool) -> String {
    if is_v1 {
        let loaded = if is_loaded { json!([{ "id": key, "config": { "context_length": 4096 } }]) } else { json!([]) };
        let variants = [format!("{key}@q4_k_m"), format!("{key}@q8_0")];
        json!({
            "type": "llm", "publisher": "acme", "key": key, "display_name": "A model", "architecture": "llama",
            "quantization": { "name": "Q4_K_M", "bits_per_weight": 4 }, "size_bytes": 1_234_567_890,
            "params_string": "30B", "loaded_instances": loaded, "max_context_length": 131_072, "format": "gguf",
            "capabilities": { "vision": false, "trained_for_tool_use": true }, "description": null,
            "variants": variants, "selected_variant": variants[0],
        })
    } else {
        json!({
            "id": key, "object": "model", "type": "llm", "publisher": "acme", "arch": "llama",
            "compatibility_type": "gguf", "quantization": "Q4_K_M",
            "state": if is_loaded { "loaded" } else { "not-loaded" }, "max_context_length": 131_072,
        })
    }
    .to_string()
}

/// A server with so many thousand models, and one more, which is resident.
fn server_with_thousands(count: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let thousand = |is_v1| -> String {
        (0..1000).map(|it| entry(is_v1, &format!("acme/model-{it}-instruct-30b"), false) + ",").collect()
    };
    let lists = [thousand(true), thousand(false)];
    let answer = move |mut stream: TcpStream, [v1, v0]: [String; 2]| -> std::io::Result<()> {
        let mut head = [0; 4096];
        let length = stream.read(&mut head)?;
        let is_v1 = head[..length].starts_with(b"GET /api/v1/");
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")?;
        stream.write_all(if is_v1 { b"{\"models\":[" } else { b"{\"object\":\"list\",\"data\":[" })?;
        for _ in 0..count {
            stream.write_all(if is_v1 { v1.as_bytes() } else { v0.as_bytes() })?;
        }
        stream.write_all((entry(is_v1, LLAMA, true) + "]}").as_bytes())
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let lists = lists.clone();
            // A client that has read enough hangs up.
            std::thread::spawn(move || answer(stream, lists));
        }
    });
    port
}

/// `ensure` for a server of its own, with so much memory for data and no more.
#[cfg(target_os = "linux")]
fn ensure_frugally(machine: &Machine, kibibytes: u32, args: &[&str]) -> crate::support::Run {
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit -d {kibibytes}; exec \"$0\" ensure --json --probe-timeout-ms 60000 \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_lmswarm")).args(args).env_clear().envs(machine.environment());
    crate::support::run(&mut command)
}

/// Some 30 MiB, of which a few kilobytes matter.
#[cfg(target_os = "linux")]
#[test]
fn fifty_thousand_models_need_little_more_memory_than_one() {
    let machine = Machine::bare();
    let url = format!("http://127.0.0.1:{}", server_with_thousands(50));
    ensure_frugally(&machine, 12 * 1024, &[LLAMA, "--base-url", &url]).expect(0);
    let run = ensure_frugally(&machine, 12 * 1024, &["acme/model-3-instruct", "--base-url", &url]).expect(4);
    assert_eq!(run.model()["suggestions"][0], "acme/model-3-instruct-30b");
}

#[cfg(target_os = "linux")]
#[test]
fn a_list_without_end_is_called_too_large() {
    let machine = Machine::bare();
    let url = format!("http://127.0.0.1:{}", server_with_thousands(usize::MAX));
    let run = ensure_frugally(&machine, 12 * 1024, &[LLAMA, "--base-url", &url]).expect(75);
    assert_eq!(run.says("its list of models is too large (over 64 MiB)").model()["category"], "unknown-state");
}
