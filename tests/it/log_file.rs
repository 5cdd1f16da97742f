//! The log file.

use serde_json::json;

#[cfg(unix)]
use crate::escaping::tame;
#[cfg(unix)]
use crate::planted::{Victim, plant};
use crate::support::{LLAMA, Machine};

#[test]
fn the_log_file_is_written_by_work_and_not_by_a_warm_call() {
    let machine = Machine::new();
    let log = machine.path("lmswarm.log");
    let args = ["ensure", LLAMA, "--log-file", log.to_str().unwrap()];
    machine.preload(LLAMA);
    assert_eq!(machine.run(&args).expect(0).stderr, "");
    assert!(!log.exists());
    machine.control("evict", json!({ "identifier": LLAMA }));
    machine.run(&args).expect(0).says("is loaded");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains(LLAMA), "{text}");
    machine.control("evict", json!({ "identifier": LLAMA }));
    machine.run(&["ensure", LLAMA, "--log-file", "/dev/null/x.log"]).expect(0).says("cannot write the log file");
}

#[cfg(unix)]
#[test]
fn the_folder_of_a_log_file_is_made_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    let log = machine.path("var/log/lmswarm.log");
    let args = ["ensure", LLAMA, "--log-file", log.to_str().unwrap()];
    machine.preload(LLAMA);
    machine.run(&args).expect(0);
    assert!(!machine.path("var").exists(), "a warm call has nothing to say");
    machine.control("evict", json!({ "identifier": LLAMA }));
    let run = machine.run(&args).expect(0);
    assert!(!run.stderr.contains("cannot write"), "{run:?}");
    assert!(std::fs::read_to_string(&log).unwrap().contains(LLAMA));
    for (place, mode) in [("var", 0o700), ("var/log", 0o700), ("var/log/lmswarm.log", 0o600)] {
        assert_eq!(machine.path(place).metadata().unwrap().permissions().mode() & 0o777, mode, "{place}");
    }
}

#[cfg(unix)]
#[test]
fn a_log_file_is_not_followed_and_does_not_hang() {
    for kind in ["symlink", "dangling", "pipe", "folder"] {
        let machine = Machine::new();
        let victim = Victim::new(&machine);
        let log = machine.path("log");
        plant(kind, &log, &victim);
        let run = tame(machine.ensure(&[LLAMA, "--log-file", log.to_str().unwrap()])).expect(0);
        assert_eq!(run.stderr.matches("cannot write the log file").count(), 1, "{kind} {}", run.stderr);
        victim.is_untouched();
        assert!(!machine.path("dangling").exists());
    }
}
