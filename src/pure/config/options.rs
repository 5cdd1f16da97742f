//! The options: one table says everything about each (names, scope, type, limits, default,
//! help), so that flag, variable, config key, help and README cannot drift apart. Reading
//! files, the environment or argv is done elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::pure::base_url::BaseUrl;
use crate::pure::config::servers::ServerEntry;
use crate::pure::load::Gpu;
use crate::pure::text::{printable, without_secrets};
use crate::pure::units::Unit;

/// The type of an option's value, with its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The name of an environment variable.
    VariableName,
    /// A path; `~/` is the home.
    Path,
    /// Any text that is not empty.
    Text,
    /// See [`BaseUrl::parse`].
    Url,
    /// `true` or `false`.
    Boolean,
    /// A whole number of something, between the two, both included.
    Integer(Unit, u64, u64),
    /// The same, or `auto`.
    AutoOrInteger(Unit, u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts.
    List,
    /// `off`, `max`, or a share from 0 to 1.
    Gpu,
    /// Load options by model key; only a file can hold it.
    PerModel,
    /// Servers by name; only a file can hold it.
    Servers,
}

/// What holds where no source gives a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "one variant for each shape of a default; the others say what they hold")]
pub enum DefaultValue {
    /// No value; in words, what that comes to.
    Unset(&'static str),
    Boolean(bool),
    Integer(u64),
    Auto,
    Word(&'static str),
    List(&'static [&'static str]),
}

/// The smallest thing that an option can be set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One model: `perModel` may hold it.
    Model,
    /// One server.
    Server,
    /// The whole call.
    Call,
}

/// One option: everything there is to say about it. The help and the README's table are made
/// from it.
#[derive(Debug)]
pub struct Spec {
    /// The config key.
    pub key: &'static str,
    /// The flag, without the dashes. The variable follows from it.
    pub flag: &'static str,
    /// Another name of the flag.
    pub alias: Option<&'static str>,
    /// What it can be set for.
    pub scope: Scope,
    /// The type.
    pub kind: Kind,
    /// What holds where no source gives a value.
    pub default: DefaultValue,
    /// What stands for the value in the help.
    pub placeholder: &'static str,
    /// One line of help, without the default and the words of a choice.
    pub help: &'static str,
}

impl Spec {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("LMSWARM_{}", self.flag.replace('-', "_").to_uppercase())
    }

    /// The option that this environment variable is for.
    pub fn of_variable(name: &str) -> Option<&'static Self> {
        let flag = name.strip_prefix("LMSWARM_")?.to_lowercase().replace('_', "-");
        let spec = OPTIONS.iter().find(|spec| spec.flag == flag)?;
        (!spec.is_for_file_alone() && spec.variable() == name).then_some(spec)
    }

    /// The default, as it could be given, or in words.
    pub fn default_text(&self) -> String {
        match (self.default, self.kind) {
            (DefaultValue::Unset(words) | DefaultValue::Word(words), _) => words.to_owned(),
            (DefaultValue::Boolean(on), _) => on.to_string(),
            (DefaultValue::Integer(number), Kind::Integer(unit, ..)) => unit.display(number).to_string(),
            (DefaultValue::Integer(number), _) => number.to_string(),
            (DefaultValue::Auto, _) => "auto".to_owned(),
            (DefaultValue::List([]), _) => "none".to_owned(),
            (DefaultValue::List(items), _) => items.join(","),
        }
    }

    /// Whether the option can be given on the command line and in the environment.
    pub fn is_for_file_alone(&self) -> bool {
        matches!(self.kind, Kind::PerModel | Kind::Servers)
    }

    /// Whether an entry of `servers` may hold the option.
    pub fn is_of_servers(&self) -> bool {
        self.scope != Scope::Call || self.kind == Kind::PerModel
    }
}

/// Longest time that can be configured: 30 days.
const MAX_MS: u64 = 30 * 24 * 3_600_000;
const MAX_COUNT: u64 = u32::MAX as u64;

/// Every option, in the order of the help and the README.
pub const OPTIONS: &[Spec] = &[
    Spec {
        key: "contextLength",
        flag: "context-length",
        alias: None,
        scope: Scope::Model,
        kind: Kind::Integer(Unit::Tokens, 0, MAX_COUNT),
        default: DefaultValue::Integer(0),
        placeholder: "TOKENS",
        help: "Context the model needs; less is drift; 0 leaves it to LM Studio",
    },
    Spec {
        key: "ttlSeconds",
        flag: "ttl-seconds",
        alias: None,
        scope: Scope::Model,
        kind: Kind::Integer(Unit::Seconds, 0, MAX_COUNT),
        default: DefaultValue::Integer(0),
        placeholder: "DURATION",
        help: "Let LM Studio unload the model after being idle so long; 0 means never",
    },
    Spec {
        key: "parallel",
        flag: "parallel",
        alias: None,
        scope: Scope::Model,
        kind: Kind::Integer(Unit::Count, 0, 1024),
        default: DefaultValue::Integer(0),
        placeholder: "N",
        help: "Requests the model serves at once; 0 leaves it to LM Studio",
    },
    Spec {
        key: "gpu",
        flag: "gpu",
        alias: None,
        scope: Scope::Model,
        kind: Kind::Gpu,
        default: DefaultValue::Unset("unset"),
        placeholder: "SHARE",
        help: "Share of the model to put on the GPU: off, max, or 0 to 1",
    },
    Spec {
        key: "baseURL",
        flag: "base-url",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Url,
        default: DefaultValue::Unset("opencode's provider, else LM Studio's last port, else http://127.0.0.1:1234/v1"),
        placeholder: "URL",
        help: "Address of the server",
    },
    Spec {
        key: "backend",
        flag: "backend",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Choice(&["auto", "lmstudio", "llama-swap", "llama.cpp"]),
        default: DefaultValue::Word("auto"),
        placeholder: "PROGRAM",
        help: "The program that serves the models there; auto finds out",
    },
    Spec {
        key: "apiTokenEnv",
        flag: "api-token-env",
        alias: None,
        scope: Scope::Server,
        kind: Kind::VariableName,
        default: DefaultValue::Word("LM_API_TOKEN"),
        placeholder: "NAME",
        help: "Name of the environment variable that holds the API token",
    },
    Spec {
        key: "providers",
        flag: "providers",
        alias: None,
        scope: Scope::Server,
        kind: Kind::List,
        default: DefaultValue::List(&["lmstudio"]),
        placeholder: "PROVIDER,...",
        help: "opencode provider ids that are gated; `PROVIDER/KEY` then means KEY",
    },
    Spec {
        key: "onMismatch",
        flag: "on-mismatch",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Choice(&["reload", "fail", "ignore"]),
        default: DefaultValue::Word("reload"),
        placeholder: "ACTION",
        help: "What to do about drift: less context resident than asked for",
    },
    Spec {
        key: "reconcileDuplicates",
        flag: "reconcile-duplicates",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Boolean,
        default: DefaultValue::Boolean(true),
        placeholder: "BOOL",
        help: "Unload idle `KEY:2` copies when KEY itself is not resident",
    },
    Spec {
        key: "autoDownload",
        flag: "auto-download",
        alias: Some("download"),
        scope: Scope::Server,
        kind: Kind::Boolean,
        default: DefaultValue::Boolean(false),
        placeholder: "BOOL",
        help: "Download a model that is not there",
    },
    Spec {
        key: "loader",
        flag: "loader",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Choice(&["auto", "lms", "rest"]),
        default: DefaultValue::Word("auto"),
        placeholder: "LOADER",
        help: "How to load: with the lms command, over REST, or what is at hand",
    },
    Spec {
        key: "device",
        flag: "device",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Choice(&["local-first", "preferred"]),
        default: DefaultValue::Word("local-first"),
        placeholder: "DEVICE",
        help: "Where to load with LM Link: here if downloaded here, or as LM Link prefers",
    },
    Spec {
        key: "launchAppFallback",
        flag: "launch-app-fallback",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Boolean,
        default: DefaultValue::Boolean(true),
        placeholder: "BOOL",
        help: "Wake LM Studio when its server cannot be started otherwise",
    },
    Spec {
        key: "evictOnPressure",
        flag: "evict-on-pressure",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Boolean,
        default: DefaultValue::Boolean(false),
        placeholder: "BOOL",
        help: "Unload idle models, least recently used first, when memory is short",
    },
    Spec {
        key: "ramBudgetMB",
        flag: "ram-budget-mb",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Mebibytes, 0, MAX_COUNT),
        default: DefaultValue::Integer(0),
        placeholder: "SIZE",
        help: "Memory all models may take; 0 means LM Studio's estimate, else 90 % of memory",
    },
    Spec {
        key: "evictHeadroomMB",
        flag: "evict-headroom-mb",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Mebibytes, 0, MAX_COUNT),
        default: DefaultValue::Integer(4096),
        placeholder: "SIZE",
        help: "Added to the size on disk where LM Studio gives no estimate",
    },
    Spec {
        key: "evictProtect",
        flag: "evict-protect",
        alias: None,
        scope: Scope::Server,
        kind: Kind::List,
        default: DefaultValue::List(&[]),
        placeholder: "NAME,...",
        help: "Model keys or identifiers that are never unloaded to make room",
    },
    Spec {
        key: "evictMaxVictims",
        flag: "evict-max-victims",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Count, 0, 1024),
        default: DefaultValue::Integer(8),
        placeholder: "N",
        help: "Most models unloaded for one load; 0 means no limit",
    },
    Spec {
        key: "evictGraceMs",
        flag: "evict-grace-ms",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Milliseconds, 0, MAX_MS),
        default: DefaultValue::Integer(60_000),
        placeholder: "DURATION",
        help: "How long a model that lmswarm has just loaded is not unloaded to make room",
    },
    Spec {
        key: "probeTimeoutMs",
        flag: "probe-timeout-ms",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Milliseconds, 1, MAX_MS),
        default: DefaultValue::Integer(2500),
        placeholder: "DURATION",
        help: "Longest wait for an answer to one probe",
    },
    Spec {
        key: "loadTimeoutMs",
        flag: "load-timeout-ms",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Milliseconds, 1, MAX_MS),
        default: DefaultValue::Integer(900_000),
        placeholder: "DURATION",
        help: "Longest wait for one load",
    },
    Spec {
        key: "serverStartTimeoutMs",
        flag: "server-start-timeout-ms",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Milliseconds, 1, MAX_MS),
        default: DefaultValue::Integer(90_000),
        placeholder: "DURATION",
        help: "Longest wait for the server to start",
    },
    Spec {
        key: "lockWaitTimeoutMs",
        flag: "lock-wait-timeout-ms",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Milliseconds, 0, MAX_MS),
        default: DefaultValue::Integer(1_200_000),
        placeholder: "DURATION",
        help: "Longest wait for another lmswarm that is loading",
    },
    Spec {
        key: "retryCooldownMs",
        flag: "retry-cooldown-ms",
        alias: None,
        scope: Scope::Server,
        kind: Kind::Integer(Unit::Milliseconds, 0, MAX_MS),
        default: DefaultValue::Integer(60_000),
        placeholder: "DURATION",
        help: "Most that a failed load, download or server start is not tried again",
    },
    Spec {
        key: "verifyCacheMs",
        flag: "verify-cache-ms",
        alias: None,
        scope: Scope::Server,
        kind: Kind::AutoOrInteger(Unit::Milliseconds, 0, MAX_MS),
        default: DefaultValue::Auto,
        placeholder: "DURATION",
        help: "How long a verdict is reused; auto means 30s for `lms ps` and 0 for REST",
    },
    Spec {
        key: "perModel",
        flag: "per-model",
        alias: None,
        scope: Scope::Call,
        kind: Kind::PerModel,
        default: DefaultValue::Unset("none"),
        placeholder: "OBJECT",
        help: "Options of single models, by model key (config file only)",
    },
    Spec {
        key: "servers",
        flag: "servers",
        alias: None,
        scope: Scope::Call,
        kind: Kind::Servers,
        default: DefaultValue::Unset("none"),
        placeholder: "OBJECT",
        help: "The servers by name, each with its `baseURL` and options (config file only)",
    },
    Spec {
        key: "server",
        flag: "server",
        alias: None,
        scope: Scope::Call,
        kind: Kind::List,
        default: DefaultValue::List(&[]),
        placeholder: "NAME,...",
        help: "Use these of the `servers` alone; without it all of them",
    },
    Spec {
        key: "spread",
        flag: "spread",
        alias: None,
        scope: Scope::Call,
        kind: Kind::Text,
        default: DefaultValue::Unset("unset"),
        placeholder: "TEXT",
        help: "Of servers that suit a model alike take one by this text, such as a session's id",
    },
    Spec {
        key: "failMode",
        flag: "fail-mode",
        alias: None,
        scope: Scope::Call,
        kind: Kind::Choice(&["closed", "hybrid", "open"]),
        default: DefaultValue::Word("hybrid"),
        placeholder: "MODE",
        help: "What blocks a gated request: any failure, confirmed ones, or none",
    },
    Spec {
        key: "lmsPath",
        flag: "lms-path",
        alias: None,
        scope: Scope::Call,
        kind: Kind::Path,
        default: DefaultValue::Unset("lms on PATH, else in LM Studio's home"),
        placeholder: "PATH",
        help: "The lms program",
    },
    Spec {
        key: "stateDir",
        flag: "state-dir",
        alias: None,
        scope: Scope::Call,
        kind: Kind::Path,
        default: DefaultValue::Unset("~/.cache/lmswarm"),
        placeholder: "PATH",
        help: "Folder for the lock, recent failures and load times",
    },
    Spec {
        key: "logFile",
        flag: "log-file",
        alias: None,
        scope: Scope::Call,
        kind: Kind::Path,
        default: DefaultValue::Unset("none"),
        placeholder: "PATH",
        help: "Append a log to this file",
    },
];

/// Where a value came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file, with the line.
    File(String, usize),
    /// An environment variable.
    Variable(String),
    /// A flag, without dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{path}:{line}"),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "one variant for each shape a `Kind` can have")]
pub enum Value {
    Text(String),
    Path(PathBuf),
    Url(BaseUrl),
    Boolean(bool),
    Integer(u64),
    Auto,
    List(Vec<String>),
    Gpu(Gpu),
    PerModel(PerModel),
    Servers(Vec<ServerEntry>),
}

/// Load options by model key.
pub type PerModel = BTreeMap<String, BTreeMap<&'static str, Value>>;

/// As it would be given to the flag.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Url(url) => write!(f, "{url}"),
            Self::Boolean(on) => write!(f, "{on}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Auto => f.write_str("auto"),
            Self::List(items) => f.write_str(&items.join(",")),
            Self::Gpu(gpu) => write!(f, "{gpu}"),
            Self::PerModel(models) => {
                let models: Vec<String> = models
                    .iter()
                    .map(|(model, values)| {
                        let values: Vec<String> = values.iter().map(|(key, value)| format!("{key} {value}")).collect();
                        format!("{model}: {}", values.join(", "))
                    })
                    .collect();
                f.write_str(&models.join("; "))
            }
            Self::Servers(entries) => {
                let entries: Vec<String> = entries.iter().map(|it| format!("{} at {}", it.name, it.base)).collect();
                f.write_str(&entries.join("; "))
            }
        }
    }
}

/// The values one source gives, by config key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layer(BTreeMap<&'static str, (Value, Origin)>);

impl Layer {
    /// Puts a value, replacing an earlier one.
    pub fn put(&mut self, key: &'static str, value: Value, origin: Origin) {
        self.0.insert(key, (value, origin));
    }

    /// The value of `key`, if this layer has one.
    pub fn get(&self, key: &str) -> Option<&(Value, Origin)> {
        self.0.get(key)
    }

    /// The values with their keys and origins.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Value, &Origin)> {
        self.0.iter().map(|(key, (value, origin))| (*key, value, origin))
    }

    /// Makes paths absolute: they are relative to where the call is made.
    ///
    /// # Errors
    /// What `absolute` says of one of them.
    pub fn with_absolute_paths<E>(mut self, absolute: impl Fn(&Path) -> Result<PathBuf, E>) -> Result<Self, E> {
        for (value, _) in self.0.values_mut() {
            if let Value::Path(path) = value {
                *path = absolute(path)?;
            }
        }
        Ok(self)
    }

    /// Lays `upper` over this one.
    #[must_use]
    pub fn under(mut self, upper: Self) -> Self {
        self.0.extend(upper.0);
        self
    }
}

/// Finds an option by its config key.
pub fn spec(key: &str) -> Option<&'static Spec> {
    OPTIONS.iter().find(|spec| spec.key == key)
}

impl Kind {
    /// What is allowed, as the end of a sentence that begins with "must be".
    pub fn allowed(self) -> String {
        match self {
            Self::VariableName => "the name of an environment variable (letters, digits, `_`)".to_owned(),
            Self::Path => "a path (in a file: absolute, or starting with `~/`)".to_owned(),
            Self::Url => "an address such as `http://127.0.0.1:1234/v1`".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Integer(unit, least, most) => unit.allowed(least, most),
            Self::AutoOrInteger(unit, least, most) => format!("\"auto\" or {}", unit.allowed(least, most)),
            Self::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Self::List => "a list of texts, none of them empty".to_owned(),
            Self::Gpu => "\"off\", \"max\" or a number from 0 to 1".to_owned(),
            Self::Text => "a text that is not empty".to_owned(),
            Self::PerModel => "an object: model keys, each with its load options".to_owned(),
            Self::Servers => "an object: names, each with its `baseURL` and options".to_owned(),
        }
    }

    /// Reads a value as it is written in a flag, a variable, or a string of a file.
    ///
    /// # Errors
    /// Why the text is no such value, as the end of a sentence that begins with the text.
    pub fn read(self, text: &str, home: Option<&Path>) -> Result<Value, String> {
        let wrong = || Err(format!("must be {}", self.allowed()));
        match self {
            Self::VariableName => {
                let mut chars = text.chars();
                let starts_well = chars.next().is_some_and(|it| it.is_ascii_alphabetic() || it == '_');
                if starts_well && chars.all(|it| it.is_ascii_alphanumeric() || it == '_') {
                    Ok(Value::Text(text.to_owned()))
                } else {
                    wrong()
                }
            }
            Self::Path => match (text.strip_prefix("~/"), home) {
                _ if text.is_empty() || text.contains('\0') => wrong(),
                (Some(rest), Some(home)) => Ok(Value::Path(home.join(rest))),
                (Some(_), None) => Err("cannot be used: `~` stands for the home, and HOME is not set".to_owned()),
                (None, _) => Ok(Value::Path(PathBuf::from(text))),
            },
            Self::Url => BaseUrl::parse(text).map(Value::Url).map_err(|error| error.to_string()),
            Self::Boolean => match text {
                "true" | "1" | "yes" | "on" => Ok(Value::Boolean(true)),
                "false" | "0" | "no" | "off" => Ok(Value::Boolean(false)),
                _ => wrong(),
            },
            Self::AutoOrInteger(..) if text == "auto" => Ok(Value::Auto),
            Self::Integer(unit, least, most) | Self::AutoOrInteger(unit, least, most) => match unit.read(text) {
                Some(number) if (least..=most).contains(&number) => Ok(Value::Integer(number)),
                _ => wrong(),
            },
            Self::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Self::Choice(_) | Self::PerModel | Self::Servers => wrong(),
            Self::Text if text.trim().is_empty() => wrong(),
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::List => {
                let items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
                if items.iter().any(String::is_empty) { wrong() } else { Ok(Value::List(items)) }
            }
            Self::Gpu => Gpu::parse(text).map(Value::Gpu).map_or_else(wrong, Ok),
        }
    }
}

/// A sentence about a wrong value: where it stands, what it is, what is allowed.
pub fn complaint(place: &str, shown: &str, why: &str) -> String {
    format!("{place}: `{}` {why}", printable(&without_secrets(shown)))
}

/// The options that `perModel` may hold for each model.
pub fn of_models() -> impl Iterator<Item = &'static Spec> {
    OPTIONS.iter().filter(|spec| spec.scope == Scope::Model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::text::listed;
    use std::fmt::Write;

    fn kebab(key: &str) -> String {
        let mut words = String::new();
        let chars: Vec<char> = key.chars().collect();
        for (at, char) in chars.iter().enumerate() {
            let starts_word = char.is_uppercase() && at > 0 && !chars[at - 1].is_uppercase();
            if starts_word {
                words.push('-');
            }
            words.push(char.to_ascii_lowercase());
        }
        words
    }

    #[test]
    fn flags_are_the_keys_in_kebab_case() {
        for spec in OPTIONS {
            assert_eq!(spec.flag, kebab(spec.key));
        }
        assert_eq!(spec("baseURL").unwrap().variable(), "LMSWARM_BASE_URL");
        for spec in OPTIONS {
            let found = Spec::of_variable(&spec.variable()).map(|it| it.key);
            assert_eq!(found, (!spec.is_for_file_alone()).then_some(spec.key));
        }
        assert!(Spec::of_variable("LMSWARM_base_url").is_none());
        assert!(Spec::of_variable("LMSWARM_BASE-URL").is_none());
        assert_eq!(spec("ramBudgetMB").unwrap().variable(), "LMSWARM_RAM_BUDGET_MB");
    }

    #[test]
    fn every_default_is_a_value_of_its_option() {
        for Spec { key, kind, default, .. } in OPTIONS {
            let is_value = match (kind, default) {
                (Kind::Boolean, DefaultValue::Boolean(_)) | (Kind::AutoOrInteger(..), DefaultValue::Auto) => true,
                (Kind::Integer(_, least, most), DefaultValue::Integer(number)) => (least..=most).contains(&number),
                (Kind::Choice(_) | Kind::VariableName, DefaultValue::Word(word)) => kind.read(word, None).is_ok(),
                (Kind::List, DefaultValue::List(items)) => items.iter().all(|item| kind.read(item, None).is_ok()),
                (
                    Kind::Path | Kind::Url | Kind::Gpu | Kind::Text | Kind::PerModel | Kind::Servers,
                    DefaultValue::Unset(words),
                ) => !words.is_empty(),
                _ => false,
            };
            assert!(is_value, "{key}: {default:?}");
        }
    }

    #[test]
    fn the_readme_has_this_table() {
        let mut table = "| key | flag | value | default | meaning |\n|---|---|---|---|---|\n".to_owned();
        for spec in OPTIONS {
            let names = [Some(spec.flag), spec.alias].into_iter().flatten().filter(|_| !spec.is_for_file_alone());
            let flag = names.map(|name| format!("`--{name}`")).collect::<Vec<_>>().join(", ");
            let value = match spec.kind {
                Kind::Choice(words) => listed(words.iter().copied(), "or"),
                _ => spec.placeholder.to_owned(),
            };
            let (Spec { key, help, .. }, default) = (spec, spec.default_text());
            let _ = writeln!(table, "| `{key}` | {flag} | {value} | {default} | {help} |");
        }
        crate::readme::assert_has("options", &table);
    }

    #[test]
    fn values_are_read_or_refused_with_what_is_allowed() {
        let home = Path::new("/home/me");
        let read = |key: &str, text: &str| spec(key).unwrap().kind.read(text, Some(home));
        assert_eq!(read("ttlSeconds", "3600"), Ok(Value::Integer(3600)));
        assert_eq!(read("ttlSeconds", "1h"), Ok(Value::Integer(3600)));
        assert_eq!(read("loadTimeoutMs", "15m"), Ok(Value::Integer(900_000)));
        assert_eq!(read("contextLength", "32k"), Ok(Value::Integer(32768)));
        assert_eq!(read("ramBudgetMB", "24GB"), Ok(Value::Integer(24 * 1024)));
        assert_eq!(read("verifyCacheMs", "auto"), Ok(Value::Auto));
        assert_eq!(read("verifyCacheMs", "1m"), Ok(Value::Integer(60_000)));
        assert_eq!(read("stateDir", "~/x"), Ok(Value::Path("/home/me/x".into())));
        assert_eq!(read("evictProtect", "a, b"), Ok(Value::List(vec!["a".into(), "b".into()])));
        assert_eq!(read("gpu", "0.5"), Ok(Value::Gpu(Gpu::parse("0.5").unwrap())));
        for (key, text, allowed) in [
            ("ttlSeconds", "-1", "a time such as 90s or 2h, or seconds from 0 to 4294967295"),
            ("ttlSeconds", "1.5", "seconds from"),
            ("ttlSeconds", "+5", "seconds from"),
            ("ttlSeconds", "99999999999", "seconds from"),
            ("parallel", "2k", "a whole number from 0 to 1024"),
            ("probeTimeoutMs", "0", "milliseconds from 1 to"),
            ("probeTimeoutMs", "31d", "milliseconds from 1 to"),
            ("contextLength", "32 kilo", "32768 or 32k"),
            ("failMode", "Closed", "one of \"closed\", \"hybrid\", \"open\""),
            ("gpu", "auto", "\"off\", \"max\" or a number from 0 to 1"),
            ("gpu", "NaN", "\"off\", \"max\""),
            ("gpu", "1.1", "\"off\", \"max\""),
            ("apiTokenEnv", "sk-lm-12345678:abc", "the name of an environment variable"),
            ("evictProtect", "a,,b", "a list of texts"),
            ("reconcileDuplicates", "maybe", "true or false"),
            ("baseURL", "localhost:1", "did you mean"),
        ] {
            let error = read(key, text).unwrap_err();
            assert!(error.contains(allowed), "{key}={text}: {error}");
        }
    }

    #[test]
    fn the_upper_layer_wins() {
        let layer = |number| {
            let mut layer = Layer::default();
            layer.put("parallel", Value::Integer(number), Origin::Flag("parallel"));
            layer
        };
        let merged = layer(1).under(layer(2)).under(Layer::default());
        assert_eq!(merged.get("parallel").unwrap().0, Value::Integer(2));
    }
}
