//! The help.

use crate::support::Machine;

#[test]
fn the_help_tells_every_option_of_the_readme_with_its_default() {
    let help = Machine::bare().run(&["ensure", "--help"]).expect(0).stdout;
    let help: Vec<&str> = help.split_whitespace().collect();
    let help = help.join(" ");
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let table = readme.split("<!-- options -->").nth(1).and_then(|rest| rest.split("<!-- /options -->").next());
    let rows: Vec<Vec<&str>> =
        table.expect("a table").lines().skip(3).map(|row| row.split('|').map(str::trim).collect()).collect();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        let [_, key, flag, _, default, meaning, _] = row[..] else { panic!("{row:?}") };
        if !flag.is_empty() {
            let meaning: Vec<&str> = meaning.split_whitespace().collect();
            assert!(flag.split(", ").all(|name| help.contains(name.trim_matches('`'))), "{key}");
            assert!(help.contains(&format!("{} [default: {default}]", meaning.join(" "))), "{key}: {help}");
        }
    }
}

#[test]
fn the_help_tells_the_exit_codes() {
    let machine = Machine::bare();
    for args in [&["--help"][..], &["ensure", "--help"]] {
        let help = machine.run(args).expect(0).stdout;
        assert!(help.contains("Exit codes:") && help.contains("75   not known"), "{help}");
    }
}

#[test]
fn a_shell_is_called_the_same_everywhere() {
    let machine = Machine::bare();
    for args in [&["completions"][..], &["completions", "x"], &["completions", "--help"]] {
        let run = machine.run(args);
        let said = run.stdout + &run.stderr;
        assert!(said.contains("<SHELL>") && !said.contains("[SHELL]"), "{said}");
    }
}
