//! Input of any bytes: every check of the fuzz targets, on the seeds and on spoilt copies of
//! them; and names that cannot be models, as a user would type them.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::{Machine, run};

#[path = "../fuzz/checks.rs"]
mod checks;

#[test]
fn no_input_breaks_a_promise() {
    for (name, check) in checks::CHECKS {
        let seeds = seeds(name);
        for seed in &seeds {
            check(seed);
        }
        let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&spoilt(seeds), |bytes| {
            check(&bytes);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// What the fuzz target of this name starts from.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let own = format!("fuzz/seeds/{name}");
    let recorded = match name {
        "lms_output" => Some("fixtures/lmstudio"),
        "rest" => Some("fixtures/lmstudio/rest"),
        _ => None,
    };
    let folders = recorded.into_iter().chain([own.as_str()]);
    let seeds: Vec<Vec<u8>> = folders
        .flat_map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder).read_dir().expect("seeds"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .map(|path| std::fs::read(path).expect("a seed"))
        .collect();
    assert!(seeds.len() > 1, "{name}: {}", seeds.len());
    seeds
}

/// A seed with a few bytes taken out, others put in, and perhaps its end cut off; or pieces
/// of syntax and nothing else.
fn spoilt(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 16] = [
        b"[",
        b"]",
        b"{",
        b"}",
        b"\"",
        b":",
        b",",
        b"[]",
        b"\n",
        b"\0",
        b"\x1b[",
        b"\x1b]",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"99999999999999999999",
        b"null",
    ];
    let piece = prop_oneof![select(&PIECES[..]).prop_map(<[u8]>::to_vec), vec(any::<u8>(), 0..4)];
    let taken = prop_oneof![4 => 0..8_usize, 1 => Just(usize::MAX)];
    let pieces = vec(piece.clone(), 0..40).prop_map(|pieces| pieces.concat());
    let spoilt = (select(seeds), vec((any::<Index>(), taken, piece), 0..4)).prop_map(|(mut bytes, edits)| {
        for (place, taken, piece) in edits {
            let start = place.index(bytes.len() + 1);
            let end = bytes.len().min(start.saturating_add(taken));
            bytes.splice(start..end, piece);
        }
        bytes
    });
    prop_oneof![3 => spoilt, 1 => pieces]
}

#[test]
fn a_name_that_cannot_be_a_model_is_a_usage_error() {
    let machine = Machine::new();
    let long = "x".repeat(10_240);
    for (name, wanted) in [
        ("", "a model name cannot be empty"),
        ("   ", "a model name cannot be empty"),
        ("a\nb", "control characters: `a\\nb`"),
        ("a\u{1b}[2Jb", "control characters"),
        ("lmstudio/", "names a provider but no model"),
        (long.as_str(), "10240 bytes is too long"),
    ] {
        let run = machine.run(&["ensure", name]).expect(2).says(wanted);
        assert!(!run.stderr.contains('\u{1b}'), "{run:?}");
    }
    machine.run(&["ensure", "--", "-x"]).expect(2).says("cannot start with `-`");
    machine.run(&["ensure", "-x"]).expect(2).says("-x");
    machine.run(&["ensure", "agent:"]).expect(2).says("write `agent:NAME`");
    machine.run(&["ensure", "--key", ""]).expect(2).says("cannot be empty");
    machine.run(&[]).expect(2).says("Usage");
    machine.run(&["insure", "x"]).expect(2).says("ensure");
    assert_eq!(machine.requests().len(), 0);
    assert_eq!(machine.lms_calls().len(), 0);
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

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_a_usage_error() {
    use std::os::unix::ffi::OsStrExt;
    let machine = Machine::new();
    let mut command = machine.command(&["ensure"]);
    run(command.arg(std::ffi::OsStr::from_bytes(b"a\xff"))).expect(2).says("UTF-8");
}

#[test]
fn odd_but_possible_names_are_merely_not_downloaded() {
    let machine = Machine::new();
    for name in ["a b", "模型", "a/../b", "a;rm -rf", "$(id)", "\"", "a@b@c", "@", ":2", "/", "a:2"] {
        machine.ensure(&[name]).expect(4).json();
    }
    assert_eq!(machine.events("load-begin").len(), 0);
}
