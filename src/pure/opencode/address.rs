//! Which address opencode's configuration gives a provider, and whether the user's API token
//! may go there. What to do where it gives none is decided elsewhere.

use crate::pure::base_url::BaseUrl;
use crate::pure::config::options::complaint;
use crate::pure::opencode::provider::{Subject, base_url, literal_base_url, user_names_host};
use crate::pure::opencode::source::{ConfigSource, Trust};

/// An address that opencode's configuration gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredAddress {
    /// The address.
    pub base: BaseUrl,
    /// `FILE:LINE` of it.
    pub place: String,
    /// Whether the user's token may go there.
    pub may_get_token: bool,
}

/// The address of the subject; `None` where the configuration gives none. `variable` tells the
/// value of an environment variable: opencode replaces `${NAME}` in an address when it sends a
/// request, and leaves what is not set.
///
/// # Errors
/// A sentence for exit code 78: what is configured is no address, or one that only a project
/// names and that would carry the user's environment or a file of the user's there.
pub fn configured_address(
    sources: &[ConfigSource],
    subject: Subject<'_>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<ConfiguredAddress>, String> {
    let Some(found) = base_url(sources, subject) else { return Ok(None) };
    let literal = literal_base_url(found.source, subject);
    let shown = literal.as_deref().unwrap_or("a text with references");
    let wrong = |why: &str| complaint(&format!("{}: baseURL", found.place()), shown, why);
    let resolved = with_variables(found.text, variable);
    let is_as_written = literal.as_deref() == Some(resolved.as_str());
    let base = BaseUrl::parse(&resolved).map_err(|why| {
        if is_as_written {
            return wrong(&why.to_string());
        }
        // What a reference stands for may be a secret.
        wrong("is no address such as `http://127.0.0.1:1234/v1` once its references are replaced")
    })?;
    let may_get_token = may_get_token(found.source.trust, &base, || user_names_host(sources, subject, &base));
    if !may_get_token && !is_as_written {
        return Err(wrong(
            "puts your environment or a file of yours into the address of a host that only this project names",
        ));
    }
    Ok(Some(ConfiguredAddress { place: found.place(), base, may_get_token }))
}

/// Whether the user's token may go to `base`: the user chose the address (`named_by`), it is
/// this machine, or the user's own configuration names the host as well. A project's files may
/// choose the address, but never where the token goes.
fn may_get_token(named_by: Trust, base: &BaseUrl, user_names_host: impl FnOnce() -> bool) -> bool {
    named_by == Trust::User || base.is_loopback() || user_names_host()
}

fn with_variables(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some((before, at)) = rest.find("${").map(|start| rest.split_at(start)) {
        let Some((name, after)) = at[2..].split_once('}') else { break };
        replaced.push_str(before);
        match variable(name) {
            Some(value) => replaced.push_str(&value),
            None => replaced.push_str(&at[..at.len() - after.len()]),
        }
        rest = after;
    }
    replaced + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::opencode::source::{Substitutions, read};

    struct Environment;

    impl Substitutions for Environment {
        fn variable(&self, name: &str) -> String {
            variable(name).unwrap_or_default()
        }
        fn file(&self, _: &str) -> Result<String, String> {
            Ok("secret".to_owned())
        }
        fn token_variable(&self) -> &'static str {
            "TOKEN"
        }
    }

    fn variable(name: &str) -> Option<String> {
        (name == "PORT").then(|| "5678".to_owned())
    }

    /// The base URL and whether it may get the token, or the error; each source names its URL.
    fn decide(named: &[(Trust, &str)]) -> Result<(String, bool), String> {
        let source = |(trust, url): &(Trust, &str)| {
            let text = format!(r#"{{"provider":{{"p":{{"options":{{"baseURL":"{url}"}}}}}}}}"#);
            read(&text, format!("{trust:?}"), *trust, &Environment).unwrap()
        };
        let sources: Vec<ConfigSource> = named.iter().map(source).collect();
        let providers = ["p".to_owned()];
        let subject = Subject { providers: &providers, model: None, is_built_in: false };
        let found = configured_address(&sources, subject, variable)?.expect("an address");
        Ok((found.base.to_string(), found.may_get_token))
    }

    #[test]
    fn the_token_goes_where_the_user_said_or_to_this_machine_alone() {
        use Trust::{Project, User};
        for (named, base, may_get_token) in [
            (&[(User, "http://llm.example:1")][..], "http://llm.example:1/v1", true),
            (&[(User, "http://llm.example:${PORT}")], "http://llm.example:5678/v1", true),
            (&[(Project, "http://127.0.0.1:1")], "http://127.0.0.1:1/v1", true),
            (&[(Project, "http://localhost:${PORT}")], "http://localhost:5678/v1", true),
            (&[(Project, "http://[::1]:1/v1")], "http://[::1]:1/v1", true),
            (&[(Project, "http://llm.example:1")], "http://llm.example:1/v1", false),
            (&[(Project, "http://192.168.1.7:1")], "http://192.168.1.7:1/v1", false),
            (&[(Project, "http://localhost.example:1")], "http://localhost.example:1/v1", false),
            (&[(Project, "http://localhost@llm.example:1")], "", false),
            (&[(User, "http://llm.example:1"), (Project, "http://llm.example:2/x")], "http://llm.example:2/x/v1", true),
            (&[(User, "https://llm.example"), (Project, "http://llm.example")], "http://llm.example/v1", false),
            (&[(User, "http://llm.example"), (Project, "https://llm.example")], "https://llm.example/v1", true),
            (&[(User, "http://a.example"), (Project, "http://b.example")], "http://b.example/v1", false),
            (&[(Project, "http://b.example"), (User, "http://a.example")], "http://a.example/v1", true),
            (&[(Project, "http://a.example"), (Project, "http://a.example")], "http://a.example/v1", false),
        ] {
            let decided = decide(named);
            if base.is_empty() {
                assert!(decided.is_err(), "{named:?}: {decided:?}");
            } else {
                assert_eq!(decided, Ok((base.to_owned(), may_get_token)), "{named:?}");
            }
        }
    }

    #[test]
    fn a_projects_own_host_gets_nothing_of_the_users_in_its_address() {
        for url in ["http://x.example:${PORT}", "http://{env:PORT}.example", "http://x.example/{file:~/key}"] {
            let error = decide(&[(Trust::Project, url)]).unwrap_err();
            assert!(error.contains("a host that only this project names"), "{url}: {error}");
            assert!(error.contains(url) && !error.contains("5678") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_stays_as_it_is_written() {
        for (text, wanted) in [
            ("a${PORT}b", "a5678b"),
            ("${PORT}${PORT}", "56785678"),
            ("a${NONE}b", "a${NONE}b"),
            ("a${PORT", "a${PORT"),
            ("$PORT", "$PORT"),
        ] {
            assert_eq!(with_variables(text, variable), wanted);
        }
    }
}
