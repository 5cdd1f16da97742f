//! The names of models as a user types them.

use serde_json::json;

use crate::support::{Machine, QWEN, run};

#[test]
fn a_ref_of_a_gated_provider_is_its_key() {
    let machine = Machine::new();
    let requested = format!("lmstudio/{QWEN}");
    let model = machine.ensure(&[&requested]).expect(0).model();
    assert_eq!((&model["key"], &model["requested"]), (&json!(QWEN), &json!(requested)));
    let lab = format!("lab/{QWEN}");
    assert_eq!(machine.ensure(&[&lab, "--providers", "lab,other"]).expect(0).model()["key"], QWEN);
    assert_eq!(machine.ensure(&[&lab]).expect(4).model()["key"], lab);
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
