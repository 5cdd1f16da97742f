//! What reads the input of others, on any bytes: every check of the fuzz targets, on the seeds and
//! on spoilt copies of them.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

#[path = "../fuzz/checks.rs"]
mod checks;

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
