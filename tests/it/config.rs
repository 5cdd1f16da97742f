//! The configuration: files, variables, flags, and what is said about mistakes.

use serde_json::json;

use crate::support::{LLAMA, Machine, run};

const FILE: &str = ".config/lmswarm/config.json";

#[test]
fn a_mistake_in_the_file_is_exit_78_with_its_place() {
    let machine = Machine::new();
    for (text, wanted) in [
        ("", "config.json:1:1: the file is empty"),
        (
            "{\n  \"ttlSeconds\": \"soon\",\n}",
            "config.json:2:17: ttlSeconds: `\"soon\"` must be a time such as 90s or 2h",
        ),
        ("{ \"failMode\": 1 }", "must be one of \"closed\", \"hybrid\", \"open\""),
        ("{ \"parallel\": 2", "config.json:1:"),
        ("\u{0}\u{1}", "config.json:1:1"),
    ] {
        machine.write(FILE, text);
        let report = machine.ensure(&[LLAMA]).expect(78).says(wanted).json();
        assert!(report["error"]["reason"].as_str().unwrap().contains(wanted), "{report}");
    }
    std::fs::write(machine.path(FILE), b"{\"stateDir\": \"\xff\"}").unwrap();
    machine.ensure(&[LLAMA]).expect(78).says("is not UTF-8 text (byte 15)").json();
    std::fs::remove_file(machine.path(FILE)).unwrap();
    std::fs::create_dir(machine.path(FILE)).unwrap();
    machine.ensure(&[LLAMA]).expect(78).says("cannot be read").json();
    assert_eq!(machine.requests().len(), 0);
}

#[test]
fn an_unknown_key_is_a_warning_with_the_nearest_one() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.write(FILE, "{ \"ttlSecond\": 5 } // mine");
    machine.ensure(&[LLAMA]).expect(0).says("unknown key `ttlSecond` is ignored; did you mean `ttlSeconds`?").json();
}

#[test]
fn flags_beat_variables_which_beat_the_file() {
    let machine = Machine::new();
    machine.write(FILE, "{ \"ttlSeconds\": 10, \"parallel\": 1, \"contextLength\": 1000, // comment\n }");
    let mut command = machine.command(&["ensure", LLAMA, "--parallel", "3"]);
    run(command.envs([("LMSWARM_PARALLEL", "2"), ("LMSWARM_CONTEXT_LENGTH", "2000")])).expect(0).says("loaded");
    let load = &machine.events("load-begin")[0];
    assert_eq!((&load["ttlMs"], &load["contextLength"], &load["parallel"]), (&json!(10_000), &json!(2000), &json!(3)));
}

#[test]
fn options_by_model_beat_the_files_own() {
    let machine = Machine::new();
    machine.write(FILE, &json!({ "ttlSeconds": 10, "perModel": { LLAMA: { "ttlSeconds": 20 } } }).to_string());
    machine.ensure(&[LLAMA, "google/gemma-3-12b"]).expect(0).json();
    let loads = machine.events("load-begin");
    assert_eq!((&loads[0]["ttlMs"], &loads[1]["ttlMs"]), (&json!(20_000), &json!(10_000)));
}

#[test]
fn options_for_a_model_that_is_nearly_there_are_a_warning() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine
        .write(FILE, &json!({ "perModel": { "lama-3.2-1b-instruct": { "parallel": 2 }, "another": {} } }).to_string());
    let run = machine.ensure(&[LLAMA]).expect(0);
    let wanted = format!("config.json:1: perModel: LM Studio has no `lama-3.2-1b-instruct`; did you mean `{LLAMA}`?");
    assert_eq!(run.stderr.matches("perModel").count(), 1, "{run:?}");
    run.says(&wanted).json();
    assert_eq!(machine.requests().len(), 2, "it is known from the lists alone");
}

#[test]
fn a_bad_flag_is_2_and_a_bad_variable_is_78() {
    let machine = Machine::new();
    for (flag, value, wanted) in [
        ("--ttl-seconds", "soon", "a time such as 90s or 2h, or seconds from 0 to"),
        ("--context-length", "32kb", "32768 or 32k"),
        ("--fail-mode", "ajar", "\"closed\", \"hybrid\", \"open\""),
        ("--gpu", "auto", "a number from 0 to 1"),
        ("--base-url", "htp://x", "`http` and `https`"),
        ("--timeout", "10", "a time with a unit, such as 90s"),
        ("--timeout", "0s", "a time with a unit"),
        ("--lms-path", "", "value"),
    ] {
        let run = machine.run(&["ensure", LLAMA, flag, value]).expect(2).says(wanted);
        assert!(run.stderr.contains(flag), "{run:?}");
    }
    for (name, value) in
        [("LMSWARM_TTL_SECONDS", "soon"), ("LMSWARM_BASE_URL", "x"), ("LMSWARM_EVICT_ON_PRESSURE", "si")]
    {
        run(machine.command(&["ensure", "--json", LLAMA]).env(name, value)).expect(78).says(name).json();
    }
    run(machine.command(&["ensure", LLAMA]).env("LMSWARM_TTL_SECONDS", "")).expect(0).says("loaded");
}

#[test]
fn times_and_sizes_are_taken_as_people_write_them() {
    let machine = Machine::new();
    machine.write(FILE, r#"{ "contextLength": "4k", "perModel": { "google/gemma-3-12b": { "ttlSeconds": "1h" } } }"#);
    let mut command = machine.command(&["ensure", LLAMA, "--load-timeout-ms", "10m", "--timeout", "5m"]);
    run(command.env("LMSWARM_TTL_SECONDS", "15m")).expect(0).says("loaded");
    machine.ensure(&["google/gemma-3-12b", "--context-length", "8K"]).expect(0).json();
    let loads = machine.events("load-begin");
    assert_eq!((&loads[0]["ttlMs"], &loads[0]["contextLength"]), (&json!(900_000), &json!(4096)));
    assert_eq!((&loads[1]["ttlMs"], &loads[1]["contextLength"]), (&json!(3_600_000), &json!(8192)));
}

#[test]
fn the_file_is_the_one_that_was_named() {
    let machine = Machine::new();
    machine.write(FILE, "broken");
    machine.write("mine.json", "{ \"ttlSeconds\": 7 }");
    let mine = machine.path("mine.json");
    machine.ensure(&[LLAMA, "--config", mine.to_str().unwrap()]).expect(0).json();
    let run = run(machine.command(&["ensure", LLAMA]).env("LMSWARM_CONFIG", &mine)).expect(0);
    assert_eq!(run.stderr, "", "the model is there already, and the file is fine");
    machine.ensure(&[LLAMA, "--config", "/nowhere.json"]).expect(78).says("there is no such config file").json();
    assert_eq!(machine.events("load-begin")[0]["ttlMs"], 7000);
}

#[test]
fn the_file_may_be_called_jsonc_but_there_may_be_one_alone() {
    let machine = Machine::new();
    machine.write(".config/lmswarm/config.jsonc", "{ \"ttlSeconds\": 7 } // mine");
    machine.ensure(&[LLAMA]).expect(0).json();
    assert_eq!(machine.events("load-begin")[0]["ttlMs"], 7000);
    machine.write(FILE, "{}");
    let both = machine.ensure(&[LLAMA]).expect(78);
    both.says("lmswarm/config.json and ").says("lmswarm/config.jsonc are both there; keep one of them").json();
}

#[test]
fn an_lms_that_cannot_be_run_is_told_where_it_is_configured() {
    let machine = Machine::new();
    machine.write("notes", "no program");
    let notes = machine.path("notes").display().to_string();
    for (path, wanted) in [("/nowhere/lms", "is not there"), (notes.as_str(), "is no program that can be run")] {
        machine.write(FILE, &format!("{{\n \"lmsPath\": \"{path}\" }}"));
        let wanted =
            format!("lmswarm/config.json:2: lmsPath: `{path}` {wanted}; without `lms` models are loaded over REST");
        machine.ensure(&[LLAMA]).expect(0).says(&wanted).json();
        let needed = machine.ensure(&[LLAMA, "--loader", "lms"]).expect(78);
        needed.says("config.json:2: lmsPath").says("`loader` is `lms`").json();
    }
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn xdg_config_home_is_respected() {
    let machine = Machine::new();
    machine.write(FILE, "broken");
    machine.write("xdg/lmswarm/config.json", "{ \"ttlSeconds\": 7 }");
    run(machine.command(&["ensure", LLAMA]).env("XDG_CONFIG_HOME", machine.path("xdg"))).expect(0).says("loaded");
    assert_eq!(machine.events("load-begin")[0]["ttlMs"], 7000);
}

#[test]
fn the_older_plugins_file_is_a_base() {
    let machine = Machine::new();
    machine.write(
        ".config/opencode/lm-studio-warm.json",
        "{ \"ttlSeconds\": 9, \"failClosed\": true, \"eager\": true, \"lockDir\": \"~/x\" }",
    );
    let report = machine.ensure(&[LLAMA]).expect(0).says("`eager` means nothing to lmswarm").json();
    assert_eq!(report["failMode"], "closed");
    assert_eq!(machine.events("load-begin")[0]["ttlMs"], 9000);
    machine.write(FILE, "{}");
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).json()["failMode"], "hybrid");
}

#[test]
fn a_call_without_a_home_works() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    run(machine.command(&["ensure", "--json", LLAMA]).env_remove("HOME")).expect(0).json();
    let state = machine.path("state");
    let args = ["ensure", "--json", "google/gemma-3-12b", "--loader", "rest", "--state-dir", state.to_str().unwrap()];
    run(machine.command(&args).env_remove("HOME")).expect(0).json();
}

#[test]
fn a_misspelt_variable_is_a_warning() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let mut command = machine.command(&["ensure", LLAMA]);
    run(command.env("LMSWARM_FAIL_MOD", "open")).expect(0).says("did you mean `LMSWARM_FAIL_MODE`?");
}
