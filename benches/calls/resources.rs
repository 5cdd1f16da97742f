//! What does not depend on how busy the machine is: instructions, memory, size.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{LLAMA, Machine};
use crate::warm;

const MIB: u64 = 1024 * 1024;
/// Of a warm call of one model in a list of 30; what Rust 1.95 and glibc 2.36 make of it is less.
const INSTRUCTIONS: u64 = 1_200_000;

/// Measures and prints; whether every budget is met.
pub(crate) fn measure() -> bool {
    println!();
    let machine = warm::machine(30, json!({}));
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_lmswarm")).map_or(0, |it| it.len());
    let size = judge("size of the binary, bytes", Some(size), 6 * MIB);
    let memory = judge("peak memory of a warm call, KiB", peak_memory(&machine), 8 * 1024);
    let instructions = judge("instructions of a warm call", instructions(&machine), INSTRUCTIONS);
    size && memory && instructions
}

fn judge(name: &str, found: Option<u64>, budget: u64) -> bool {
    let Some(found) = found else {
        println!("{name}: not measured");
        return true;
    };
    let verdict = if found <= budget { "" } else { ": OVER BUDGET" };
    println!("{name}: {found} (budget {budget}){verdict}");
    found <= budget
}

/// By GNU time.
fn peak_memory(machine: &Machine) -> Option<u64> {
    let said = observed(machine, "/usr/bin/time", &["--format", "peak=%M"])?;
    said.split("peak=").nth(1)?.trim().parse().ok()
}

/// By valgrind's callgrind: the same for the same binary, whatever else the machine does.
fn instructions(machine: &Machine) -> Option<u64> {
    let said = observed(machine, "valgrind", &["--tool=callgrind", "--callgrind-out-file=/dev/null"])?;
    let refs = said.lines().find(|line| line.contains("refs:"))?;
    refs.split("refs:").nth(1)?.trim().replace(',', "").parse().ok()
}

/// What an observer of a warm call says on stderr.
fn observed(machine: &Machine, observer: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(observer);
    command.args(args).args([env!("CARGO_BIN_EXE_lmswarm"), "ensure", LLAMA]);
    command.env_clear().envs(machine.environment()).stdin(Stdio::null());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    match command.output() {
        Ok(output) => {
            assert!(output.status.success(), "{observer}: {output:?}");
            String::from_utf8(output.stderr).ok()
        }
        Err(error) => {
            println!("{observer} cannot be started ({error})");
            None
        }
    }
}
