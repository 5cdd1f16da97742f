//! The real opencode with our plugin, against the simulator. What is asserted is what the
//! simulator recorded: loads, and chat requests with the instance that answered.
//!
//! `LMSWARM_TEST_OPENCODE` names the executable (`.ci/run` installs it).

use std::process::{Child, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::desk::{CAP, Desk, place};
use crate::support::{GEMMA, LLAMA, Machine, QWEN, Running, free_port, http, until};

#[test]
fn a_cold_start_loads_before_the_first_request_leaves() {
    let Some(desk) = Desk::new(LLAMA, GEMMA) else { return };
    let run = desk.run(&["run", "hello"]).expect(0);
    assert_eq!(run.stdout.trim(), "ok", "nothing of the gate is on stdout");
    assert!(!run.stderr.contains("lmswarm"), "nothing of the gate is on stderr: {}", run.stderr);
    assert_eq!(desk.chats(LLAMA), 1);
    assert_eq!(desk.machine.loads(LLAMA), 1);
    let record = desk.machine.record();
    assert!(place(&record, "load-ready", "key", LLAMA) < place(&record, "chat", "model", LLAMA));
}

#[test]
fn the_model_that_a_person_waits_for_is_loaded_before_that_of_the_title() {
    let Some(desk) = Desk::new(LLAMA, GEMMA) else { return };
    // Naming a model leaves nothing to warm at the start: opencode asks for the title first.
    let _ = desk.run(&["run", "--model", &format!("lmstudio/{LLAMA}"), "hello"]).expect(0);
    assert_eq!(desk.machine.events("load-begin")[0]["key"], LLAMA);
    assert_eq!(desk.chats(LLAMA), 1);
}

#[test]
fn warm_models_are_left_alone() {
    let Some(desk) = Desk::new(LLAMA, GEMMA) else { return };
    desk.machine.preload(LLAMA).preload(GEMMA);
    let _ = desk.run(&["run", "hello"]).expect(0);
    assert_eq!(desk.chats(LLAMA), 1);
    assert_eq!(desk.machine.lms_calls(), Vec::<String>::new());
}

#[test]
fn an_eviction_between_two_turns_heals() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    let _ = desk.run(&["run", "--title", "t", "hello"]).expect(0);
    desk.evict(LLAMA);
    let _ = desk.run(&["run", "-c", "again"]).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (2, 2));
}

#[test]
fn an_eviction_between_two_steps_of_a_tool_loop_heals() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.preload(LLAMA);
    // The tool itself evicts the model that called it: no moment falls more surely between.
    let command = format!("lms unload {LLAMA}");
    let arguments = json!({ "command": command, "description": "Unloads the model" });
    desk.machine.control("call-tool", json!({ "name": "bash", "arguments": arguments }));
    let _ = desk.run(&["run", "--title", "t", "hello"]).expect(0);
    assert!(desk.machine.lms_calls().contains(&format!("unload {LLAMA}")), "{:?}", desk.machine.lms_calls());
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (2, 1));
}

#[test]
fn many_cold_starts_at_once_make_one_load() {
    for count in [3, 10] {
        let Some(desk) = Desk::new(LLAMA, GEMMA) else { return };
        let running: Vec<Running> = (0..count)
            .map(|number| {
                // Each has its own history: they share the models, not a session.
                let mut command = desk.command(&["run", "hello"]);
                command.env("XDG_DATA_HOME", desk.machine.path(&format!("data{number}")));
                Running::start(&mut command)
            })
            .collect();
        for running in running {
            let _ = running.end_within(CAP).expect(0);
        }
        assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (count, 1));
        assert!(desk.machine.loads(GEMMA) <= 1);
    }
}

#[test]
fn a_stray_copy_is_replaced_by_the_model_itself() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:2") }));
    until("the copy is there", || desk.machine.resident().len() == 1);
    let _ = desk.run(&["run", "--title", "t", "hello"]).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (1, 1));
    assert_eq!(desk.machine.resident(), [LLAMA]);
}

#[test]
fn one_model_for_both_roles_is_loaded_once() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    let _ = desk.run(&["run", "hello"]).expect(0);
    assert!(desk.chats(LLAMA) >= 1);
    assert_eq!(desk.machine.loads(LLAMA), 1);
    let gates = desk.machine.events("lms").len();
    assert_eq!(gates, 1, "the turn, the title and the start share it");
}

#[test]
fn a_refused_load_sends_no_request_and_says_why() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.faults(json!([{ "on": "load", "kind": "refuse" }]));
    let run = desk.run(&["run", "hello"]).expect(1).says("lmswarm: LM Studio refused to load").says("hint:");
    assert!(!run.stderr.contains("    at "), "no stack: {}", run.stderr);
    assert_eq!(desk.machine.events("chat").len(), 0);
}

#[test]
fn a_hint_names_what_can_be_set_and_no_flag() {
    let Some(desk) = Desk::new("llama-3.2-1b-instrct", LLAMA) else { return };
    let run = desk.run(&["run", "--title", "t", "hello"]).expect(1).says(&format!("did you mean {LLAMA}?"));
    assert!(run.stderr.contains("autoDownload fetches") && !run.stderr.contains("--download"), "{}", run.stderr);
    assert_eq!(desk.machine.events("chat").len(), 0);
}

#[test]
fn opencode_killed_in_a_load_leaves_it_to_the_next() {
    use std::os::unix::process::CommandExt;
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.configure(json!({ "jit": false, "holdLoads": true }));
    let args = ["run", "--title", "t", "hello"];
    let first = Running::start(desk.command(&args).process_group(0));
    desk.machine.wait_for_event("load-begin");
    // As a closed terminal does it: the whole group.
    let group = Pid::from_raw(i32::try_from(first.pid()).unwrap()).unwrap();
    kill_process_group(group, Signal::KILL).unwrap();
    let _ = first.end_within(CAP).expect(137);
    let seen = desk.machine.requests().len();
    let second = desk.start(&args);
    until("the second looks", || desk.machine.requests().len() > seen);
    desk.machine.release();
    let _ = second.end_within(CAP).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (1, 1));
    assert_eq!(desk.machine.events("load-ready").len(), 1);
}

#[test]
fn a_small_model_that_is_gone_does_not_touch_the_main_one() {
    let Some(desk) = Desk::new(LLAMA, GEMMA) else { return };
    desk.machine.preload(LLAMA);
    let _ = desk.run(&["run", "hello"]).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (1, 0));
    // One that cannot be had costs the title, not the turn.
    desk.configure(LLAMA, "not-here", json!({}));
    let _ = desk.run(&["run", "hello"]).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.chats("not-here")), (2, 0));
}

#[test]
fn without_lmswarm_no_request_leaves() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.preload(LLAMA);
    std::fs::remove_file(desk.machine.path("bin/lmswarm")).unwrap();
    let _ = desk.run(&["run", "hello"]).expect(1).says("`lmswarm` was not found").says("cargo install");
    // One that does not know what the plugin says.
    desk.machine.write("bin/lmswarm", "#!/bin/sh\necho \"error: unexpected argument '--json'\" >&2\nexit 2\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(desk.machine.path("bin/lmswarm"), mode).unwrap();
    let _ = desk.run(&["run", "hello"]).expect(1).says("too old").says("unexpected argument").says("cargo install");
    assert_eq!(desk.machine.events("chat").len(), 0);
}

#[test]
fn what_cannot_be_found_out_stops_nobody() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.preload(LLAMA);
    desk.machine.faults(json!([
        { "on": "GET /api/v1/models", "kind": "garbage" },
        { "on": "GET /api/v0/models", "kind": "garbage" },
        { "on": "lms ps", "kind": "fail", "code": 1 },
    ]));
    let _ = desk.run(&["run", "--title", "t", "hello"]).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (1, 0));
}

#[test]
fn the_gate_shows_the_token_that_the_request_will_carry() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    let token = "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt";
    desk.machine.configure(json!({ "jit": false, "token": token }));
    desk.configure(LLAMA, LLAMA, json!({ "apiKey": token }));
    let before = desk.machine.requests().len();
    let _ = desk.run(&["run", "--title", "t", "hello"]).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (1, 1));
    assert!(desk.machine.events("request")[before..].iter().all(|it| it["authorization"] == true));
}

#[test]
fn an_alias_is_warmed_under_the_name_that_goes_over_the_wire() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    let config = json!({
        "model": "mine/coder",
        "provider": { "mine": {
            "npm": "@ai-sdk/openai-compatible",
            "options": { "baseURL": "http://127.0.0.1:${PORT_OF_MINE}/v1/" },
            "models": { "coder": { "id": QWEN } },
        } },
    });
    desk.machine.write(".config/opencode/opencode.json", &config.to_string());
    let mut command = desk.command(&["run", "--title", "t", "hello"]);
    command.env("LMSWARM_PROVIDERS", "mine").env("PORT_OF_MINE", desk.machine.rest_port.to_string());
    let _ = Running::start(&mut command).end_within(CAP).expect(0);
    assert_eq!((desk.chats(QWEN), desk.machine.loads(QWEN)), (1, 1));
}

/// A second server, and a provider whose requests may go to either.
fn spread_over_two(desk: &Desk) -> Machine {
    let second = Machine::with(json!({ "jit": false }));
    let servers = json!({
        "one": { "baseURL": desk.machine.base_url(), "apiTokenEnv": "ONE" },
        "two": { "baseURL": second.base_url(), "apiTokenEnv": "TWO" },
    });
    desk.machine.write(".config/lmswarm/config.json", &json!({ "loader": "rest", "servers": servers }).to_string());
    std::fs::remove_file(desk.machine.path(".config/opencode/plugin/lmswarm.js")).expect("the plugin");
    desk.machine.write("lmswarm.js", include_str!("../../src/opencode-plugin/lmswarm.js"));
    let plugin = desk.machine.path("lmswarm.js").display().to_string();
    let config = json!({
        "model": format!("pool/{LLAMA}"),
        "small_model": format!("pool/{LLAMA}"),
        "plugin": [[plugin, { "spread": ["pool"] }]],
        "provider": { "pool": {
            "npm": "@ai-sdk/openai-compatible",
            // Nothing listens there: a request that is not sent elsewhere fails.
            "options": { "baseURL": "http://127.0.0.1:9/v1", "apiKey": "none" },
            "models": { LLAMA: {} },
        } },
    });
    desk.machine.write(".config/opencode/opencode.json", &config.to_string());
    second
}

#[test]
fn sessions_at_once_share_two_servers_and_each_stays_on_its_own() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    let second = spread_over_two(&desk);
    let machines = [&desk.machine, &second];
    for (machine, token) in machines.into_iter().zip(["token-of-one", "token-of-two"]) {
        machine.preload(LLAMA);
        machine.configure(json!({ "jit": false, "token": token }));
    }
    let chats = || {
        machines.map(|machine| {
            let chats = machine.events("chat");
            assert!(chats.iter().all(|it| it["status"] == 200 && it["instance"] == LLAMA), "{chats:?}");
            chats.len()
        })
    };
    let turn = |session: usize, args: &[&str]| {
        let mut command = desk.command(&[&["run", "--title", "t"], args].concat());
        command.env("XDG_DATA_HOME", desk.machine.path(&format!("data{session}")));
        Running::start(command.env("ONE", "token-of-one").env("TWO", "token-of-two"))
    };
    // A session's id is opencode's own: four of them may all fall to one server, and rarely do.
    let mut sessions = 0;
    while sessions == 0 || (chats().contains(&0) && sessions < 16) {
        let running: Vec<Running> = (sessions..sessions + 4).map(|session| turn(session, &["hello"])).collect();
        for running in running {
            let _ = running.end_within(CAP).expect(0);
        }
        sessions += 4;
        assert_eq!(chats().iter().sum::<usize>(), sessions);
    }
    assert!(!chats().contains(&0), "{:?}", chats());
    let place = |before: [usize; 2]| chats().iter().zip(before).position(|(now, before)| *now > before);
    for session in 0..2 {
        let stays: Vec<Option<usize>> = (0..2)
            .map(|_| {
                let before = chats();
                let _ = turn(session, &["-c", "again"]).end_within(CAP).expect(0);
                place(before)
            })
            .collect();
        assert!(stays[0].is_some() && stays[0] == stays[1], "{stays:?}");
    }
    assert!(machines.iter().all(|machine| machine.loads(LLAMA) == 0));
}

#[test]
fn a_server_that_goes_away_moves_its_sessions_to_the_other() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    let second = spread_over_two(&desk);
    second.preload(LLAMA);
    let _ = desk.run(&["run", "--title", "t", "hello"]).expect(0);
    assert_eq!((desk.machine.events("chat").len(), second.events("chat").len()), (0, 1));
    second.crash();
    let _ = desk.run(&["run", "-c", "again"]).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (1, 1));
}

/// An `opencode serve` that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_long_wait_is_shown_in_the_window() {
    use std::io::{BufRead, BufReader, Write};
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.configure(json!({ "jit": false, "holdLoads": true }));
    let port = free_port();
    let mut command = desk.command(&["serve", "--port", &port.to_string()]);
    let mut server = Server(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("opencode starts"));
    // A connection that comes before this line is never answered.
    let said = BufReader::new(server.0.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line.contains("listening on")), "opencode does not listen");
    // What the window would be told.
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET /event HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let toasts = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&toasts);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let event = line.strip_prefix("data: ").and_then(|it| serde_json::from_str::<Value>(it).ok());
            if let Some(event) = event.filter(|it| it["type"] == "tui.toast.show") {
                let message = event["properties"]["message"].as_str().unwrap_or_default().to_owned();
                seen.lock().unwrap().push(message);
            }
        }
    });
    let told = |text: &str| toasts.lock().unwrap().iter().any(|it| it.contains(text));
    let (_, session) = http("POST", port, "/session", &["Connection: close"], "{\"title\":\"t\"}");
    let path = format!("/session/{}/message", session["id"].as_str().expect("a session"));
    let turn = std::thread::spawn(move || {
        http("POST", port, &path, &["Connection: close"], "{\"parts\":[{\"type\":\"text\",\"text\":\"hello\"}]}")
    });
    until("what is loading", || told(&format!("loading `{LLAMA}`")));
    until("how far it is", || told(" %, "));
    desk.machine.release();
    until("that it is ready", || told(&format!("`{LLAMA}` is ready")));
    let (status, _) = turn.join().unwrap();
    assert_eq!((status, desk.chats(LLAMA), desk.machine.loads(LLAMA)), (200, 1, 1));
    drop(server);
}

#[test]
fn what_asks_no_model_warms_none() {
    let Some(desk) = Desk::new(LLAMA, GEMMA) else { return };
    let before = desk.machine.requests();
    for args in [&["--version"][..], &["models"], &["session", "list"], &["agent", "list"]] {
        let _ = desk.run(args).expect(0);
        assert_eq!(desk.machine.requests(), before, "{args:?}");
    }
}

#[test]
fn opencode_takes_the_example_of_its_configuration() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.write(".config/opencode/opencode.json", include_str!("../../examples/opencode.json"));
    let before = desk.machine.requests();
    let run = desk.run(&["debug", "config"]).expect(0);
    let config: Value = serde_json::from_str(&run.stdout).expect("opencode prints its configuration");
    assert_eq!(config["small_model"], "lmstudio/gemma-3-4b-it");
    assert_eq!(desk.machine.requests(), before, "looking around warms nothing");
}
