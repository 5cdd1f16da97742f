//! The `lms` program: where it is, and how it misbehaves.

use serde_json::json;

use crate::support::{LLAMA, Machine, run};

#[test]
fn lms_is_found_where_lm_studio_puts_it() {
    for (place, pointer) in
        [(".lmstudio/bin/lms", None), (".cache/lm-studio/bin/lms", None), ("elsewhere/bin/lms", Some("elsewhere"))]
    {
        let machine = Machine::new();
        std::fs::remove_file(machine.path("bin/lms")).unwrap();
        machine.install_lms_at(place);
        if let Some(pointer) = pointer {
            machine.write(".lmstudio-home-pointer", &format!("{}\n", machine.path(pointer).display()));
        }
        // The pointer leads lms itself away from the simulator, so its call is what counts.
        let _ = machine.ensure(&[LLAMA, "--loader", "lms"]);
        let moved = machine.path("elsewhere/.simulator/record.jsonl");
        let called = machine.lms_calls().len() + usize::from(moved.exists());
        assert!(called > 0, "{place}");
    }
}

#[test]
fn the_configured_lms_is_used_and_no_other() {
    let machine = Machine::new();
    machine.install_lms_at("mine/lms");
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    let mine = machine.path("mine/lms");
    machine.ensure(&[LLAMA, "--loader", "lms", "--lms-path", mine.to_str().unwrap()]).expect(0).json();
    assert_eq!(machine.lms_calls().len(), 1);
    machine.install_lms();
    let run = machine.ensure(&["google/gemma-3-12b", "--loader", "lms", "--lms-path", "/nowhere/lms"]).expect(78);
    run.says("--lms-path: lmsPath: `/nowhere/lms` is not there").json();
    assert_eq!(machine.lms_calls().len(), 1, "no other one is taken");
}

/// As npm sets `PATH` for a script: in front stands what the project has installed.
#[cfg(unix)]
#[test]
fn an_lms_that_a_project_puts_on_path_is_passed_over() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let machine = Machine::new();
    let planted = "work/node_modules/.bin/lms";
    machine.write(planted, &format!("#!/bin/sh\n: >\"{}\"\n", machine.path("ran").display()));
    std::fs::set_permissions(machine.path(planted), PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::create_dir_all(machine.path("work/packages/one")).unwrap();
    symlink(machine.path("work/node_modules/.bin"), machine.path("link")).unwrap();
    std::fs::create_dir(machine.path("outside")).unwrap();
    std::fs::copy(machine.path(planted), machine.path("outside/lms")).unwrap();
    symlink(machine.path("outside"), machine.path("work/linked")).unwrap();
    let git = |folder: &str| {
        for part in ["objects", "refs"] {
            std::fs::create_dir_all(machine.path(folder).join(".git").join(part)).unwrap();
        }
        machine.write(&format!("{folder}/.git/HEAD"), "ref: refs/heads/main\n");
    };
    let call = |entry: &str, working: &str, args: &[&str]| {
        let path = format!("{}:{}", machine.path(entry).display(), machine.path("bin").display());
        let all = [&["ensure", "--json", LLAMA, "--loader", "lms"], args].concat();
        let run = run(machine.command(&all).env("PATH", path).current_dir(machine.path(working)));
        assert!(!machine.path("ran").exists(), "{entry} in {working}");
        run
    };
    let said = format!("{}` is passed over, since PATH leads into the project ", machine.path(planted).display());
    let _ = call("work/node_modules/.bin", "work", &["-v"]).expect(0).says(&said).says("lmsPath can name it");
    assert_eq!(machine.loads(LLAMA), 1);
    let again = |entry: &str, working: &str| {
        machine.control("evict", json!({ "identifier": LLAMA }));
        let _ = call(entry, working, &[]).expect(0);
    };
    again("link", "work");
    again("work/linked", "work");
    again("work/packages/../node_modules/.bin", "work");
    git("work");
    again("work/node_modules/.bin", "work/packages/one");
    again("link", "work/packages/one");
    // A repository in it, such as a submodule, is part of it.
    git("work/packages/one");
    again("work/node_modules/.bin", "work/packages/one");
    // Dotfiles: the home is a repository, and the project in it none.
    std::fs::remove_dir_all(machine.path("work/.git")).unwrap();
    git(".");
    again("work/node_modules/.bin", "work");
    assert_eq!(machine.loads(LLAMA), 8);
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    machine.control("evict", json!({ "identifier": LLAMA }));
    let none = call("work/node_modules/.bin", "work", &[]).expect(5);
    let _ = none
        .says("node_modules/.bin/lms, which is passed over as part of the project ")
        .says("unless lmsPath names it");
}

#[test]
fn a_home_or_a_root_that_one_stands_in_is_no_project() {
    let machine = Machine::new();
    std::fs::create_dir_all(machine.path(".git/objects")).unwrap();
    std::fs::create_dir_all(machine.path(".git/refs")).unwrap();
    machine.write(".git/HEAD", "ref: refs/heads/main\n");
    for working in [machine.home(), std::path::Path::new("/")] {
        let _ = run(machine.command(&["ensure", LLAMA, "--loader", "lms"]).current_dir(working)).expect(0);
        machine.control("evict", json!({ "identifier": LLAMA }));
    }
    assert_eq!(machine.loads(LLAMA), 2);
}

#[cfg(unix)]
#[test]
fn an_lms_that_somebody_kills_is_said_so() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "hang" }]));
    let caller = machine.start(&[LLAMA]);
    machine.wait_for_event("fault");
    let pid = machine.events("lms")[0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let run = caller.end().expect(5).says(&format!("`lms load {LLAMA}` was ended by signal 9"));
    assert_eq!(run.model()["category"], "load-failed");
}

#[test]
fn an_lms_that_hangs_is_ended() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "hang" }]));
    machine.ensure(&[LLAMA, "--load-timeout-ms", "300"]).expect(5).says("was not loaded after loadTimeoutMs");
}

#[test]
fn a_grandchild_that_holds_the_pipes_does_not_hold_the_call() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms", "kind": "grandchild", "ms": 120_000 }]));
    machine.ensure(&[LLAMA]).expect(0).json();
}

#[test]
fn a_flood_of_output_does_not_stop_the_load() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "flood", "bytes": 30_000_000 }]));
    machine.ensure(&[LLAMA]).expect(0).json();
}

#[test]
fn every_shape_of_a_list_is_read_or_unknown() {
    let machine = Machine::with(json!({ "token": "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt" }));
    machine.preload(LLAMA);
    for kind in ["utf16", "bom", "notice", "slow", "grandchild"] {
        machine.faults(json!([{ "on": "lms ps", "kind": kind, "ms": 50 }]));
        let run = machine.ensure(&[LLAMA, "--verify-cache-ms", "0"]).expect(0);
        assert_eq!(run.model()["source"], "lms-ps", "{kind}");
    }
    for kind in ["garbage", "truncated", "html", "wrapper", "empty", "fail"] {
        machine.faults(json!([{ "on": "lms ps", "kind": kind }]));
        machine.ensure(&[LLAMA, "--verify-cache-ms", "0"]).expect(7).json();
    }
    assert_eq!(machine.loads(LLAMA), 0);
}

#[test]
fn a_list_that_an_unload_spoilt_is_asked_for_again() {
    let machine = Machine::with(json!({ "token": "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt" }));
    machine.preload(LLAMA);
    machine.faults(json!([{ "on": "lms ps", "kind": "race", "times": 1 }]));
    machine.ensure(&[LLAMA]).expect(0).json();
    assert_eq!(machine.lms_calls(), ["ps --json", "ps --json"]);
}
