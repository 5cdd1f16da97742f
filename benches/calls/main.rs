//! What calls of `lmswarm` cost beside what they can be compared with, all in one run:
//! `cargo bench`, or `cargo bench -- --rounds 200` for finer figures.
//!
//! Every round starts each command once, so that a busy moment strikes all of them; a ratio
//! is the median of the rounds' ratios. Absolute times are noise of the machine. What needs
//! a tool that is not installed (curl, GNU time, valgrind) is left out, and said so.
//!
//! Exit code 1 if a budget is missed that noise cannot miss: memory, size, instructions.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "../../tests/it/support.rs"]
#[allow(dead_code, unreachable_pub, clippy::needless_pass_by_value, clippy::print_stderr, reason = "it is the tests'")]
mod support;

#[cfg(unix)]
#[path = "../../tests/it/desk.rs"]
#[allow(dead_code, unreachable_pub, clippy::needless_pass_by_value, clippy::print_stderr, reason = "it is the tests'")]
mod desk;

#[cfg(unix)]
#[path = "../../tests/it/needs.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stderr, reason = "it is the tests'")]
mod needs;

mod cold;
#[cfg(unix)]
mod opencode;
mod resources;
mod steps;
mod table;
mod warm;

use std::process::{Command, ExitCode};

/// How often each command is run unless told otherwise.
const ROUNDS: usize = 60;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let rounds =
        args.iter().position(|it| it == "--rounds").map_or(Some(ROUNDS), |place| args.get(place + 1)?.parse().ok());
    let Some(rounds) = rounds.filter(|it| *it > 0) else {
        println!("error: --rounds takes a number, such as --rounds 60");
        return ExitCode::from(2);
    };
    build_the_simulator();
    warm::measure(rounds);
    steps::measure(rounds);
    cold::overhead(rounds.div_ceil(3));
    cold::herd(rounds.div_ceil(6));
    cold::takeover(rounds.div_ceil(6));
    #[cfg(unix)]
    opencode::measure(rounds);
    if resources::measure() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Cargo builds no examples for a benchmark.
fn build_the_simulator() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "--quiet", "--example", "simulator", "--example", "lms"]);
    let built = cargo.status();
    assert!(built.is_ok_and(|it| it.success()), "the simulator cannot be built");
}
