//! Input without end: answers, output, files and nesting that would fill the memory or the
//! stack of whoever reads them whole. Each run may use so much memory and no more, by the
//! system's own limit, and says "unknown" or what is wrong, never "empty".

#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, Run, TOKEN, run, until};

const CONFIG: &str = ".config/lmswarm/config.json";

const OPENCODE: &str = ".config/opencode/opencode.json";

const GIGABYTE: u64 = 1 << 30;

/// Most memory for data, in KiB.
const MOST_MEMORY: u32 = 64 * 1024;

/// `lmswarm` with these arguments, which the system ends when it wants more memory than that.
fn frugal(machine: &Machine, args: &[&str]) -> Command {
    let lmswarm = machine.command(args);
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("ulimit -d {MOST_MEMORY} && exec \"$0\" \"$@\""));
    command.arg(lmswarm.get_program()).args(lmswarm.get_args());
    command.env_clear().envs(machine.environment()).stdin(Stdio::null());
    command
}

fn ensure(machine: &Machine, args: &[&str]) -> Run {
    run(&mut frugal(machine, &[&["ensure", "--json"], args].concat()))
}

/// JSON that opens so many values, and closes them.
fn nested(open: &str, close: &str) -> String {
    format!("{}0{}", open.repeat(100_000), close.repeat(100_000))
}

#[test]
fn the_limit_is_in_force() {
    let machine = Machine::new();
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -d {MOST_MEMORY} && exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    command.args(["-c", &script]).env_clear().stdin(Stdio::null());
    assert_ne!(run(&mut command).code, 0);
    ensure(&machine, &[LLAMA]).expect(0).json();
}

#[test]
fn an_answer_of_a_gigabyte_is_unknown() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.faults(json!([
        { "on": "GET /api/v1/models", "kind": "huge", "bytes": GIGABYTE },
        { "on": "GET /api/v0/models", "kind": "huge", "bytes": GIGABYTE },
    ]));
    assert_eq!(ensure(&machine, &[LLAMA]).expect(75).model()["category"], "unknown-state");
    machine.faults(json!([{ "on": "rest", "kind": "huge", "bytes": GIGABYTE }]));
    ensure(&machine, &[LLAMA]).expect(3).json();
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn an_answer_that_is_nested_without_end_is_unknown() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    for body in [
        nested("[", "]"),
        nested("{\"models\":", "}"),
        format!("{{\"models\":{},\"data\":{0}}}", nested("[", "]")),
        format!(
            "{{\"models\":[{{\"key\":\"a\",\"loaded_instances\":[{{\"id\":\"a\",\"config\":{}}}]}}]}}",
            nested("[", "]")
        ),
    ] {
        let lists = ["GET /api/v1/models", "GET /api/v0/models"];
        machine.faults(json!(lists.map(|on| json!({ "on": on, "kind": "status", "status": 200, "body": body }))));
        assert_eq!(ensure(&machine, &[LLAMA]).expect(75).model()["category"], "unknown-state");
    }
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn a_name_without_end_in_an_answer_is_compared_with_nothing() {
    let machine = Machine::new();
    let long = "x".repeat(900_000);
    let body = json!({ "models": [{ "key": long, "loaded_instances": [] }] }).to_string();
    machine.faults(json!([{ "on": "GET /api/v1/models", "kind": "status", "status": 200, "body": body }]));
    let run = ensure(&machine, &["xxxx"]).expect(4);
    assert_eq!(run.model()["suggestions"], json!([]));
}

/// An `lms` whose lists are what this script prints.
fn install_script(machine: &Machine, script: &str) {
    let path = machine.path("bin/lms");
    let _ = fs::remove_file(&path);
    fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")).expect("a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a program");
}

#[test]
fn an_lms_that_prints_without_end_is_unknown() {
    // Without a token only `lms ps` can tell.
    let machine = Machine::with(json!({ "token": TOKEN }));
    machine.write("nested", &nested("[", "]"));
    for script in [
        "head -c 10000000 /dev/zero | tr '\\0' x",
        "printf '['; head -c 10000000 /dev/zero | tr '\\0' ' '",
        "head -c 10000000 /dev/zero | tr '\\0' x >&2; exit 1",
        "head -c 100000000 /dev/zero; echo; echo '[]'",
        "head -c 30000000 /dev/zero >&2; exit 1",
        "cat $HOME/nested",
    ] {
        install_script(&machine, script);
        let run = ensure(&machine, &[LLAMA, "-v"]).expect(7);
        run.json();
        assert!(run.stderr.len() < 20_000, "{script}: {} bytes", run.stderr.len());
    }
    assert_eq!(machine.events("load-begin").len(), 0);
}

/// A pipe that nobody writes to.
fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

/// What is no file to read as a whole: what is said of it, and how it comes to a place.
type Endless = (&'static str, fn(&Path));

const ENDLESS: [Endless; 4] = [
    ("it is larger than", |path| File::create(path).expect("a file").set_len(GIGABYTE).expect("a size")),
    ("it is no regular file", make_pipe),
    ("it is no regular file", |path| fs::create_dir(path).expect("a folder")),
    ("it is no regular file", |path| symlink("/dev/zero", path).expect("a link")),
];

/// Clears a place and makes its folder.
fn clear(path: &Path) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
}

#[test]
fn a_config_file_without_end_is_refused() {
    let machine = Machine::new();
    for (says, put) in ENDLESS {
        for (place, args) in [(CONFIG, vec![LLAMA]), ("mine.json", vec![LLAMA, "--config", "mine.json"])] {
            clear(&machine.path(place));
            put(&machine.path(place));
            let mut command = frugal(&machine, &[&["ensure", "--json"], &*args].concat());
            run(command.current_dir(machine.home())).expect(78).says(says).json();
            clear(&machine.path(place));
        }
        clear(&machine.path(OPENCODE));
        put(&machine.path(OPENCODE));
        let mut command = frugal(&machine, &["ensure", "--json", LLAMA]);
        run(command.env_remove("LMSWARM_BASE_URL")).expect(78).says(says).json();
        clear(&machine.path(OPENCODE));
    }
    assert_eq!(machine.requests().len(), 0);
}

#[test]
fn a_config_file_that_is_nested_without_end_is_refused() {
    let machine = Machine::new();
    for text in [nested("[", "]"), nested("{\"a\":", "}"), format!("{{\"x\": {}}}", nested("[", "]"))] {
        machine.write(CONFIG, &text);
        ensure(&machine, &[LLAMA]).expect(78).says("nesting depth").json();
        clear(&machine.path(CONFIG));
        machine.write(OPENCODE, &text);
        let mut command = frugal(&machine, &["ensure", "--json", LLAMA]);
        run(command.env_remove("LMSWARM_BASE_URL")).expect(78).says("nesting depth").json();
        clear(&machine.path(OPENCODE));
    }
    assert_eq!(machine.requests().len(), 0);
}

#[test]
fn references_that_would_fill_the_memory_are_refused() {
    let machine = Machine::new();
    machine.write(".config/opencode/large", &"x".repeat(1_000_000));
    machine.write(OPENCODE, &format!("{{ \"a\": \"{}\" }}", "{file:large}".repeat(50_000)));
    let mut command = frugal(&machine, &["ensure", "--json", LLAMA]);
    run(command.env_remove("LMSWARM_BASE_URL")).expect(78).says("once its references are replaced").json();
}

#[test]
fn folders_of_agents_that_lead_round_in_circles_are_left() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.write("project/.opencode/agent/a.md", &format!("---\nmodel: lmstudio/{LLAMA}\n---\n"));
    let circles = machine.path("project/.opencode/agent/circles");
    fs::create_dir(&circles).expect("a folder");
    for number in 0..10 {
        symlink(".", circles.join(number.to_string())).expect("a link");
    }
    let mut command = frugal(&machine, &["ensure", "--json", "agent:a"]);
    let run = run(command.current_dir(machine.path("project"))).expect(0);
    assert_eq!(run.model()["key"], LLAMA);
}

#[test]
fn heads_of_agents_that_would_grow_without_end_are_read_in_bounds() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    // Each of these is ten of the one before.
    let laugh = |it: usize| format!("a{it}: &a{it} [{}]\n", vec![format!("*a{}", it - 1); 10].join(", "));
    let laughs = format!("a0: &a0 x\n{}model: *a59", (1..60).map(laugh).collect::<Vec<_>>().concat());
    let map = (0..20_000).map(|key| format!("k{key}: 1")).collect::<Vec<_>>().join(", ");
    let merges = format!("b: &b {{{map}}}\n<<: [{}*b]", "*b, ".repeat(100_000));
    let keys = format!("b: &b {}\n{}", "x".repeat(50_000), "? [*b, *b]\n: x\n".repeat(50_000));
    // An indent is missing in each line of it, and is put there one after the other.
    let text = format!("description: \"{}\"", "x'\n".repeat(20_000));
    for head in [&laughs, &merges, &keys, &text, &"- ".repeat(400_000), &nested("[", "]"), &nested("{a: ", "}")] {
        machine.write("project/.opencode/mode/a.md", &format!("---\n{head}\n---\n"));
        machine.write("project/opencode.json", &json!({ "model": format!("lmstudio/{LLAMA}") }).to_string());
        let call = |args: &[&str]| run(frugal(&machine, args).current_dir(machine.path("project")));
        let run = call(&["ensure", "--json", "main"]);
        if *head == text {
            let _ = run.expect(78).says("a.md: with it, the heads of agents and commands are more than 2 MiB of YAML");
        } else {
            assert_eq!(run.expect(0).model()["key"], LLAMA);
        }
        // For a key that is named, nothing of it is read.
        let _ = call(&["ensure", "--json", LLAMA]).expect(0);
    }
}

#[test]
fn heads_of_agents_that_are_large_together_are_refused() {
    let machine = Machine::new();
    for number in 0..30 {
        let head = format!("---\nmodel: lmstudio/{LLAMA}\noptions:\n{}---\n", "- &a x\n".repeat(20_000));
        machine.write(&format!("project/.opencode/agent/a{number}.md"), &head);
    }
    let mut command = frugal(&machine, &["ensure", "--json", "agent:a1"]);
    let run = run(command.current_dir(machine.path("project"))).expect(78);
    run.says(".md: with it, the heads of agents and commands are more than 2 MiB of YAML to read").json();
    assert_eq!(machine.requests().len(), 0);
}

#[test]
fn a_plugin_file_without_end_is_left_alone() {
    let machine = Machine::bare();
    let plugin = machine.path(".config/opencode/plugin/lmswarm.js");
    for (says, put) in ENDLESS {
        clear(&plugin);
        put(&plugin);
        run(&mut frugal(&machine, &["hook", "opencode"])).expect(78).says(says);
    }
}

#[test]
fn a_config_file_full_of_unknown_keys_is_read_in_time_and_told_in_brief() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let keys: Vec<String> = (0..60_000).map(|number| format!("\"k{number}\": 0")).collect();
    machine.write(CONFIG, &format!("{{\n{}\n}}", keys.join(",\n")));
    let run = ensure(&machine, &[LLAMA]).expect(0).says("unknown key `k0` is ignored");
    assert!(run.stderr.lines().count() < 50, "{} lines", run.stderr.lines().count());
}

#[test]
fn files_of_lm_studio_without_end_are_passed_over() {
    for place in [".lmstudio-home-pointer", ".lmstudio/.internal/http-server-config.json"] {
        for (_, put) in ENDLESS {
            let machine = Machine::bare();
            machine.write(OPENCODE, "{ \"model\": \"lmstudio/a\" }");
            clear(&machine.path(place));
            put(&machine.path(place));
            let mut command = frugal(&machine, &["config", "roles"]);
            let run = run(command.env_remove("LMSWARM_BASE_URL")).expect(0);
            assert!(run.stdout.contains("http://127.0.0.1:1234/v1"), "{run:?}");
        }
    }
}

#[test]
fn state_files_without_end_are_passed_over() {
    // Verdicts are remembered where only `lms ps` can tell.
    let (open, closed) = (json!({ "loadMs": 0 }), json!({ "token": TOKEN }));
    for (name, config) in [("json", &open), ("verdicts.json", &closed), ("lock", &open)] {
        let machine = Machine::with(config.clone());
        let state = machine.path("state");
        fs::DirBuilder::new().mode(0o700).create(&state).expect("a folder");
        let file = state.join(format!("http-localhost-{}.{name}", machine.rest_port));
        let passes = || {
            if name == "verdicts.json" {
                machine.preload(LLAMA);
            }
            let args = [LLAMA, "--state-dir", state.to_str().expect("a path"), "-v"];
            let said = if name == "lock" { "" } else { "is taken for empty" };
            ensure(&machine, &args).expect(0).says(said).json();
            machine.control("evict", json!({ "identifier": LLAMA }));
            clear(&file);
        };
        fs::write(&file, nested("[", "]")).expect("a file");
        passes();
        // What is no file in the place of a lock is refused.
        for (_, put) in ENDLESS.into_iter().filter(|_| name != "lock") {
            put(&file);
            passes();
        }
    }
}

#[test]
fn words_in_the_lock_without_end_are_no_words() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let leader = machine.start(&[LLAMA]);
    machine.wait_for_event("load-begin");
    let lock = machine.path(&format!(".cache/lmswarm/http-localhost-{}.lock", machine.rest_port));
    for words in [nested("[", "]"), format!("{{\"pid\": {}", nested("[", "]")), "{}".to_owned(), "\0".repeat(5000)] {
        fs::write(&lock, words).expect("the lock file");
        let run = ensure(&machine, &[GEMMA, "--lock-wait-timeout-ms", "50"]).expect(75);
        run.says("gave up waiting for another lmswarm, after").json();
    }
    File::options().write(true).open(&lock).expect("the lock file").set_len(GIGABYTE).expect("a size");
    ensure(&machine, &[GEMMA, "--lock-wait-timeout-ms", "50"]).expect(75).json();
    machine.release();
    leader.end().expect(0).json();
    until("the model is resident", || machine.resident() == [LLAMA]);
}
