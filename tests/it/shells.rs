//! The real shells, and a machine for them.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::{Machine, Run, run};

pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// A machine with `lmswarm`, and a command that is wrapped and tells what it was given.
pub fn machine() -> Machine {
    let machine = Machine::new();
    install_lmswarm(&machine);
    for name in ["opencode", "my-tool"] {
        let place = format!("bin/{name}");
        machine.write(&place, &format!("#!/bin/sh\nprintf '{name}'; printf '[%s]' \"$@\"; exit 7\n"));
        std::fs::set_permissions(machine.path(&place), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    machine
}

pub fn install_lmswarm(machine: &Machine) {
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lmswarm"), machine.path("bin/lmswarm")).expect("a link");
}

/// Runs a script in a shell that reads nothing of its user's.
pub fn shell(machine: &Machine, program: &PathBuf, script: &str) -> Run {
    let mut command = Command::new(program);
    if program.ends_with("bash") {
        command.args(["--norc", "--noprofile"]);
    } else if program.ends_with("zsh") {
        command.arg("-f");
    } else {
        command.arg("--no-config");
    }
    command.args(["-c", script]).env_clear().envs(machine.environment()).stdin(Stdio::null());
    // The shells' own helpers stand behind the machine's.
    command.env("PATH", format!("{}:/usr/bin:/bin", machine.path("bin").display()));
    run(&mut command)
}
