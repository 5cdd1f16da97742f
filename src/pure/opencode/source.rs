//! One source of opencode's configuration: its syntax, what its text may refer to, and where
//! its values stand.

use std::path::Path;

use jsonc_parser::ast::Value as Ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, parse_to_ast};
use serde_json::Value as Json;

use crate::pure::jsonc::JSONC;
use crate::pure::opencode::schema;

/// Who could have written a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The user: the global folder, an environment variable, the administrator.
    User,
    /// The authors of the project's files.
    Project,
}

/// One source, read and parsed.
#[derive(Debug, Clone)]
pub struct ConfigSource {
    /// Its path, or the variable that holds it.
    pub name: String,
    /// Who could have written it.
    pub trust: Trust,
    /// What it says.
    pub value: Json,
    /// The same before anything was replaced, if it can be read so.
    pub literal: Option<Json>,
    /// Where its values stand.
    pub lines: Lines,
}

/// Where the values of a source stand: looked up only for a message that says so.
#[derive(Clone)]
pub enum Lines {
    /// In this text, after everything was replaced.
    Text(String),
    /// All at this line.
    At(usize),
}

/// The text may hold a key, so it is never shown.
impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

impl ConfigSource {
    /// `FILE:LINE` of the value at `path`, or the name alone where there is no line.
    pub fn place(&self, path: &[&str]) -> String {
        match &self.lines {
            Lines::At(line) => format!("{}:{line}", self.name),
            Lines::Text(text) => place(&self.name, text, path),
        }
    }
}

fn place(name: &str, text: &str, path: &[&str]) -> String {
    let line = line_of(text, path).or_else(|| {
        // What newer versions call `agents` is read as `agent`.
        let (first, rest) = path.split_first()?;
        (*first == "agent").then(|| line_of(text, &[&["agents"], rest].concat()))?
    });
    line.map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"))
}

/// The line of the deepest part of `path` that is there.
fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &JSONC).ok()?;
    let mut value = parsed.value?;
    let mut start = None;
    for (depth, key) in path.iter().enumerate() {
        let Ast::Object(object) = value else { break };
        // Of a key that stands there twice, the last one counts.
        let Some(property) = object.properties.into_iter().rev().find(|it| it.name.as_str() == *key) else {
            if depth == 0 {
                return None;
            }
            break;
        };
        start = Some(property.start());
        value = property.value;
    }
    start.map(|start| 1 + text.as_bytes().iter().take(start).filter(|byte| **byte == b'\n').count())
}

/// What the text of a source may refer to.
pub trait Substitutions {
    /// The variable's value; a missing one is an empty text to opencode.
    fn variable(&self, name: &str) -> String;
    /// The file's content, or why there is none. `~/` and relative paths are not resolved yet.
    ///
    /// # Errors
    /// Says why the file cannot be read.
    fn file(&self, path: &str) -> Result<String, String>;
    /// The variable that holds the user's API token.
    fn token_variable(&self) -> &str;
}

/// Reads the text of a source.
///
/// # Errors
/// A sentence with file, line and column: opencode would refuse this text as well.
pub fn read(text: &str, name: String, trust: Trust, surroundings: &impl Substitutions) -> Result<ConfigSource, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let replaced = substitute(text, surroundings).map_err(|error| format!("{name}: {error}"))?;
    let mut value = parse(&replaced, &name)?;
    let literal = substitute(text, &Verbatim).and_then(|text| parse(&text, &name)).ok();
    let token = format!("{{env:{}}}", surroundings.token_variable());
    let is_private = |text: &str| text.contains(&token) || text.contains("{file:");
    if trust == Trust::Project && is_private(text) {
        match &literal {
            Some(literal) if !has_reference_in_name(literal) => keep_written(&mut value, literal, &is_private),
            _ => {
                return Err(format!(
                    "{name}: a project's file with `{{file:…}}` or `{token}` may have references inside of texts alone"
                ));
            }
        }
    }
    schema::lower(&mut value);
    schema::check(&value)
        .map_err(|(path, why)| format!("{}: {}: {why}", place(&name, &replaced, &path), path.join(".")))?;
    Ok(ConfigSource { name, trust, value, literal, lines: Lines::Text(replaced) })
}

/// A project may use the user's token as a key, and a file for a key or an address, which has a
/// rule of its own. Anywhere else, such as in the name of a model that is shown, logged and
/// given to `lms`, such a reference stays as it is written.
fn keep_written(value: &mut Json, literal: &Json, is_private: &impl Fn(&str) -> bool) {
    match (value, literal) {
        (Json::String(text), Json::String(written)) if is_private(written) => text.clone_from(written),
        (Json::Array(items), Json::Array(written)) => {
            items.iter_mut().zip(written).for_each(|(item, written)| keep_written(item, written, is_private));
        }
        (Json::Object(members), Json::Object(written)) => {
            // What is in a variable may look like more members.
            members.retain(|name, _| written.contains_key(name));
            for (name, member) in members {
                // An agent or a model may be called so, too, and has texts of its own.
                let is_meant = member.is_string() && ["apiKey", "baseURL", "api"].contains(&name.as_str());
                if !is_meant {
                    keep_written(member, &written[name], is_private);
                }
            }
        }
        _ => {}
    }
}

fn has_reference_in_name(literal: &Json) -> bool {
    match literal {
        Json::Object(members) => members
            .iter()
            .any(|(name, member)| name.contains("{env:") || name.contains("{file:") || has_reference_in_name(member)),
        Json::Array(items) => items.iter().any(has_reference_in_name),
        _ => false,
    }
}

/// Leaves every reference as it is written.
struct Verbatim;

impl Substitutions for Verbatim {
    fn variable(&self, name: &str) -> String {
        format!("{{env:{name}}}")
    }
    fn file(&self, path: &str) -> Result<String, String> {
        Ok(format!("{{file:{path}}}"))
    }
    fn token_variable(&self) -> &'static str {
        ""
    }
}

fn parse(text: &str, name: &str) -> Result<Json, String> {
    // An empty file counts as `{}`, one with blanks alone does not.
    if text.is_empty() {
        return Ok(Json::Object(serde_json::Map::new()));
    }
    match jsonc_parser::parse_to_serde_value::<Option<Json>>(text, &JSONC) {
        Ok(Some(value @ Json::Object(_))) => Ok(value),
        Ok(_) => Err(format!("{name}:1: opencode's configuration must be an object")),
        Err(error) => Err(format!("{name}:{}:{}: {}", error.line_display(), error.column_display(), error.kind())),
    }
}

/// Replaces `{env:NAME}`, then `{file:PATH}`, in the text, before it is parsed: a variable
/// as it is, a file trimmed and escaped for a JSON string.
fn substitute(text: &str, surroundings: &impl Substitutions) -> Result<String, String> {
    let with_variables = replace(text, "{env:", |_, name| Ok(Some(surroundings.variable(name))))?;
    replace(&with_variables, "{file:", |before, path| {
        // opencode leaves a comment as it is.
        if before.rsplit('\n').next().unwrap_or_default().trim_start().starts_with("//") {
            return Ok(None);
        }
        let content = surroundings.file(path).map_err(|why| {
            let written = format!("{{file:{path}}}");
            // What came from a variable may be a secret.
            let shown = if text.contains(&written) { &written } else { "{file:…}" };
            format!("line {}: `{shown}` cannot be read: {why}", 1 + before.matches('\n').count())
        })?;
        let quoted = Json::String(content.trim().to_owned()).to_string();
        Ok(Some(quoted[1..quoted.len() - 1].to_owned()))
    })
}

/// Most that the text of a source may become.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Replaces every `START...}` by what `with` makes of the text before it and what is inside;
/// `None` leaves it.
fn replace(
    text: &str,
    start: &str,
    with: impl Fn(&str, &str) -> Result<Option<String>, String>,
) -> Result<String, String> {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find(start) {
        let (before, at) = rest.split_at(open);
        replaced.push_str(before);
        rest = &at[start.len()..];
        // No other one is closed either.
        let Some((inside, after)) = rest.split_once('}') else {
            replaced.push_str(start);
            break;
        };
        if inside.is_empty() {
            replaced.push_str(start);
            continue;
        }
        let position = text.len() - at.len();
        match with(&text[..position], inside)? {
            Some(value) => replaced.push_str(&value),
            None => replaced.push_str(&at[..at.len() - after.len()]),
        }
        rest = after;
        // A few bytes may name a large file, again and again.
        if replaced.len() > MOST_BYTES {
            return Err("is larger than 4 MiB once its references are replaced".to_owned());
        }
    }
    replaced.push_str(rest);
    Ok(replaced)
}

/// The value at `path` in the last source that has one there: sources are merged key by
/// key, and the later one wins.
pub fn find<'a>(sources: &'a [ConfigSource], path: &[&str]) -> Option<(&'a Json, &'a ConfigSource)> {
    sources.iter().rev().find_map(|source| {
        let value = path.iter().try_fold(&source.value, |value, key| value.get(key))?;
        Some((value, source))
    })
}

/// The folders of a project, from its root down to the working directory.
pub fn project_folders<'a>(working: &'a Path, root: Option<&Path>) -> Vec<&'a Path> {
    let mut folders: Vec<&Path> =
        working.ancestors().take_while(|folder| root.is_none_or(|root| folder.starts_with(root))).collect();
    folders.reverse();
    folders
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An environment with a few variables and files.
    pub(crate) struct Fake;

    impl Substitutions for Fake {
        fn variable(&self, name: &str) -> String {
            match name {
                "PORT" => "5678".to_owned(),
                "FILE" => "url".to_owned(),
                "TOKEN" => "secret".to_owned(),
                _ => String::new(),
            }
        }
        fn file(&self, path: &str) -> Result<String, String> {
            match path {
                "url" => Ok(" http://a\"b\n".to_owned()),
                "large" => Ok("x".repeat(1024 * 1024)),
                _ => Err("not there".to_owned()),
            }
        }
        fn token_variable(&self) -> &'static str {
            "TOKEN"
        }
    }

    pub(crate) fn source(text: &str, trust: Trust) -> ConfigSource {
        read(text, "x".to_owned(), trust, &Fake).unwrap()
    }

    #[test]
    fn the_syntax_is_opencodes() {
        for (text, wanted) in [
            ("", "{}"),
            ("\u{feff}{ // c\n \"a\": 1, /* d */ }", r#"{"a":1}"#),
            (r#"{"a": "{file:{env:FILE}}"}"#, r#"{"a":"http://a\"b"}"#),
            (r#"{"a": {env:PORT}, "b": "x{env:NONE}y"}"#, r#"{"a":5678,"b":"xy"}"#),
            (r#"{"a": "{file:url}"}"#, r#"{"a":"http://a\"b"}"#),
            ("{\n  // {file:none}\n \"a\": \"{\" }", r#"{"a":"{"}"#),
        ] {
            assert_eq!(source(text, Trust::User).value.to_string(), wanted, "{text}");
        }
        for (text, wanted) in [
            ("{", "x:1:2"),
            ("[]", "must be an object"),
            ("null", "must be an object"),
            (" \n", "must be an object"),
            ("{\n \"model\": null }", "x:2: model: must be a text"),
            ("{\n \"provider\": {\n \"p\": { \"models\": [] } } }", "x:3: provider.p.models: must be an object"),
            (r#"{"a": "{file:none}"}"#, "`{file:none}` cannot be read: not there"),
            (r#"{"a": "{file:{env:TOKEN}}"}"#, "`{file:…}` cannot be read: not there"),
        ] {
            let error = read(text, "x".to_owned(), Trust::User, &Fake).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn a_text_that_would_grow_without_end_is_refused() {
        let error = read(&"{file:large}".repeat(100_000), "x".to_owned(), Trust::Project, &Fake).unwrap_err();
        assert_eq!(error, "x: is larger than 4 MiB once its references are replaced");
    }

    #[test]
    fn a_project_gets_the_token_for_a_key_alone() {
        let text = r#"{
            "model": { "providerID": "p", "model": "{env:TOKEN}" }, "small_model": "p/x{env:TOKEN}{env:PORT}",
            "provider": { "p": { "options": { "apiKey": "{env:TOKEN}" }, "models": { "a": { "id": "{env:TOKEN}" } } } },
            "disabled_providers": ["{env:PORT}", "{env:TOKEN}", "{file:url}"],
            "agent": { "api": { "model": "p/{env:TOKEN}" }, "b": { "model": "p/{env:PORT}" }, "c": { "model": "p/{file:url}" } } }"#;
        let shown = source(text, Trust::Project).value;
        assert_eq!(shown["provider"]["p"]["options"]["apiKey"], "secret");
        assert_eq!(
            (&shown["agent"]["b"]["model"], &shown["disabled_providers"][0]),
            (&"p/5678".into(), &"5678".into())
        );
        assert_eq!((&shown["model"], &shown["agent"]["c"]["model"]), (&"p/{env:TOKEN}".into(), &"p/{file:url}".into()));
        assert_eq!(shown.to_string().matches("secret").count(), 1, "{shown}");
        assert_eq!(source(text, Trust::User).value["small_model"], "p/xsecret5678");
        for odd in [r#"{"mod{env:NONE}el":"p/{env:TOKEN}"}"#, r#"{"model":"p/{env:TOKEN}","port":{env:NONE}1}"#] {
            let error = read(odd, "x".to_owned(), Trust::Project, &Fake).unwrap_err();
            assert!(error.contains("inside of texts alone"), "{error}");
        }
    }

    #[test]
    fn a_project_ends_at_its_root() {
        let folders = |root: Option<&str>| -> Vec<String> {
            project_folders(Path::new("/a/b/c"), root.map(Path::new))
                .iter()
                .map(|it| it.display().to_string())
                .collect()
        };
        assert_eq!(folders(Some("/a/b")), ["/a/b", "/a/b/c"]);
        assert_eq!(folders(None), ["/", "/a", "/a/b", "/a/b/c"]);
    }
}
