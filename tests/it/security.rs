//! The token, the state directory, and text that would drive a terminal.

use serde_json::json;

use crate::support::{LLAMA, Machine, run};

const TOKEN: &str = "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt";

#[test]
fn the_token_is_in_no_argv_log_report_or_file() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    let log = machine.path("log");
    let args = ["ensure", "--json", "-vv", LLAMA, "--log-file", log.to_str().unwrap()];
    let run = run(machine.command(&args).env("LM_API_TOKEN", TOKEN)).expect(0);
    let calls = format!("{:?}", machine.record());
    let mut files = std::fs::read_to_string(&log).unwrap();
    for entry in std::fs::read_dir(machine.path(".cache/lmswarm")).unwrap() {
        files.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for place in [&run.stdout, &run.stderr, &calls, &files] {
        assert!(!place.contains("AbCdEf"), "{place}");
    }
}

#[cfg(unix)]
#[test]
fn a_state_directory_that_others_could_write_to_is_refused_by_whoever_needs_it() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let machine = Machine::new();
    let state = machine.path("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    let args = [LLAMA, "--state-dir", state.to_str().unwrap()];
    let report = machine.ensure(&args).expect(78).says("is writable by others (mode 777)").json();
    assert_eq!(report["proceed"], false);
    let link = machine.path("link");
    symlink(machine.path("bin"), &link).unwrap();
    machine.ensure(&[LLAMA, "--state-dir", link.to_str().unwrap()]).expect(78).says("is a symlink").json();
    assert_eq!(machine.loads(LLAMA), 0);
    machine.preload(LLAMA);
    machine.ensure(&args).expect(0).json();
}

#[cfg(unix)]
#[test]
fn a_lock_or_state_file_is_not_followed_through_a_symlink() {
    use std::os::unix::fs::{DirBuilderExt, symlink};
    for name in ["lock", "json", "verdicts.json"] {
        let machine = Machine::new();
        let state = machine.path("state");
        std::fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
        let victim = machine.path("victim");
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, state.join(format!("http-localhost-{}.{name}", machine.rest_port))).unwrap();
        let code = machine.ensure(&[LLAMA, "--state-dir", state.to_str().unwrap()]).code;
        assert_eq!(code, if name == "lock" { 78 } else { 0 });
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }
}

#[test]
fn words_of_a_server_or_a_child_cannot_drive_the_terminal() {
    let machine = Machine::new();
    let evil = "Error: \u{1b}]0;owned\u{7}\u{1b}[2Jboom\u{8}\u{202e}";
    machine.faults(json!([{ "on": "lms load", "kind": "fail", "stderr": evil }]));
    let run = machine.ensure(&[LLAMA]).expect(5).says("boom");
    assert!(!run.stderr.chars().any(|it| it.is_control() && it != '\n'), "{:?}", run.stderr);
    assert!(!run.stderr.contains('\u{202e}'));
}
