//! What people and programs read.

use serde_json::json;

#[cfg(target_os = "linux")]
use crate::support::GEMMA;
use crate::support::{LLAMA, Machine, run};
#[cfg(target_os = "linux")]
use crate::{support::until, terminal::Terminal};

#[test]
fn without_a_terminal_a_slow_call_says_when_it_begins_and_ends() {
    let machine = Machine::new();
    let cold = machine.run(&["ensure", LLAMA]).expect(0);
    let lines: Vec<&str> = cold.stderr.lines().collect();
    assert_eq!(lines[0], format!("lmswarm: loading `{LLAMA}`"));
    assert!(lines[1].starts_with(&format!("lmswarm: `{LLAMA}` is loaded after ")), "{lines:?}");
    assert_eq!((lines.len(), cold.stdout.as_str()), (2, ""));
    machine.control("evict", json!({ "identifier": LLAMA }));
    machine.run(&["ensure", LLAMA]).expect(0).says(&format!("loading `{LLAMA}` (usually "));
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_a_moving_line_shows_percent_and_the_usual_time_and_then_goes_away() {
    let machine = Machine::new();
    machine.run(&["ensure", LLAMA]).expect(0);
    machine.control("evict", json!({ "identifier": LLAMA }));
    machine.configure(json!({ "holdLoads": true }));
    let terminal = Terminal::start(machine.command(&["ensure", LLAMA]));
    until("how far it is", || terminal.shown().contains(" % "));
    machine.release();
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown:?}");
    assert!(shown.contains(&format!("loading `{LLAMA}` (usually ")), "{shown:?}");
    let last = shown.rsplit("\u{1b}[2K").next().unwrap();
    assert!(last.starts_with(&format!("lmswarm: `{LLAMA}` is loaded after ")), "{shown:?}");
}

#[test]
fn quiet_says_nothing_but_errors() {
    let machine = Machine::new();
    assert_eq!(machine.run(&["ensure", "-q", LLAMA]).expect(0).stderr, "");
    let failed = machine.run(&["ensure", "-q", "nowhere"]).expect(4);
    assert!(failed.stderr.starts_with("lmswarm: error: `nowhere` is not downloaded\n  hint: "), "{failed:?}");
    machine.control("evict", json!({ "identifier": LLAMA }));
    assert_eq!(machine.run(&["ensure", "--no-progress", LLAMA]).expect(0).stderr, "");
}

#[test]
fn verbose_shows_what_was_asked_but_no_token() {
    let machine = Machine::new();
    let token = "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt";
    let run = run(machine.command(&["ensure", "-vv", LLAMA]).env("LM_API_TOKEN", token)).expect(0);
    assert!(run.stderr.contains("running `"), "{}", run.stderr);
    assert!(!run.stderr.contains("AbCdEfGh"), "{}", run.stderr);
}

#[test]
fn verbose_tells_people_what_is_seen_and_why_and_twice_verbose_tells_the_rest() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.write(".config/lmswarm/config.json", "{\n \"contextLength\": 4096 }");
    machine.write(".config/opencode/opencode.json", &format!("{{\n \"model\": \"lmstudio/{LLAMA}\" }}"));
    let config = machine.path(".config/lmswarm/config.json").display().to_string();
    let opencode = machine.path(".config/opencode/opencode.json").display().to_string();
    let once = machine.run(&["ensure", "-v", "--fail-mode", "closed", "main"]).expect(0);
    for wanted in [
        format!("configuration file: {config}"),
        format!("contextLength is 4096 ({config}:2)"),
        "failMode is closed (--fail-mode)".to_owned(),
        format!("main is lmstudio/{LLAMA} ({opencode}:2)"),
        format!("`{LLAMA}` is asked of {} (from the variable LMSWARM_BASE_URL)", machine.base_url()),
        format!("GET http://127.0.0.1:{}/api/v1/models: status 200, ", machine.rest_port),
    ] {
        assert!(once.stderr.contains(&wanted), "{wanted}\n{}", once.stderr);
    }
    let is_for_people =
        |line: &str| line.starts_with("lmswarm: ") && !line.contains("Some(") && !line.contains("TRACE");
    assert!(once.stderr.lines().all(is_for_people), "{}", once.stderr);
    let twice = machine.run(&["ensure", "-vv", "main"]).expect(0);
    assert!(twice.stderr.contains("TRACE") && twice.stderr.contains(&config), "{}", twice.stderr);
    std::fs::remove_file(config).expect("a file");
    machine.run(&["ensure", "-v", LLAMA]).expect(0).says("no configuration file; looked for ");
}

#[test]
fn colour_comes_only_when_wanted() {
    let machine = Machine::new();
    let plain = machine.run(&["ensure", "nowhere"]).expect(4);
    assert!(!plain.stderr.contains('\u{1b}'));
    let always = machine.run(&["ensure", "nowhere", "--color", "always"]).expect(4);
    assert!(always.stderr.contains("\u{1b}[1;31merror:\u{1b}[0m"), "{always:?}");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let mut child = machine
        .command(&["ensure", "--json", LLAMA])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn verbose_tells_what_was_seen_and_what_was_decided() {
    let machine = Machine::new();
    machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:2") }));
    let run = machine.run(&["ensure", LLAMA, "-v", "--no-progress"]).expect(0);
    let said: Vec<&str> = run.stderr.lines().filter(|line| line.contains(&format!("`{LLAMA}` is "))).collect();
    let seen = format!("is resident only as `{LLAMA}:2`: these copies have to go first");
    assert!(said.iter().any(|line| line.ends_with(&seen)), "{said:?}");
    let run = machine.run(&["ensure", LLAMA, "-v"]).expect(0).says("is ready, with 4096 tokens: nothing to do");
    assert!(!run.stderr.contains("leads"), "a warm call leads nothing: {}", run.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn a_call_that_is_stopped_on_a_terminal_leaves_one_line_that_says_what_became_of_the_load() {
    let machine = Machine::with(json!({ "holdLoads": true }));
    let terminal = Terminal::start(machine.command(&["ensure", LLAMA, GEMMA]));
    machine.wait_until_held();
    until("the moving line", || terminal.shown().contains("loading"));
    terminal.signal(rustix::process::Signal::INT);
    let (code, shown) = terminal.end();
    assert_eq!(code, 130, "{shown:?}");
    let last = shown.rsplit("\u{1b}[2K").next().unwrap();
    assert_eq!(last, format!("lmswarm: stopped by SIGINT; the load of `{LLAMA}` was cancelled\r\n"), "{shown:?}");
}
