//! From what was typed to models on servers: keys, refs and the roles of opencode. The one
//! resolver of every command. It reads only what the words call for: a call with plain keys
//! and an address of its own reads no file of opencode.

use crate::commands::call::CommandError;
use crate::gate::ModelRequest;
use crate::pure::config::Config;
use crate::pure::model::{InvalidModel, ModelKey};
use crate::pure::opencode::provider::{Subject, base_url};
use crate::pure::opencode::roles::{ModelArgument, Role, RoleModel, Roles, Unset, parse_arguments};
use crate::pure::opencode::source::ConfigSource;
use crate::pure::text::listed;
use crate::sys::opencode::{self, Catalogue, Extent};
use crate::sys::settings::{self, Address, Credential};

const BASE_URL_HINT: &str =
    "--base-url, or `baseURL` in lmswarm's own config file, makes it independent of opencode's configuration";

/// One model on one server.
pub(crate) struct Target {
    pub(crate) want: ModelRequest,
    pub(crate) address: Address,
    pub(crate) credential: Credential,
}

/// What the words came to.
#[derive(Default)]
pub(crate) struct Resolved {
    /// The models, each once on its server, in the order given.
    pub(crate) targets: Vec<Target>,
    /// What there is nothing to do about.
    pub(crate) notes: Vec<String>,
    /// What is odd, and stops nobody.
    pub(crate) warnings: Vec<String>,
}

/// Resolves what was typed. Nothing typed means `main small`.
pub(crate) fn resolve(models: &[String], keys: &[String], config: &Config) -> Result<Resolved, CommandError> {
    let asks = parse_arguments(models, keys);
    let has_role = asks.iter().any(|ask| matches!(ask, ModelArgument::Role(_) | ModelArgument::All));
    let sources = if has_role {
        opencode::sources(Extent::WithMarkdown, &config.api_token_env)
            .map_err(|reason| CommandError::Config(reason, None))?
    } else if config.base_url.is_none() {
        opencode::sources(Extent::Files, &config.api_token_env)
            .map_err(|reason| CommandError::Config(reason, Some(BASE_URL_HINT)))?
    } else {
        Vec::new()
    };
    let catalogue = Catalogue::default();
    let is_known = |model: &str| catalogue.has(model);
    let roles = Roles { sources: &sources, gated: &config.providers, is_known: &is_known };
    let resolver = Resolver { config, sources: &sources, roles };
    let mut resolved = Resolved::default();
    for ask in asks {
        match ask {
            ModelArgument::Model(text) => {
                let key = ModelKey::from_ref(&text, &config.providers).map_err(|error| usage(&error))?;
                let provider = text.split_once('/').map(|(provider, _)| provider);
                let provider = provider.filter(|provider| resolver.roles.is_gated(provider));
                resolver.put_key(&mut resolved, text.clone(), key, provider)?;
            }
            ModelArgument::Key(text) => {
                let key = ModelKey::parse(&text).map_err(|error| usage(&error))?;
                resolver.put_key(&mut resolved, text, key, None)?;
            }
            ModelArgument::Role(Role::Agent(name)) if name.is_empty() => {
                return Err(CommandError::Usage("`agent:` names no agent; write `agent:NAME`".to_owned()));
            }
            ModelArgument::Role(role) => {
                let pin = resolver.roles.pin(&role)?;
                if resolver.roles.is_gated(&pin.provider) {
                    resolver.put_pin(&mut resolved, &pin)?;
                } else {
                    let reference = pin.reference();
                    resolved.notes.push(format!("{role} is {reference}: not an LM Studio model, nothing to warm"));
                }
            }
            ModelArgument::All => {
                let pins = resolver.roles.all();
                if pins.is_empty() {
                    let providers = listed(config.providers.iter().map(String::as_str), "or");
                    resolved
                        .notes
                        .push(format!("opencode's configuration pins no model on {providers}: nothing to warm"));
                }
                for pin in pins {
                    resolver.put_pin(&mut resolved, &pin)?;
                }
            }
        }
    }
    Ok(resolved)
}

fn usage(error: &InvalidModel) -> CommandError {
    CommandError::Usage(error.to_string())
}

impl From<Unset> for CommandError {
    fn from(unset: Unset) -> Self {
        Self::Config(unset.reason, Some(unset.hint))
    }
}

/// What is known while words are resolved.
pub(crate) struct Resolver<'a> {
    pub(crate) config: &'a Config,
    pub(crate) sources: &'a [ConfigSource],
    pub(crate) roles: Roles<'a>,
}

impl Resolver<'_> {
    fn put_key(
        &self,
        resolved: &mut Resolved,
        requested: String,
        key: ModelKey,
        provider: Option<&str>,
    ) -> Result<(), CommandError> {
        let gated = &self.config.providers;
        // The provider that was named comes first; without an address of its own it shares one.
        let first = provider.map(str::to_owned);
        let others = gated.iter().filter(|it| Some(it.as_str()) != provider).cloned();
        let providers: Vec<String> = first.into_iter().chain(others).collect();
        let subject = Subject { providers: &providers, model: provider.map(|_| key.as_str()), is_built_in: false };
        let address = self.address(subject)?;
        // Where the user gives the address, opencode has no say in the key.
        let owner = if self.config.base_url.is_some() {
            None
        } else {
            let found = base_url(self.sources, subject).and_then(|found| found.path.get(1).copied());
            provider.or(found).or(providers.first().map(String::as_str))
        };
        let credential = self.credential(owner, &address)?;
        self.put(resolved, requested, key, address, credential);
        Ok(())
    }

    fn put_pin(&self, resolved: &mut Resolved, pin: &RoleModel) -> Result<(), CommandError> {
        tracing::info!(role = %pin.role, reference = pin.reference(), key = pin.key(), note = pin.note, "role");
        let (key, address, credential) = self.target(pin)?;
        if !self.roles.exists(pin) {
            let (role, place, reference) = (&pin.role, &pin.place, pin.reference());
            resolved.warnings.push(format!(
                "{role} is {reference} ({place}), which is not among the `models` of that provider: opencode will not find it"
            ));
        }
        self.put(resolved, pin.role.to_string(), key, address, credential);
        Ok(())
    }

    /// The key, the server and the token of a model that the configuration pins.
    pub(crate) fn target(&self, pin: &RoleModel) -> Result<(ModelKey, Address, Credential), CommandError> {
        let place = pin.wire.as_ref().map_or(&pin.place, |(_, place)| place);
        let key =
            ModelKey::parse(pin.key()).map_err(|error| CommandError::Config(format!("{place}: {error}"), None))?;
        let providers = std::slice::from_ref(&pin.provider);
        let is_built_in = !pin.is_listed && self.roles.exists(pin);
        let address = self.address(Subject { providers, model: Some(&pin.model), is_built_in })?;
        let credential = self.credential(Some(&pin.provider), &address)?;
        Ok((key, address, credential))
    }

    fn address(&self, subject: Subject<'_>) -> Result<Address, CommandError> {
        settings::address(self.config, self.sources, subject)
            .map_err(|reason| CommandError::Config(reason, Some(BASE_URL_HINT)))
    }

    fn credential(&self, provider: Option<&str>, address: &Address) -> Result<Credential, CommandError> {
        settings::token(self.config, self.sources, provider, address)
            .map_err(|reason| CommandError::Config(reason, None))
    }

    fn put(&self, resolved: &mut Resolved, requested: String, key: ModelKey, address: Address, credential: Credential) {
        let is_same = |it: &Target| it.want.key == key && it.address.base == address.base;
        if !resolved.targets.iter().any(is_same) {
            let options = self.config.load_options(&key);
            resolved.targets.push(Target { want: ModelRequest { requested, key, options }, address, credential });
        }
    }
}
