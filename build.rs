//! Links GCC's unwinder into the program where it would be a shared library (Linux with glibc).
//! Only a panic needs it, and every call would load it: 2 % of a warm call's instructions and
//! 5 % of its time.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "linux" || target("ENV") != "gnu" || target("FEATURE").split(',').any(|it| it == "crt-static") {
        return;
    }
    // Without it the program is the same, a little slower: there are linkers without GCC.
    if let Some(folder) = folder_of_unwinder() {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
        println!("cargo::rustc-link-lib=static:-bundle=gcc");
    }
}

/// Where the linker's own GCC has it as an archive.
fn folder_of_unwinder() -> Option<PathBuf> {
    let linker = match env::var_os("RUSTC_LINKER") {
        Some(linker) => linker,
        // `cc` is the one for this machine.
        None if env::var_os("HOST") == env::var_os("TARGET") => "cc".into(),
        None => return None,
    };
    let answer = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let path = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
    // Where there is none, the bare name comes back.
    if path.is_absolute() && path.is_file() { path.parent().map(Into::into) } else { None }
}
