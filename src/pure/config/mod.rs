//! The configuration: a file's text becomes a layer, the layers become the typed [`Config`].
//! Which files and variables there are is not decided here.

pub mod options;
pub mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonc_parser::ast::{Object, Value as Ast};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, parse_to_ast};

use crate::pure::backend::BackendKind;
use crate::pure::base_url::BaseUrl;
use crate::pure::config::options::{DefaultValue, Kind, Layer, Origin, PerModel, Value, complaint, of_models};
use crate::pure::config::servers::NamedServer;
use crate::pure::jsonc::JSONC;
use crate::pure::load::{Gpu, LoadOptions};
use crate::pure::model::ModelKey;
use crate::pure::outcome::failure::FailMode;
use crate::pure::text::{excerpt, similar, without_secrets};

/// How models are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the values of the option")]
pub enum Loader {
    Auto,
    Lms,
    Rest,
}

/// Where models are loaded when LM Link offers a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the values of the option")]
pub enum Device {
    LocalFirst,
    Preferred,
}

/// What is done about drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the values of the option")]
pub enum OnMismatch {
    Reload,
    Fail,
    Ignore,
}

/// How room is made for a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionPolicy {
    /// Memory that all models may take, in bytes; 0: not set.
    pub budget: u64,
    /// Added to the size on disk where there is no estimate, in bytes.
    pub headroom: u64,
    /// Model keys and identifiers never unloaded.
    pub protect: Vec<String>,
    /// Most victims for one load.
    pub max_victims: usize,
    /// How long a model that was just ensured is not unloaded.
    pub grace: Duration,
}

/// Everything the gate is told, checked and typed.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are the options, described in `options::OPTIONS`")]
pub struct Config {
    pub base_url: Option<(BaseUrl, Origin)>,
    /// `None`: `auto`.
    pub backend: Option<BackendKind>,
    pub api_token_env: String,
    pub providers: Vec<String>,
    /// Those of the file that the call may use. Where an address is given, the one that has it.
    pub servers: Vec<NamedServer>,
    /// What picked them and left others out, if anything did.
    pub picked_by: Option<Origin>,
    pub spread: Option<String>,
    pub fail_mode: FailMode,
    pub on_mismatch: OnMismatch,
    pub reconcile_duplicates: bool,
    pub auto_download: bool,
    pub loader: Loader,
    pub device: Device,
    pub lms_path: Option<PathBuf>,
    pub launch_app_fallback: bool,
    /// `None`: `evictOnPressure` is off.
    pub eviction: Option<EvictionPolicy>,
    pub probe_timeout: Duration,
    pub load_timeout: Duration,
    pub server_start_timeout: Duration,
    pub lock_wait_timeout: Duration,
    pub retry_cooldown: Duration,
    /// `None`: `auto`.
    pub verify_cache: Option<Duration>,
    pub state_dir: Option<PathBuf>,
    pub log_file: Option<PathBuf>,
    load_layers: LoadLayers,
}

/// The load options with their rank: a call's own flags beat `perModel`, which beats the file.
#[derive(Debug, Clone, Default)]
struct LoadLayers {
    of_file: LoadOptions,
    per_model: BTreeMap<String, LoadOptions>,
    /// The names in `per_model` that should be models of the server, and where they stand.
    expected: Option<(Vec<String>, Origin)>,
    of_call: LoadOptions,
    /// What the call set at all, so that `--ttl-seconds 0` can undo a file's value.
    set_by_call: Vec<&'static str>,
}

const MIB: u64 = 1024 * 1024;

impl Config {
    /// Builds the configuration from the merged layers; what they lack has its default.
    pub fn from_layer(layer: &Layer) -> Self {
        let values = Values(layer);
        let time = |key| Duration::from_millis(values.integer(key));
        Self {
            base_url: match layer.get("baseURL") {
                Some((Value::Url(url), origin)) => Some((url.clone(), origin.clone())),
                _ => None,
            },
            backend: BackendKind::of_word(values.word("backend")),
            api_token_env: values.word("apiTokenEnv").to_owned(),
            providers: values.list("providers"),
            servers: Vec::new(),
            picked_by: None,
            spread: match values.get("spread") {
                Some(Value::Text(text)) => Some(text.clone()),
                _ => None,
            },
            fail_mode: match values.word("failMode") {
                "closed" => FailMode::Closed,
                "open" => FailMode::Open,
                _ => FailMode::Hybrid,
            },
            on_mismatch: match values.word("onMismatch") {
                "fail" => OnMismatch::Fail,
                "ignore" => OnMismatch::Ignore,
                _ => OnMismatch::Reload,
            },
            reconcile_duplicates: values.boolean("reconcileDuplicates"),
            auto_download: values.boolean("autoDownload"),
            loader: match values.word("loader") {
                "lms" => Loader::Lms,
                "rest" => Loader::Rest,
                _ => Loader::Auto,
            },
            device: match values.word("device") {
                "preferred" => Device::Preferred,
                _ => Device::LocalFirst,
            },
            lms_path: values.path("lmsPath"),
            launch_app_fallback: values.boolean("launchAppFallback"),
            eviction: values.boolean("evictOnPressure").then(|| EvictionPolicy {
                budget: values.integer("ramBudgetMB") * MIB,
                headroom: values.integer("evictHeadroomMB") * MIB,
                protect: values.list("evictProtect"),
                max_victims: match values.integer("evictMaxVictims") {
                    0 => usize::MAX,
                    count => usize::try_from(count).unwrap_or(usize::MAX),
                },
                grace: time("evictGraceMs"),
            }),
            probe_timeout: time("probeTimeoutMs"),
            load_timeout: time("loadTimeoutMs"),
            server_start_timeout: time("serverStartTimeoutMs"),
            lock_wait_timeout: time("lockWaitTimeoutMs"),
            retry_cooldown: time("retryCooldownMs"),
            verify_cache: match layer.get("verifyCacheMs") {
                Some((Value::Integer(ms), _)) => Some(Duration::from_millis(*ms)),
                _ => None,
            },
            state_dir: values.path("stateDir"),
            log_file: values.path("logFile"),
            load_layers: LoadLayers::from_layer(layer),
        }
    }

    /// Warnings about entries of `perModel` that mean no model of the server, while it has one of
    /// nearly the same name that has no entry. `known` are the keys of its downloaded models.
    pub fn misspelt_models<'a>(&self, known: impl Iterator<Item = &'a str>) -> Vec<String> {
        let LoadLayers { per_model, expected: Some((names, origin)), .. } = &self.load_layers else {
            return Vec::new();
        };
        let known: BTreeSet<&str> = known.collect();
        let base = |name: &'_ str| name.split('@').next().unwrap_or_default().to_owned();
        let unknown = names.iter().filter(|name| !known.contains(base(name).as_str()));
        let warning = |name: &String| {
            let free = known.iter().copied().filter(|key| !per_model.contains_key(*key));
            let near = similar(name, free).into_iter().next()?;
            Some(format!(
                "{origin}: perModel: LM Studio has no `{}`; did you mean `{}`?",
                excerpt(name, 60),
                excerpt(&near, 60)
            ))
        };
        // None are known where the server does not tell what is downloaded.
        unknown.filter(|_| !known.is_empty()).filter_map(warning).take(MOST_WARNINGS).collect()
    }

    /// What `key` is loaded with.
    pub fn load_options(&self, key: &ModelKey) -> LoadOptions {
        let LoadLayers { of_file, per_model, of_call, set_by_call, .. } = &self.load_layers;
        let own = per_model.get(key.as_str()).cloned().unwrap_or_default();
        let chosen = |name: &str| set_by_call.contains(&name);
        LoadOptions {
            ttl_seconds: if chosen("ttlSeconds") {
                of_call.ttl_seconds
            } else {
                own.ttl_seconds.or(of_file.ttl_seconds)
            }
            .filter(|it| *it > 0),
            parallel: if chosen("parallel") { of_call.parallel } else { own.parallel.or(of_file.parallel) }
                .filter(|it| *it > 0),
            context_length: if chosen("contextLength") {
                of_call.context_length
            } else {
                own.context_length.or(of_file.context_length)
            }
            .filter(|it| *it > 0),
            gpu: if chosen("gpu") { of_call.gpu.clone() } else { own.gpu.or_else(|| of_file.gpu.clone()) },
        }
    }
}

/// The values of the merged layers, each with its default behind it. That a default is of the
/// type of its option is asserted by the tests of the table.
struct Values<'a>(&'a Layer);

impl<'a> Values<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).map(|(value, _)| value)
    }

    fn default(key: &str) -> DefaultValue {
        options::spec(key).map_or(DefaultValue::Unset(""), |spec| spec.default)
    }

    fn integer(&self, key: &str) -> u64 {
        match (self.get(key), Self::default(key)) {
            (Some(Value::Integer(number)), _) => *number,
            (_, DefaultValue::Integer(number)) => number,
            _ => unreachable!("the option `{key}` is a number"),
        }
    }

    fn boolean(&self, key: &str) -> bool {
        match (self.get(key), Self::default(key)) {
            (Some(Value::Boolean(on)), _) => *on,
            (_, DefaultValue::Boolean(on)) => on,
            _ => unreachable!("the option `{key}` is true or false"),
        }
    }

    fn word(&self, key: &str) -> &'a str {
        match (self.get(key), Self::default(key)) {
            (Some(Value::Text(text)), _) => text,
            (_, DefaultValue::Word(word)) => word,
            _ => unreachable!("the option `{key}` is a word"),
        }
    }

    fn list(&self, key: &str) -> Vec<String> {
        match (self.get(key), Self::default(key)) {
            (Some(Value::List(items)), _) => items.clone(),
            (_, DefaultValue::List(items)) => items.iter().map(|item| (*item).to_owned()).collect(),
            _ => unreachable!("the option `{key}` is a list"),
        }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        match self.get(key) {
            Some(Value::Path(path)) => Some(path.clone()),
            _ => None,
        }
    }
}

impl LoadLayers {
    fn from_layer(layer: &Layer) -> Self {
        let mut layers = Self::default();
        for key in of_models().map(|spec| spec.key) {
            match layer.get(key) {
                Some((value, Origin::File(..))) => put_load_option(&mut layers.of_file, key, value),
                Some((value, _)) => {
                    put_load_option(&mut layers.of_call, key, value);
                    layers.set_by_call.push(key);
                }
                None => {}
            }
        }
        if let Some((Value::PerModel(models), origin)) = layer.get("perModel") {
            layers.expected = Some((models.keys().cloned().collect(), origin.clone()));
            for (model, values) in models {
                let options = layers.per_model.entry(model.clone()).or_default();
                for (key, value) in values {
                    put_load_option(options, key, value);
                }
            }
        }
        layers
    }
}

fn put_load_option(options: &mut LoadOptions, key: &str, value: &Value) {
    match (key, value) {
        ("ttlSeconds", Value::Integer(number)) => options.ttl_seconds = Some(*number),
        ("parallel", Value::Integer(number)) => options.parallel = Some(*number),
        ("contextLength", Value::Integer(number)) => options.context_length = Some(*number),
        ("gpu", Value::Gpu(gpu)) => options.gpu = Some(gpu.clone()),
        _ => {}
    }
}

/// Whose file it is: ours, or the one of the plugin that came before this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `config.json`.
    Own,
    /// `lm-studio-warm.json`: has `failClosed`, and options that mean nothing here.
    Ancestor,
}

/// What the ancestor's file may hold that means nothing here.
const ANCESTOR_ONLY: [&str; 3] = ["enabled", "eager", "lockDir"];

/// Most unknown keys that are told.
const MOST_WARNINGS: usize = 20;

/// A config file's layer, and what to tell the user about it.
#[derive(Debug, Default)]
pub struct ConfigFile {
    /// Its values.
    pub layer: Layer,
    /// Notes about keys that are unknown or without meaning.
    pub warnings: Vec<String>,
}

/// Reads the text of a config file; `path` is for messages.
///
/// # Errors
/// A sentence with file, line, column, the offending value and what is allowed.
pub fn parse_file(text: &str, path: &str, dialect: Dialect, home: Option<&Path>) -> Result<ConfigFile, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let reader = FileReader { text, path, home };
    let parsed = parse_to_ast(text, &CollectOptions::default(), &JSONC)
        .map_err(|error| format!("{path}:{}:{}: {}", error.line_display(), error.column_display(), error.kind()))?;
    match parsed.value {
        Some(Ast::Object(object)) => reader.read(&object, dialect),
        Some(other) => Err(format!("{}: the file must hold an object `{{ … }}`", reader.place(other.start()))),
        // A write that was cut off looks like this, so it is not taken for "no options".
        None => Err(format!("{path}:1:1: the file is empty; write `{{}}` for no options")),
    }
}

struct FileReader<'a> {
    text: &'a str,
    path: &'a str,
    home: Option<&'a Path>,
}

impl FileReader<'_> {
    fn read(&self, object: &Object<'_>, dialect: Dialect) -> Result<ConfigFile, String> {
        let mut file = ConfigFile::default();
        let mut seen = BTreeSet::new();
        for property in &object.properties {
            let key = property.name.as_str();
            let start = property.start();
            if !seen.insert(key) {
                return Err(format!("{}: `{}` stands here twice", self.place(start), excerpt(key, 40)));
            }
            if let Some(spec) = options::spec(key) {
                let value = self.value(key, spec.kind, &property.value, &mut file.warnings)?;
                file.layer.put(spec.key, value, Origin::File(self.path.to_owned(), self.line(start)));
            } else if dialect == Dialect::Ancestor && ANCESTOR_ONLY.contains(&key) {
                file.warnings.push(format!("{}: `{key}` means nothing to lmswarm and is ignored", self.place(start)));
            } else if dialect == Dialect::Ancestor && key == "failClosed" {
                self.read_fail_closed(object, &property.value, self.line(start), &mut file)?;
            } else {
                self.warn_of_unknown(key, start, options::OPTIONS.iter().map(|spec| spec.key), &mut file.warnings);
            }
        }
        Ok(file)
    }

    fn warn_of_unknown(
        &self,
        key: &str,
        start: usize,
        known: impl IntoIterator<Item = &'static str>,
        warnings: &mut Vec<String>,
    ) {
        // More of them say nothing new: this is some other program's file.
        if warnings.len() < MOST_WARNINGS {
            let near = similar(key, known);
            let meant = near.first().map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            warnings.push(format!("{}: unknown key `{}` is ignored{meant}", self.place(start), excerpt(key, 60)));
        }
    }

    /// The ancestor's older word for `failMode`, which wins where both are given.
    fn read_fail_closed(
        &self,
        object: &Object<'_>,
        value: &Ast<'_>,
        line: usize,
        file: &mut ConfigFile,
    ) -> Result<(), String> {
        let Ast::BooleanLit(closed) = value else {
            return Err(self.wrong("failClosed", value, "must be true or false"));
        };
        if object.get("failMode").is_none() {
            let mode = if closed.value { "closed" } else { "open" };
            file.layer.put("failMode", Value::Text(mode.to_owned()), Origin::File(self.path.to_owned(), line));
        }
        Ok(())
    }

    fn value(&self, key: &str, kind: Kind, json: &Ast<'_>, warnings: &mut Vec<String>) -> Result<Value, String> {
        let wrong = || self.wrong(key, json, &format!("must be {}", kind.allowed()));
        match (kind, json) {
            (Kind::Boolean, Ast::BooleanLit(literal)) => Ok(Value::Boolean(literal.value)),
            (Kind::Integer(..) | Kind::AutoOrInteger(..), Ast::NumberLit(number)) => {
                kind.read(number.value, self.home).map_err(|why| self.wrong(key, json, &why))
            }
            (Kind::Gpu, Ast::NumberLit(number)) => Gpu::parse(number.value).map(Value::Gpu).ok_or_else(wrong),
            // The same four in the table of `lms`: a share may be written as a text, too.
            (Kind::Gpu, Ast::StringLit(text)) => Gpu::parse(&text.value).map(Value::Gpu).ok_or_else(wrong),
            // In quotes it must have a unit: a mere number there is a mistake.
            (Kind::Integer(unit, ..) | Kind::AutoOrInteger(unit, ..), Ast::StringLit(text))
                if unit.read_amount(&text.value).is_some() || text.value == "auto" =>
            {
                kind.read(&text.value, self.home).map_err(|why| self.wrong(key, json, &why))
            }
            (Kind::VariableName | Kind::Url | Kind::Choice(_) | Kind::Text, Ast::StringLit(text)) => {
                kind.read(&text.value, self.home).map_err(|why| self.wrong(key, json, &why))
            }
            (Kind::Path, Ast::StringLit(text)) => {
                let value = kind.read(&text.value, self.home).map_err(|why| self.wrong(key, json, &why))?;
                // Relative to what? A file is read from many working directories.
                if matches!(&value, Value::Path(path) if path.is_relative()) { Err(wrong()) } else { Ok(value) }
            }
            (Kind::List, Ast::Array(array)) => {
                let items: Option<Vec<String>> = array
                    .elements
                    .iter()
                    .map(|item| match item {
                        Ast::StringLit(text) if !text.value.trim().is_empty() => Some(text.value.to_string()),
                        _ => None,
                    })
                    .collect();
                items.map(Value::List).ok_or_else(wrong)
            }
            (Kind::PerModel, Ast::Object(models)) => self.per_model(key, models, warnings),
            (Kind::Servers, Ast::Object(servers)) => self.servers(servers, warnings),
            _ => Err(wrong()),
        }
    }

    fn per_model(&self, shown: &str, models: &Object<'_>, warnings: &mut Vec<String>) -> Result<Value, String> {
        let mut per_model = PerModel::new();
        for model in &models.properties {
            let name = model.name.as_str();
            ModelKey::parse(name).map_err(|error| format!("{}: {error}", self.place(model.start())))?;
            let Ast::Object(object) = &model.value else {
                return Err(self.wrong(
                    &format!("{shown}.{name}"),
                    &model.value,
                    "must be an object with load options",
                ));
            };
            let mut values = BTreeMap::new();
            for property in &object.properties {
                let key = property.name.as_str();
                let Some(spec) = of_models().find(|spec| spec.key == key) else {
                    self.warn_of_unknown(key, property.start(), of_models().map(|spec| spec.key), warnings);
                    continue;
                };
                let shown = format!("{shown}.{name}.{key}");
                values.insert(spec.key, self.value(&shown, spec.kind, &property.value, warnings)?);
            }
            per_model.insert(name.to_owned(), values);
        }
        Ok(Value::PerModel(per_model))
    }

    fn wrong(&self, key: &str, json: &Ast<'_>, why: &str) -> String {
        let range = json.range();
        // Cut off, a secret might no longer be seen to be one.
        let shown = excerpt(&without_secrets(self.text.get(range.start..range.end).unwrap_or_default()), 60);
        complaint(&format!("{}: {key}", self.place(range.start)), &shown, why)
    }

    fn line(&self, offset: usize) -> usize {
        self.text.get(..offset).unwrap_or_default().matches('\n').count() + 1
    }

    fn place(&self, offset: usize) -> String {
        let before = self.text.get(..offset).unwrap_or_default();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{}:{column}", self.path, self.line(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ConfigFile, String> {
        parse_file(text, "config.json", Dialect::Own, Some(Path::new("/home/me")))
    }

    #[test]
    fn a_mistake_is_named_with_its_place_its_value_and_what_is_allowed() {
        for (text, wanted) in [
            ("", "config.json:1:1: the file is empty; write `{}`"),
            ("  // nothing\n", "the file is empty"),
            ("[1]", "config.json:1:1: the file must hold an object"),
            (
                "{\n  \"ttlSeconds\": \"abc\"\n}",
                "config.json:2:17: ttlSeconds: `\"abc\"` must be a time such as 90s or 2h, or seconds from 0 to 4294967295",
            ),
            ("{ \"ttlSeconds\": -1 }", "`-1` must be a time"),
            ("{ \"ttlSeconds\": 1e3 }", "`1e3` must be a time"),
            ("{ \"ttlSeconds\": null }", "`null` must be a time"),
            ("{ \"ttlSeconds\": \"60\" }", "`\"60\"` must be a time"),
            ("{ \"loadTimeoutMs\": \"auto\" }", "`\"auto\"` must be a time"),
            ("{ \"parallel\": \"2k\" }", "`\"2k\"` must be a whole number"),
            ("{ \"failMode\": \"Open\" }", "`\"Open\"` must be one of \"closed\", \"hybrid\", \"open\""),
            ("{ \"evictProtect\": [\"a\", 1] }", "must be a list of texts"),
            ("{ \"stateDir\": \"here\" }", "`\"here\"` must be a path (in a file: absolute"),
            ("{ \"baseURL\": \"127.0.0.1:1234\" }", "did you mean `http://127.0.0.1:1234`?"),
            (
                "{ \"perModel\": { \"a\": { \"parallel\": \"x\" } } }",
                "perModel.a.parallel: `\"x\"` must be a whole number",
            ),
            ("{ \"perModel\": { \"-a\": {} } }", "cannot start with `-`"),
            ("{ \"perModel\": [] }", "must be an object"),
            ("{ \"parallel\": 1, \"parallel\": 2 }", "`parallel` stands here twice"),
            ("{ \"parallel\": 1", "config.json:1:1"),
            ("{ 'parallel': 1 }", "config.json:1:3"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text}\n got: {error}\nwant: {wanted}");
        }
    }

    #[test]
    fn every_word_of_a_choice_means_something_of_its_own() {
        for spec in options::OPTIONS {
            let Kind::Choice(words) = spec.kind else { continue };
            let config = |word: &&str| {
                let mut layer = Layer::default();
                layer.put(spec.key, Value::Text((*word).to_owned()), Origin::Flag(spec.flag));
                format!("{:?}", Config::from_layer(&layer))
            };
            let meanings: BTreeSet<String> = words.iter().map(config).collect();
            assert_eq!(meanings.len(), words.len(), "{}", spec.key);
            assert!(meanings.contains(&format!("{:?}", Config::from_layer(&Layer::default()))), "{}", spec.key);
        }
    }

    #[test]
    fn comments_trailing_commas_and_a_byte_order_mark_are_allowed() {
        let file = read("\u{feff}{ // mine\n \"parallel\": 2, /* x */ \"stateDir\": \"~/s\", }").unwrap();
        let config = Config::from_layer(&file.layer);
        assert_eq!(config.state_dir, Some(PathBuf::from("/home/me/s")));
        assert_eq!(config.load_options(&ModelKey::parse("a").unwrap()).parallel, Some(2));
        assert!(file.warnings.is_empty());
    }

    #[test]
    fn times_and_sizes_may_be_written_with_their_unit() {
        let file = read(
            r#"{ "ttlSeconds": "1h", "loadTimeoutMs": "10m", "contextLength": "32k", "evictOnPressure": true,
                 "ramBudgetMB": "24GB", "verifyCacheMs": "5s", "perModel": { "a": { "contextLength": "64k" } } }"#,
        );
        let config = Config::from_layer(&file.unwrap().layer);
        let options = |key| config.load_options(&ModelKey::parse(key).unwrap());
        assert_eq!((options("a").context_length, options("b").context_length), (Some(65536), Some(32768)));
        assert_eq!(options("a").ttl_seconds, Some(3600));
        assert_eq!(config.load_timeout, Duration::from_secs(600));
        assert_eq!(config.verify_cache, Some(Duration::from_secs(5)));
        assert_eq!(config.eviction.unwrap().budget, 24 << 30);
    }

    #[test]
    fn an_unknown_key_is_a_warning_with_the_nearest_one() {
        let file =
            read("{ \"ttlSecond\": 5, \"enabled\": true, \"perModel\": {\"a\": {\"contextLenght\": 1}} }").unwrap();
        assert_eq!(file.warnings[0], "config.json:1:3: unknown key `ttlSecond` is ignored; did you mean `ttlSeconds`?");
        assert!(file.warnings[1].contains("unknown key `enabled` is ignored"));
        assert!(file.warnings[2].contains("did you mean `contextLength`?"));
    }

    #[test]
    fn an_entry_for_a_model_that_is_nearly_there_is_a_warning() {
        let file = read(
            "{\n \"perModel\": { \"qwen/qwen3-codr\": {}, \"gemma-3-4b-it\": {}, \"gpt@q4\": {}, \"elsewhere\": {}, \"llama-2\": {} } }",
        );
        let config = Config::from_layer(&file.unwrap().layer);
        let known = ["qwen/qwen3-coder", "gemma-3-4b-it", "google/gemma-3-12b", "gpt", "llama-3", "llama-2"];
        assert_eq!(
            config.misspelt_models(known.into_iter()),
            ["config.json:2: perModel: LM Studio has no `qwen/qwen3-codr`; did you mean `qwen/qwen3-coder`?"]
        );
        assert!(config.misspelt_models(std::iter::empty()).is_empty());
    }

    #[test]
    fn the_ancestors_file_is_understood() {
        let read = |text| parse_file(text, "lm-studio-warm.json", Dialect::Ancestor, None).unwrap();
        let mode = |file: &ConfigFile| Config::from_layer(&file.layer).fail_mode;
        assert_eq!(mode(&read("{\"failClosed\": true}")), FailMode::Closed);
        assert_eq!(mode(&read("{\"failClosed\": false}")), FailMode::Open);
        assert_eq!(mode(&read("{\"failMode\": \"hybrid\", \"failClosed\": true}")), FailMode::Hybrid);
        let file = read("{\"enabled\": true, \"eager\": false, \"lockDir\": \"/x\", \"ttlSeconds\": 9}");
        assert_eq!(file.warnings.len(), 3);
        assert!(file.warnings[0].contains("means nothing to lmswarm"));
    }

    #[test]
    fn a_calls_own_options_beat_per_model_which_beats_the_file() {
        let file =
            read("{\"ttlSeconds\": 1, \"parallel\": 1, \"perModel\": {\"a\": {\"ttlSeconds\": 2, \"parallel\": 2}}}")
                .unwrap();
        let mut flags = Layer::default();
        flags.put("ttlSeconds", Value::Integer(0), Origin::Flag("ttl-seconds"));
        let config = Config::from_layer(&file.layer.under(flags));
        let a = config.load_options(&ModelKey::parse("a").unwrap());
        let b = config.load_options(&ModelKey::parse("b").unwrap());
        assert_eq!((a.ttl_seconds, a.parallel), (None, Some(2)));
        assert_eq!((b.ttl_seconds, b.parallel), (None, Some(1)));
    }
}
