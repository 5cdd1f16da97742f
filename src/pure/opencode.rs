//! opencode's configuration as far as the gate needs it: its syntax, and which source has
//! the last word. The facts are those of opencode 1.18. Which files there are is found in
//! `sys::opencode`.

use std::path::Path;

use serde_json::Value as Json;

use super::jsonc::JSONC;

/// Who could have written a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The user: the global folder, an environment variable, the administrator.
    User,
    /// Whoever wrote the project's files.
    Project,
}

/// One source, read and parsed.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its path, or the variable that holds it.
    pub name: String,
    /// Who could have written it.
    pub trust: Trust,
    /// What it says.
    pub value: Json,
    /// The same before anything was replaced, if it can be read so.
    pub literal: Option<Json>,
}

/// What the text of a source may refer to.
pub trait Surroundings {
    /// The variable's value; a missing one is an empty text to opencode.
    fn variable(&self, name: &str) -> String;
    /// The file's content, or why there is none. `~/` and relative paths are not resolved yet.
    ///
    /// # Errors
    /// Says why the file cannot be read.
    fn file(&self, path: &str) -> Result<String, String>;
}

/// Reads the text of a source.
///
/// # Errors
/// A sentence with file, line and column: opencode would refuse this text as well.
pub fn read(text: &str, name: String, trust: Trust, surroundings: &impl Surroundings) -> Result<Source, String> {
    let value = parse(text, &name, surroundings)?;
    let literal = parse(text, &name, &Verbatim).ok();
    Ok(Source { name, trust, value, literal })
}

/// Leaves every reference as it is written.
struct Verbatim;

impl Surroundings for Verbatim {
    fn variable(&self, name: &str) -> String {
        format!("{{env:{name}}}")
    }
    fn file(&self, path: &str) -> Result<String, String> {
        Ok(format!("{{file:{path}}}"))
    }
}

fn parse(text: &str, name: &str, surroundings: &impl Surroundings) -> Result<Json, String> {
    let text = substitute(text.strip_prefix('\u{feff}').unwrap_or(text), surroundings)
        .map_err(|error| format!("{name}: {error}"))?;
    match jsonc_parser::parse_to_serde_value::<Option<Json>>(&text, &JSONC) {
        Ok(Some(value @ Json::Object(_))) => Ok(value),
        // An empty file counts as `{}`.
        Ok(None) if text.trim().is_empty() => Ok(Json::Object(serde_json::Map::new())),
        Ok(_) => Err(format!("{name}: opencode's configuration must be an object")),
        Err(error) => Err(format!("{name}:{}:{}: {}", error.line_display(), error.column_display(), error.kind())),
    }
}

/// Replaces `{env:NAME}` and `{file:PATH}` in the text, before it is parsed: a variable as
/// it is, a file trimmed and escaped for a JSON string.
fn substitute(text: &str, surroundings: &impl Surroundings) -> Result<String, String> {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, at) = rest.split_at(open);
        replaced.push_str(before);
        let reference = ["{env:", "{file:"].into_iter().find_map(|start| {
            let (inside, after) = at.strip_prefix(start)?.split_once('}')?;
            (!inside.is_empty()).then_some((start, inside, after))
        });
        let Some((start, inside, after)) = reference else {
            replaced.push('{');
            rest = &at[1..];
            continue;
        };
        if start == "{env:" {
            replaced.push_str(&surroundings.variable(inside));
        } else {
            let line = replaced.rsplit('\n').next().unwrap_or_default();
            match surroundings.file(inside) {
                Ok(content) => {
                    let quoted = Json::String(content.trim().to_owned()).to_string();
                    replaced.push_str(&quoted[1..quoted.len() - 1]);
                }
                // In a comment nobody needs it.
                Err(_) if line.trim_start().starts_with("//") => {}
                Err(why) => return Err(format!("`{{file:{inside}}}` cannot be read: {why}")),
            }
        }
        rest = after;
    }
    replaced.push_str(rest);
    Ok(replaced)
}

/// The value at `path` in the last source that has one there: sources are merged key by
/// key, and the later one wins.
pub fn find<'a>(sources: &'a [Source], path: &[&str]) -> Option<(&'a Json, &'a Source)> {
    sources.iter().rev().find_map(|source| {
        let value = path.iter().try_fold(&source.value, |value, key| value.get(key))?;
        Some((value, source))
    })
}

/// The address of the first of `providers` that has one: `options.baseURL` if it is not
/// empty, else `api`. The one that opencode has built in for `lmstudio` is not counted:
/// where nothing is configured, LM Studio's own last port knows better.
pub fn base_url<'a>(sources: &'a [Source], providers: &[String]) -> Option<(&'a str, &'a Source)> {
    providers.iter().find_map(|provider| {
        [&["provider", provider, "options", "baseURL"][..], &["provider", provider, "api"]]
            .into_iter()
            .filter_map(|path| find(sources, path))
            .find_map(|(value, source)| value.as_str().filter(|text| !text.is_empty()).map(|text| (text, source)))
    })
}

/// The address as it is written in that source, with its references unreplaced.
pub fn literal_base_url(source: &Source, providers: &[String]) -> Option<String> {
    let literal = Source { value: source.literal.clone()?, ..source.clone() };
    base_url(std::slice::from_ref(&literal), providers).map(|(text, _)| text.to_owned())
}

/// Whether `host` is named by a source that only the user could have written.
pub fn user_names_host(sources: &[Source], providers: &[String], host: &str) -> bool {
    sources.iter().filter(|source| source.trust == Trust::User).any(|source| {
        base_url(std::slice::from_ref(source), providers)
            .and_then(|(text, _)| super::base_url::BaseUrl::parse(text).ok())
            .is_some_and(|base| base.host() == host)
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fake;

    impl Surroundings for Fake {
        fn variable(&self, name: &str) -> String {
            if name == "PORT" { "5678".to_owned() } else { String::new() }
        }
        fn file(&self, path: &str) -> Result<String, String> {
            if path == "url" { Ok(" http://a\"b\n".to_owned()) } else { Err("not there".to_owned()) }
        }
    }

    fn source(text: &str, trust: Trust) -> Source {
        read(text, "x".to_owned(), trust, &Fake).unwrap()
    }

    #[test]
    fn the_syntax_is_opencodes() {
        for (text, wanted) in [
            ("", "{}"),
            ("\u{feff}{ // c\n \"a\": 1, /* d */ }", r#"{"a":1}"#),
            (r#"{"a": {env:PORT}, "b": "x{env:NONE}y"}"#, r#"{"a":5678,"b":"xy"}"#),
            (r#"{"a": "{file:url}"}"#, r#"{"a":"http://a\"b"}"#),
            ("{\n  // {file:none}\n \"a\": \"{\" }", r#"{"a":"{"}"#),
        ] {
            assert_eq!(parse(text, "x", &Fake).unwrap().to_string(), wanted, "{text}");
        }
        for (text, wanted) in [
            ("{", "x:1:2"),
            ("[]", "must be an object"),
            ("null", "must be an object"),
            (r#"{"a": "{file:none}"}"#, "`{file:none}` cannot be read: not there"),
        ] {
            let error = parse(text, "x", &Fake).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn the_last_source_that_says_something_wins() {
        let lmstudio = ["lmstudio".to_owned()];
        let sources = [
            source(r#"{"provider":{"lmstudio":{"options":{"baseURL":"http://first"}}}}"#, Trust::User),
            source(
                r#"{"provider":{"lmstudio":{"options":{"baseURL":"http://second"},"api":"http://api"}}}"#,
                Trust::Project,
            ),
            source(r#"{"provider":{"lmstudio":{"options":{"apiKey":"x"}}}}"#, Trust::User),
        ];
        assert_eq!(base_url(&sources, &lmstudio).unwrap().0, "http://second");
        assert_eq!(base_url(&sources[..1], &lmstudio).unwrap().0, "http://first");
        assert_eq!(base_url(&sources[2..], &lmstudio).map(|it| it.0), None);
        assert!(user_names_host(&sources, &lmstudio, "first"));
        assert!(!user_names_host(&sources, &lmstudio, "second"));
    }

    #[test]
    fn an_empty_address_is_none() {
        let sources =
            [source(r#"{"provider":{"lmstudio":{"options":{"baseURL":""},"api":"http://api"}}}"#, Trust::User)];
        assert_eq!(base_url(&sources, &["lmstudio".to_owned()]).unwrap().0, "http://api");
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

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text, "x", &Fake);
        }

        #[test]
        fn no_reference_panics(text in r#"[{}a:"\[\],]{0,10}(\{env:|\{file:)?[a-z}"]{0,5}"#) {
            let _ = parse(&text, "x", &Fake);
        }
    }
}
