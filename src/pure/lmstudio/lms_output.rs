//! Reads what `lms` prints: JSON lists between notices, in UTF-8 or UTF-16, with or without
//! a byte order mark and colours; the words of a failed load; the spinner; the estimate.
//! Whatever cannot be read is *unknown*, never *empty*.

use serde::Deserialize;
use serde_json::Value as Json;

use crate::pure::eviction::Estimate;
use crate::pure::json::Object;
use crate::pure::residency::{Downloaded, Instance, Location, Readiness};
use crate::pure::text::{excerpt, excerpt_of_end};

/// The text of an output: UTF-16 is decoded (Windows), a byte order mark and colours are cut.
pub fn decode(bytes: &[u8]) -> String {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => decode_utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => decode_utf16(rest, u16::from_be_bytes),
        // JSON starts with an ASCII character, so a NUL in second place is UTF-16 unmarked.
        [_, 0, ..] => decode_utf16(bytes, u16::from_le_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    without_ansi(&text)
}

fn decode_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    char::decode_utf16(units).map(|it| it.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Cuts escape sequences: `ESC [ … letter`, `ESC ] … BEL`, and `ESC` with one character.
fn without_ansi(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\u{1b}' {
            plain.push(char);
            continue;
        }
        match chars.next() {
            Some('[') => {
                chars.by_ref().find(|it| ('@'..='~').contains(it));
            }
            Some(']') => {
                chars.by_ref().find(|it| matches!(it, '\u{7}' | '\u{9c}'));
            }
            _ => {}
        }
    }
    plain
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PsEntry {
    identifier: String,
    model_key: String,
    #[serde(default)]
    context_length: Json,
    #[serde(default)]
    max_context_length: Json,
    #[serde(default)]
    parallel: Json,
    #[serde(default)]
    device_identifier: Json,
    #[serde(default)]
    status: Json,
    #[serde(default)]
    queued: Json,
    #[serde(default)]
    last_used_time: Json,
    #[serde(default)]
    size_bytes: Json,
}

/// Reads `lms ps --json`; `None` if the list cannot be found in it.
///
/// Only `identifier` and `modelKey` are required: older versions lack the rest. `lms ps`
/// lists an instance as idle from the start of its load, so readiness stays untold.
pub fn parse_ps(stdout: &[u8]) -> Option<Vec<Instance>> {
    let entries: Vec<Object<PsEntry>> = parse_list(stdout)?;
    Some(
        entries
            .into_iter()
            .map(|Object(entry)| Instance {
                busy: is_busy(&entry),
                identifier: entry.identifier,
                model_key: Some(entry.model_key),
                readiness: Readiness::Unreported,
                context_length: entry.context_length.as_u64(),
                max_context_length: entry.max_context_length.as_u64(),
                parallel: entry.parallel.as_u64(),
                device: entry.device_identifier.as_str().map(str::to_owned),
                last_used: entry.last_used_time.as_f64().map(to_millis),
                size_bytes: entry.size_bytes.as_u64(),
            })
            .collect(),
    )
}

/// `lms` may print the time with a fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is what is wanted"
)]
fn to_millis(time: f64) -> u64 {
    time as u64
}

/// `None` where an old `lms` tells neither `status` nor `queued` (before LM Studio 0.3.27), or
/// where one of them cannot be read.
fn is_busy(entry: &PsEntry) -> Option<bool> {
    let is_working = match &entry.status {
        Json::Null => None,
        status => Some(status.as_str()? != "idle"),
    };
    let has_waiting = match &entry.queued {
        Json::Null => None,
        queued => Some(queued.as_u64()? > 0),
    };
    match (is_working, has_waiting) {
        (None, None) => None,
        (one, other) => Some(one == Some(true) || other == Some(true)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LsEntry {
    model_key: String,
    #[serde(default)]
    max_context_length: Json,
    #[serde(default)]
    size_bytes: Json,
    #[serde(default)]
    device_identifier: Json,
    #[serde(default)]
    variants: Json,
}

/// Reads `lms ls --json`; `None` if the list cannot be found in it.
pub fn parse_ls(stdout: &[u8]) -> Option<Vec<Downloaded>> {
    let entries: Vec<Object<LsEntry>> = parse_list(stdout)?;
    Some(
        entries
            .into_iter()
            .map(|Object(entry)| Downloaded {
                key: entry.model_key,
                variants: entry
                    .variants
                    .as_array()
                    .map(|it| it.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
                    .unwrap_or_default(),
                max_context_length: entry.max_context_length.as_u64(),
                size_bytes: entry.size_bytes.as_u64(),
                location: if entry.device_identifier.is_string() { Location::Linked } else { Location::Here },
            })
            .collect(),
    )
}

/// Finds the one JSON array in an output, which starts a line; notices may stand around it.
fn parse_list<T: for<'de> Deserialize<'de>>(stdout: &[u8]) -> Option<Vec<Object<T>>> {
    let text = decode(stdout);
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at + (line.len() - line.trim_start().len());
        at += line.len();
        if !text[start..].starts_with('[') {
            continue;
        }
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Vec<Object<T>>>();
        if let Some(Ok(list)) = values.next() {
            // `[]` in the middle of a sentence is no list, and neither is a part of other JSON.
            let rest = &text[start + values.byte_offset()..];
            let ends_its_line = rest.split('\n').next().is_some_and(|rest| rest.trim().is_empty());
            if ends_its_line && !is_inside_json(&text[..start], rest) {
                return Some(list);
            }
        }
    }
    None
}

/// Whether what stands between these two is a part of a larger JSON value.
fn is_inside_json(before: &str, behind: &str) -> bool {
    let before = before.trim_end();
    // A notice may end with a colon, but not with one behind a quote.
    let is_member = before.strip_suffix(':').is_some_and(|it| it.trim_end().ends_with('"'));
    is_member || before.ends_with(['[', ',']) || behind.trim_start().starts_with([',', ']', '}'])
}

/// Why `lms load` did not load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadProblem {
    /// The guardrail: not enough memory.
    Memory,
    /// No such key.
    NotFound,
    /// Anything else.
    Other,
}

/// Ranks the words of a failed load, from `lms` or from the REST server.
pub fn load_problem(words: &str) -> LoadProblem {
    let words = words.to_lowercase();
    if words.contains("insufficient system resources") || words.contains("guardrails") {
        LoadProblem::Memory
    } else if words.contains("model not found") || words.contains("no model found that matches") {
        LoadProblem::NotFound
    } else {
        LoadProblem::Other
    }
}

/// The sentence of a failed call. It is what stands behind its last two `Error:` (the first of them
/// often says why, the second that it failed). Without any, it is a line that stands alone at the
/// start, as a headline, or what comes before a stack trace, or the last line: the first ones may
/// be a flood.
pub fn error_sentence(stderr: &[u8]) -> String {
    let text = decode(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).skip_while(|line| is_aside(line)).collect();
    let mut errors: Vec<&str> = Vec::new();
    for error in lines.iter().rev().filter_map(|it| it.strip_prefix("Error:").or_else(|| it.strip_prefix("error:"))) {
        if !errors.contains(&error) {
            errors.insert(0, error);
        }
        if errors.len() == 2 {
            break;
        }
    }
    if !errors.is_empty() {
        let each = 400 / errors.len();
        let errors: Vec<String> = errors.into_iter().map(|it| excerpt(it.trim_end_matches('.'), each)).collect();
        return errors.join("; ");
    }
    let is_trace = |line: &str| line.starts_with("at ");
    let is_told = |line: &&&str| !is_aside(line) && !is_trace(line);
    let sentence = match lines.as_slice() {
        [headline, "", ..] if headline.len() <= 200 => headline,
        _ => match lines.iter().position(|line| is_trace(line)) {
            Some(trace) => lines[..trace].iter().rfind(is_told),
            None => lines.iter().rfind(is_told),
        }
        .copied()
        .unwrap_or_default(),
    };
    excerpt_of_end(sentence.trim_end_matches('.'), 400)
}

/// Nothing, or a warning.
fn is_aside(line: &str) -> bool {
    line.is_empty() || line.starts_with("W ")
}

/// Whether these words say that the identifier is taken: somebody else is loading, or has
/// loaded, the same model. LM Studio's text is not documented, so this is only a guess.
pub fn is_identifier_taken(words: &str) -> bool {
    let words = words.to_lowercase();
    words.contains("identifier") && (words.contains("already") || words.contains("in use"))
}

/// Whether these words say that LM Studio went away in the middle of the call.
pub fn is_cut_off(words: &str) -> bool {
    let words = words.to_lowercase();
    ["websocket", "socket hang up", "econnreset"].iter().any(|it| words.contains(it))
}

/// Whether `lms load` says that it cancelled the load, as it was asked to.
pub fn is_load_cancelled(words: &str) -> bool {
    words.to_lowercase().contains("load cancelled")
}

/// Whether these words say that another program listens on the server's port.
pub fn is_port_taken(words: &str) -> bool {
    words.contains("EADDRINUSE") || words.to_lowercase().contains("address already in use")
}

/// The identifier that a successful `lms load` names in its last line.
pub fn loaded_identifier(stderr: &[u8]) -> Option<String> {
    let text = decode(stderr);
    let line = text.lines().rev().find(|line| line.contains("use the identifier"))?;
    let (_, rest) = line.split_once('"')?;
    let (identifier, _) = rest.rsplit_once('"')?;
    Some(identifier.to_owned())
}

/// The last percentage in a piece of the spinner or of a download's progress bar.
pub fn last_percent(piece: &[u8]) -> Option<u8> {
    let text = String::from_utf8_lossy(piece);
    let before = &text[..text.rfind('%')?];
    let number = before.trim_end_matches(|char: char| char.is_ascii_digit() || char == '.');
    let whole = before[number.len()..].split('.').next()?;
    whole.parse().ok().filter(|percent| *percent <= 100)
}

/// Reads an estimate from the stderr of `lms load --estimate-only`.
pub fn parse_estimate(stderr: &[u8]) -> Option<Estimate> {
    let text = decode(stderr);
    let line = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start));
    let verdict = line("Estimate:")?;
    Some(Estimate {
        total_bytes: parse_size(line("Estimated Total Memory:")?.trim())?,
        fits: !verdict.contains("will fail"),
    })
}

/// `1.48 GiB`, `757.94 MiB`, `1,024.00 KB`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a size in memory is far below 2^52"
)]
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ')?;
    let number: f64 = number.replace(',', "").parse().ok()?;
    let (base, power): (u64, u32) = match unit.trim() {
        "B" => (1024, 0),
        "KiB" => (1024, 1),
        "MiB" => (1024, 2),
        "GiB" => (1024, 3),
        "TiB" => (1024, 4),
        "KB" => (1000, 1),
        "MB" => (1000, 2),
        "GB" => (1000, 3),
        "TB" => (1000, 4),
        _ => return None,
    };
    (number.is_finite() && number >= 0.0).then(|| (number * base.pow(power) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/fixtures/lmstudio/", $name)).as_slice()
        };
    }

    #[test]
    fn the_real_lists_are_read() {
        let many = parse_ps(fixture!("ps.many.json")).unwrap();
        assert_eq!(many.len(), 4);
        assert_eq!(many[1].identifier, "google/gemma-3-12b");
        assert_eq!((many[0].busy, many[1].busy), (Some(false), Some(true)));
        let remote = parse_ps(fixture!("ps.remote-device.json")).unwrap();
        assert_eq!(remote[0].device, None);
        assert_eq!(remote[1].device.as_deref(), Some("7f3a9c0e5b2d4418"));
        assert_eq!(parse_ps(fixture!("ps.empty.json")), Some(vec![]));
        let ls = parse_ls(fixture!("ls.remote-device.json")).unwrap();
        assert!(ls.iter().any(|it| it.location == Location::Linked));
        assert_eq!(parse_ls(fixture!("ls.json")).unwrap().len(), 5);
    }

    #[test]
    fn every_encoding_and_every_notice_around_the_list_is_survived() {
        let list = fixture!("ps.one.json");
        let text = String::from_utf8(list.to_vec()).unwrap();
        let utf16 = |bom: bool| -> Vec<u8> {
            let bom = if bom { vec![0xff, 0xfe] } else { vec![] };
            bom.into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
        };
        let noticed = format!("\u{1b}[33m[W] update [available]\u{1b}[0m\n[]ignored\n{text}\nBye [x]\n");
        let pretty = text.replace(',', ",\n");
        for bytes in
            [[b"\xef\xbb\xbf", list].concat(), utf16(true), utf16(false), noticed.into_bytes(), pretty.into_bytes()]
        {
            let instances = parse_ps(&bytes).expect("the list is there");
            assert_eq!(instances[0].identifier, "llama-3.2-1b-instruct");
        }
    }

    #[test]
    fn garbage_is_never_an_empty_list() {
        for text in [
            "",
            "null",
            "{}",
            "[",
            "[{}]",
            "[1]",
            "no models []",
            "<html>[]</html>",
            "{\"result\":[]}",
            "{\n\"result\":\n[]}",
            "[] []",
            "[{\"identifier\":\"a\"}]",
            "[{\"identifier\":1,\"modelKey\":\"a\"}]",
            "[[\"a\",\"a\"]]",
            "{\"result\":\n[]\n}",
            "[\n[]\n]",
            "[{},\n[]\n]",
            "{\"result\": \n[]",
            "[]\n]",
        ] {
            assert_eq!(parse_ps(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_old_lms_that_tells_less_is_understood() {
        let old = br#"[{"identifier":"a","modelKey":"a"}]"#;
        assert_eq!(parse_ps(old).unwrap()[0].busy, None);
        for (told, busy) in [
            (r#""status":"idle""#, Some(false)),
            (r#""queued":0"#, Some(false)),
            (r#""status":"idle","queued":1"#, Some(true)),
            (r#""status":"processingPrompt","queued":0"#, Some(true)),
            (r#""status":"idle","queued":"1""#, None),
            (r#""status":7,"queued":0"#, None),
        ] {
            let list = format!(r#"[{{"identifier":"a","modelKey":"a",{told}}}]"#);
            assert_eq!(parse_ps(list.as_bytes()).unwrap()[0].busy, busy, "{told}");
        }
    }

    #[test]
    fn loads_end_in_known_words() {
        for (stderr, problem) in [
            (fixture!("load.guardrail.stderr.txt"), LoadProblem::Memory),
            (fixture!("load.unknown-key.stderr.txt"), LoadProblem::NotFound),
            (fixture!("load.failed-midway.stderr.txt"), LoadProblem::Other),
            (fixture!("load.identifier-in-use.stderr.txt"), LoadProblem::Other),
            (
                b"Model loading aborted due to insufficient system resources. NaN undefined".as_slice(),
                LoadProblem::Memory,
            ),
        ] {
            assert_eq!(load_problem(&decode(stderr)), problem, "{}", decode(stderr));
        }
        assert_eq!(error_sentence(fixture!("load.failed-midway.stderr.txt")), "Failed to load model");
        assert_eq!(error_sentence(fixture!("load.unknown-key.stderr.txt")), "Model not found");
        assert!(is_identifier_taken(&decode(fixture!("load.identifier-in-use.stderr.txt"))));
        assert!(!is_identifier_taken(&decode(fixture!("load.success.stderr.txt"))));
        assert!(is_load_cancelled(&decode(fixture!("load.sigint.stderr.txt"))));
        assert!(!is_load_cancelled(&decode(fixture!("load.failed-midway.stderr.txt"))));
        assert!(is_cut_off("[LMStudioClient] WebSocket error: Error: WebSocket connection closed"));
        assert!(!is_cut_off(&decode(fixture!("no-backend.load.stderr.txt"))));
        assert!(is_port_taken(&decode(fixture!("server-start.port-taken.stderr.txt"))));
        assert!(!is_port_taken(&decode(fixture!("no-backend.load.stderr.txt"))));
        assert!(error_sentence(fixture!("no-backend.load.stderr.txt")).starts_with("LM Studio daemon is not running"));
        assert_eq!(error_sentence(fixture!("unload.unknown.stderr.txt")), "Model Not Found");
        assert_eq!(
            loaded_identifier(fixture!("load.duplicate.stderr.txt")).as_deref(),
            Some("llama-3.2-1b-instruct:2")
        );
        assert_eq!(loaded_identifier(fixture!("load.guardrail.stderr.txt")), None);
    }

    #[test]
    fn a_reason_behind_a_flood_is_found() {
        let flood = "y".repeat(10_000);
        for (stderr, sentence) in [
            (format!("{flood}\nout of disk space.\n"), "out of disk space"),
            (format!("{flood}\n\nout of disk space\n"), "out of disk space"),
            ("y\n".repeat(10_000) + "out of disk space\n\n", "out of disk space"),
            ("y\n".repeat(10_000) + "Error: out of disk space\nbye\n", "out of disk space"),
            ("Error: again\n".repeat(10_000) + "Error: out of disk space.\n", "again; out of disk space"),
            ("W beware\nout of disk space\n    at load (x.js:1:2)\n\nNode.js v25\n".to_owned(), "out of disk space"),
            ("W beware\n".to_owned(), ""),
            (String::new(), ""),
        ] {
            let told = error_sentence(stderr.as_bytes());
            assert!(told.trim_start_matches('…') == sentence, "{told}");
        }
        let line = format!("{flood} out of disk space");
        assert!(error_sentence(line.as_bytes()).ends_with("y out of disk space"));
    }

    #[test]
    fn progress_is_read_from_the_spinner() {
        assert_eq!(last_percent("\u{1b}[?25l\rLoading llama-3.2 17% ⠋".as_bytes()), Some(17));
        assert_eq!(last_percent(b"Loading x 17% Loading x 100% "), Some(100));
        assert_eq!(last_percent(b" 42.5%"), Some(42));
        assert_eq!(last_percent(b"100%-model 1234%"), None);
        assert_eq!(last_percent("%".as_bytes()), None);
        assert_eq!(last_percent(b"Loading"), None);
        assert_eq!(last_percent(fixture!("load.success.stdout.bin")), Some(100));
    }

    #[test]
    fn estimates_are_read() {
        let passes = parse_estimate(fixture!("estimate.options.stderr.txt")).unwrap();
        assert_eq!(passes, Estimate { total_bytes: 1_589_137_899, fits: true });
        assert!(!parse_estimate(fixture!("estimate.refused.stderr.txt")).unwrap().fits);
        assert_eq!(parse_estimate(fixture!("load.unknown-key.stderr.txt")), None);
    }

    proptest! {
        #[test]
        fn a_list_that_is_cut_off_is_no_list(cut in 0..1292usize) {
            let list = fixture!("ps.duplicate.json");
            let cut = cut.min(list.len() - 2);
            prop_assert_eq!(parse_ps(&list[..cut]), None);
        }
    }
}
