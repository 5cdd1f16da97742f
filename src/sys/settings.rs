//! Gathers the configuration: the user's file, the environment and the flags, in that
//! order of rank. The only file that reads the environment for options.

use std::path::{Path, PathBuf};

use crate::pure::base_url::BaseUrl;
use crate::pure::config::options::{Layer, OPTIONS, Origin, Spec, complaint};
use crate::pure::config::{Config, ConfigFile, Dialect, parse_file};
use crate::pure::opencode::provider::{Subject, api_key, base_url, key_variable, literal_base_url, user_names_host};
use crate::pure::opencode::source::{ConfigSource, Trust};
use crate::pure::text::similar;

use crate::sys::http::Token;
use crate::sys::{files, lmstudio, opencode, paths};

/// The configuration and what to tell the user about it.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub config: Config,
    /// Notes about unknown keys and the like.
    pub warnings: Vec<String>,
}

/// Reads everything. `file` is what `--config` names.
///
/// # Errors
/// A sentence for exit code 78: what is wrong, where, and what is allowed.
pub fn gather(file: Option<&Path>, flags: Layer) -> Result<Settings, String> {
    let ConfigFile { layer, warnings } = read_user_file(file)?;
    let (environment, odd) = read_environment()?;
    let mut config = Config::from_layer(&layer.under(environment.under(flags)));
    // A flag or a variable may be relative to where the call is made.
    for path in [&mut config.lms_path, &mut config.state_dir, &mut config.log_file].into_iter().flatten() {
        *path = std::path::absolute(&*path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(Settings { config, warnings: [warnings, odd].concat() })
}

/// The file that was named must be there; the ones in their usual places need not.
fn read_user_file(named: Option<&Path>) -> Result<ConfigFile, String> {
    let variable = std::env::var_os("LMSWARM_CONFIG").filter(|it| !it.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_owned).or(variable) {
        return read_file(&path, Dialect::Own)?.ok_or_else(|| {
            format!("{}: there is no such config file (named by --config or LMSWARM_CONFIG)", path.display())
        });
    }
    let own = paths::config_home().map(|folder| (folder.join("lmswarm/config.json"), Dialect::Own));
    // Whoever comes from the older plugin can switch without editing.
    let ancestors = paths::opencode_config().into_iter().flat_map(|folder| {
        ["lm-studio-warm.json", "lmstudio-warm.json"].map(|name| (folder.join(name), Dialect::Ancestor))
    });
    for (path, dialect) in own.into_iter().chain(ancestors) {
        if let Some(file) = read_file(&path, dialect)? {
            return Ok(file);
        }
    }
    Ok(ConfigFile::default())
}

fn read_file(path: &Path, dialect: Dialect) -> Result<Option<ConfigFile>, String> {
    let shown = path.display().to_string();
    let bytes = match files::read(path, 1) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown}: cannot be read: {error}")),
    };
    let text = String::from_utf8(bytes)
        .map_err(|error| format!("{shown}: is not UTF-8 text (byte {})", error.utf8_error().valid_up_to() + 1))?;
    parse_file(&text, &shown, dialect, paths::home().as_deref()).map(Some)
}

/// The options of the environment, and what is odd about it.
fn read_environment() -> Result<(Layer, Vec<String>), String> {
    let mut layer = Layer::default();
    let mut warnings = Vec::new();
    let home = paths::home();
    for (name, text) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|it| it.starts_with("LMSWARM_") && *it != "LMSWARM_CONFIG") else {
            continue;
        };
        let Some(spec) = Spec::of_variable(name) else {
            warnings.push(unknown_variable(name));
            continue;
        };
        // Empty counts as unset: it is how a shell takes a variable back for one command.
        if text.is_empty() {
            continue;
        }
        let text = text.to_str().ok_or_else(|| format!("{name}: is not UTF-8 text"))?;
        let value = spec.kind.read(text, home.as_deref()).map_err(|why| complaint(name, text, &why))?;
        layer.put(spec.key, value, Origin::Variable(name.to_owned()));
    }
    Ok((layer, warnings))
}

/// It looks like an option and is none: a misspelt one should not pass silently.
fn unknown_variable(name: &str) -> String {
    let options = OPTIONS.iter().filter(|spec| !spec.is_for_file_alone());
    let known: Vec<String> = options.map(Spec::variable).chain(["LMSWARM_CONFIG".to_owned()]).collect();
    let near = similar(name, known.iter().map(String::as_str));
    let meant = near.first().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    format!("the variable `{name}` means nothing to lmswarm{meant}")
}

/// The server's address.
#[derive(Debug, Clone)]
pub struct Address {
    /// Where it is.
    pub base: BaseUrl,
    /// Where that came from, for messages.
    pub origin: String,
    /// Whether the user's token may go there. A project's files may choose the address, but
    /// never where the token goes.
    pub may_send_token: bool,
}

/// Finds the server's address: configured, else opencode's, else LM Studio's own last port,
/// else LM Studio's default. An address that is configured needs no sources.
///
/// # Errors
/// A sentence for exit code 78: the address in opencode's configuration is none.
pub fn address(config: &Config, sources: &[ConfigSource], subject: Subject<'_>) -> Result<Address, String> {
    let own = |base, origin| Address { base, origin, may_send_token: true };
    if let Some((base, origin)) = &config.base_url {
        return Ok(own(base.clone(), origin.to_string()));
    }
    if let Some(found) = base_url(sources, subject) {
        let literal = literal_base_url(found.source, subject);
        let shown = literal.as_deref().unwrap_or("a text with references");
        let wrong = |why: &str| complaint(&format!("{}: baseURL", found.place()), shown, why);
        let resolved = with_variables(found.text);
        let base = BaseUrl::parse(&resolved).map_err(|why| wrong(&why.to_string()))?;
        let is_ours =
            found.source.trust == Trust::User || base.is_loopback() || user_names_host(sources, subject, &base);
        if !is_ours && literal.as_deref() != Some(resolved.as_str()) {
            return Err(wrong(
                "puts your environment or a file of yours into the address of a host that only this project names",
            ));
        }
        return Ok(Address { base, origin: found.place(), may_send_token: is_ours });
    }
    Ok(match lmstudio::last_port() {
        Some((port, path)) => own(BaseUrl::loopback(port), path.display().to_string()),
        None => own(BaseUrl::loopback(1234), "LM Studio's default".to_owned()),
    })
}

/// opencode replaces `${NAME}` in an address when it sends a request, and leaves what is not
/// set.
fn with_variables(text: &str) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some((before, at)) = rest.find("${").map(|start| rest.split_at(start)) {
        let Some((name, after)) = at[2..].split_once('}') else { break };
        replaced.push_str(before);
        match std::env::var(name) {
            Ok(value) => replaced.push_str(&value),
            Err(_) => replaced.push_str(&at[..at.len() - after.len()]),
        }
        rest = after;
    }
    replaced + rest
}

/// A token, and where it came from, for messages.
#[derive(Clone)]
pub struct Credential {
    /// The token, if there is one.
    pub token: Option<Token>,
    /// Where it came from; without one: where one could be put.
    pub origin: String,
}

/// The API token, if it may go to that address: from its variable, else the key that opencode
/// would send to the provider. `provider` is `None` where opencode has no say.
///
/// # Errors
/// A sentence for exit code 78: what was found cannot be a token. It is not shown.
pub fn token(
    config: &Config,
    sources: &[ConfigSource],
    provider: Option<&str>,
    address: &Address,
) -> Result<Credential, String> {
    let name = &config.api_token_env;
    let none = Credential { token: None, origin: format!("the variable {name}") };
    if !address.may_send_token {
        return Ok(none);
    }
    let of_environment = |name: &str| std::env::var_os(name).filter(|text| !text.is_empty());
    if let Some(text) = of_environment(name) {
        return credential(text.to_str(), none.origin);
    }
    let Some(provider) = provider else { return Ok(none) };
    if let Some(found) = api_key(sources, provider) {
        // An empty key is an answer: opencode then sends none, and looks nowhere else.
        return if found.text.is_empty() { Ok(none) } else { credential(Some(found.text), found.place()) };
    }
    if let Some((key, origin)) = opencode::stored_key(provider).filter(|(key, _)| !key.is_empty()) {
        return credential(Some(&key), origin);
    }
    match key_variable(sources, provider).and_then(|name| Some((of_environment(&name)?, name))) {
        Some((text, name)) => credential(text.to_str(), format!("the variable {name}")),
        None => Ok(none),
    }
}

fn credential(text: Option<&str>, origin: String) -> Result<Credential, String> {
    match text.and_then(Token::new) {
        Some(token) => Ok(Credential { token: Some(token), origin }),
        None => Err(format!(
            "{origin}: what it holds cannot be an API token (it has blanks or other characters that no token has)"
        )),
    }
}
