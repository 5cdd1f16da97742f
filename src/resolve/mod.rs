//! From what was typed to models on servers: keys, refs and the roles of opencode. The one
//! resolver of every command; it asks no server. It reads only what the words call for: a call
//! with plain keys and an address of its own reads no file of opencode.

mod endpoint;

use std::path::PathBuf;

use crate::gate::ModelRequest;
use crate::pure::arguments::{ModelArgument, parse_models};
use crate::pure::config::Config;
use crate::pure::model::{InvalidModel, ModelKey};
use crate::pure::opencode::address::configured_address;
use crate::pure::opencode::provider::{Subject, base_url};
use crate::pure::opencode::roles::{Role, RoleModel, Roles, Unset};
use crate::pure::opencode::source::{ConfigSource, find};
use crate::pure::opencode::ungated::looks_like_lm_studio;
use crate::pure::text::listed;
use crate::sys::opencode::{self, Catalogue, Configuration, Extent};
pub(crate) use endpoint::Endpoint;

/// What to do about an address, or a file that an address is looked for in.
const ADDRESS_HINT: &str = "--base-url makes it independent of opencode's configuration";

/// Why words cannot be resolved.
#[derive(Debug)]
pub(crate) enum ResolveError {
    /// What was typed is wrong.
    Argument(String),
    /// A configuration is wrong; with what to do about it.
    Config { reason: String, hint: Option<&'static str> },
}

impl From<InvalidModel> for ResolveError {
    fn from(error: InvalidModel) -> Self {
        Self::Argument(error.to_string())
    }
}

impl From<Unset> for ResolveError {
    fn from(unset: Unset) -> Self {
        Self::Config { reason: unset.reason, hint: Some(unset.hint) }
    }
}

/// The models of one server.
#[derive(Debug)]
pub(crate) struct ServerModels {
    pub(crate) endpoint: Endpoint,
    pub(crate) requests: Vec<ModelRequest>,
    /// The place of each in the order given.
    pub(crate) places: Vec<usize>,
}

/// What the words came to.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    /// One entry for each server and token; each model stands once on its server.
    pub(crate) servers: Vec<ServerModels>,
    /// What there is nothing to do about.
    pub(crate) notes: Vec<String>,
    /// What is odd, and keeps no model from being ensured.
    pub(crate) warnings: Vec<String>,
    /// Models of providers that opencode's configuration does not have: perhaps they are keys.
    pub(crate) ungated: Vec<RoleModel>,
}

/// Resolves what was typed. Nothing typed means `main small`.
///
/// # Errors
/// A word cannot be a model, a role has none, or opencode's configuration is broken.
pub(crate) fn resolve(models: &[String], keys: &[String], config: &Config) -> Result<Resolved, ResolveError> {
    let arguments = parse_models(models, keys);
    let has_role = arguments.iter().any(|it| matches!(it, ModelArgument::Role(_) | ModelArgument::All));
    let resolver = if has_role { Resolver::with_roles(config) } else { Resolver::without_roles(config) }?;
    let mut resolved = Resolved::default();
    for argument in arguments {
        resolver.put(&mut resolved, argument)?;
    }
    Ok(resolved)
}

/// The server that a plain key is asked of.
///
/// # Errors
/// As [`resolve`].
pub(crate) fn server_of_plain_keys(config: &Config) -> Result<Endpoint, ResolveError> {
    Resolver::without_roles(config)?.endpoint_of_key(None, None)
}

/// What is known while words are resolved: our own configuration, and as much of opencode's as
/// was read.
pub(crate) struct Resolver<'a> {
    config: &'a Config,
    sources: Vec<ConfigSource>,
    absent: Vec<PathBuf>,
    is_known: Box<dyn Fn(&str) -> bool>,
}

impl<'a> Resolver<'a> {
    /// Reads opencode's configuration with its agents.
    ///
    /// # Errors
    /// A text that opencode would refuse as well.
    pub(crate) fn with_roles(config: &'a Config) -> Result<Self, ResolveError> {
        Self::read(config, Some(Extent::WithMarkdown), None)
    }

    /// Reads opencode's configuration if the address is to be found there.
    fn without_roles(config: &'a Config) -> Result<Self, ResolveError> {
        Self::read(config, config.base_url.is_none().then_some(Extent::Files), Some(ADDRESS_HINT))
    }

    fn read(config: &'a Config, extent: Option<Extent>, hint: Option<&'static str>) -> Result<Self, ResolveError> {
        let Configuration { sources, absent } = match extent {
            Some(extent) => opencode::read_configuration(extent, &config.api_token_env)
                .map_err(|reason| ResolveError::Config { reason, hint })?,
            None => Configuration::default(),
        };
        let catalogue = Catalogue::default();
        Ok(Self { config, sources, absent, is_known: Box::new(move |model| catalogue.has(model)) })
    }

    /// opencode's configuration, asked for its roles.
    pub(crate) fn roles(&self) -> Roles<'_> {
        Roles { sources: &self.sources, gated: &self.config.providers, is_known: &self.is_known }
    }

    /// The names of opencode's sources that were read, and the files that are not there.
    pub(crate) fn files(&self) -> (Vec<String>, Vec<String>) {
        let read = self.sources.iter().map(|source| source.name.clone());
        (read.collect(), self.absent.iter().map(|path| path.display().to_string()).collect())
    }

    /// The key and the server of a model that opencode's configuration names.
    ///
    /// # Errors
    /// It is no key, or the address or token is none.
    pub(crate) fn locate(&self, model: &RoleModel) -> Result<(ModelKey, Endpoint), ResolveError> {
        let place = model.wire.as_ref().map_or(&model.place, |(_, place)| place);
        let key = ModelKey::parse(model.key())
            .map_err(|error| ResolveError::Config { reason: format!("{place}: {error}"), hint: None })?;
        let providers = std::slice::from_ref(&model.provider);
        let is_built_in = !model.is_listed && self.roles().exists(model);
        let subject = Subject { providers, model: Some(&model.model), is_built_in };
        let address = endpoint::address(self.config, &self.sources, subject)?;
        Ok((key, address.with_token(self.config, &self.sources, Some(&model.provider))?))
    }

    /// The server of a key. The provider that was named with it comes first; without an
    /// address of its own it shares that of the others.
    fn endpoint_of_key(&self, provider: Option<&str>, key: Option<&ModelKey>) -> Result<Endpoint, ResolveError> {
        let others = self.config.providers.iter().map(String::as_str).filter(|it| Some(*it) != provider);
        let providers: Vec<String> = provider.into_iter().chain(others).map(str::to_owned).collect();
        let model = key.filter(|_| provider.is_some()).map(ModelKey::as_str);
        let subject = Subject { providers: &providers, model, is_built_in: false };
        let address = endpoint::address(self.config, &self.sources, subject)?;
        // Where the user gives the address, opencode has no say in the token.
        let owner = if self.config.base_url.is_some() {
            None
        } else {
            let found = base_url(&self.sources, subject).and_then(|found| found.path.get(1).copied());
            provider.or(found).or(providers.first().map(String::as_str))
        };
        address.with_token(self.config, &self.sources, owner)
    }

    fn put(&self, resolved: &mut Resolved, argument: ModelArgument) -> Result<(), ResolveError> {
        match argument {
            ModelArgument::Model(text) => {
                let key = ModelKey::from_ref(&text, &self.config.providers)?;
                let provider = text.split_once('/').map(|(provider, _)| provider);
                let provider = provider.filter(|provider| self.roles().is_gated(provider));
                let endpoint = self.endpoint_of_key(provider, Some(&key))?;
                self.put_key(resolved, text, key, endpoint);
            }
            ModelArgument::Key(text) => {
                let key = ModelKey::parse(&text)?;
                let endpoint = self.endpoint_of_key(None, Some(&key))?;
                self.put_key(resolved, text, key, endpoint);
            }
            ModelArgument::Role(Role::Agent(name)) if name.is_empty() => {
                return Err(ResolveError::Argument("`agent:` names no agent; write `agent:NAME`".to_owned()));
            }
            ModelArgument::Role(role) => {
                let model = self.roles().model_of(&role)?;
                if self.roles().is_gated(&model.provider) {
                    self.put_role_model(resolved, &model)?;
                } else {
                    self.put_ungated(resolved, model);
                }
            }
            ModelArgument::All => {
                let models = self.roles().all();
                if models.is_empty() {
                    let providers = listed(self.config.providers.iter().map(String::as_str), "or");
                    resolved
                        .notes
                        .push(format!("opencode's configuration pins no model on {providers}: nothing to warm"));
                }
                for model in models {
                    self.put_role_model(resolved, &model)?;
                }
            }
        }
        Ok(())
    }

    fn put_ungated(&self, resolved: &mut Resolved, model: RoleModel) {
        let RoleModel { role, provider, place, .. } = &model;
        let reference = model.reference();
        let providers = std::slice::from_ref(provider);
        let subject = Subject { providers, model: Some(&model.model), is_built_in: false };
        let address = configured_address(&self.sources, subject, |name| std::env::var(name).ok()).ok().flatten();
        let of_gate = || self.endpoint_of_key(None, None).ok().map(|endpoint| endpoint.base);
        if let Some(address) = address
            && looks_like_lm_studio(provider, &address.base, of_gate().as_ref())
        {
            let gated = self.config.providers.join(",");
            resolved.warnings.push(format!(
                "{role} is {reference} ({place}): `{provider}` is at {} ({}), which looks like LM Studio, but it is not gated; `--providers {gated},{provider}` gates it",
                address.base, address.place
            ));
            return;
        }
        resolved.notes.push(format!("{role} is {reference}: not an LM Studio model, nothing to warm"));
        if find(&self.sources, &["provider", provider]).is_none() {
            resolved.ungated.push(model);
        }
    }

    fn put_role_model(&self, resolved: &mut Resolved, model: &RoleModel) -> Result<(), ResolveError> {
        tracing::debug!("{}", told(model));
        let (key, endpoint) = self.locate(model)?;
        if !self.roles().exists(model) {
            let (role, place, reference) = (&model.role, &model.place, model.reference());
            resolved.warnings.push(format!(
                "{role} is {reference} ({place}), which is not among the `models` of that provider: opencode will not find it"
            ));
        }
        if let Some(flaw) = model.flaw() {
            resolved.warnings.push(format!("{} is {} ({}): {flaw}", model.role, model.reference(), model.place));
        }
        self.put_key(resolved, model.role.to_string(), key, endpoint);
        Ok(())
    }

    fn put_key(&self, resolved: &mut Resolved, requested: String, key: ModelKey, endpoint: Endpoint) {
        let servers = &mut resolved.servers;
        let is_there =
            |it: &ServerModels| it.endpoint.base == endpoint.base && it.requests.iter().any(|it| it.key == key);
        if servers.iter().any(is_there) {
            return;
        }
        let token = if endpoint.token.is_some() { "with the token of" } else { "without a token; one could be in" };
        tracing::debug!(
            "`{key}` is asked of {} (from {}), {token} {}",
            endpoint.base,
            endpoint.origin,
            endpoint.token_origin
        );
        let place = servers.iter().map(|it| it.requests.len()).sum();
        let options = self.config.load_options(&key);
        let request = ModelRequest { requested, key, options };
        let is_same = |it: &&mut ServerModels| it.endpoint.base == endpoint.base && it.endpoint.token == endpoint.token;
        match servers.iter_mut().find(is_same) {
            Some(server) => {
                server.requests.push(request);
                server.places.push(place);
            }
            None => servers.push(ServerModels { endpoint, requests: vec![request], places: vec![place] }),
        }
    }
}

/// What a role came to, in a sentence.
fn told(model: &RoleModel) -> String {
    let sent = match &model.wire {
        Some((key, place)) => format!(", sent as `{key}` ({place})"),
        None => String::new(),
    };
    let note = model.note.as_ref().map_or(String::new(), |note| format!(": {note}"));
    format!("{} is {} ({}){sent}{note}", model.role, model.reference(), model.place)
}
