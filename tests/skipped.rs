//! Runs behind the other tests, and counts and names those that could not run for the want of
//! something on this machine (`tests/it/needs.rs`). Fails on any that were not expected: with
//! `LMSWARM_TEST_MAY_LACK` set, only what it names may be missing.

#![expect(clippy::print_stdout, reason = "this is what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let mut by_need: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in fs::read_dir(&folder).into_iter().flatten() {
        let note = fs::read_to_string(entry.expect("an entry").path()).expect("a note");
        let (need, test) = note.split_once('\n').expect("two lines");
        by_need.entry(need.to_owned()).or_default().insert(test.to_owned());
    }
    // The next run says anew what is missing.
    let _ = fs::remove_dir_all(folder);
    let tests: BTreeSet<&String> = by_need.values().flatten().collect();
    println!("\nskipped: {} tests, or parts of them", tests.len());
    for (need, tests) in &by_need {
        println!("  {need} is missing ({}):", tests.len());
        for test in tests {
            println!("    {test}");
        }
    }
    let Ok(expected) = std::env::var("LMSWARM_TEST_MAY_LACK") else { return ExitCode::SUCCESS };
    let expected: Vec<&str> = expected.split_whitespace().collect();
    let unexpected: Vec<&String> = by_need.keys().filter(|need| !expected.contains(&need.as_str())).collect();
    if unexpected.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("error: these should be here: {unexpected:?}");
    ExitCode::FAILURE
}
