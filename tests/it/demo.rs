//! `cargo run --example demo`, beyond what its own scenes check.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::needs::program;
use crate::support::{example, run};

/// A demo that is running, with the variables that cargo has for us, and a folder for its files.
struct Demo {
    child: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    folder: TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(example("demo"));
        command.args(args).env("TMPDIR", folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the demo starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines, folder }
    }

    /// The lines up to the first that holds this text.
    fn lines_until(&mut self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains(text)) {
            seen.push(self.lines.next().unwrap_or_else(|| panic!("no {text:?} in {seen:#?}")).expect("UTF-8"));
        }
        seen
    }

    /// Ends it by a signal; nothing stays behind.
    fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("it is alive");
        let code = self.child.wait().expect("it ends").code();
        let left: Vec<_> = self.folder.path().read_dir().expect("the folder").collect();
        assert!(left.is_empty(), "{left:?}");
        code
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Both are errors when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// When the build script of `ring` ran last, everywhere below the target folder: all that is
/// behind it is built anew with it.
fn ring_was_built() -> Vec<(String, SystemTime)> {
    let builds = Path::new(env!("CARGO_BIN_EXE_lmswarm")).with_file_name("build");
    let entries = builds.read_dir().expect("build scripts").map(|entry| entry.expect("an entry"));
    let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut found: Vec<_> = entries
        .filter(|entry| name(entry).starts_with("ring-"))
        .filter_map(|entry| Some((name(&entry), entry.path().join("output").metadata().ok()?.modified().ok()?)))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

#[test]
fn what_the_demo_proposes_at_its_end_works() {
    let Some(bash) = program("bash") else { return };
    let before = ring_was_built();
    let mut demo = Demo::start(&["--keep"]);
    demo.lines_until("6 of 6 scenes came out as promised");
    let proposed = demo.lines_until("lmswarm run");
    let lines: Vec<&str> = proposed.iter().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("alias ")).count(), 2, "{lines:?}");
    assert_eq!(lines.len(), 5, "{lines:?}");
    // A script uses no aliases unless told so; a terminal does.
    let script = format!("shopt -s expand_aliases\nset -e\n{}\necho $HOME", lines.join("\n"));
    let mut command = Command::new(bash);
    let tried = run(command.args(["-c", &script]).env("HOME", "/home/me").stdin(Stdio::null())).expect(0);
    assert_eq!(tried.stdout, "it is loaded, so this may start\n/home/me\n");
    assert!(
        tried.stderr.contains("unloading `google/gemma-3-12b`, which has a context of 4096 tokens"),
        "{}",
        tried.stderr
    );
    assert_eq!(demo.end(Signal::TERM), Some(143));
    assert_eq!(ring_was_built(), before, "the demo's own cargo builds what ours has built");
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut demo = Demo::start(&[]);
        demo.lines_until("1. ");
        assert_eq!(demo.end(signal), Some(code));
    }
}
