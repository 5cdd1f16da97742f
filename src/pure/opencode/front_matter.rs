//! The head of a Markdown file, as far as it describes one of opencode's agents. It is YAML;
//! read here are the plain lines `key: value` at its top level, which is how such files are
//! written.

use serde_json::{Map, Value as Json};

/// The keys that matter.
const KEYS: [&str; 5] = ["name", "model", "mode", "disable", "hidden"];

/// What a head says.
#[derive(Debug, Default, PartialEq)]
pub struct FrontMatter {
    /// The values of the keys that matter.
    pub values: Map<String, Json>,
    /// The line of `model`, else the first.
    pub line: usize,
}

/// Reads the head of a file; a file without one has an empty head.
pub fn parse(text: &str) -> FrontMatter {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut head = FrontMatter { values: Map::new(), line: 1 };
    let mut lines = text.lines().enumerate().peekable();
    let opens = |first: &str| first.strip_prefix("---").is_some_and(|rest| !rest.starts_with('-'));
    if lines.next().is_none_or(|(_, first)| !opens(first)) {
        return head;
    }
    while let Some((index, line)) = lines.next() {
        if line.starts_with("---") {
            break;
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        let key = key.trim_end().trim_matches(['"', '\'']);
        let Some(key) = KEYS.into_iter().find(|it| *it == key) else { continue };
        if !value.is_empty() && !value.starts_with([' ', '\t']) {
            continue;
        }
        let is_nested =
            lines.peek().is_some_and(|(_, next)| next.starts_with([' ', '\t', '-']) && !next.starts_with("---"));
        let value = match value.trim() {
            "" if is_nested => Json::Array(Vec::new()),
            // A block of text: its lines are indented.
            block if block.starts_with(['|', '>']) => {
                let mut words = Vec::new();
                while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with([' ', '\t'])) {
                    words.push(line.trim());
                }
                Json::String(words.join(if block.starts_with('|') { "\n" } else { " " }))
            }
            scalar => read_scalar(scalar),
        };
        if key == "model" {
            head.line = index + 1;
        }
        head.values.insert(key.to_owned(), value);
    }
    head
}

fn read_scalar(text: &str) -> Json {
    if let Some(rest) = text.strip_prefix('"') {
        let end = rest.char_indices().scan(false, |escaped, (at, char)| {
            let ends = char == '"' && !*escaped;
            *escaped = char == '\\' && !*escaped;
            Some((at, ends))
        });
        let end = end.into_iter().find(|(_, ends)| *ends).map_or(rest.len(), |(at, _)| at);
        let quoted = format!("\"{}\"", &rest[..end]);
        return Json::String(serde_json::from_str(&quoted).unwrap_or_else(|_| rest[..end].to_owned()));
    }
    if let Some(rest) = text.strip_prefix('\'') {
        return Json::String(rest.split_once('\'').map_or(rest, |(inside, _)| inside).to_owned());
    }
    let plain =
        if text.starts_with('#') { "" } else { text.split_once(" #").map_or(text, |(before, _)| before).trim_end() };
    match plain {
        "" | "~" | "null" | "Null" | "NULL" => Json::Null,
        "true" | "True" | "TRUE" => Json::Bool(true),
        "false" | "False" | "FALSE" => Json::Bool(false),
        _ if plain.starts_with(['[', '{']) => Json::Array(Vec::new()),
        _ => match plain.parse::<serde_json::Number>() {
            Ok(number) => Json::Number(number),
            Err(_) => Json::String(plain.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_lines_are_read_as_yaml_would() {
        for (head, wanted) in [
            ("model: lmstudio/a", json!({ "model": "lmstudio/a" })),
            ("model: \"lmstudio/a\" # mine", json!({ "model": "lmstudio/a" })),
            ("model: 'lmstudio/a'", json!({ "model": "lmstudio/a" })),
            ("# c\ndescription: a: b\nmodel: lmstudio/a#x # c", json!({ "model": "lmstudio/a#x" })),
            ("model:", json!({ "model": null })),
            ("model: 5\ndisable: true", json!({ "model": 5, "disable": true })),
            ("model: >\n  lmstudio/a\nmode: all", json!({ "model": "lmstudio/a", "mode": "all" })),
            ("tools:\n  model: x\nmodel: y/z", json!({ "model": "y/z" })),
            ("model:x", json!({})),
        ] {
            let text = format!("---\n{head}\n---\nmodel: no\n");
            assert_eq!(Json::Object(parse(&text).values), wanted, "{head}");
        }
        assert_eq!(parse("model: x\n"), FrontMatter { values: Map::new(), line: 1 });
        assert_eq!(parse("---\r\nmode: all\r\nmodel: a/b\r\n---\r\n").line, 3);
    }
}
