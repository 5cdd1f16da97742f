//! One server of a call: its address, the token that goes there, and where both came from.

use crate::pure::base_url::BaseUrl;
use crate::pure::config::Config;
use crate::pure::config::servers::NamedServer;
use crate::pure::opencode::address::{ConfiguredAddress, configured_address};
use crate::pure::opencode::provider::{Subject, api_key, key_variable};
use crate::pure::opencode::source::ConfigSource;
use crate::resolve::{ADDRESS_HINT, ResolveError};
use crate::sys::http::Token;
use crate::sys::{lmstudio, opencode};

/// One server.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint<'a> {
    /// Its name in the configuration file, if it has one.
    pub(crate) name: Option<&'a str>,
    /// What is configured for it.
    pub(crate) config: &'a Config,
    /// Its address.
    pub(crate) base: BaseUrl,
    /// Where the address came from, for messages.
    pub(crate) origin: String,
    /// Whether the user or opencode's configuration names the address; else it is where LM Studio is
    /// looked for.
    pub(crate) is_configured: bool,
    /// The token, if there is one that may go there.
    pub(crate) token: Option<Token>,
    /// Where the token came from; without one: where one could be put.
    pub(crate) token_origin: String,
}

/// An address, and what is known of it.
pub(super) struct Address {
    base: BaseUrl,
    origin: String,
    is_configured: bool,
    may_get_token: bool,
}

/// Finds the server's address: configured, else opencode's, else LM Studio's own last port,
/// else LM Studio's default. An address that is configured needs no sources.
///
/// # Errors
/// The address in opencode's configuration is none.
pub(super) fn address(
    config: &Config,
    sources: &[ConfigSource],
    subject: Subject<'_>,
) -> Result<Address, ResolveError> {
    let of_user = |base, origin, is_configured| Address { base, origin, is_configured, may_get_token: true };
    if let Some((base, origin)) = &config.base_url {
        return Ok(of_user(base.clone(), origin.to_string(), true));
    }
    let found = configured_address(sources, subject, |name| std::env::var(name).ok());
    let found = found.map_err(|reason| ResolveError::Config { reason, hint: Some(ADDRESS_HINT) })?;
    if let Some(ConfiguredAddress { base, place, may_get_token }) = found {
        return Ok(Address { base, origin: place, is_configured: true, may_get_token });
    }
    Ok(match lmstudio::last_port() {
        Some((port, path)) => of_user(BaseUrl::loopback(port), path.display().to_string(), false),
        None => of_user(BaseUrl::loopback(1234), "LM Studio's default".to_owned(), false),
    })
}

impl Address {
    /// Adds the API token, if it may go there: from its variable, else the key that opencode
    /// would send to the provider. `provider` is `None` where opencode has no say.
    ///
    /// # Errors
    /// What was found cannot be a token. It is not shown.
    pub(super) fn with_token<'a>(
        self,
        config: &'a Config,
        sources: &[ConfigSource],
        provider: Option<&str>,
    ) -> Result<Endpoint<'a>, ResolveError> {
        // The options of a server hold for its address, whoever names that.
        let (name, config) = match config.server_at(&self.base) {
            Some(server) => (Some(server.name.as_str()), &server.config),
            None => (None, config),
        };
        let found = if self.may_get_token { find_token(config, sources, provider)? } else { None };
        let (token, token_origin) = match found {
            Some((token, origin)) => (Some(token), origin),
            None => (None, format!("the variable {}", config.api_token_env)),
        };
        let Self { base, origin, is_configured, .. } = self;
        Ok(Endpoint { name, config, base, origin, is_configured, token, token_origin })
    }
}

/// The server of an entry of the configuration file. Only the user writes that file, so the token
/// may go wherever it says, and opencode has no say in it.
pub(super) fn of_server(server: &NamedServer) -> Result<Endpoint<'_>, ResolveError> {
    let (base, origin) = (server.base.clone(), server.origin.to_string());
    let address = Address { base, origin, is_configured: true, may_get_token: true };
    let endpoint = address.with_token(&server.config, &[], None)?;
    Ok(Endpoint { name: Some(&server.name), ..endpoint })
}

fn find_token(
    config: &Config,
    sources: &[ConfigSource],
    provider: Option<&str>,
) -> Result<Option<(Token, String)>, ResolveError> {
    let of_environment = |name: &str| {
        let text = std::env::var_os(name).filter(|text| !text.is_empty())?;
        Some(read_token(text.to_str(), format!("the variable {name}")))
    };
    if let Some(found) = of_environment(&config.api_token_env) {
        return found.map(Some);
    }
    let Some(provider) = provider else { return Ok(None) };
    if let Some(found) = api_key(sources, provider) {
        // An empty key is an answer: opencode then sends none, and looks nowhere else.
        return if found.text.is_empty() { Ok(None) } else { read_token(Some(found.text), found.place()).map(Some) };
    }
    if let Some((key, origin)) = opencode::stored_key(provider).filter(|(key, _)| !key.is_empty()) {
        return read_token(Some(&key), origin).map(Some);
    }
    key_variable(sources, provider).and_then(|name| of_environment(&name)).transpose()
}

fn read_token(text: Option<&str>, origin: String) -> Result<(Token, String), ResolveError> {
    match text.and_then(Token::new) {
        Some(token) => Ok((token, origin)),
        None => Err(ResolveError::Config {
            reason: format!(
                "{origin}: what it holds cannot be an API token (it has blanks or other characters that no token has)"
            ),
            hint: None,
        }),
    }
}
