//! The address and the key of a provider: which value counts of those that the sources hold.

use serde_json::Value as Json;

use crate::pure::base_url::BaseUrl;
use crate::pure::opencode::source::{ConfigSource, Trust, find};

/// Whose address or key is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The provider, or the ones to try in turn.
    pub providers: &'a [String],
    /// The model as opencode's configuration calls it, if that is known.
    pub model: Option<&'a str>,
    /// opencode knows the model without the configuration: then a provider's `api` does not
    /// count for it.
    pub is_built_in: bool,
}

impl<'a> Subject<'a> {
    /// The places of its address, best first.
    fn url_paths(self) -> Vec<Vec<&'a str>> {
        let mut paths = Vec::new();
        for provider in self.providers {
            paths.push(vec!["provider", provider, "options", "baseURL"]);
            if let Some(model) = self.model {
                paths.push(vec!["provider", provider, "models", model, "provider", "api"]);
            }
            if !self.is_built_in {
                paths.push(vec!["provider", provider, "api"]);
            }
        }
        paths
    }
}

/// An address or a key, and where it stands.
#[derive(Debug, Clone)]
pub struct Setting<'a> {
    /// The text.
    pub text: &'a str,
    /// The source that holds it.
    pub source: &'a ConfigSource,
    /// Where in that source.
    pub path: Vec<&'a str>,
}

impl Setting<'_> {
    /// `FILE:LINE`.
    pub fn place(&self) -> String {
        self.source.place(&self.path)
    }
}

/// The address of the subject: `options.baseURL` if it is not empty, else the `api` of the
/// model, else that of the provider. The one that opencode has built in for `lmstudio` is
/// not counted: where nothing is configured, LM Studio's own last port knows better.
pub fn base_url<'a>(sources: &'a [ConfigSource], subject: Subject<'a>) -> Option<Setting<'a>> {
    subject.url_paths().into_iter().find_map(|path| {
        let (value, source) = find(sources, &path)?;
        let text = value.as_str().filter(|text| !text.is_empty())?;
        Some(Setting { text, source, path })
    })
}

/// The address as it is written in that source, with its references unreplaced.
pub fn literal_base_url(source: &ConfigSource, subject: Subject<'_>) -> Option<String> {
    let literal = ConfigSource { value: source.literal.clone()?, ..source.clone() };
    base_url(std::slice::from_ref(&literal), subject).map(|setting| setting.text.to_owned())
}

/// Whether the host of `wanted` is named by a source that only the user could have written,
/// and not for `https` alone where this is without.
pub fn user_names_host(sources: &[ConfigSource], subject: Subject<'_>, wanted: &BaseUrl) -> bool {
    sources.iter().filter(|source| source.trust == Trust::User).any(|source| {
        base_url(std::slice::from_ref(source), subject)
            .and_then(|setting| BaseUrl::parse(setting.text).ok())
            .is_some_and(|base| base.host() == wanted.host() && (wanted.is_https() || !base.is_https()))
    })
}

/// The key that the configuration itself holds for the provider. An empty one is an answer:
/// opencode then sends none.
pub fn api_key<'a>(sources: &'a [ConfigSource], provider: &'a str) -> Option<Setting<'a>> {
    let path = vec!["provider", provider, "options", "apiKey"];
    let (value, source) = find(sources, &path)?;
    Some(Setting { text: value.as_str()?, source, path })
}

/// The variable that opencode takes the provider's key from, if it is one alone. A project
/// does not say which of the user's variables is a key.
pub fn key_variable(sources: &[ConfigSource], provider: &str) -> Option<String> {
    match find(sources, &["provider", provider, "env"]) {
        Some((_, source)) if source.trust == Trust::Project => None,
        Some((names, _)) => match names.as_array()?.as_slice() {
            [Json::String(name)] => Some(name.clone()),
            _ => None,
        },
        None => (provider == "lmstudio").then(|| "LMSTUDIO_API_KEY".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::opencode::source::tests::source;

    fn any_model_of(providers: &[String]) -> Subject<'_> {
        Subject { providers, model: None, is_built_in: false }
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
        assert_eq!(base_url(&sources, any_model_of(&lmstudio)).unwrap().text, "http://second");
        assert_eq!(base_url(&sources[..1], any_model_of(&lmstudio)).unwrap().text, "http://first");
        assert_eq!(base_url(&sources[2..], any_model_of(&lmstudio)).map(|it| it.text), None);
    }

    #[test]
    fn a_host_is_the_users_if_only_the_user_could_have_named_it() {
        let named = |url: &str, trust| source(&format!(r#"{{"provider":{{"p":{{"api":"{url}"}}}}}}"#), trust);
        let sources = [
            named("https://safe", Trust::User),
            named("http://plain:1", Trust::User),
            named("http://theirs", Trust::Project),
        ];
        for (url, wanted) in [
            ("https://safe:2/x", true),
            ("http://safe", false),
            ("http://plain", true),
            ("https://plain", true),
            ("http://theirs", false),
            ("https://safe.theirs", false),
        ] {
            let base = BaseUrl::parse(url).unwrap();
            assert_eq!(user_names_host(&sources, any_model_of(&["p".to_owned()]), &base), wanted, "{url}");
        }
    }

    #[test]
    fn an_empty_address_is_none() {
        let sources =
            [source(r#"{"provider":{"lmstudio":{"options":{"baseURL":""},"api":"http://api"}}}"#, Trust::User)];
        assert_eq!(base_url(&sources, any_model_of(&["lmstudio".to_owned()])).unwrap().text, "http://api");
    }
}
