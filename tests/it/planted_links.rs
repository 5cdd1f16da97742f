//! A link that a stranger has put where lmswarm writes leads nothing anywhere.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::{Machine, run};

/// The name of the new file holds the process's number, which a shell knows in advance: it is
/// the one that becomes lmswarm.
#[test]
fn a_file_is_replaced_without_writing_through_a_link_under_the_new_files_name() {
    let machine = Machine::bare();
    machine.write("victim", "precious");
    let folder = machine.path("work/.opencode/plugin");
    fs::create_dir_all(&folder).unwrap();
    let script = "ln -s \"$HOME/victim\" \".opencode/plugin/lmswarm.$$.tmp\"; exec \"$0\" hook opencode --project";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_lmswarm")]).env_clear().envs(machine.environment());
    let path = format!("{}:/bin:/usr/bin", machine.path("bin").display());
    let _ = run(command.env("PATH", path).current_dir(machine.path("work"))).expect(0).says("is installed");
    assert_eq!(fs::read_to_string(machine.path("victim")).unwrap(), "precious");
    assert!(folder.join("lmswarm.js").symlink_metadata().unwrap().is_file());
}

#[test]
fn a_plugin_that_is_a_link_of_the_users_stays_one() {
    let machine = Machine::bare();
    machine.write("dotfiles/lmswarm.js", "// Written by lmswarm 0.0.1 [19239db4754a52b4]; x\nold\n");
    let place = machine.path(".config/opencode/plugin/lmswarm.js");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    symlink(machine.path("dotfiles/lmswarm.js"), &place).unwrap();
    let _ = run(&mut machine.command(&["hook", "opencode"])).expect(0).says("it was of version 0.0.1");
    assert!(place.is_symlink());
    assert!(fs::read_to_string(machine.path("dotfiles/lmswarm.js")).unwrap().contains("chat.params"));
}
