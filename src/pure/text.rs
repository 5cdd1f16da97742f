//! Text from outside, made safe to show; names that look alike; lengths of time in words.

use std::fmt::Write;
use std::time::Duration;

/// Escapes control characters and the invisible ones that reorder a line, so that a
/// server or a child cannot drive the user's terminal.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() || is_invisible(char) {
            safe.extend(char.escape_default());
        } else {
            safe.push(char);
        }
    }
    safe
}

/// Escapes the same in the text of a JSON document, which stays the same document: outside of
/// its strings none of them can stand.
pub fn printable_json(document: &str) -> String {
    let mut safe = String::with_capacity(document.len());
    for char in document.chars() {
        if char.is_control() || is_invisible(char) {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing into a text cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(char);
        }
    }
    safe
}

fn is_invisible(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A word as a shell takes it: quoted if it holds anything but plain characters.
pub fn shell_word(word: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_./:=@%+,".contains(it);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The text on one line, escaped, and cut with `…` after `limit` characters.
pub fn excerpt(text: &str, limit: usize) -> String {
    // Cut first: the text may be as long as an answer may be.
    let start = text.char_indices().nth(limit * 8).map_or(text, |(end, _)| &text[..end]);
    let line = start.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown: String = line.chars().take(limit).collect();
    if line.chars().nth(limit).is_some() || start.len() < text.len() {
        shown.push('…');
    }
    printable(&shown)
}

/// The same, but it is the start that is cut.
pub fn excerpt_of_end(text: &str, limit: usize) -> String {
    let end = text.char_indices().nth_back(limit * 8).map_or(text, |(start, _)| &text[start..]);
    let line = end.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown =
        line.char_indices().nth_back(limit.saturating_sub(1)).map_or(line.as_str(), |(start, _)| &line[start..]);
    let cut = if shown.len() < line.len() || end.len() < text.len() { "…" } else { "" };
    printable(&format!("{cut}{shown}"))
}

/// A wrong value as it may be shown: people put passwords and tokens where none belong.
pub fn without_secrets(value: &str) -> String {
    let mut shown = value.to_owned();
    if let Some(host) = shown.find("://").map(|scheme| scheme + 3) {
        if let Some(query) = shown[host..].find('?') {
            shown.replace_range(host + query + 1.., "…");
        }
        if let Some(user) = shown[host..].rfind('@') {
            shown.replace_range(host..host + user, "…");
        }
    }
    // What LM Studio's tokens begin with, and those of others.
    let begins_word = |place: usize| !shown[..place].ends_with(|it: char| it.is_ascii_alphanumeric());
    let starts: Vec<usize> =
        shown.match_indices("sk-").filter(|(place, _)| begins_word(*place)).map(|(place, _)| place + 3).collect();
    for start in starts.into_iter().rev() {
        let is_inside = |it: char| it.is_ascii_alphanumeric() || "-_:".contains(it);
        let end = shown[start..].find(|it| !is_inside(it)).map_or(shown.len(), |length| start + length);
        if end - start >= 8 {
            shown.replace_range(start..end, "…");
        }
    }
    shown
}

/// The least likeness, from 0 to 1, that is worth a mention.
const NEAR: f64 = 0.6;

/// Longest name that is compared, in bytes: the work grows with the product of two lengths.
const LONGEST_NAME: usize = 512;

/// Up to three of `known` that look like `name`, the nearest first.
pub fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    if name.len() > LONGEST_NAME {
        return Vec::new();
    }
    let wanted = name.to_lowercase();
    let mut near: Vec<(f64, &str)> = known
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST_NAME)
        .map(|candidate| (likeness(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score >= NEAR)
        .collect();
    near.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(right.1)));
    near.dedup_by(|left, right| left.1 == right.1);
    near.into_iter().take(3).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// Names of models differ most in what stands before the slash and behind the version,
/// so a part that contains the other counts as near.
fn likeness(wanted: &str, candidate: &str) -> f64 {
    let tail = |text: &str| text.rsplit('/').next().unwrap_or(text).to_owned();
    let (short_wanted, short_candidate) = (tail(wanted), tail(candidate));
    let contains = short_wanted.len() >= 3
        && short_candidate.len() >= 3
        && (short_candidate.contains(&short_wanted) || short_wanted.contains(&short_candidate));
    let whole = same_letters(wanted, candidate);
    let tails = same_letters(&short_wanted, &short_candidate);
    let score = whole.max(tails);
    if contains {
        let lengths =
            [short_wanted.len(), short_candidate.len()].map(|it| u16::try_from(it).map_or(f64::MAX, f64::from));
        score.max(0.75 + lengths[0].min(lengths[1]) / lengths[0].max(lengths[1]) / 4.0)
    } else {
        score
    }
}

/// How much of two names is the same; 0 where that cannot be enough, by their lengths alone.
fn same_letters(left: &str, right: &str) -> f64 {
    let lengths = [left, right].map(|it| u16::try_from(it.chars().count()).map_or(f64::MAX, f64::from));
    if lengths[0].min(lengths[1]) < NEAR * lengths[0].max(lengths[1]) {
        return 0.0;
    }
    strsim::normalized_damerau_levenshtein(left, right)
}

/// `850 ms`, `12 s`, `3 min 5 s`, `2 h 10 min`: as exact as a reader wants it.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..=9 => {
            let tenths = time.as_millis() / 100;
            if tenths.is_multiple_of(10) {
                format!("{seconds} s")
            } else {
                format!("{}.{} s", tenths / 10, tenths % 10)
            }
        }
        10..=59 => format!("{seconds} s"),
        60..=3599 => match seconds % 60 {
            0 => format!("{} min", seconds / 60),
            rest => format!("{} min {rest} s", seconds / 60),
        },
        _ => match seconds % 3600 / 60 {
            0 => format!("{} h", seconds / 3600),
            rest => format!("{} h {rest} min", seconds / 3600),
        },
    }
}

/// `1.5 GiB`, `340 MiB`.
pub fn bytes(count: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;
    if count >= GIB {
        let tenths = count / (GIB / 10);
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    } else {
        format!("{} MiB", count.div_ceil(MIB))
    }
}

/// Joins names for a sentence: `` `a`, `b` and `c` ``, or with another word than "and".
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>, word: &str) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{}`", printable(name))).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {word} {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["qwen/qwen3-coder-30b", "google/gemma-3-12b", "gemma-3-4b-it", "llama-3.2-1b-instruct"];
        for (name, wanted) in [
            ("qwen/qwen3-coder-3b", &["qwen/qwen3-coder-30b"][..]),
            ("qwen3-coder-30b", &["qwen/qwen3-coder-30b"]),
            ("QWEN/QWEN3-CODER-30B", &["qwen/qwen3-coder-30b"]),
            ("gemma-3-12b", &["google/gemma-3-12b", "gemma-3-4b-it"]),
            ("gemma-3-4b", &["gemma-3-4b-it", "google/gemma-3-12b"]),
            ("zzzz", &[]),
        ] {
            assert_eq!(similar(name, known), wanted, "{name}");
        }
    }

    #[test]
    fn times_and_sizes_read_well() {
        for (ms, words) in [
            (0, "0 ms"),
            (850, "850 ms"),
            (1000, "1 s"),
            (2340, "2.3 s"),
            (42_400, "42 s"),
            (60_000, "1 min"),
            (185_000, "3 min 5 s"),
            (7_800_000, "2 h 10 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), words);
        }
        assert_eq!(bytes(1_589_137_899), "1.4 GiB");
        assert_eq!(bytes(84_110_000), "81 MiB");
        assert_eq!(listed(["a", "b", "c"], "and"), "`a`, `b` and `c`");
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_shown() {
        for (value, shown) in [
            ("http://me:secret@llm:1234/v1", "http://…@llm:1234/v1"),
            ("\"https://me:se/cr@et@llm\"", "\"https://…@llm\""),
            ("http://llm/v1?key=secret", "http://llm/v1?…"),
            ("sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt", "sk-…"),
            ("a sk-lm-AbCdEf12:AbCd sk-proj-1234567890, b", "a sk-… sk-…, b"),
            ("task-one of disk-encrypted", "task-one of disk-encrypted"),
            ("ftp:/me@host", "ftp:/me@host"),
            ("http://llm:1234/v1", "http://llm:1234/v1"),
        ] {
            assert_eq!(without_secrets(value), shown, "{value}");
            assert_eq!(without_secrets(shown), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_from_outside_can_drive_a_terminal(text in any::<String>()) {
            prop_assert!(!printable(&text).chars().any(char::is_control));
            prop_assert!(excerpt(&text, 20).chars().all(|char| !char.is_control()));
            prop_assert!(excerpt_of_end(&text, 20).chars().all(|char| !char.is_control()));
            prop_assert_eq!(printable(&printable(&text)), printable(&text));
            let _ = without_secrets(&text);
        }

        #[test]
        fn a_report_stays_the_same_report(text in any::<String>()) {
            let text = text + "\u{9b}\u{202e}\u{e0041}\u{7f}\n";
            let safe = printable_json(&serde_json::json!([&text]).to_string());
            prop_assert!(!safe.chars().any(|char| char.is_control() || is_invisible(char)));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), [text]);
        }
    }
}
