//! The parts of the README that are made from tables in the code. Each stands between two
//! comments, `<!-- NAME -->` and `<!-- /NAME -->`. The tests compare them; with
//! `UPDATE_README=1 cargo test --lib readme` they are written.

use std::fs;

/// Asserts that the part of this name is `wanted`, or writes it there.
pub(crate) fn assert_has(name: &str, wanted: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = fs::read_to_string(path).expect("the README");
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = readme.split_once(&start).unwrap_or_else(|| panic!("no {start}"));
    let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(path, format!("{before}{start}{wanted}{end}{after}")).expect("the README can be written");
    } else {
        assert_eq!(found, wanted, "run `UPDATE_README=1 cargo test --lib readme -- --test-threads=1`");
    }
}
