//! The files in `examples/` that people copy: each is read by what will read it, or by a
//! parser of its kind, and its commands are run.

use std::process::{Command, Stdio};

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{Machine, Run, run, until};

/// The models that the examples name.
const NAMED: [&str; 2] = ["gemma-3-4b-it", "qwen/qwen3-coder-30b"];

fn example(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A machine with `lmswarm` where `cargo install` puts it, and on PATH.
#[cfg(unix)]
fn installed() -> Machine {
    let machine = Machine::new();
    std::fs::create_dir_all(machine.path(".cargo/bin")).expect("a place for it");
    for place in ["bin/lmswarm", ".cargo/bin/lmswarm"] {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lmswarm"), machine.path(place)).expect("a place for it");
    }
    machine
}

/// Runs a line in a shell.
#[cfg(unix)]
fn shell(machine: &Machine, program: &str, line: &str) -> Run {
    let mut path = machine.path("bin").into_os_string();
    path.push(":/usr/bin:/bin");
    let mut command = Command::new(program);
    command.args(["-c", line]).env_clear().envs(machine.environment()).env("PATH", path).stdin(Stdio::null());
    run(&mut command)
}

#[test]
fn every_configuration_is_read_without_a_word() {
    for name in ["config.jsonc", "fleet.jsonc", "ttl.jsonc", "servers.jsonc"] {
        let machine = Machine::new();
        machine.write("example.jsonc", &example(name));
        let path = machine.path("example.jsonc").display().to_string();
        let run = machine.run(&["ensure", "--quiet", "--config", &path, NAMED[0], NAMED[1]]).expect(0);
        assert_eq!(run.stderr, "", "{name}");
        let again = machine.run(&["ensure", "--config", &path, NAMED[0], NAMED[1]]).expect(0);
        assert_eq!(again.stderr, "", "{name}: what it asks for is what it got");
    }
}

#[test]
fn the_times_to_live_of_the_example_reach_lm_studio() {
    let machine = Machine::new();
    machine.write("ttl.jsonc", &example("ttl.jsonc"));
    let path = machine.path("ttl.jsonc").display().to_string();
    let _ = machine.run(&["ensure", "--config", &path, NAMED[0], NAMED[1]]).expect(0);
    let loads = machine.events("load-begin");
    let ttl = |key: &str| loads.iter().find(|it| it["key"] == key).map(|it| it["ttlMs"].clone());
    assert_eq!(ttl(NAMED[0]), Some(28_800_000.into()));
    assert_eq!(ttl(NAMED[1]), Some(600_000.into()));
}

#[test]
fn opencodes_example_pins_the_models_of_the_others() {
    let config: Value = serde_json::from_str(&example("opencode.json")).unwrap();
    let provider = &config["provider"]["lmstudio"];
    for (role, key) in [("model", NAMED[1]), ("small_model", NAMED[0])] {
        assert_eq!(config[role], format!("lmstudio/{key}"));
        assert!(provider["models"][key].is_object(), "{key}");
    }
    assert!(provider["options"]["timeout"].as_u64().is_some_and(|ms| ms >= 300_000));
}

/// The texts at `path`; `*` is every item of a list.
fn texts(yaml: &Yaml, path: &[&str]) -> Vec<String> {
    match path {
        [] => yaml.as_str().map(str::to_owned).into_iter().collect(),
        ["*", rest @ ..] => yaml.as_vec().into_iter().flatten().flat_map(|item| texts(item, rest)).collect(),
        [key, rest @ ..] => texts(&yaml[*key], rest),
    }
}

#[cfg(unix)]
#[test]
fn the_jobs_of_ci_warm_their_models() {
    for (name, path) in [
        ("ci/github-actions.yml", &["jobs", "review", "steps", "*", "run"][..]),
        ("ci/gitlab-ci.yml", &["review", "before_script", "*"]),
    ] {
        let documents = YamlLoader::load_from_str(&example(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines: Vec<String> = texts(&documents[0], path).into_iter().filter(|it| it.contains("lmswarm")).collect();
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        let machine = installed();
        let _ = shell(&machine, "/bin/sh", &lines[0]).expect(0);
        assert_eq!(machine.resident(), NAMED, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn the_systemd_unit_warms_its_models() {
    let unit = example("keep-warm/lmswarm.service");
    let mut section = "";
    let mut keys = std::collections::BTreeMap::new();
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no key: {line}"));
            keys.insert(format!("{section}.{key}"), value.to_owned());
        }
    }
    assert_eq!(keys["Service.Restart"], "always");
    assert_eq!(keys["Install.WantedBy"], "default.target");
    let machine = installed();
    let line = keys["Service.ExecStart"].replace("%h", &machine.home().display().to_string());
    let _ = shell(&machine, "/bin/sh", &line).expect(0);
    assert_eq!(machine.resident(), NAMED);
}

#[cfg(unix)]
#[test]
fn the_launchd_agent_warms_its_models() {
    let text = example("keep-warm/lmswarm.plist");
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let plist = roxmltree::Document::parse_with_options(&text, options).expect("XML");
    let dict = plist.root_element().first_element_child().expect("a dict");
    let members: Vec<_> = dict.children().filter(roxmltree::Node::is_element).collect();
    let value = |key: &str| {
        let place = members.iter().position(|it| it.has_tag_name("key") && it.text() == Some(key));
        members[place.unwrap_or_else(|| panic!("no {key}")) + 1]
    };
    assert!(value("RunAtLoad").has_tag_name("true"));
    assert_eq!(value("StartInterval").text(), Some("60"));
    let arguments: Vec<&str> =
        value("ProgramArguments").children().filter(roxmltree::Node::is_element).filter_map(|it| it.text()).collect();
    assert_eq!(arguments[..2], ["/bin/sh", "-c"]);
    let machine = installed();
    // Not the one on PATH: launchd has none of ours.
    std::fs::remove_file(machine.path("bin/lmswarm")).unwrap();
    let _ = shell(&machine, arguments[0], arguments[2]).expect(0);
    assert_eq!(machine.resident(), NAMED);
}

#[cfg(unix)]
#[test]
fn entering_the_project_warms_its_models_and_does_not_wait() {
    let Some(bash) = crate::needs::program("bash") else { return };
    let machine = installed();
    machine.configure(serde_json::json!({ "holdLoads": true }));
    machine.write(".envrc", &example("direnv/.envrc"));
    // `has` is one of direnv's own words.
    let line = format!("has() {{ command -v \"$1\" >/dev/null; }}; . '{}'", machine.path(".envrc").display());
    // It returns although no load can end.
    let _ = shell(&machine, bash.to_str().expect("UTF-8"), &line).expect(0);
    for count in 1..=NAMED.len() {
        machine.release();
        until("a model is there", || machine.events("load-ready").len() == count);
    }
    assert_eq!(machine.resident(), NAMED);
    assert!(machine.events("load-begin").iter().all(|it| it["contextLength"] == 32768));
}
