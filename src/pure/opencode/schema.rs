//! What opencode does to a source after parsing it: newer spellings become the older ones,
//! and a wrong type is refused. Checked is what decides which model is asked, and where; a
//! key that opencode does not know is dropped without a word, here as there.

use serde_json::{Map, Value as Json};

/// Rewrites the newer spellings: `model` with a variant or as an object, and `agents`.
pub fn lower(config: &mut Json) {
    let Json::Object(config) = config else { return };
    if let Some(model) = config.get("model").and_then(lowered_model) {
        config.insert("model".to_owned(), Json::String(model));
    }
    let Some(Json::Object(newer)) = config.get("agents").cloned() else { return };
    let Json::Object(agents) = config.entry("agent").or_insert_with(|| Json::Object(Map::new())) else { return };
    for (name, agent) in newer {
        // The older spelling wins where both are there.
        if let (false, Some(agent)) = (agents.contains_key(&name), lowered_agent(&agent)) {
            agents.insert(name, agent);
        }
    }
}

/// `p/m`, `p/m#variant` or `{ providerID, model, variant }` as `p/m`; `None`: none of them.
fn lowered_model(model: &Json) -> Option<String> {
    let is_part = |text: &str, forbidden: &[char]| !text.is_empty() && !text.contains(forbidden);
    match model {
        Json::String(text) => {
            let (reference, variant) =
                text.split_once('#').map_or((text.as_str(), None), |(it, rest)| (it, Some(rest)));
            let (provider, key) = reference.split_once('/')?;
            let is_reference = is_part(provider, &['#']) && is_part(key, &['#']);
            (is_reference && variant.is_none_or(|it| is_part(it, &['#']))).then(|| reference.to_owned())
        }
        Json::Object(object) => {
            let part = |name, forbidden| object.get(name)?.as_str().filter(|text| is_part(text, forbidden));
            let (provider, key) = (part("providerID", &['/', '#'])?, part("model", &['#'])?);
            (!object.contains_key("variant") || part("variant", &['#']).is_some()).then(|| format!("{provider}/{key}"))
        }
        _ => None,
    }
}

/// An entry of `agents`; a malformed one is dropped.
fn lowered_agent(agent: &Json) -> Option<Json> {
    let mut lowered = Map::new();
    for (name, value) in agent.as_object()? {
        let (name, value) = match (name.as_str(), value) {
            ("model", model) => ("model", Json::String(lowered_model(model)?)),
            ("disabled", Json::Bool(_)) => ("disable", value.clone()),
            ("hidden", Json::Bool(_)) => ("hidden", value.clone()),
            ("mode", Json::String(mode)) if MODES.contains(&mode.as_str()) => ("mode", value.clone()),
            ("disabled" | "hidden" | "mode", _) => return None,
            _ => continue,
        };
        lowered.insert(name.to_owned(), value);
    }
    Some(Json::Object(lowered))
}

const MODES: [&str; 3] = ["subagent", "primary", "all"];

/// What a value may be.
enum Shape {
    Text,
    Boolean,
    Texts,
    Word(&'static [&'static str]),
    /// An object whose keys are names.
    Named(&'static Shape),
    /// An object with these keys, and others that do not matter.
    Object(&'static [(&'static str, Shape)]),
}

const AGENT: Shape = Shape::Object(&[
    ("model", Shape::Text),
    ("variant", Shape::Text),
    ("prompt", Shape::Text),
    ("description", Shape::Text),
    ("disable", Shape::Boolean),
    ("hidden", Shape::Boolean),
    ("mode", Shape::Word(&MODES)),
]);

const MODEL: Shape = Shape::Object(&[
    ("id", Shape::Text),
    ("name", Shape::Text),
    ("status", Shape::Word(&["alpha", "beta", "deprecated", "active"])),
    ("provider", Shape::Object(&[("npm", Shape::Text), ("api", Shape::Text)])),
]);

const PROVIDER: Shape = Shape::Object(&[
    ("api", Shape::Text),
    ("name", Shape::Text),
    ("id", Shape::Text),
    ("npm", Shape::Text),
    ("env", Shape::Texts),
    ("whitelist", Shape::Texts),
    ("blacklist", Shape::Texts),
    ("options", Shape::Object(&[("apiKey", Shape::Text), ("baseURL", Shape::Text)])),
    ("models", Shape::Named(&MODEL)),
]);

const COMMAND: Shape = Shape::Object(&[
    ("template", Shape::Text),
    ("description", Shape::Text),
    ("agent", Shape::Text),
    ("model", Shape::Text),
    ("variant", Shape::Text),
    ("subtask", Shape::Boolean),
]);

const CONFIG: Shape = Shape::Object(&[
    ("$schema", Shape::Text),
    ("model", Shape::Text),
    ("small_model", Shape::Text),
    ("default_agent", Shape::Text),
    ("username", Shape::Text),
    ("shell", Shape::Text),
    ("share", Shape::Word(&["manual", "auto", "disabled"])),
    ("snapshot", Shape::Boolean),
    ("autoshare", Shape::Boolean),
    ("instructions", Shape::Texts),
    ("disabled_providers", Shape::Texts),
    ("enabled_providers", Shape::Texts),
    ("agent", Shape::Named(&AGENT)),
    ("mode", Shape::Named(&AGENT)),
    ("command", Shape::Named(&COMMAND)),
    ("provider", Shape::Named(&PROVIDER)),
]);

/// Checks the types of a source after [`lower`].
///
/// # Errors
/// The path of the value that opencode would refuse, and what it must be.
pub fn check(config: &Json) -> Result<(), (Vec<&str>, String)> {
    CONFIG.check(config, &[])
}

/// Checks an agent that a Markdown file describes.
///
/// # Errors
/// As [`check`].
pub fn check_agent(agent: &Json) -> Result<(), (Vec<&str>, String)> {
    AGENT.check(agent, &[])
}

/// Checks a command that a Markdown file describes.
///
/// # Errors
/// As [`check`].
pub fn check_command(command: &Json) -> Result<(), (Vec<&str>, String)> {
    COMMAND.check(command, &[])
}

impl Shape {
    fn check<'a>(&'static self, value: &'a Json, path: &[&'a str]) -> Result<(), (Vec<&'a str>, String)> {
        let below = |key: &'a str| [path, &[key]].concat();
        let is_right = match (self, value) {
            (Self::Text, Json::String(_)) | (Self::Boolean, Json::Bool(_)) => true,
            (Self::Texts, Json::Array(items)) => items.iter().all(Json::is_string),
            (Self::Word(words), Json::String(text)) => words.contains(&text.as_str()),
            (Self::Named(shape), Json::Object(object)) => {
                object.iter().try_for_each(|(key, value)| shape.check(value, &below(key)))?;
                true
            }
            (Self::Object(keys), Json::Object(object)) => {
                keys.iter().try_for_each(|(key, shape)| match object.get(*key) {
                    Some(value) => shape.check(value, &below(key)),
                    None => Ok(()),
                })?;
                true
            }
            _ => false,
        };
        let (what, found) = (self.allowed(), kind(value));
        if is_right { Ok(()) } else { Err((path.to_vec(), format!("must be {what}, and is {found}"))) }
    }

    fn allowed(&self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Texts => "a list of texts".to_owned(),
            Self::Word(words) => format!("one of {}", crate::pure::text::listed(words.iter().copied(), "or")),
            Self::Named(_) | Self::Object(_) => "an object".to_owned(),
        }
    }
}

/// The kind of a value; the value itself may be a secret.
fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "true or false",
        Json::Number(_) => "a number",
        Json::String(_) => "another text",
        Json::Array(_) => "another list",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn newer_spellings_become_older_ones() {
        for (newer, older) in [
            (json!({ "model": "p/m#high" }), json!({ "model": "p/m" })),
            (json!({ "model": "p/a/b" }), json!({ "model": "p/a/b" })),
            (json!({ "model": "p/m#" }), json!({ "model": "p/m#" })),
            (json!({ "model": "foo" }), json!({ "model": "foo" })),
            (json!({ "model": { "providerID": "p", "model": "a/b", "variant": "x" } }), json!({ "model": "p/a/b" })),
            (json!({ "small_model": "p/m#low" }), json!({ "small_model": "p/m#low" })),
        ] {
            let mut value = newer.clone();
            lower(&mut value);
            assert_eq!(value, older, "{newer}");
        }
        let mut value = json!({
            "agents": { "a": { "model": "p/new#x", "disabled": true }, "b": { "model": "p/b" }, "c": { "mode": 1 } },
            "agent": { "b": { "model": "p/old#x" } },
        });
        lower(&mut value);
        assert_eq!(value["agent"], json!({ "a": { "model": "p/new", "disable": true }, "b": { "model": "p/old#x" } }));
    }

    #[test]
    fn a_wrong_type_is_named_with_its_path() {
        for (config, path) in [
            (json!({ "model": null }), "model"),
            (json!({ "model": { "providerID": "p/q", "model": "m" } }), "model"),
            (json!({ "agent": { "a": { "model": 1 } } }), "agent.a.model"),
            (json!({ "provider": { "p": { "models": { "m": { "id": 5 } } } } }), "provider.p.models.m.id"),
            (json!({ "enabled_providers": ["a", 1] }), "enabled_providers"),
            (json!({ "share": "sometimes" }), "share"),
        ] {
            let mut value = config.clone();
            lower(&mut value);
            assert_eq!(check(&value).unwrap_err().0.join("."), path, "{config}");
        }
        assert_eq!(check(&json!({ "unknown": null, "agent": { "a": { "extra": null } } })), Ok(()));
    }
}
