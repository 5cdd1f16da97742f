//! From what was typed to models on servers: keys, refs and the roles of opencode. The one
//! resolver of every command; it asks no server. It reads only what the words call for: a call
//! with plain keys and an address of its own reads no file of opencode.

mod endpoint;

use std::path::PathBuf;

use crate::gate::ModelRequest;
use crate::pure::arguments::{ModelArgument, parse_models};
use crate::pure::config::Config;
use crate::pure::config::servers::NamedServer;
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
pub(crate) struct ServerModels<'a> {
    pub(crate) endpoint: Endpoint<'a>,
    pub(crate) requests: Vec<ModelRequest>,
    /// The place of each in the order given.
    pub(crate) places: Vec<usize>,
}

/// A model that any of several servers may serve.
#[derive(Debug)]
pub(crate) struct OpenModel {
    /// As it was typed, or the role that was asked for.
    pub(crate) requested: String,
    pub(crate) key: ModelKey,
    /// Its place in the order given.
    pub(crate) place: usize,
}

/// What the words came to.
#[derive(Debug, Default)]
pub(crate) struct Resolved<'a> {
    /// One entry for each server and token; each model stands once on its server.
    pub(crate) servers: Vec<ServerModels<'a>>,
    /// Models whose server is yet to be chosen, each once.
    pub(crate) open: Vec<OpenModel>,
    /// The servers for these, in the order of the file. Two or more, if there are such models.
    pub(crate) candidates: Vec<Endpoint<'a>>,
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
pub(crate) fn resolve<'a>(
    models: &[String],
    keys: &[String],
    config: &'a Config,
) -> Result<Resolved<'a>, ResolveError> {
    let arguments = parse_models(models, keys);
    let has_role = arguments.iter().any(|it| matches!(it, ModelArgument::Role(_) | ModelArgument::All));
    let resolver = if has_role {
        Resolver::with_roles(config)?
    } else {
        let is_elsewhere = |it: &ModelArgument| match it {
            ModelArgument::Model(text) => is_at_opencodes_address(provider_of(text, config), config),
            _ => is_at_opencodes_address(None, config),
        };
        Resolver::without_roles(config, arguments.iter().any(is_elsewhere))?
    };
    let mut resolved = Resolved::default();
    for argument in arguments {
        resolver.put(&mut resolved, argument)?;
    }
    Ok(resolved)
}

/// The servers that a plain key is asked of.
///
/// # Errors
/// As [`resolve`].
pub(crate) fn servers_of_plain_keys(config: &Config) -> Result<Vec<Endpoint<'_>>, ResolveError> {
    Resolver::without_roles(config, is_at_opencodes_address(None, config))?.endpoints_of_key(None, None)
}

/// The gated provider that is named with a key.
fn provider_of<'t>(text: &'t str, config: &Config) -> Option<&'t str> {
    let (provider, _) = text.split_once('/')?;
    config.providers.iter().any(|it| it == provider).then_some(provider)
}

/// The servers of the configuration file that a model of this provider may be on, in the order of
/// the file; none where another address counts.
fn named_servers<'a>(provider: Option<&str>, config: &'a Config) -> Vec<&'a NamedServer> {
    if config.base_url.is_some() {
        return Vec::new();
    }
    let names = |server: &&NamedServer| server.providers.iter().any(|it| Some(it.as_str()) == provider);
    match config.servers.iter().find(names) {
        Some(server) => vec![server],
        // A provider that no server names is where opencode finds it, unless servers were picked.
        None if provider.is_some() && config.picked_by.is_none() => Vec::new(),
        None => config.servers.iter().collect(),
    }
}

/// Whether the address of such a model is to be found in opencode's configuration.
fn is_at_opencodes_address(provider: Option<&str>, config: &Config) -> bool {
    config.base_url.is_none() && named_servers(provider, config).is_empty()
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

    /// Reads opencode's configuration if an address is to be found there.
    fn without_roles(config: &'a Config, has_address: bool) -> Result<Self, ResolveError> {
        Self::read(config, has_address.then_some(Extent::Files), Some(ADDRESS_HINT))
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

    /// The key of a model that opencode's configuration names, and the servers that it may be on:
    /// one, unless several were picked and none of them is that of its provider.
    ///
    /// # Errors
    /// It is no key, or the address or token is none.
    pub(crate) fn locate(&self, model: &RoleModel) -> Result<(ModelKey, Vec<Endpoint<'a>>), ResolveError> {
        let place = model.wire.as_ref().map_or(&model.place, |(_, place)| place);
        let key = ModelKey::parse(model.key())
            .map_err(|error| ResolveError::Config { reason: format!("{place}: {error}"), hint: None })?;
        let named = named_servers(Some(&model.provider), self.config);
        if !named.is_empty() {
            return Ok((key, named.into_iter().map(endpoint::of_server).collect::<Result<_, _>>()?));
        }
        let providers = std::slice::from_ref(&model.provider);
        let is_built_in = !model.is_listed && self.roles().exists(model);
        let subject = Subject { providers, model: Some(&model.model), is_built_in };
        let address = endpoint::address(self.config, &self.sources, subject)?;
        Ok((key, vec![address.with_token(self.config, &self.sources, Some(&model.provider))?]))
    }

    /// The servers that a key may be on. The provider that was named with it comes first; without
    /// an address of its own it shares that of the others.
    fn endpoints_of_key(
        &self,
        provider: Option<&str>,
        key: Option<&ModelKey>,
    ) -> Result<Vec<Endpoint<'a>>, ResolveError> {
        let named = named_servers(provider, self.config);
        if !named.is_empty() {
            return named.into_iter().map(endpoint::of_server).collect();
        }
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
        Ok(vec![address.with_token(self.config, &self.sources, owner)?])
    }

    fn put(&self, resolved: &mut Resolved<'a>, argument: ModelArgument) -> Result<(), ResolveError> {
        match argument {
            ModelArgument::Model(text) => {
                let key = ModelKey::from_ref(&text, &self.config.providers)?;
                let endpoints = self.endpoints_of_key(provider_of(&text, self.config), Some(&key))?;
                put_key(resolved, text, key, endpoints);
            }
            ModelArgument::Key(text) => {
                let key = ModelKey::parse(&text)?;
                let endpoints = self.endpoints_of_key(None, Some(&key))?;
                put_key(resolved, text, key, endpoints);
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

    fn put_ungated(&self, resolved: &mut Resolved<'a>, model: RoleModel) {
        let RoleModel { role, provider, place, .. } = &model;
        let reference = model.reference();
        let providers = std::slice::from_ref(provider);
        let subject = Subject { providers, model: Some(&model.model), is_built_in: false };
        let address = configured_address(&self.sources, subject, |name| std::env::var(name).ok()).ok().flatten();
        let of_gate = || self.endpoints_of_key(None, None).unwrap_or_default().into_iter().map(|it| it.base);
        if let Some(address) = address
            && looks_like_lm_studio(provider, &address.base, of_gate())
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

    fn put_role_model(&self, resolved: &mut Resolved<'a>, model: &RoleModel) -> Result<(), ResolveError> {
        tracing::debug!("{}", told(model));
        let (key, endpoints) = self.locate(model)?;
        if !self.roles().exists(model) {
            let (role, place, reference) = (&model.role, &model.place, model.reference());
            resolved.warnings.push(format!(
                "{role} is {reference} ({place}), which is not among the `models` of that provider: opencode will not find it"
            ));
        }
        if let Some(flaw) = model.flaw() {
            resolved.warnings.push(format!("{} is {} ({}): {flaw}", model.role, model.reference(), model.place));
        }
        put_key(resolved, model.role.to_string(), key, endpoints);
        Ok(())
    }
}

impl ServerModels<'_> {
    /// Adds a model, unless it is there already.
    pub(crate) fn put(&mut self, requested: String, key: ModelKey, place: usize) {
        if self.requests.iter().any(|it| it.key == key) {
            return;
        }
        let options = self.endpoint.config.load_options(&key);
        self.requests.push(ModelRequest { requested, key, options });
        self.places.push(place);
    }
}

impl<'a> Resolved<'a> {
    /// The models of this server and token, as far as there are any yet.
    pub(crate) fn server(&mut self, endpoint: Endpoint<'a>) -> &mut ServerModels<'a> {
        let is_same = |it: &ServerModels<'_>| it.endpoint.base == endpoint.base && it.endpoint.token == endpoint.token;
        let place = self.servers.iter().position(is_same).unwrap_or_else(|| {
            self.servers.push(ServerModels { endpoint, requests: Vec::new(), places: Vec::new() });
            self.servers.len() - 1
        });
        &mut self.servers[place]
    }
}

/// Puts a model on its server, or to those whose server is to be chosen of `endpoints`.
fn put_key<'a>(resolved: &mut Resolved<'a>, requested: String, key: ModelKey, mut endpoints: Vec<Endpoint<'a>>) {
    let place = resolved.open.len() + resolved.servers.iter().map(|it| it.requests.len()).sum::<usize>();
    if endpoints.len() > 1 {
        if resolved.open.iter().all(|it| it.key != key) {
            resolved.open.push(OpenModel { requested, key, place });
            // They are the same for every such model.
            resolved.candidates = endpoints;
        }
        return;
    }
    let Some(endpoint) = endpoints.pop() else { return };
    let is_there =
        |it: &ServerModels<'_>| it.endpoint.base == endpoint.base && it.requests.iter().any(|it| it.key == key);
    if resolved.servers.iter().any(is_there) {
        return;
    }
    let token = if endpoint.token.is_some() { "with the token of" } else { "without a token; one could be in" };
    tracing::debug!(
        "`{key}` is asked of {} (from {}), {token} {}",
        endpoint.base,
        endpoint.origin,
        endpoint.token_origin
    );
    resolved.server(endpoint).put(requested, key, place);
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
