//! Which model opencode will ask for: its main model, its small one, an agent's own. A role and
//! opencode's sources become a [`RoleModel`]. On which server, and with which token, is decided
//! elsewhere.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::pure::opencode::source::{ConfigSource, find};
use crate::pure::text::printable;

/// The words on the command line that stand for opencode's models.
pub const ROLE_WORDS: [&str; 3] = ["main", "small", "all"];

/// Who asks a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A turn of opencode's default agent.
    Main,
    /// The title of a session.
    Small,
    /// An agent with a model of its own.
    Agent(String),
    /// A command with a model of its own.
    Command(String),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Main => f.write_str("main"),
            Self::Small => f.write_str("small"),
            Self::Agent(name) => write!(f, "agent:{}", printable(name)),
            Self::Command(name) => write!(f, "command:{}", printable(name)),
        }
    }
}

/// A model that opencode's configuration pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleModel {
    /// For whom.
    pub role: Role,
    /// The provider.
    pub provider: String,
    /// The model as the configuration calls it.
    pub model: String,
    /// `FILE:LINE` of the value.
    pub place: String,
    /// What is sent as `model`, if that is another name, and `FILE:LINE` of it. It may be empty.
    pub wire: Option<(String, String)>,
    /// Whether the configuration lists the model under its provider.
    pub is_listed: bool,
    /// Why it is this model, where that needs saying.
    pub note: Option<String>,
}

impl RoleModel {
    /// `provider/model`.
    pub fn reference(&self) -> String {
        printable(&format!("{}/{}", self.provider, self.model))
    }

    /// The name that goes over the wire. Where that is empty, the server has to choose, and the
    /// one to have at hand is that which the configuration means.
    pub fn key(&self) -> &str {
        self.wire.as_ref().map(|(id, _)| id).filter(|id| !id.is_empty()).unwrap_or(&self.model)
    }

    /// What is wrong with the name that goes over the wire, if anything.
    pub fn flaw(&self) -> Option<String> {
        let (_, place) = self.wire.as_ref().filter(|(id, _)| id.is_empty())?;
        Some(format!("its `id` is empty ({place}), so that opencode names no model to the server; remove the `id`"))
    }
}

/// Why a role has no model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unset {
    /// What is missing or wrong, and where.
    pub reason: String,
    /// What to do next.
    pub hint: &'static str,
}

/// The agents that are part of opencode: their names, and whether a turn can begin with them.
const BUILT_IN_AGENTS: [(&str, bool); 7] = [
    ("build", true),
    ("plan", true),
    ("general", false),
    ("explore", false),
    ("title", false),
    ("summary", false),
    ("compaction", false),
];

/// What opencode lists for `lmstudio` without being told.
const BUILT_IN_MODELS: [&str; 3] = ["openai/gpt-oss-20b", "qwen/qwen3-30b-a3b-2507", "qwen/qwen3-coder-30b"];

/// opencode's configuration, asked for its roles.
pub struct Roles<'a> {
    /// Its sources, lowest first, agents in Markdown included.
    pub sources: &'a [ConfigSource],
    /// The providers that are gated.
    pub gated: &'a [String],
    /// Whether opencode knows a model of `lmstudio` from a list of its own that is newer than
    /// the one here.
    pub is_known: &'a dyn Fn(&str) -> bool,
}

/// A value, and where it stands.
type Value<'a> = (&'a Json, &'a ConfigSource, Vec<&'a str>);

impl<'a> Roles<'a> {
    /// The model of one role.
    ///
    /// # Errors
    /// When the configuration sets none, or one that opencode would refuse.
    pub fn model_of(&self, role: &Role) -> Result<RoleModel, Unset> {
        match role {
            Role::Main => self.main(),
            Role::Small => self.small(),
            Role::Agent(name) => self.agent(name),
            Role::Command(name) => match self.value(vec!["command", name, "model"]) {
                Some(value) => self.existing(role, &value),
                None => Err(unset(format!("opencode's configuration pins no model for the command `{name}`"))),
            },
        }
    }

    /// Everything that is pinned on a gated provider, each role once. What is not set, or
    /// would be refused when asked for, is left out.
    pub fn all(&self) -> Vec<RoleModel> {
        let agents = self.names(&["agent", "mode"]).into_iter().map(|name| Role::Agent(name.to_owned()));
        let commands = self.names(&["command"]).into_iter().map(|name| Role::Command(name.to_owned()));
        [Role::Main, Role::Small]
            .into_iter()
            .chain(agents)
            .chain(commands)
            .filter_map(|role| self.model_of(&role).ok())
            .filter(|model| self.is_gated(&model.provider))
            .collect()
    }

    /// The roles that there are, set or not.
    pub fn roles(&self) -> Vec<Role> {
        let own_model = |role: &Role| match role {
            Role::Agent(name) => self.agent_value(name, "model").is_some(),
            Role::Command(name) => self.value(vec!["command", name, "model"]).is_some(),
            _ => true,
        };
        let agents = self.names(&["agent", "mode"]).into_iter().map(|name| Role::Agent(name.to_owned()));
        let commands = self.names(&["command"]).into_iter().map(|name| Role::Command(name.to_owned()));
        [Role::Main, Role::Small].into_iter().chain(agents).chain(commands).filter(own_model).collect()
    }

    /// Whether models of this provider are ensured.
    pub fn is_gated(&self, provider: &str) -> bool {
        self.gated.iter().any(|it| it == provider)
    }

    /// The default agent's own model, else `model`.
    fn main(&self) -> Result<RoleModel, Unset> {
        let own = self.default_agent().and_then(|name| self.agent_value(name, "model"));
        match own.or_else(|| self.value(vec!["model"])) {
            Some(value) => self.existing(&Role::Main, &value),
            None => Err(unset("opencode's configuration sets no `model`".to_owned())),
        }
    }

    /// The title agent's own model, else `small_model`, else the main model.
    fn small(&self) -> Result<RoleModel, Unset> {
        if let Some(value) = self.agent_value("title", "model") {
            return self.existing(&Role::Small, &value);
        }
        let main = |note: String| Ok(RoleModel { role: Role::Small, note: Some(note), ..self.main()? });
        let Some(value) = self.value(vec!["small_model"]) else {
            return main("no `small_model` is set, so opencode asks the main model for titles".to_owned());
        };
        // One that does not exist is no error to opencode: the title goes to the main model.
        match self.existing(&Role::Small, &value) {
            Err(Unset { reason, .. }) => main(format!("{reason}; opencode asks the main model for titles")),
            Ok(model) if self.is_gated(&model.provider) && !self.exists(&model) => main(format!(
                "`small_model` is {} ({}), which is not among the models of that provider; opencode asks the main model for titles",
                model.reference(),
                model.place
            )),
            model => model,
        }
    }

    fn agent(&self, name: &str) -> Result<RoleModel, Unset> {
        let shown = printable(name);
        if let Some((Json::Bool(true), source, path)) = self.agent_value(name, "disable") {
            return Err(unset(format!("the agent `{shown}` is disabled ({})", source.place(&path))));
        }
        let is_there =
            BUILT_IN_AGENTS.iter().any(|(it, _)| *it == name) || self.names(&["agent", "mode"]).contains(name);
        match self.agent_value(name, "model") {
            Some(value) => self.existing(&Role::Agent(name.to_owned()), &value),
            None if is_there => Err(Unset {
                reason: format!("opencode's configuration gives the agent `{shown}` no model of its own"),
                hint: "it works with the model of the turn, which is `main` unless the user chooses another",
            }),
            None => Err(unset(format!("opencode's configuration has no agent `{shown}`"))),
        }
    }

    /// The agent that a turn begins with unless the user chooses another.
    fn default_agent(&self) -> Option<&'a str> {
        let chosen = self.value(vec!["default_agent"]).and_then(|(value, ..)| value.as_str());
        let known = self.names(&["agent", "mode"]);
        let exists = |name: &str| known.contains(name) || BUILT_IN_AGENTS.iter().any(|(it, _)| *it == name);
        if let Some(chosen) = chosen.filter(|name| exists(name) && self.can_begin(name)) {
            return Some(chosen);
        }
        let built_in = BUILT_IN_AGENTS.iter().map(|(name, _)| *name);
        built_in.chain(known.iter().copied()).find(|name| self.can_begin(name))
    }

    /// Whether a turn can begin with this agent: not disabled, not hidden, no mere helper.
    fn can_begin(&self, name: &str) -> bool {
        let built_in = BUILT_IN_AGENTS.iter().find(|(it, _)| *it == name).is_none_or(|(_, begins)| *begins);
        let says = |field| self.agent_value(name, field).map(|(value, ..)| value);
        let is_on = |field| says(field).is_some_and(|value| value == true);
        let is_primary = says("mode").map_or(built_in, |mode| mode != "subagent");
        is_primary && !is_on("disable") && !is_on("hidden")
    }

    /// A field of an agent. The older `mode` is laid over `agent` at the very end.
    fn agent_value<'n>(&self, name: &'n str, field: &'n str) -> Option<Value<'n>>
    where
        'a: 'n,
    {
        self.value(vec!["mode", name, field]).or_else(|| self.value(vec!["agent", name, field]))
    }

    fn value<'n>(&self, path: Vec<&'n str>) -> Option<Value<'n>>
    where
        'a: 'n,
    {
        let (value, source) = find(self.sources, &path)?;
        Some((value, source, path))
    }

    /// The keys of the objects at the top of the sources.
    fn names(&self, members: &[&str]) -> BTreeSet<&'a str> {
        let objects = self.sources.iter().flat_map(|source| members.iter().map(|member| source.value.get(*member)));
        objects.flatten().filter_map(Json::as_object).flatten().map(|(name, _)| name.as_str()).collect()
    }

    /// The model that a value names, unless the configuration takes the provider or the model away.
    fn existing(&self, role: &Role, (value, source, path): &Value<'_>) -> Result<RoleModel, Unset> {
        let place = source.place(path);
        let text = value.as_str().unwrap_or_default();
        let named = path
            .last()
            .filter(|_| path.len() == 1)
            .map_or_else(|| format!("the model of {role}"), |it| format!("`{it}`"));
        let Some((provider, model)) =
            text.split_once('/').filter(|(provider, model)| !provider.is_empty() && !model.is_empty())
        else {
            return Err(Unset {
                reason: format!("{place}: {named} is `{}`, which is no PROVIDER/MODEL", printable(text)),
                hint: "opencode would refuse it as well",
            });
        };
        let away = |list: &Value<'_>| Unset {
            reason: format!(
                "{place}: {named} is {}, which `{}` takes away ({})",
                printable(text),
                list.2.last().copied().unwrap_or_default(),
                list.1.place(&list.2)
            ),
            hint: "opencode would refuse it as well",
        };
        let holds = |list: &Value<'_>, wanted: &str| {
            list.0.as_array().is_some_and(|items| items.iter().any(|item| item.as_str() == Some(wanted)))
        };
        for (list, wanted, must_hold) in [
            (vec!["disabled_providers"], provider, false),
            (vec!["enabled_providers"], provider, true),
            (vec!["provider", provider, "blacklist"], model, false),
            (vec!["provider", provider, "whitelist"], model, true),
        ] {
            if let Some((value, source)) = find(self.sources, &list) {
                let list = (value, source, list);
                if holds(&list, wanted) != must_hold {
                    return Err(away(&list));
                }
            }
        }
        let wire = find(self.sources, &["provider", provider, "models", model, "id"]).and_then(|(id, source)| {
            let id = id.as_str().filter(|id| *id != model)?;
            Some((id.to_owned(), source.place(&["provider", provider, "models", model, "id"])))
        });
        Ok(RoleModel {
            role: role.clone(),
            provider: provider.to_owned(),
            model: model.to_owned(),
            place,
            wire,
            is_listed: find(self.sources, &["provider", provider, "models", model]).is_some(),
            note: None,
        })
    }

    /// Whether opencode would find the model.
    pub fn exists(&self, model: &RoleModel) -> bool {
        let is_built_in = |model: &str| BUILT_IN_MODELS.contains(&model) || (self.is_known)(model);
        model.is_listed || (model.provider == "lmstudio" && is_built_in(&model.model))
    }
}

fn unset(reason: String) -> Unset {
    Unset {
        reason,
        hint: "set one in opencode's configuration, or name a model; `lmswarm config roles` shows what there is",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::opencode::source::{Substitutions, Trust, read};

    struct Nothing;

    impl Substitutions for Nothing {
        fn variable(&self, _: &str) -> String {
            String::new()
        }
        fn file(&self, _: &str) -> Result<String, String> {
            Err("not there".to_owned())
        }
        fn token_variable(&self) -> &'static str {
            "TOKEN"
        }
    }

    fn sources(texts: &[&str]) -> Vec<ConfigSource> {
        let source = |(number, text): (usize, &&str)| read(text, format!("f{number}"), Trust::User, &Nothing).unwrap();
        texts.iter().enumerate().map(source).collect()
    }

    fn found(texts: &[&str], role: &Role) -> Result<(String, String, String), String> {
        let sources = sources(texts);
        let gated = ["lmstudio".to_owned()];
        let roles = Roles { sources: &sources, gated: &gated, is_known: &|_| false };
        roles
            .model_of(role)
            .map(|model| (model.reference(), model.key().to_owned(), model.place))
            .map_err(|unset| unset.reason)
    }

    fn reference(texts: &[&str], role: &Role) -> String {
        found(texts, role).map_or_else(|reason| reason, |(reference, ..)| reference)
    }

    #[test]
    fn the_main_model_is_that_of_the_agent_a_turn_begins_with() {
        let base = r#"{"model":"lmstudio/a","agent":{"plan":{"model":"lmstudio/p"},"build":{"model":"lmstudio/b"}}}"#;
        assert_eq!(reference(&[r#"{"model":"lmstudio/a#x"}"#], &Role::Main), "lmstudio/a");
        assert_eq!(reference(&[base], &Role::Main), "lmstudio/b");
        assert_eq!(reference(&[base, r#"{"default_agent":"plan"}"#], &Role::Main), "lmstudio/p");
        assert_eq!(reference(&[base, r#"{"default_agent":"general"}"#], &Role::Main), "lmstudio/b");
        assert_eq!(reference(&[base, r#"{"agent":{"build":{"disable":true}}}"#], &Role::Main), "lmstudio/p");
        assert_eq!(reference(&[base, r#"{"mode":{"build":{"model":"lmstudio/m"}}}"#, base], &Role::Main), "lmstudio/m");
        assert!(reference(&["{}"], &Role::Main).contains("sets no `model`"));
        assert_eq!(
            reference(&[r#"{"model":"foo"}"#], &Role::Main),
            "f0:1: `model` is `foo`, which is no PROVIDER/MODEL"
        );
    }

    #[test]
    fn titles_fall_back_to_the_main_model() {
        let model = r#"{"model":"lmstudio/a"}"#;
        let listed = r#"{"small_model":"lmstudio/s","provider":{"lmstudio":{"models":{"s":{"id":"wire/s"}}}}}"#;
        assert_eq!(reference(&[model], &Role::Small), "lmstudio/a");
        let small = found(&[model, listed], &Role::Small).unwrap();
        assert_eq!(small, ("lmstudio/s".into(), "wire/s".into(), "f1:1".into()));
        assert_eq!(reference(&[model, r#"{"small_model":"lmstudio/s"}"#], &Role::Small), "lmstudio/a");
        let nameless = listed.replace("wire/s", "");
        assert_eq!(found(&[&nameless], &Role::Small), Ok(("lmstudio/s".into(), "s".into(), "f0:1".into())));
        assert_eq!(reference(&[model, listed, r#"{"small_model":"lmstudio/s#low"}"#], &Role::Small), "lmstudio/a");
        assert_eq!(reference(&[model, r#"{"small_model":"openai/gpt-5"}"#], &Role::Small), "openai/gpt-5");
        let title = r#"{"agent":{"title":{"model":"lmstudio/t"}}}"#;
        assert_eq!(reference(&[model, listed, title], &Role::Small), "lmstudio/t");
    }

    #[test]
    fn what_the_lists_take_away_is_not_there() {
        let model = "{\n\"model\":\"lmstudio/a\"}";
        for list in [
            r#"{"disabled_providers":["lmstudio"]}"#,
            r#"{"enabled_providers":["openai"]}"#,
            r#"{"provider":{"lmstudio":{"blacklist":["a"]}}}"#,
            r#"{"provider":{"lmstudio":{"whitelist":["b"]}}}"#,
        ] {
            let reason = reference(&[model, list], &Role::Main);
            assert!(
                reason.starts_with("f0:2: `model` is lmstudio/a, which `") && reason.ends_with("takes away (f1:1)"),
                "{reason}"
            );
        }
        let small = r#"{"small_model":"lmstudio/s","provider":{"lmstudio":{"blacklist":["s"]}}}"#;
        assert_eq!(reference(&[model, small], &Role::Small), "lmstudio/a");
    }

    #[test]
    fn agents_have_models_of_their_own_or_none() {
        let config = r#"{"model":"lmstudio/a","agent":{"x":{"model":"lmstudio/x#y"},"off":{"disable":true}}}"#;
        assert_eq!(reference(&[config], &Role::Agent("x".into())), "lmstudio/x#y");
        assert!(reference(&[config], &Role::Agent("plan".into())).contains("no model of its own"));
        assert!(reference(&[config], &Role::Agent("nobody".into())).contains("has no agent `nobody`"));
        assert!(reference(&[config], &Role::Agent("off".into())).contains("disabled (f0:1)"));
        let sources = sources(&[config, r#"{"command":{"c":{"template":"","model":"lmstudio/c"}}}"#]);
        let gated = ["lmstudio".to_owned()];
        let roles = Roles { sources: &sources, gated: &gated, is_known: &|_| false };
        let all: Vec<String> = roles.all().iter().map(|model| format!("{}={}", model.role, model.key())).collect();
        assert_eq!(all, ["main=a", "small=a", "agent:x=x#y", "command:c=c"]);
    }
}
