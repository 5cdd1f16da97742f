//! The values of YAML and their types, which are those of js-yaml 3 and mostly YAML 1.1's: `017` and
//! `1:30` are numbers, `2001-12-14` is a date, and `yes` is a text.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// opencode would not read this either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A value. Clones share what they hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `null`, `~` or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number of any spelling.
    Number(f64),
    /// A text.
    Text(Rc<str>),
    /// A time, or bytes: objects to JavaScript.
    Object,
    /// A list.
    List(Rc<Vec<Node>>),
    /// A mapping.
    Map(Rc<Entries>),
}

/// The entries of a mapping.
pub type Entries = BTreeMap<Rc<str>, Entry>;

/// The value of a key, and the line of that key, from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What the key stands for.
    pub value: Node,
    /// Where the key stands.
    pub line: usize,
}

/// What a scalar is.
pub enum Scalar {
    /// A value.
    Node(Node),
    /// `<<`, a key that stands for others.
    Merge,
}

const TAGS: &str = "tag:yaml.org,2002:";

/// Finds the type of a scalar: by its tag, or if it is plain by its look.
pub fn scalar(text: &str, is_plain: bool, tag: Option<&str>) -> Result<Scalar, Malformed> {
    let is_absent = is_plain && text.is_empty();
    let node = match tag {
        None | Some("!") if is_absent => Node::Null,
        Some("!") => Node::Text(text.into()),
        None if !is_plain => Node::Text(text.into()),
        None if text == "<<" => return Ok(Scalar::Merge),
        None => implicit(text),
        Some(tag) => match tag.strip_prefix(TAGS).ok_or(Malformed)? {
            "str" => Node::Text(text.into()),
            "null" if is_absent || is_null(text) => Node::Null,
            "bool" => Node::Bool(boolean(text).ok_or(Malformed)?),
            "int" => Node::Number(int(text).ok_or(Malformed)?),
            "float" => Node::Number(float(text).ok_or(Malformed)?),
            "timestamp" if is_time(text) => Node::Object,
            "binary" if !is_absent && is_base64(text) => Node::Object,
            "merge" if is_absent || text == "<<" => return Ok(Scalar::Merge),
            "seq" | "omap" | "pairs" if is_absent => Node::List(Rc::default()),
            "map" | "set" if is_absent => Node::Map(Rc::default()),
            _ => return Err(Malformed),
        },
    };
    Ok(Scalar::Node(node))
}

/// The type of a plain text by its look.
fn implicit(text: &str) -> Node {
    if is_null(text) {
        return Node::Null;
    }
    if let Some(value) = boolean(text) {
        return Node::Bool(value);
    }
    match int(text).or_else(|| float(text)) {
        Some(number) => Node::Number(number),
        None if is_time(text) => Node::Object,
        None => Node::Text(text.into()),
    }
}

/// Checks what a tag says of a list or a mapping.
pub fn check_tag(tag: Option<&str>, node: &Node) -> Result<(), Malformed> {
    let Some(tag) = tag.filter(|tag| *tag != "!") else { return Ok(()) };
    let only_key = |item: &Node| match item {
        Node::Map(entries) if entries.len() == 1 => entries.keys().next().cloned(),
        _ => None,
    };
    let fits = match (tag.strip_prefix(TAGS), node) {
        (Some("seq"), Node::List(_)) | (Some("map"), Node::Map(_)) => true,
        (Some("pairs"), Node::List(items)) => items.iter().all(|item| only_key(item).is_some()),
        (Some("omap"), Node::List(items)) => {
            let mut seen = BTreeSet::new();
            items.iter().all(|item| only_key(item).is_some_and(|key| seen.insert(key)))
        }
        (Some("set"), Node::Map(entries)) => entries.values().all(|entry| entry.value == Node::Null),
        _ => false,
    };
    if fits { Ok(()) } else { Err(Malformed) }
}

fn is_null(text: &str) -> bool {
    matches!(text, "~" | "null" | "Null" | "NULL")
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// `12`, `1_000`, `0b1`, `0x1f`, `017`, and `1:30` on the base of sixty.
fn int(text: &str) -> Option<f64> {
    let (sign, digits) = signed(text);
    if let Some((first, rest)) = digits.split_once(':') {
        let is_first = first.starts_with(|it: char| matches!(it, '1'..='9')) && is_number(first, 10, true);
        return is_first.then(|| sixties(first, rest).map(|number| sign * number)).flatten();
    }
    let (radix, digits) = match digits.as_bytes() {
        b"0" => return Some(0.0),
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', ..] => (8, &digits[1..]),
        [b'_', ..] => return None,
        _ => (10, digits),
    };
    is_number(digits, radix, false).then(|| sign * value(digits, radix))
}

fn signed(text: &str) -> (f64, &str) {
    match text.as_bytes() {
        [b'-', ..] => (-1.0, &text[1..]),
        [b'+', ..] => (1.0, &text[1..]),
        _ => (1.0, text),
    }
}

/// Digits with underscores among them, of which the last character is none unless `may_end_so`.
fn is_number(text: &str, radix: u32, may_end_so: bool) -> bool {
    text.chars().all(|it| it == '_' || it.is_digit(radix))
        && text.contains(|it: char| it != '_')
        && (may_end_so || !text.ends_with('_'))
}

fn value(digits: &str, radix: u32) -> f64 {
    digits.chars().filter_map(|it| it.to_digit(radix)).fold(0.0, |sum, it| sum * f64::from(radix) + f64::from(it))
}

/// The value of `FIRST:REST`, where the rest is numbers below sixty.
fn sixties(first: &str, rest: &str) -> Option<f64> {
    rest.split(':').try_fold(value(first, 10), |sum, part| {
        let is_part = match part.as_bytes() {
            [one] => one.is_ascii_digit(),
            [ten, one] => matches!(ten, b'0'..=b'5') && one.is_ascii_digit(),
            _ => false,
        };
        is_part.then(|| sum * 60.0 + value(part, 10))
    })
}

/// `1.5`, `1.`, `.5`, `1e3`, `1:30.5`, `.inf`, `.nan`.
fn float(text: &str) -> Option<f64> {
    let (sign, unsigned) = signed(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return Some(sign * f64::INFINITY),
        _ if text.ends_with('_') => return None,
        _ => {}
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(f64::NAN);
    }
    let are_digits = |text: &str| text.chars().all(|it| it == '_' || it.is_ascii_digit());
    if let Some((front, fraction)) = unsigned.rsplit_once('.').filter(|(front, _)| front.contains(':')) {
        let (first, rest) = front.split_once(':')?;
        let begins = first.starts_with(|it: char| it.is_ascii_digit());
        return (begins && are_digits(first) && are_digits(fraction)).then(|| sixties(first, rest)).flatten();
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(it, e)| (it, Some(e)));
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
            return None;
        }
    }
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(it, rest)| (it, Some(rest)));
    let is_whole = match whole.as_bytes() {
        [] => unsigned.len() == text.len() && fraction.is_some_and(|it| !it.is_empty()),
        [b'0'] => true,
        [b'1'..=b'9', ..] => are_digits(whole),
        _ => false,
    };
    (is_whole && fraction.is_none_or(are_digits))
        .then(|| unsigned.replace('_', "").parse().ok().map(|number: f64| sign * number))
        .flatten()
}

/// `2001-12-14`, with or without a time of day: a date to JavaScript.
fn is_time(text: &str) -> bool {
    /// Takes digits off the front.
    fn digits(text: &str, least: usize, most: usize) -> Option<&str> {
        let count = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
        (count >= least).then(|| &text[count..])
    }
    let day = |least| {
        let rest = digits(text, 4, 4)?.strip_prefix('-')?;
        digits(digits(rest, least, 2)?.strip_prefix('-')?, least, 2)
    };
    let zone = |text: &str| {
        let after = text.trim_start_matches([' ', '\t']);
        // Blanks are part of a zone.
        if text.is_empty() || after == "Z" {
            return Some(());
        }
        let text = after;
        let rest = digits(text.strip_prefix(['-', '+'])?, 1, 2)?;
        let rest = if rest.is_empty() { rest } else { digits(rest.strip_prefix(':')?, 2, 2)? };
        rest.is_empty().then_some(())
    };
    let time = |rest: &str| {
        let blanks = rest.trim_start_matches([' ', '\t']);
        let rest = if blanks.len() < rest.len() { blanks } else { rest.strip_prefix(['T', 't'])? };
        let rest = digits(rest, 1, 2)?.strip_prefix(':')?;
        let rest = digits(digits(rest, 2, 2)?.strip_prefix(':')?, 2, 2)?;
        let fraction = rest.strip_prefix('.').map(|it| it.trim_start_matches(|it: char| it.is_ascii_digit()));
        let rest = fraction.unwrap_or(rest);
        zone(rest)
    };
    day(2).is_some_and(str::is_empty) || day(1).and_then(time).is_some()
}

fn is_base64(text: &str) -> bool {
    let is_letter = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'+' | b'/' | b'=');
    let letters = text.bytes().filter(|it| !matches!(it, b'\r' | b'\n'));
    letters.clone().all(is_letter) && letters.count() * 6 % 8 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Node {
        match scalar(text, true, None) {
            Ok(Scalar::Node(node)) => node,
            _ => panic!("{text}"),
        }
    }

    #[test]
    fn a_plain_scalar_has_the_type_that_it_looks_like() {
        for (text, number) in [
            ("0", 0.0),
            ("-12", -12.0),
            ("+5", 5.0),
            ("1_000", 1000.0),
            ("0x1F", 31.0),
            ("-0b11", -3.0),
            ("017", 15.0),
            ("1:30", 90.0),
            ("1:0:1", 3601.0),
            ("1.5", 1.5),
            ("5.", 5.0),
            (".5", 0.5),
            ("1e3", 1000.0),
            ("1.5E-1", 0.15),
            ("-.inf", f64::NEG_INFINITY),
        ] {
            assert_eq!(plain(text), Node::Number(number), "{text}");
        }
        assert!(matches!(plain(".NaN"), Node::Number(number) if number.is_nan()));
        for (text, node) in [
            ("~", Node::Null),
            ("Null", Node::Null),
            ("", Node::Null),
            ("TRUE", Node::Bool(true)),
            ("False", Node::Bool(false)),
            ("2001-12-14", Node::Object),
            ("2001-1-4 2:59:43.10 -5", Node::Object),
            ("2001-12-14T21:59:43Z", Node::Object),
        ] {
            assert_eq!(plain(text), node, "{text}");
        }
        let texts =
            "yes off nULL tRUE 08 0o17 1_ _1 0x 1:60 0:30 +.5 1e . - 1.2.3 2001-1-4 2001-12-14T21:59 <<< a#b a:b";
        for text in texts.split(' ').chain(["2001-12-14 21:59:43 ", "2001-12-14 21:59:43 +1:2"]) {
            assert_eq!(plain(text), Node::Text(text.into()), "{text}");
        }
    }

    #[test]
    fn a_tag_says_the_type_or_is_unknown() {
        let tagged = |tag: &str, text: &str, is_plain| match scalar(text, is_plain, Some(tag)) {
            Ok(Scalar::Node(node)) => Some(node),
            Ok(Scalar::Merge) => Some(Node::Text("<<".into())),
            Err(Malformed) => None,
        };
        let text = |text: &str| Some(Node::Text(text.into()));
        for (tag, value, wanted) in [
            ("str", "5", text("5")),
            ("str", "", text("")),
            ("int", "5", Some(Node::Number(5.0))),
            ("int", "x", None),
            ("float", "1", Some(Node::Number(1.0))),
            ("bool", "true", Some(Node::Bool(true))),
            ("bool", "yes", None),
            ("null", "", Some(Node::Null)),
            ("null", "x", None),
            ("binary", "aGk=", Some(Node::Object)),
            ("binary", "a", None),
            ("timestamp", "2001-01-01", Some(Node::Object)),
            ("timestamp", "x", None),
            ("merge", "<<", text("<<")),
            ("seq", "", Some(Node::List(Rc::default()))),
            ("set", "", Some(Node::Map(Rc::default()))),
            ("seq", "x", None),
            ("python/object", "x", None),
        ] {
            assert_eq!(tagged(&format!("{TAGS}{tag}"), value, true), wanted, "!!{tag} {value}");
        }
        assert_eq!((tagged("!", "5", true), tagged("!own", "5", true)), (text("5"), None));
        assert_eq!((tagged("!", "", true), tagged("!", "", false)), (Some(Node::Null), text("")));
    }

    #[test]
    fn a_tag_of_a_list_or_a_mapping_must_fit() {
        let map = |keys: &[&str], value: &Node| {
            let entry = || Entry { value: value.clone(), line: 1 };
            Node::Map(Rc::new(keys.iter().map(|key| (Rc::from(*key), entry())).collect()))
        };
        let pair = |key| map(&[key], &Node::Bool(true));
        let list = |items: &[Node]| Node::List(Rc::new(items.to_vec()));
        for (tag, node, fits) in [
            ("seq", list(&[]), true),
            ("seq", map(&[], &Node::Null), false),
            ("map", pair("a"), true),
            ("str", list(&[]), false),
            ("set", map(&["a", "b"], &Node::Null), true),
            ("set", pair("a"), false),
            ("omap", list(&[pair("a"), pair("b")]), true),
            ("omap", list(&[pair("a"), pair("a")]), false),
            ("pairs", list(&[pair("a"), pair("a")]), true),
            ("pairs", list(&[map(&["a", "b"], &Node::Null)]), false),
        ] {
            assert_eq!(check_tag(Some(&format!("{TAGS}{tag}")), &node).is_ok(), fits, "!!{tag} {node:?}");
        }
        assert_eq!((check_tag(Some("!"), &list(&[])), check_tag(Some("!own"), &list(&[]))), (Ok(()), Err(Malformed)));
    }
}
