//! The head of a Markdown file that describes one of opencode's agents or commands, read as
//! gray-matter reads it for opencode: YAML between lines of `---`, or JSON where the first line
//! says so. A head of JavaScript, which opencode runs, says nothing here.

use serde_json::{Map, Value as Json};

use crate::pure::opencode::yaml;
use crate::pure::opencode::yaml_types::{Entries, Malformed, Node};

/// The keys that matter. `prompt` and `template` are what stands below the head.
const KEYS: [&str; 9] = ["name", "model", "variant", "mode", "disable", "hidden", "description", "agent", "subtask"];

/// What a head says.
#[derive(Debug, PartialEq)]
pub struct FrontMatter {
    /// The values of the keys that matter. A list or an object is there, and empty.
    pub values: Map<String, Json>,
    /// The line of `model`, else the first.
    pub line: usize,
}

impl FrontMatter {
    fn empty() -> Self {
        Self { values: Map::new(), line: 1 }
    }

    /// Takes `name`, as JavaScript makes a text of it.
    pub fn take_name(&mut self) -> Option<String> {
        Some(match self.values.remove("name")? {
            Json::String(name) => name,
            Json::Object(_) => "[object Object]".to_owned(),
            Json::Array(_) => String::new(),
            scalar => scalar.to_string(),
        })
    }
}

/// Reads the head of a file; a file without one has an empty head. `None`: opencode passes the
/// file over, or no `bytes_left` are left, which are those of all heads together.
pub fn parse(text: &str, bytes_left: &mut usize) -> Option<FrontMatter> {
    if let Ok(head) = read(text.strip_prefix('\u{feff}').unwrap_or(text), bytes_left) {
        return Some(head);
    }
    match with_blocks(text) {
        Some((text, added)) => {
            let head = read(&text, bytes_left).ok()?;
            let line = head.line - added.iter().filter(|it| **it < head.line).count();
            Some(FrontMatter { line, ..head })
        }
        // gray-matter has met this very text before, and then takes it for one without a head.
        None => Some(FrontMatter::empty()),
    }
}

fn read(text: &str, bytes_left: &mut usize) -> Result<FrontMatter, Malformed> {
    let Some(rest) = text.strip_prefix("---").filter(|rest| !rest.starts_with('-')) else {
        return Ok(FrontMatter::empty());
    };
    let first = rest.split_once('\n').map_or_else(
        // gray-matter drops the last character of a file of one line.
        || &rest[..rest.char_indices().next_back().map_or(0, |(at, _)| at)],
        |(first, _)| first.strip_suffix('\r').unwrap_or(first),
    );
    let language = first.trim();
    let rest = if language.is_empty() { rest } else { &rest[first.len()..] };
    let head = rest.split_once("\n---").map_or(rest, |(head, _)| head);
    let says_nothing = |line: &str| {
        let line = line.trim_start();
        line.is_empty() || (line.starts_with('#') && line.len() > 1)
    };
    if head.split('\n').all(says_nothing) {
        return Ok(FrontMatter::empty());
    }
    match language.to_ascii_lowercase().as_str() {
        "" | "yaml" | "yml" => Ok(of_yaml(&yaml::read(head, bytes_left)?)),
        "json" if language == "json" => {
            let value = serde_json::from_str(head).map_err(|_| Malformed)?;
            Ok(FrontMatter { values: of_json(value), ..FrontMatter::empty() })
        }
        "js" | "javascript" => Ok(FrontMatter::empty()),
        _ => Err(Malformed),
    }
}

fn of_yaml(entries: &Entries) -> FrontMatter {
    let shallow = |node: &Node| match node {
        Node::Null => Json::Null,
        Node::Bool(value) => Json::Bool(*value),
        #[expect(clippy::cast_possible_truncation, reason = "a whole number of this size is exact")]
        Node::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => Json::from(*number as i64),
        Node::Number(number) => Json::from(*number),
        Node::Text(text) => Json::from(&**text),
        Node::List(_) => Json::Array(Vec::new()),
        Node::Object | Node::Map(_) => Json::Object(Map::new()),
    };
    let value = |key: &str| entries.get(key).map(|entry| (key.to_owned(), shallow(&entry.value)));
    FrontMatter {
        values: KEYS.into_iter().filter_map(value).collect(),
        line: entries.get("model").map_or(1, |entry| entry.line),
    }
}

fn of_json(value: Json) -> Map<String, Json> {
    let Json::Object(members) = value else { return Map::new() };
    let shallow = |value| match value {
        Json::Array(_) => Json::Array(Vec::new()),
        Json::Object(_) => Json::Object(Map::new()),
        scalar => scalar,
    };
    let known = members.into_iter().filter(|(key, _)| KEYS.contains(&key.as_str()));
    known.map(|(key, value)| (key, shallow(value))).collect()
}

/// What opencode makes of a head that is no YAML: `key: a: b` becomes a block of text. Returned
/// with the text are the numbers of the lines that this adds; `None` if the text stays as it is.
fn with_blocks(text: &str) -> Option<(String, Vec<usize>)> {
    let rest = text.strip_prefix("---")?;
    let rest = rest.strip_prefix('\r').unwrap_or(rest).strip_prefix('\n')?;
    let (head, _) = rest.split_once("\n---")?;
    let head = head.strip_suffix('\r').unwrap_or(head);
    let mut lines = Vec::new();
    let mut added = Vec::new();
    for line in head.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)) {
        match block(line) {
            Some((key, value)) => {
                lines.push(format!("{key}: |-"));
                lines.push(format!("  {value}"));
                added.push(1 + lines.len());
            }
            None => lines.push(line.to_owned()),
        }
    }
    let changed = lines.join("\n");
    (changed != head).then(|| (text.replacen(head, &changed, 1), added))
}

/// The key and the value of a line whose value has a colon in it.
fn block(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let key = key.trim_end();
    let is_key = !key.starts_with(|it: char| it.is_ascii_digit())
        && !key.is_empty()
        && key.chars().all(|it| it.is_ascii_alphanumeric() || it == '_');
    let is_line = !value.contains(['\r', '\u{2028}', '\u{2029}']);
    let value = value.trim();
    (is_key && is_line && value.contains(':') && !value.starts_with(['"', '\''])).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(text: &str) -> Option<Json> {
        parse(text, &mut 1_000_000).map(|head| Json::Object(head.values))
    }

    #[test]
    fn a_head_stands_between_two_lines_of_dashes() {
        let model = |name: &str| Some(json!({ "model": name }));
        let none = Some(json!({}));
        for (text, wanted) in [
            ("---\nmodel: x\n---\nmode: no\n", model("x")),
            ("\u{feff}---\r\nmodel: x\r\n---\r\n", model("x")),
            ("---\nmodel: x", model("x")),
            ("---\nmodel: x\n----\nmode: no", model("x")),
            ("---\n  model: x\n ---\n---", none.clone()),
            ("--- \nmodel: x\n---", model("x")),
            ("---\n---\nmodel: x\n---", none.clone()),
            ("---\n# model: x\n\n---", none.clone()),
            ("model: x\n", none.clone()),
            (" ---\nmodel: x\n---", none.clone()),
            ("----\nmodel: x\n---", none.clone()),
            ("", none.clone()),
            ("---", none.clone()),
            ("---ü", none.clone()),
            ("---yaml\nmodel: x\n---", model("x")),
            ("---YML\nmodel: x\n---", model("x")),
            ("---json\n{\"model\": \"x\", \"tools\": []}\n---", model("x")),
            ("---json\n{\"model\": \"x\",}\n---", none.clone()),
            ("---json\n[1]\n---", none.clone()),
            ("---js\n({ model: \"x\" })\n---", none.clone()),
            ("---toml\nmodel = \"x\"\n---", none.clone()),
            ("---\n- model: x\n---", none),
        ] {
            assert_eq!(values(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn values_are_those_of_yaml() {
        for (head, wanted) in [
            ("model: 'it''s'", json!({ "model": "it's" })),
            ("model: \"\\u0061\\x62\\\"\\n\"", json!({ "model": "ab\"\n" })),
            ("model: a\n  b\n\n  c", json!({ "model": "a b\nc" })),
            ("model: >-\n  a\n  b\n\n  c", json!({ "model": "a b\nc" })),
            ("model: |\n  a\n   b\nmode: all", json!({ "model": "a\n b\n", "mode": "all" })),
            ("{model: a, disable: true}", json!({ "model": "a", "disable": true })),
            ("  model: a\n  mode: all", json!({ "model": "a", "mode": "all" })),
            ("? model\n: a", json!({ "model": "a" })),
            ("\"mo\\x64el\": a", json!({ "model": "a" })),
            ("model: 5\nhidden: ~", json!({ "model": 5, "hidden": null })),
            ("model: [a, {b: c}]\nname: {a: b}", json!({ "model": [], "name": {} })),
            ("model: a\nprompt: 5\ntools: {write: false}", json!({ "model": "a" })),
        ] {
            assert_eq!(values(&format!("---\n{head}\n---\n")), Some(wanted), "{head}");
        }
    }

    #[test]
    fn a_colon_in_a_text_is_forgiven_and_nothing_else() {
        for (head, wanted) in [
            ("description: Use when: a\nmodel: x", Some(json!({ "description": "Use when: a", "model": "x" }))),
            ("description: Use when: a\n  b\nmodel: x", Some(json!({ "description": "Use when: a\nb", "model": "x" }))),
            ("model: a: b", Some(json!({ "model": "a: b" }))),
            ("own-key: a: b\nmodel: x", Some(json!({}))),
            ("description: \"a\" b\nmodel: x", Some(json!({}))),
            ("description: [a\nmodel: x", Some(json!({}))),
            ("description: [a: b\nmodel: [x", None),
            ("description: a: b\n c\nmodel: x", None),
        ] {
            assert_eq!(values(&format!("---\n{head}\n---\n")), wanted, "{head}");
            // Lines of another kind are changed too, so that gray-matter has not met the text.
            let windows = format!("---\n{head}\n---\n").replace('\n', "\r\n");
            assert_eq!(values(&windows), wanted.filter(|it| *it != json!({})), "{head}");
        }
    }

    #[test]
    fn nothing_is_forgiven_behind_a_byte_order_mark() {
        assert_eq!(values("\u{feff}---\nmodel: a: b\n---\n"), Some(json!({})));
    }

    #[test]
    fn the_line_is_that_of_the_model() {
        for (text, line) in [
            ("---\nmode: all\nmodel: x\n---", 3),
            ("---\r\n\r\n  \"model\": x\r\n---", 3),
            ("---\na: b: c\nd: e: f\n# g\nmodel: x\n---", 5),
            ("---\nb: &b\n  model: x\n<<: *b\n---", 3),
            ("---\nb: \"c\nd\"\nmodel: x\n---", 4),
            ("---\nmode: all\n---", 1),
            ("", 1),
        ] {
            assert_eq!(parse(text, &mut 1000).map(|head| head.line), Some(line), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_a_text() {
        for (value, wanted) in
            [("a/b", "a/b"), ("5", "5"), ("1.5", "1.5"), ("~", "null"), ("true", "true"), ("{}", "[object Object]")]
        {
            let mut head = parse(&format!("---\nname: {value}\n---"), &mut 1000).unwrap();
            assert_eq!((head.take_name().as_deref(), head.take_name()), (Some(wanted), None));
        }
    }
}
