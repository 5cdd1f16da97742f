//! The help, and what must agree with it.

use crate::support::Machine;

/// The exit codes and the options stand in the code, in `--help` and in the README: one table each.
#[test]
fn help_readme_and_code_agree() {
    let machine = Machine::bare();
    let help = machine.run(&["ensure", "--help"]).expect(0).stdout;
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert!(help.contains(lmswarm::pure::outcome::exit::HELP.lines().next().unwrap()));
    for line in lmswarm::pure::outcome::exit::HELP.lines().skip(1) {
        let (codes, meaning) = line.trim().split_once("   ").unwrap_or_else(|| line.trim().split_once("  ").unwrap());
        assert!(readme.contains(meaning.trim()), "README lacks exit code {codes}: {meaning}");
    }
    for spec in lmswarm::pure::config::options::OPTIONS {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{}`", spec.key)));
        let row = row.unwrap_or_else(|| panic!("README has no row for {}", spec.key));
        if !spec.is_for_file_alone() {
            assert!(help.contains(&format!("--{}", spec.flag)), "--help lacks --{}", spec.flag);
            assert!(
                row.contains(&format!("`--{}`", spec.flag)) && row.contains(&format!("`{}`", spec.variable())),
                "{row}"
            );
        }
    }
}
