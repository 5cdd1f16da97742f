//! The map in `src/lib.rs`: what names what, read off the source's text. Tests beside the code may
//! name anything.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms below it that it may name. `lib.rs` and `main.rs` are above all.
const ROOMS: [(&str, &[&str]); 7] = [
    ("pure", &[]),
    ("sys", &["pure"]),
    ("backend", &["sys", "pure"]),
    ("gate", &["backend", "sys", "pure"]),
    ("resolve", &["gate", "backend", "sys", "pure"]),
    ("cli", &["sys", "pure"]),
    ("commands", &["cli", "resolve", "gate", "backend", "sys", "pure"]),
];

/// Crates that one file alone may name, so that another one could take their place.
const CRATES: [(&str, &str); 12] = [
    ("dirs", "sys/paths.rs"),
    ("fs2", "sys/lock.rs"),
    ("granit_parser", "pure/opencode/yaml.rs"),
    ("hyper_util", "sys/proxy.rs"),
    ("reqwest", "sys/http.rs"),
    ("rustls", "sys/tls.rs"),
    ("rustls_native_certs", "sys/tls.rs"),
    ("strsim", "pure/text.rs"),
    ("sysinfo", "sys/machine.rs"),
    ("tracing_subscriber", "sys/log.rs"),
    ("url", "pure/base_url.rs"),
    ("webpki", "sys/tls.rs"),
];

/// What is an effect, wherever it is done.
const EFFECTS: [&str; 11] = [
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    ".elapsed()",
    "tokio",
    "tracing",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file of the program: its path below `src`, and its code without comments and tests.
fn files() -> Vec<(String, String)> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    below(&source(), &mut paths);
    paths.sort();
    let name =
        |path: &Path| path.strip_prefix(source()).expect("below src").to_str().expect("UTF-8").replace('\\', "/");
    paths.iter().map(|path| (name(path), code(&fs::read_to_string(path).expect("a source file")))).collect()
}

fn code(text: &str) -> String {
    let is_test = |line: &str| line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test");
    let mut lines = text.lines().peekable();
    let mut code = String::new();
    while let Some(line) = lines.next() {
        if is_test(line) && lines.peek().is_some_and(|next| next.ends_with("mod tests {")) {
            while lines.next().is_some_and(|line| line != "}") {}
            continue;
        }
        let end = line.find("//").filter(|end| !line[..*end].contains('"')).unwrap_or(line.len());
        code.push_str(&line[..end]);
        code.push('\n');
    }
    code
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The places behind each `path`, where no word goes on in front of it.
fn behind<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(path)
        .filter(|(at, _)| !code[..*at].ends_with(|before| is_word(before) || before == ':'))
        .map(|(at, found)| &code[at + found.len()..])
}

/// The first words of the paths in front of which we stand: one, or those of a group.
fn first_words(rest: &str) -> Vec<String> {
    let word = |text: &str| text.trim().chars().take_while(|it| is_word(*it)).collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let mut depth = 0;
    let mut starts = vec![0];
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts.push(at + 1),
            _ => {}
        }
    }
    starts.into_iter().map(|at| word(&group[at..])).filter(|it| !it.is_empty()).collect()
}

/// The rooms that a file names: by `crate::`, and by more `super::` than lead to its own room.
fn named(file: &str, code: &str) -> Vec<String> {
    let parts = file.trim_end_matches("mod.rs").trim_end_matches(".rs").split('/').filter(|it| !it.is_empty());
    let to_the_top = "super::".repeat(parts.count());
    ["crate::", &to_the_top].into_iter().flat_map(|path| behind(code, path).flat_map(first_words)).collect()
}

/// The room of a file; `None` for the two that are above all.
fn room(file: &str) -> Option<&str> {
    let room = file.split_once('/').map_or_else(|| file.trim_end_matches(".rs"), |(room, _)| room);
    // What compares the README with the tables it is made from is a test.
    (!["lib", "main", "readme"].contains(&room)).then_some(room)
}

#[test]
fn calls_point_one_way_only() {
    let mut wrong = Vec::new();
    let mut uses = 0;
    for (file, code) in files() {
        let Some(own) = room(&file) else { continue };
        let known = ROOMS.iter().find(|(name, _)| *name == own);
        let (_, below) = known.unwrap_or_else(|| panic!("{file}: where does the room `{own}` stand? See ROOMS"));
        for name in named(&file, &code) {
            uses += 1;
            if name != own && !below.contains(&name.as_str()) {
                wrong.push(format!("{file} names `{name}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(uses > 100, "only {uses} uses were found");
}

#[test]
fn what_is_pure_has_no_effect() {
    let mut wrong = Vec::new();
    for (file, code) in files().iter().filter(|(file, _)| room(file) == Some("pure")) {
        let effects = EFFECTS.iter().filter(|it| code.match_indices(**it).any(|(at, _)| is_whole(code, at, it)));
        wrong.extend(effects.map(|effect| format!("{file} names {effect}")));
        assert!(!code.contains("use std::{"), "{file}: one `use` for each module of std, or it is not seen here");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether what stands at this place is not part of a longer word.
fn is_whole(code: &str, at: usize, path: &str) -> bool {
    (!path.starts_with(is_word) || !code[..at].ends_with(is_word)) && !code[at + path.len()..].starts_with(is_word)
}

#[test]
fn the_gate_speaks_of_no_particular_program() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (file, _) in files().iter().filter(|(file, _)| room(file) == Some("gate")) {
        count += 1;
        let text = fs::read_to_string(source().join(file)).expect("a source file");
        let names = ["LM Studio", "lms", "LmStudio", "LmsPs", "llama"];
        let found = names.iter().filter(|name| text.match_indices(**name).any(|(at, _)| is_whole(&text, at, name)));
        wrong.extend(found.map(|name| format!("{file} speaks of {name}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 5, "only {count} files were found");
}

#[test]
fn each_crate_is_named_in_its_file_alone() {
    let files = files();
    for (name, place) in CRATES {
        let path = format!("{name}::");
        let mut places = files.iter().filter(|(_, code)| behind(code, &path).next().is_some()).map(|(file, _)| file);
        assert_eq!(places.next().map(String::as_str), Some(place), "{name}");
        assert_eq!(places.next(), None, "{name}");
    }
}

#[test]
fn what_these_tests_read_off_the_source() {
    let text = "//! crate::comment\nuse crate::gate::{x, y};\nuse crate::{sys, pure::{a, b}};\nfn f() { crate::cli::g() }\n\
                fn h() { super::super::commands::i() } // crate::never\n#[cfg(test)]\nmod tests {\n use crate::test;\n}\nuse crate::main;\n";
    let found = named("backend/lmstudio.rs", &code(text));
    assert_eq!(found, ["gate", "sys", "pure", "cli", "main", "commands"]);
    assert_eq!(named("gate/mod.rs", "use super::pure::x;"), ["pure"]);
    assert!(named("gate/load.rs", "use super::room::x;").is_empty());
}
