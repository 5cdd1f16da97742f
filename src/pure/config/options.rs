//! The options: one table gives each its name in three spellings, its type, its limits and
//! its help, so that flag, variable and config key cannot drift apart. Reading files, the
//! environment or argv is done elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::pure::base_url::BaseUrl;
use crate::pure::load::Gpu;
use crate::pure::model::ModelKey;
use crate::pure::text::{printable, without_secrets};

/// The type of an option's value, with its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text but the empty one.
    Text,
    /// The name of an environment variable.
    VariableName,
    /// A path; `~/` is the home.
    Path,
    /// See [`BaseUrl::parse`].
    Url,
    /// `true` or `false`.
    Boolean,
    /// A whole number between the two, both included.
    Integer(u64, u64),
    /// The same, or `auto`.
    AutoOrInteger(u64, u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts.
    List,
    /// `off`, `max`, or a share from 0 to 1.
    Gpu,
    /// Load options by model key; only a file can hold it.
    PerModel,
}

/// One option.
#[derive(Debug)]
pub struct Spec {
    /// The config key.
    pub key: &'static str,
    /// The flag, without the dashes. The variable follows from it.
    pub flag: &'static str,
    /// The type.
    pub kind: Kind,
    /// One line of help, with the default.
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

    /// Whether the option can be given on the command line and in the environment.
    pub fn is_for_file_alone(&self) -> bool {
        self.kind == Kind::PerModel
    }
}

/// Longest time that can be configured: 30 days.
const MAX_MS: u64 = 30 * 24 * 3_600_000;
const MAX_COUNT: u64 = u32::MAX as u64;

/// Every option, in the order of the help and the README.
pub const OPTIONS: &[Spec] = &[
    Spec {
        key: "baseURL",
        flag: "base-url",
        kind: Kind::Url,
        help: "Address of the LM Studio server \
            [default: opencode's provider, else LM Studio's last port, else http://127.0.0.1:1234/v1]",
    },
    Spec {
        key: "apiTokenEnv",
        flag: "api-token-env",
        kind: Kind::VariableName,
        help: "Name of the environment variable that holds the API token [default: LM_API_TOKEN]",
    },
    Spec {
        key: "providers",
        flag: "providers",
        kind: Kind::List,
        help: "opencode provider ids that are LM Studio; `PROVIDER/KEY` then means KEY [default: lmstudio]",
    },
    Spec {
        key: "contextLength",
        flag: "context-length",
        kind: Kind::Integer(0, MAX_COUNT),
        help: "Context the model needs, in tokens; less is drift; 0 leaves it to LM Studio [default: 0]",
    },
    Spec {
        key: "ttlSeconds",
        flag: "ttl-seconds",
        kind: Kind::Integer(0, MAX_COUNT),
        help: "Let LM Studio unload the model after this many idle seconds; 0 means never [default: 0]",
    },
    Spec {
        key: "parallel",
        flag: "parallel",
        kind: Kind::Integer(0, 1024),
        help: "Requests the model serves at once; 0 leaves it to LM Studio [default: 0]",
    },
    Spec {
        key: "gpu",
        flag: "gpu",
        kind: Kind::Gpu,
        help: "Share of the model to put on the GPU: off, max, or 0 to 1 [default: unset]",
    },
    Spec {
        key: "perModel",
        flag: "per-model",
        kind: Kind::PerModel,
        help: "The four options above by model key (config file only) [default: none]",
    },
    Spec {
        key: "failMode",
        flag: "fail-mode",
        kind: Kind::Choice(&["closed", "hybrid", "open"]),
        help: "What blocks a gated request: any failure, confirmed ones, or none [default: hybrid]",
    },
    Spec {
        key: "onMismatch",
        flag: "on-mismatch",
        kind: Kind::Choice(&["reload", "fail", "ignore"]),
        help: "What to do about drift: less context resident than asked for [default: reload]",
    },
    Spec {
        key: "reconcileDuplicates",
        flag: "reconcile-duplicates",
        kind: Kind::Boolean,
        help: "Unload idle `KEY:2` copies when KEY itself is not resident [default: true]",
    },
    Spec {
        key: "autoDownload",
        flag: "auto-download",
        kind: Kind::Boolean,
        help: "Download a model that is not there; --download is the same [default: false]",
    },
    Spec {
        key: "loader",
        flag: "loader",
        kind: Kind::Choice(&["auto", "lms", "rest"]),
        help: "How to load: with the lms command, over REST, or what is at hand [default: auto]",
    },
    Spec {
        key: "device",
        flag: "device",
        kind: Kind::Choice(&["local-first", "preferred"]),
        help: "Where to load with LM Link: here if downloaded here, or as LM Link prefers [default: local-first]",
    },
    Spec {
        key: "lmsPath",
        flag: "lms-path",
        kind: Kind::Path,
        help: "The lms program [default: lms on PATH, else in LM Studio's home]",
    },
    Spec {
        key: "launchAppFallback",
        flag: "launch-app-fallback",
        kind: Kind::Boolean,
        help: "Wake LM Studio when its server cannot be started otherwise [default: true]",
    },
    Spec {
        key: "evictOnPressure",
        flag: "evict-on-pressure",
        kind: Kind::Boolean,
        help: "Unload idle models, least recently used first, when memory is short [default: false]",
    },
    Spec {
        key: "ramBudgetMB",
        flag: "ram-budget-mb",
        kind: Kind::Integer(0, MAX_COUNT),
        help: "Memory all models may take, in MiB; 0 means LM Studio's estimate, else 90 % of memory [default: 0]",
    },
    Spec {
        key: "evictHeadroomMB",
        flag: "evict-headroom-mb",
        kind: Kind::Integer(0, MAX_COUNT),
        help: "Added to the size on disk where LM Studio gives no estimate, in MiB [default: 4096]",
    },
    Spec {
        key: "evictProtect",
        flag: "evict-protect",
        kind: Kind::List,
        help: "Model keys or identifiers that are never unloaded to make room [default: none]",
    },
    Spec {
        key: "evictMaxVictims",
        flag: "evict-max-victims",
        kind: Kind::Integer(0, 1024),
        help: "Most models unloaded for one load; 0 means no limit [default: 8]",
    },
    Spec {
        key: "probeTimeoutMs",
        flag: "probe-timeout-ms",
        kind: Kind::Integer(1, MAX_MS),
        help: "Longest wait for an answer to one probe [default: 2500]",
    },
    Spec {
        key: "loadTimeoutMs",
        flag: "load-timeout-ms",
        kind: Kind::Integer(1, MAX_MS),
        help: "Longest wait for one load [default: 900000]",
    },
    Spec {
        key: "serverStartTimeoutMs",
        flag: "server-start-timeout-ms",
        kind: Kind::Integer(1, MAX_MS),
        help: "Longest wait for the server to start [default: 90000]",
    },
    Spec {
        key: "lockWaitTimeoutMs",
        flag: "lock-wait-timeout-ms",
        kind: Kind::Integer(0, MAX_MS),
        help: "Longest wait for another lmswarm that is loading [default: 1200000]",
    },
    Spec {
        key: "retryCooldownMs",
        flag: "retry-cooldown-ms",
        kind: Kind::Integer(0, MAX_MS),
        help: "How long a failed load, download or server start is not tried again [default: 60000]",
    },
    Spec {
        key: "verifyCacheMs",
        flag: "verify-cache-ms",
        kind: Kind::AutoOrInteger(0, MAX_MS),
        help: "How long a verdict is reused; auto means 30000 for `lms ps` and 0 for REST [default: auto]",
    },
    Spec {
        key: "stateDir",
        flag: "state-dir",
        kind: Kind::Path,
        help: "Folder for the lock, recent failures and load times [default: ~/.cache/lmswarm]",
    },
    Spec { key: "logFile", flag: "log-file", kind: Kind::Path, help: "Append a log to this file [default: none]" },
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
    PerModel(BTreeMap<String, BTreeMap<&'static str, Value>>),
}

/// The values one source gives, by config key.
#[derive(Debug, Clone, Default)]
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
            Self::Text => "a text that is not empty".to_owned(),
            Self::VariableName => "the name of an environment variable (letters, digits, `_`)".to_owned(),
            Self::Path => "a path (in a file: absolute, or starting with `~/`)".to_owned(),
            Self::Url => "an address such as `http://127.0.0.1:1234/v1`".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Self::AutoOrInteger(least, most) => format!("\"auto\" or a whole number from {least} to {most}"),
            Self::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Self::List => "a list of texts, none of them empty".to_owned(),
            Self::Gpu => "\"off\", \"max\" or a number from 0 to 1".to_owned(),
            Self::PerModel => "an object: model keys, each with its load options".to_owned(),
        }
    }

    /// Reads a value as it is written in a flag, a variable, or a string of a file.
    ///
    /// # Errors
    /// Why the text is no such value, as the end of a sentence that begins with the text.
    pub fn read(self, text: &str, home: Option<&std::path::Path>) -> Result<Value, String> {
        let wrong = || Err(format!("must be {}", self.allowed()));
        match self {
            Self::Text if text.trim().is_empty() => wrong(),
            Self::Text => Ok(Value::Text(text.to_owned())),
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
            Self::Integer(least, most) | Self::AutoOrInteger(least, most) => {
                // `+5` parses as a number, but nobody means it.
                match text.parse::<u64>() {
                    Ok(number) if (least..=most).contains(&number) && !text.starts_with('+') => {
                        Ok(Value::Integer(number))
                    }
                    _ => wrong(),
                }
            }
            Self::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Self::Choice(_) | Self::PerModel => wrong(),
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

/// The keys that `perModel` allows for each model.
pub const PER_MODEL_KEYS: [&str; 4] = ["ttlSeconds", "parallel", "contextLength", "gpu"];

/// Checks a key of `perModel`.
///
/// # Errors
/// The sentence to show.
pub fn check_per_model_key(key: &str) -> Result<(), String> {
    ModelKey::parse(key).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
    fn values_are_read_or_refused_with_what_is_allowed() {
        let home = Path::new("/home/me");
        let read = |key: &str, text: &str| spec(key).unwrap().kind.read(text, Some(home));
        assert_eq!(read("ttlSeconds", "3600"), Ok(Value::Integer(3600)));
        assert_eq!(read("verifyCacheMs", "auto"), Ok(Value::Auto));
        assert_eq!(read("stateDir", "~/x"), Ok(Value::Path("/home/me/x".into())));
        assert_eq!(read("evictProtect", "a, b"), Ok(Value::List(vec!["a".into(), "b".into()])));
        assert_eq!(read("gpu", "0.5"), Ok(Value::Gpu(Gpu::parse("0.5").unwrap())));
        for (key, text, allowed) in [
            ("ttlSeconds", "-1", "a whole number from 0 to 4294967295"),
            ("ttlSeconds", "1.5", "a whole number"),
            ("ttlSeconds", "+5", "a whole number"),
            ("ttlSeconds", "99999999999", "a whole number"),
            ("probeTimeoutMs", "0", "a whole number from 1 to"),
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
