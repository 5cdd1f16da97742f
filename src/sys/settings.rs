//! Gathers the configuration: the user's file, the environment and the flags, in that
//! order of rank. The only file that reads the environment for options.

use std::path::{Path, PathBuf};

use crate::pure::config::options::{Layer, OPTIONS, Origin, Spec, Value, complaint};
use crate::pure::config::servers::Contradiction;
use crate::pure::config::{Config, ConfigFile, Dialect, Loader, parse_file};
use crate::pure::text::{similar, without_secrets};
use crate::sys::search_path::{self, NoProgram};
use crate::sys::{files, paths};

/// The configuration and what to tell the user about it.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The configuration.
    pub config: Config,
    /// Notes about unknown keys and the like.
    pub warnings: Vec<String>,
    values: Layer,
    file: Result<PathBuf, Vec<PathBuf>>,
}

impl Settings {
    /// The names of all servers of the file, whichever the call may use.
    pub(crate) fn server_names(&self) -> Vec<&str> {
        match self.values.get("servers") {
            Some((Value::Servers(entries), _)) => entries.iter().map(|entry| entry.name.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Says which file was read, and where each value that is not a default came from.
    pub(crate) fn explain(&self) -> Vec<String> {
        let file = match &self.file {
            Ok(path) => format!("configuration file: {}", path.display()),
            Err(looked_for) => {
                let paths: Vec<String> = looked_for.iter().map(|path| path.display().to_string()).collect();
                format!("no configuration file; looked for {}", paths.join(", "))
            }
        };
        let value = |(key, value, origin): (&str, &Value, &Origin)| {
            format!("{key} is {} ({origin})", without_secrets(&value.to_string()))
        };
        std::iter::once(file).chain(self.values.iter().map(value)).collect()
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) struct WrongSettings {
    /// What is wrong, where, and what is allowed.
    pub reason: String,
    /// Whether the command line is what is wrong.
    pub is_usage: bool,
}

impl From<String> for WrongSettings {
    fn from(reason: String) -> Self {
        Self { reason, is_usage: false }
    }
}

impl From<Contradiction> for WrongSettings {
    fn from(Contradiction { reason, is_usage }: Contradiction) -> Self {
        Self { reason, is_usage }
    }
}

/// Reads everything. `file` is what `--config` names.
///
/// # Errors
/// See [`WrongSettings`].
pub(crate) fn gather(file: Option<&Path>, flags: Layer) -> Result<Settings, WrongSettings> {
    let (ConfigFile { layer, warnings }, file) = read_user_file(file)?;
    let (environment, odd) = read_environment()?;
    // A flag or a variable may be relative to where the call is made.
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
    let upper = environment.under(flags).with_absolute_paths(absolute)?;
    let (config, values) = Config::from_layers(layer, upper)?;
    let mut warnings = [warnings, odd].concat();
    if let Err(why) = check_lms_path(&config, &values) {
        if config.loader == Loader::Lms {
            return Err(format!("{why}; `loader` is `lms`, so nothing can be loaded without it").into());
        }
        warnings.push(format!("{why}; without `lms` models are loaded over REST, and nothing is unloaded or started"));
    }
    Ok(Settings { config, warnings, values, file })
}

/// Checks that the `lms` which is configured can be run.
fn check_lms_path(config: &Config, values: &Layer) -> Result<(), String> {
    let Some(path) = &config.lms_path else { return Ok(()) };
    let why = match search_path::executable(path) {
        Ok(_) => return Ok(()),
        Err(NoProgram::NotFound) => "is not there",
        Err(NoProgram::NotExecutable) => "is no program that can be run",
    };
    let origin = values.get("lmsPath").map_or_else(String::new, |(_, origin)| format!("{origin}: "));
    Err(format!("{origin}lmsPath: `{}` {why}", path.display()))
}

/// The file that was named must be there; the ones in their usual places need not. Returned with
/// it is its path, or without one the paths that were looked for.
fn read_user_file(named: Option<&Path>) -> Result<(ConfigFile, Result<PathBuf, Vec<PathBuf>>), String> {
    let variable = std::env::var_os("LMSWARM_CONFIG").filter(|it| !it.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_owned).or(variable) {
        let file = read_file(&path, Dialect::Own)?.ok_or_else(|| {
            format!("{}: there is no such config file (named by --config or LMSWARM_CONFIG)", path.display())
        })?;
        return Ok((file, Ok(path)));
    }
    let own = paths::config_home()
        .map(|folder| ["config.json", "config.jsonc"].map(|name| folder.join("lmswarm").join(name)));
    if let Some([json, jsonc]) = &own
        && json.exists()
        && jsonc.exists()
    {
        return Err(format!("{} and {} are both there; keep one of them", json.display(), jsonc.display()));
    }
    let own = own.into_iter().flatten().map(|path| (path, Dialect::Own));
    // Users of the older plugin can switch without editing.
    let ancestors = paths::opencode_config().into_iter().flat_map(|folder| {
        ["lm-studio-warm.json", "lmstudio-warm.json"].map(|name| (folder.join(name), Dialect::Ancestor))
    });
    let mut looked_for = Vec::new();
    for (path, dialect) in own.chain(ancestors) {
        if let Some(file) = read_file(&path, dialect)? {
            return Ok((file, Ok(path)));
        }
        looked_for.push(path);
    }
    Ok((ConfigFile::default(), Err(looked_for)))
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
