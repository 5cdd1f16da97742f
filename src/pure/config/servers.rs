//! The servers that the configuration file names: what an entry may hold, the configuration of
//! each, and which of them a call may use. Nothing is asked here.

use std::collections::BTreeSet;
use std::fmt;

use jsonc_parser::ast::{Object, ObjectProp, Value as Ast};
use jsonc_parser::common::Ranged;

use super::{Config, FileReader};
use crate::pure::base_url::BaseUrl;
use crate::pure::config::options::{self, Layer, OPTIONS, Origin, PerModel, Value, complaint};
use crate::pure::text::{excerpt, listed, similar};

/// Longest name of a server, in bytes.
const LONGEST_NAME: usize = 64;

/// One entry of `servers`, as it stands in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerEntry {
    /// Its name.
    pub name: String,
    /// Its address.
    pub base: BaseUrl,
    /// What it holds.
    pub layer: Layer,
    /// Where it begins.
    origin: Origin,
}

/// One server of the file, with what holds for it.
#[derive(Debug, Clone)]
pub struct NamedServer {
    /// Its name.
    pub name: String,
    /// Its address.
    pub base: BaseUrl,
    /// Where that stands.
    pub origin: Origin,
    /// The provider ids of opencode that mean this server.
    pub providers: Vec<String>,
    /// The options that hold for it.
    pub config: Config,
}

/// Why what was given makes no configuration: the sources contradict one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// A sentence about it.
    pub reason: String,
    /// Whether the command line is what is wrong.
    pub is_usage: bool,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Contradiction {
    fn of(origin: &Origin, reason: String) -> Self {
        Self { reason, is_usage: matches!(origin, Origin::Flag(_)) }
    }
}

impl Config {
    /// Builds the configuration of what the file says and what beats it, and returns the merged
    /// layers with it.
    ///
    /// # Errors
    /// A server is picked that is not there, or an address is given beside servers.
    pub fn from_layers(file: Layer, upper: Layer) -> Result<(Self, Layer), Contradiction> {
        let Some((Value::Servers(entries), _)) = file.get("servers") else {
            let values = file.under(upper);
            let config = Self::from_layer(&values);
            check_pick(&values, &[])?;
            return Ok((config, values));
        };
        let mut servers: Vec<NamedServer> =
            entries.iter().map(|entry| entry.server(&file, &upper, entries.len() > 1)).collect();
        let values = file.under(upper);
        let mut config = Self::from_layer(&values);
        for provider in servers.iter().flat_map(|server| &server.providers) {
            if !config.providers.contains(provider) {
                config.providers.push(provider.clone());
            }
        }
        if let Some((base, origin)) = &config.base_url {
            match (origin, values.get("server").map(|(_, origin)| origin)) {
                (Origin::File(..), _) => {
                    let reason =
                        format!("{origin}: `baseURL` cannot stand beside `servers`; make it an entry of these");
                    return Err(Contradiction::of(origin, reason));
                }
                (_, Some(picked)) if rank(picked) == rank(origin) => {
                    let reason = format!("{picked} and {origin} cannot be given together: each says which server");
                    return Err(Contradiction::of(origin, reason));
                }
                (_, Some(picked)) if rank(picked) > rank(origin) => config.base_url = None,
                // The options of an address hold, however it was given.
                _ => {
                    servers.retain(|server| server.base.slug() == base.slug());
                    config.servers = servers;
                    return Ok((config, values));
                }
            }
        }
        if let Some((names, origin)) = check_pick(&values, &servers)? {
            servers.retain(|server| names.contains(&server.name));
            config.picked_by = Some(origin.clone());
        }
        config.servers = servers;
        Ok((config, values))
    }

    /// The server of the file that has this address.
    pub fn server_at(&self, base: &BaseUrl) -> Option<&NamedServer> {
        self.servers.iter().find(|server| server.base.slug() == base.slug())
    }
}

/// The names that were picked, if any were, and by what.
fn check_pick<'a>(
    values: &'a Layer,
    servers: &[NamedServer],
) -> Result<Option<(&'a [String], &'a Origin)>, Contradiction> {
    let Some((Value::List(names), origin)) = values.get("server") else { return Ok(None) };
    let known = || servers.iter().map(|server| server.name.as_str());
    if let Some(unknown) = names.iter().find(|name| !known().any(|it| it == *name)) {
        let near = similar(unknown, known());
        let why = match near.first() {
            _ if servers.is_empty() => "is no server: the config file has no `servers`".to_owned(),
            Some(near) => format!("is none of the `servers`; did you mean `{near}`?"),
            None => format!("is none of the `servers`: there is {}", listed(known(), "and")),
        };
        return Err(Contradiction::of(origin, complaint(&origin.to_string(), &excerpt(unknown, 60), &why)));
    }
    Ok(Some((names, origin)))
}

fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::File(..) => 0,
        Origin::Variable(_) => 1,
        Origin::Flag(_) => 2,
    }
}

impl ServerEntry {
    fn server(&self, file: &Layer, upper: &Layer, is_one_of_several: bool) -> NamedServer {
        let mut layer = file.clone().under(self.layer.clone());
        let per_model = |layer: &Layer| match layer.get("perModel") {
            Some((Value::PerModel(models), _)) => models.clone(),
            _ => PerModel::new(),
        };
        let own = per_model(&self.layer);
        let mut models = per_model(file);
        for (model, values) in own.clone() {
            models.entry(model).or_default().extend(values);
        }
        if !models.is_empty() {
            layer.put("perModel", Value::PerModel(models), self.origin.clone());
        }
        layer = layer.under(upper.clone());
        let address = self.layer.get("baseURL").map_or(&self.origin, |(_, origin)| origin).clone();
        layer.put("baseURL", Value::Url(self.base.clone()), address.clone());
        let mut config = Config::from_layer(&layer);
        // What the file says of models at its top may be about those of other servers.
        if is_one_of_several {
            config.load_layers.expected = Some((own.into_keys().collect(), self.origin.clone()));
        }
        let providers = self.providers().to_vec();
        NamedServer { name: self.name.clone(), base: self.base.clone(), origin: address, providers, config }
    }

    fn providers(&self) -> &[String] {
        match self.layer.get("providers") {
            Some((Value::List(providers), _)) => providers,
            _ => &[],
        }
    }
}

/// Why a text is no name of a server, as the end of a sentence about it. Names are typed, listed
/// with commas, and shown.
fn check_name(name: &str) -> Result<(), String> {
    let is_inside = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
    if name.starts_with(|it: char| it.is_ascii_alphanumeric())
        && name.chars().all(is_inside)
        && name.len() <= LONGEST_NAME
    {
        return Ok(());
    }
    Err(format!(
        "is no name for a server: letters, digits, `-`, `_` and `.`, with a letter or digit first, and at most {LONGEST_NAME} of them"
    ))
}

impl FileReader<'_> {
    /// The entries in the order of the file.
    pub(super) fn servers(&self, servers: &Object<'_>, warnings: &mut Vec<String>) -> Result<Value, String> {
        let mut entries: Vec<ServerEntry> = Vec::new();
        for property in &servers.properties {
            let name = property.name.as_str();
            check_name(name).map_err(|why| {
                complaint(&format!("{}: servers", self.place(property.start())), &excerpt(name, 60), &why)
            })?;
            if entries.iter().any(|it| it.name == name) {
                return Err(format!("{}: servers: `{name}` stands here twice", self.place(property.start())));
            }
            let Ast::Object(object) = &property.value else {
                return Err(self.wrong(
                    &format!("servers.{name}"),
                    &property.value,
                    "must be an object with a `baseURL` and options",
                ));
            };
            let entry = self.server(name, property, object, warnings)?;
            self.check_against(&entries, &entry, object)?;
            entries.push(entry);
        }
        Ok(Value::Servers(entries))
    }

    fn server(
        &self,
        name: &str,
        property: &ObjectProp<'_>,
        object: &Object<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<ServerEntry, String> {
        let origin = |start| Origin::File(self.path.to_owned(), self.line(start));
        let mut layer = Layer::default();
        let mut seen = BTreeSet::new();
        for property in &object.properties {
            let (key, start) = (property.name.as_str(), property.start());
            let place = || format!("{}: servers.{name}.{}", self.place(start), excerpt(key, 40));
            if !seen.insert(key) {
                return Err(format!("{}: stands here twice", place()));
            }
            match options::spec(key) {
                Some(spec) if spec.is_of_servers() => {
                    let value = self.value(&format!("servers.{name}.{key}"), spec.kind, &property.value, warnings)?;
                    layer.put(spec.key, value, origin(start));
                }
                Some(_) => {
                    return Err(format!("{}: is an option of the whole call; it belongs beside `servers`", place()));
                }
                None => {
                    let known = OPTIONS.iter().filter(|spec| spec.is_of_servers()).map(|spec| spec.key);
                    self.warn_of_unknown(key, start, known, warnings);
                }
            }
        }
        let Some((Value::Url(base), _)) = layer.get("baseURL") else {
            return Err(format!("{}: servers.{name}: has no `baseURL`", self.place(property.start())));
        };
        Ok(ServerEntry { name: name.to_owned(), base: base.clone(), layer, origin: origin(property.start()) })
    }

    /// One address is one server, and a provider leads to one.
    fn check_against(&self, others: &[ServerEntry], entry: &ServerEntry, object: &Object<'_>) -> Result<(), String> {
        let wrong = |key: &str, shown: &str, other: &str| {
            let start = object.get(key).map_or(object.start(), |property| property.value.start());
            let place = format!("{}: servers.{}.{key}", self.place(start), entry.name);
            Err(complaint(&place, shown, &format!("is that of the server `{other}`, too")))
        };
        for other in others {
            if other.base.slug() == entry.base.slug() {
                return wrong("baseURL", &entry.base.to_string(), &other.name);
            }
            if let Some(shared) = entry.providers().iter().find(|it| other.providers().contains(it)) {
                return wrong("providers", shared, &other.name);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::config::{ConfigFile, Dialect, parse_file};
    use crate::pure::model::ModelKey;
    use std::path::Path;

    const TWO: &str = r#"{
  "contextLength": 1000, "parallel": 3,
  "perModel": { "a": { "parallel": 5, "ttlSeconds": 7 } },
  "servers": {
    "mac": { "baseURL": "http://127.0.0.1:1234", "providers": ["lmstudio", "mac"], "contextLength": 2000 },
    "gpu": { "baseURL": "http://gpu:8080/v1", "backend": "llama-swap", "apiTokenEnv": "GPU_TOKEN",
      "perModel": { "a": { "parallel": 9 } } },
  }
}"#;

    fn read(text: &str) -> Result<ConfigFile, String> {
        parse_file(text, "config.json", Dialect::Own, Some(Path::new("/home/me")))
    }

    fn with(upper: &[(&'static str, &str, Origin)]) -> Result<Config, Contradiction> {
        let mut layer = Layer::default();
        for (key, text, origin) in upper {
            layer.put(key, options::spec(key).unwrap().kind.read(text, None).unwrap(), origin.clone());
        }
        Config::from_layers(read(TWO).unwrap().layer, layer).map(|(config, _)| config)
    }

    fn names(config: &Config) -> Vec<&str> {
        config.servers.iter().map(|server| server.name.as_str()).collect()
    }

    #[test]
    fn a_mistake_in_an_entry_is_named_with_its_place() {
        let entry = |text: &str| format!("{{ \"servers\": {{ \"a\": {{ \"baseURL\": \"http://a\" }},\n{text} }} }}");
        for (text, wanted) in [
            (r#""b": 1"#, "config.json:2:6: servers.b: `1` must be an object with a `baseURL`"),
            (r#""b": {}"#, "config.json:2:1: servers.b: has no `baseURL`"),
            (
                r#""b": { "baseURL": "b:1" }"#,
                "config.json:2:19: servers.b.baseURL: `\"b:1\"` has no `http://` in front",
            ),
            (
                r#""b": { "baseURL": "http://b", "parallel": "x" }"#,
                "servers.b.parallel: `\"x\"` must be a whole number",
            ),
            (
                r#""b": { "baseURL": "http://b", "perModel": { "m": { "parallel": [] } } }"#,
                "servers.b.perModel.m.parallel: `[]` must be a whole number",
            ),
            (
                r#""b": { "baseURL": "http://b", "failMode": "open" }"#,
                "servers.b.failMode: is an option of the whole call",
            ),
            (r#""b": { "baseURL": "http://b", "servers": {} }"#, "servers.b.servers: is an option of the whole call"),
            (
                r#""b": { "baseURL": "http://b", "baseURL": "http://c" }"#,
                "config.json:2:31: servers.b.baseURL: stands here twice",
            ),
            (
                r#""b": { "baseURL": "http://A/v1/" }"#,
                "config.json:2:19: servers.b.baseURL: `http://a/v1` is that of the server `a`, too",
            ),
            (r#""a": { "baseURL": "http://b" }"#, "config.json:2:1: servers: `a` stands here twice"),
            (r#""-b": { "baseURL": "http://b" }"#, "config.json:2:1: servers: `-b` is no name for a server"),
            (r#""b,c": { "baseURL": "http://b" }"#, "is no name for a server"),
            (r#""": { "baseURL": "http://b" }"#, "is no name for a server"),
        ] {
            let error = read(&entry(text)).unwrap_err();
            assert!(error.contains(wanted), "{text}\n got: {error}\nwant: {wanted}");
        }
        let shared = r#"{"servers": { "a": { "baseURL": "http://a", "providers": ["p", "q"] },
            "b": { "baseURL": "http://b", "providers": ["r", "q"] } } }"#;
        assert!(
            read(shared)
                .unwrap_err()
                .contains("config.json:2:56: servers.b.providers: `q` is that of the server `a`, too")
        );
        assert!(read(r#"{ "servers": [] }"#).unwrap_err().contains("must be an object: names"));
    }

    #[test]
    fn an_unknown_key_of_an_entry_is_a_warning() {
        let file = read(r#"{ "servers": { "a": { "baseURL": "http://a", "paralel": 1, "failmode": 2 } } }"#).unwrap();
        assert!(file.warnings[0].contains("unknown key `paralel` is ignored; did you mean `parallel`?"), "{file:?}");
        assert!(file.warnings[1].ends_with("unknown key `failmode` is ignored"), "{file:?}");
    }

    #[test]
    fn an_entry_beats_the_file_and_a_flag_beats_both() {
        let config = with(&[]).unwrap();
        assert_eq!(names(&config), ["mac", "gpu"]);
        assert_eq!(config.providers, ["lmstudio", "mac"]);
        let loads = |config: &Config, place: usize, key: &str| {
            let options = config.servers[place].config.load_options(&ModelKey::parse(key).unwrap());
            (options.context_length.unwrap(), options.parallel.unwrap(), options.ttl_seconds)
        };
        assert_eq!(loads(&config, 0, "a"), (2000, 5, Some(7)));
        assert_eq!(loads(&config, 1, "a"), (1000, 9, Some(7)));
        assert_eq!(loads(&config, 1, "b"), (1000, 3, None));
        assert_eq!(config.servers[0].config.api_token_env, "LM_API_TOKEN");
        assert_eq!(config.servers[1].config.api_token_env, "GPU_TOKEN");
        let flag = with(&[("parallel", "1", Origin::Flag("parallel"))]).unwrap();
        assert_eq!((loads(&flag, 0, "a").1, loads(&flag, 1, "a").1), (1, 1));
    }

    #[test]
    fn what_ranks_higher_says_which_server() {
        let flag = Origin::Flag;
        let variable = |name: &str| Origin::Variable(name.to_owned());
        for (upper, wanted) in [
            (vec![("server", "gpu", flag("server"))], (&["gpu"][..], None)),
            (vec![("server", "gpu,mac", variable("LMSWARM_SERVER"))], (&["mac", "gpu"], None)),
            (vec![("baseURL", "http://x", flag("base-url"))], (&[], Some("http://x/v1"))),
            (vec![("baseURL", "http://gpu:8080", flag("base-url"))], (&["gpu"], Some("http://gpu:8080/v1"))),
            (
                vec![("baseURL", "http://x", variable("LMSWARM_BASE_URL")), ("server", "mac", flag("server"))],
                (&["mac"], None),
            ),
            (
                vec![("baseURL", "http://x", flag("base-url")), ("server", "mac", variable("LMSWARM_SERVER"))],
                (&[], Some("http://x/v1")),
            ),
        ] {
            let config = with(&upper).unwrap();
            let base = config.base_url.as_ref().map(|(base, _)| base.to_string());
            assert_eq!((&names(&config)[..], base.as_deref()), wanted, "{upper:?}");
        }
        for (upper, wanted, is_usage) in [
            (
                vec![("server", "gpuu", flag("server"))],
                "--server: `gpuu` is none of the `servers`; did you mean `gpu`?",
                true,
            ),
            (
                vec![("server", "x", variable("LMSWARM_SERVER"))],
                "is none of the `servers`: there is `mac` and `gpu`",
                false,
            ),
            (
                vec![("server", "mac", flag("server")), ("baseURL", "http://x", flag("base-url"))],
                "--server and --base-url cannot be given together",
                true,
            ),
        ] {
            let error = with(&upper).unwrap_err();
            assert!(error.reason.contains(wanted), "{upper:?}: {error}");
            assert_eq!(error.is_usage, is_usage);
        }
    }

    #[test]
    fn an_address_for_all_cannot_stand_beside_servers() {
        let of = |text: &str| Config::from_layers(read(text).unwrap().layer, Layer::default()).unwrap_err().reason;
        let text = r#"{ "baseURL": "http://b", "servers": { "a": { "baseURL": "http://a" } } }"#;
        assert_eq!(of(text), "config.json:1: `baseURL` cannot stand beside `servers`; make it an entry of these");
        assert!(of(r#"{ "server": ["a"] }"#).contains("`a` is no server: the config file has no `servers`"));
    }
}
