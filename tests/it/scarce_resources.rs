//! A system that gives the process few files or no threads: an error that says so, and never a
//! panic.

use std::process::{Command, Stdio};

use crate::support::{GEMMA, LLAMA, Machine, Run, run};

/// Thirty of them are enough for everything; below that each call of the system fails in turn.
#[test]
fn with_few_files_there_is_an_error_or_an_answer() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let with_files = |files: u32, model: &str| -> Run {
        let mut command = Command::new("/bin/sh");
        // Files that the tests have open are inherited, so those are counted in.
        let script = format!("exec 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-; ulimit -n {files}; exec \"$0\" ensure \"$1\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_lmswarm"), model]);
        run(command.env_clear().envs(machine.environment()).stdin(Stdio::null()))
    };
    let mut warm = Vec::new();
    for files in 4..30 {
        let run = with_files(files, LLAMA);
        assert!([0, 75, 78].contains(&run.code), "{files} files: {run:?}");
        warm.push((run.code, run.stderr.contains("Too many open files")));
        let run = with_files(files, GEMMA);
        assert!([0, 5, 75, 78].contains(&run.code), "{files} files: {run:?}");
    }
    assert!(warm[0] == (78, true) && warm.contains(&(75, true)) && warm.ends_with(&[(0, false)]), "{warm:?}");
}

/// No thread has that much room for its stack.
#[test]
fn without_threads_a_name_cannot_be_looked_up_and_that_is_said() {
    let machine = Machine::bare();
    let mut command = machine.command(&["ensure", LLAMA, "--base-url", "http://llm.example:1234"]);
    let run = run(command.env("RUST_MIN_STACK", "1000000000000000")).expect(75);
    assert!(run.stderr.contains("Resource temporarily unavailable"), "{run:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn without_threads_a_terminal_shows_what_is_going_on() {
    let machine = Machine::new();
    let mut command = machine.command(&["ensure", LLAMA]);
    command.env("RUST_MIN_STACK", "1000000000000000");
    let (code, seen) = crate::terminal::Terminal::start(command).end();
    assert_eq!(code, 0, "{seen}");
    assert!(seen.contains("loading `llama-3.2-1b-instruct`"), "{seen}");
}
