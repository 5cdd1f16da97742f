//! What a test needs of the machine and may not find there. A test that cannot run for the want of
//! it leaves a file that says so, and `tests/skipped.rs` counts and names them at the end.

use std::fs;
use std::path::{Path, PathBuf};

/// Passes on what was found; notes it if it was not.
pub fn have<T>(need: &str, found: Option<T>) -> Option<T> {
    // With one test at a time there is one thread, and it has no name of a test.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("main");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let note = folder.join(format!("{}.{need}", test.replace("::", ".")));
    if found.is_some() {
        let _ = fs::remove_file(note);
    } else {
        // Benchmarks use this too, and only speak.
        if cfg!(test) {
            fs::create_dir_all(folder).expect("a folder");
            fs::write(note, format!("{need}\n{test}")).expect("a note");
        }
        eprintln!("not run, or not all of it: {need} is missing");
    }
    found
}

/// A program in the places where systems put them.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/bin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.into_iter().chain(std::env::split_paths(&path)).map(|folder| folder.join(name));
    have(name, all.find(|path| path.is_file()))
}

/// The real opencode; `.ci/run` installs it.
pub fn opencode() -> Option<PathBuf> {
    let path = have("opencode", std::env::var_os("LMSWARM_TEST_OPENCODE").map(PathBuf::from))?;
    assert!(path.is_file(), "LMSWARM_TEST_OPENCODE: {} is no file", path.display());
    Some(path)
}

/// The real `llama-server` of llama.cpp; `.ci/run` builds it.
pub fn llama_server() -> Option<PathBuf> {
    let path = have("llama-server", std::env::var_os("LMSWARM_TEST_LLAMA_SERVER").map(PathBuf::from))?;
    assert!(path.is_file(), "LMSWARM_TEST_LLAMA_SERVER: {} is no file", path.display());
    Some(path)
}
