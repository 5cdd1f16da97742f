//! What must hold of every input from outside, whatever its bytes. Each check takes one input
//! and panics where a promise is broken. The fuzz targets feed them with a nightly toolchain,
//! `tests/it/parsers.rs` on any: with the seeds, and with spoilt copies of them.

#![allow(dead_code, reason = "each fuzz target uses one check")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lmswarm::pure::base_url::BaseUrl;
use lmswarm::pure::config::options::{Kind, Layer, OPTIONS, Value};
use lmswarm::pure::config::servers::ServerEntry;
use lmswarm::pure::config::{Config, Dialect, parse_file};
use lmswarm::pure::cooldown::World;
use lmswarm::pure::http::{Answer, Reply};
use lmswarm::pure::lmstudio::lms_output::{
    decode, error_sentence, last_percent, load_problem, loaded_identifier, parse_estimate, parse_ls, parse_ps,
};
use lmswarm::pure::lmstudio::load_args::{Placement, load_args, matches_fuzzily};
use lmswarm::pure::lmstudio::rest::{
    ManagementReply, Received, V0List, V1List, is_greeting, read_lists, read_management_reply,
};
use lmswarm::pure::load::LoadOptions;
use lmswarm::pure::model::{MAX_KEY_BYTES, ModelKey};
use lmswarm::pure::opencode::front_matter;
use lmswarm::pure::opencode::provider::{self, Subject};
use lmswarm::pure::opencode::roles::{Role, Roles};
use lmswarm::pure::opencode::schema::{check_agent, check_command};
use lmswarm::pure::opencode::source::{self, ConfigSource, Substitutions, Trust};
use lmswarm::pure::residency::{Instance, Location, Readiness, Reading, Residency, Source as Teller};
use lmswarm::pure::text::{excerpt, listed, printable, similar, without_secrets};
use lmswarm::pure::units::Unit;
use lmswarm::sys::clock::now_ms;
use lmswarm::sys::leader::Leader;
use lmswarm::sys::state::{self, Caller, History, Verdicts};
use serde_json::{Value as Json, json};

/// A check and its name, which is that of its fuzz target and of its folder of seeds.
pub type Check = (&'static str, fn(&[u8]));

/// All of them.
pub const CHECKS: [Check; 8] = [
    ("base_url", base_url),
    ("config", config),
    ("lms_output", lms_output),
    ("model", model),
    ("opencode", opencode),
    ("rest", rest),
    ("state", state),
    ("text", text),
];

/// A message about an input: one line that cannot drive a terminal, and no flood.
fn assert_message(message: &str) {
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(message.chars().count() < 6000, "{} characters", message.chars().count());
}

/// What `lms` prints.
pub fn lms_output(bytes: &[u8]) {
    let text = decode(bytes);
    assert!(!text.contains('\u{1b}'));
    assert_message(&error_sentence(bytes));
    assert!(last_percent(bytes).is_none_or(|percent| percent <= 100));
    let _ = (load_problem(&text), parse_estimate(bytes), loaded_identifier(bytes));

    let instances = parse_ps(bytes);
    let models = parse_ls(bytes);
    // The whole output is JSON: then it is a list of such entries, and nothing is left out.
    if let Ok(whole) = serde_json::from_str::<Json>(text.trim()) {
        let names = |member: &str| -> Option<Vec<Json>> {
            whole.as_array()?.iter().map(|it| it.get(member).filter(|name| name.is_string()).cloned()).collect()
        };
        if let Some(instances) = &instances {
            let found: Vec<Json> = instances.iter().map(|it| it.identifier.as_str().into()).collect();
            assert_eq!(Some(found), names("identifier"));
        }
        if let Some(models) = &models {
            let found: Vec<Json> = models.iter().map(|it| it.key.as_str().into()).collect();
            assert_eq!(Some(found), names("modelKey"));
        }
    }
    // No list comes from nothing.
    let Some(instances) = instances else {
        return assert!(models.is_none_or(|it| !it.is_empty()), "both commands print the same empty list");
    };
    assert!(text.contains('[') && text.contains(']'));
    if instances.is_empty() {
        assert!(text.lines().any(|line| line.trim_start().starts_with('[')));
    }

    // What was read and is printed reads as the same, in every encoding, and never in part.
    let printed = instances.iter().map(printed_instance).collect::<Json>().to_string();
    assert_eq!(parse_ps(printed.as_bytes()).as_ref(), Some(&instances));
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(printed.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    assert_eq!(parse_ps(&utf16).as_ref(), Some(&instances));
    let noticed = format!("\u{1b}[33m[W] notice\u{1b}[0m\n{printed}\nbye\n");
    assert_eq!(parse_ps(noticed.as_bytes()).as_ref(), Some(&instances));
    assert_eq!(parse_ps(&printed.as_bytes()[..printed.len() - 1]), None);
    assert_eq!(parse_ps(format!("{{\"result\":\n{printed}\n}}").as_bytes()), None);
}

fn printed_instance(instance: &Instance) -> Json {
    let mut printed = json!({
        "identifier": instance.identifier,
        "modelKey": instance.model_key,
        "contextLength": instance.context_length,
        "maxContextLength": instance.max_context_length,
        "parallel": instance.parallel,
        "deviceIdentifier": instance.device,
        "sizeBytes": instance.size_bytes,
    });
    if let Some(busy) = instance.busy {
        printed["status"] = if busy { "generating" } else { "idle" }.into();
    }
    if let Some(time) = instance.last_used {
        // A number with a fraction keeps its largest digits.
        printed["lastUsedTime"] = time.into();
    }
    printed
}

/// What the REST server answers: two bodies, parted by a NUL.
pub fn rest(bytes: &[u8]) {
    let (first, second) = parts(bytes);
    for status in [200, 401, 403, 404, 408, 429, 500] {
        read_pair(status, first, second);
        let reply = answer(status, first);
        match read_management_reply(&reply, "instance_id") {
            ManagementReply::Done(json) => {
                assert!(status < 300 && json.is_object() && json.get("instance_id").is_some());
            }
            ManagementReply::Refused(told, why) => {
                assert_eq!(told, status);
                assert_message(&why);
            }
            ManagementReply::Unclear(why) => assert_message(&why),
            ManagementReply::Unauthorized => assert!(matches!(status, 401 | 403)),
            other => panic!("{other:?}"),
        }
    }
    if is_greeting(first) {
        assert_eq!(read_json(first).expect("a greeting is JSON")["lmstudio"], true);
    }
}

/// The two lists, each in pieces of a size that depends on it; `None` did not answer in time.
fn read_bodies(status: u16, v1: Option<&[u8]>, v0: Option<&[u8]>) -> Reading {
    let (mut first, mut second) = (V1List::new(["a", "a@b"]), V0List::default());
    let pieces = |body: &[u8]| body.len() % 7 + 1;
    let _ = v1.is_some_and(|body| body.chunks(pieces(body)).all(|piece| first.feed(piece)));
    let _ = v0.is_some_and(|body| body.chunks(pieces(body)).all(|piece| second.feed(piece)));
    let reply = |body: Option<&[u8]>| body.map_or(Reply::TimedOut, |body| answer(status, body));
    read_lists(Received { reply: reply(v1), list: first }, Received { reply: reply(v0), list: second })
}

fn read_pair(status: u16, v1: &[u8], v0: &[u8]) {
    let snapshot = match read_bodies(status, Some(v1), Some(v0)) {
        Reading::Seen(snapshot) => snapshot,
        Reading::OtherProgram(why) => {
            assert!(matches!(status, 200 | 404));
            return assert_message(&why);
        }
        Reading::Forbidden(why) => {
            assert!(matches!(status, 401 | 403));
            return assert_message(&why);
        }
        Reading::RateLimited(why) => {
            assert_eq!(status, 429);
            return assert_message(&why);
        }
        Reading::Unclear(why) => return assert_message(&why),
        Reading::Unauthorized => return assert_eq!(status, 401),
        other => panic!("{other:?}"),
    };
    // An answer counts only whole.
    let is_json = |body: &[u8]| serde_json::from_str::<serde::de::IgnoredAny>(&body_text(body)).is_ok();
    assert!(is_json(v1) || is_json(v0), "seen in garbage: {snapshot:?}");
    if let Some(cut) = v1.trim_ascii_end().len().checked_sub(1) {
        let reading = read_bodies(status, Some(&v1[..cut]), None);
        assert!(!matches!(reading, Reading::Seen(_)), "seen in a part");
    }
    // What was seen stands there; and nothing was seen only where nothing stands.
    if let (Some(first), Some(second)) = (read_json(v1), read_json(v0)) {
        let models = first["models"].as_array();
        let states = second["data"].as_array();
        assert!(models.is_some() || states.is_some(), "seen without a list: {snapshot:?}");
        let is_v1 = snapshot.source == Teller::RestV1;
        // A list with one entry that cannot be read is none.
        let has_v0 = matches!(read_bodies(status, None, Some(v0)), Reading::Seen(_));
        let resident = |list: &Json| list["loaded_instances"].as_array().cloned().unwrap_or_default();
        let of_v1 = models.filter(|_| is_v1).into_iter().flatten().flat_map(resident).map(|it| it["id"].clone());
        let is_there = |it: &&Json| match it["state"].as_str() {
            Some("loaded" | "loading") => true,
            state => !is_v1 && state != Some("not-loaded"),
        };
        let of_v0 = states.filter(|_| has_v0).into_iter().flatten().filter(is_there).map(|it| it["id"].clone());
        let names: Vec<Json> = of_v1.chain(of_v0).collect();
        for instance in &snapshot.instances {
            assert!(names.contains(&instance.identifier.as_str().into()), "{instance:?} out of nothing");
        }
        assert_eq!(snapshot.instances.is_empty(), names.is_empty(), "{names:?}");
        if let Some(downloaded) = &snapshot.downloaded {
            assert_eq!(Some(downloaded.len()), models.map(Vec::len));
            assert!(downloaded.iter().all(|it| it.location == Location::Unreported));
        }
    }
    let names: Vec<&str> = snapshot.instances.iter().map(|it| it.identifier.as_str()).take(20).collect();
    for name in &names {
        let Ok(key) = ModelKey::parse(name) else { continue };
        if let Residency::Addressable(it) = snapshot.residency(&key) {
            assert_eq!(it.identifier, *name);
            assert!(matches!(it.readiness, Readiness::Ready | Readiness::Unreported));
        }
        assert!(similar(name, names.iter().copied()).iter().all(|it| names.contains(&it.as_str())));
    }
}

fn answer(status: u16, body: &[u8]) -> Reply {
    Reply::Answer(Answer { status, signature: String::new(), body: body.to_vec() })
}

fn read_json(body: &[u8]) -> Option<Json> {
    serde_json::from_str(&body_text(body)).ok()
}

/// Bytes that are no UTF-8 spoil the name they stand in, not the whole list.
fn body_text(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body))
}

/// An input that is two, parted by a NUL.
fn parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

/// Our own config file, in both dialects.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for dialect in [Dialect::Own, Dialect::Ancestor] {
        let file = match parse_file(text, "c.json", dialect, Some(Path::new("/home/me"))) {
            Ok(file) => file,
            Err(why) => {
                assert!(why.starts_with("c.json:"), "{why}");
                assert_message(&why);
                continue;
            }
        };
        file.warnings.iter().for_each(|warning| assert_message(warning));
        // Whoever writes plain JSON gets every option that stands there, and only with its type.
        if let Ok(json) = serde_json::from_str::<Json>(text.strip_prefix('\u{feff}').unwrap_or(text)) {
            let members = json.as_object().expect("anything but an object is an error");
            for spec in OPTIONS {
                let told = members.get(spec.key);
                let is_read = file.layer.get(spec.key).is_some();
                let by_ancestor = spec.key == "failMode" && dialect == Dialect::Ancestor;
                assert!(is_read == told.is_some() || by_ancestor, "{}: {told:?}", spec.key);
                assert!(told.is_none_or(|value| has_type(spec.kind, value)), "{}: {told:?}", spec.key);
            }
        }
        let config = match Config::from_layers(file.layer.clone(), Layer::default()) {
            Ok((config, _)) => config,
            Err(why) => {
                assert!(!why.is_usage, "{why}");
                assert_message(&why.reason);
                continue;
            }
        };
        assert!(config.servers.iter().all(|it| it.config.base_url.is_some()));
        if let Ok(key) = ModelKey::parse("a") {
            let options = config.load_options(&key);
            assert!(options.parallel != Some(0) && options.context_length != Some(0) && options.ttl_seconds != Some(0));
        }
        // What was read and is printed reads as the same.
        let printed: Json = OPTIONS
            .iter()
            .filter_map(|spec| Some((spec.key.to_owned(), printed_value(&file.layer.get(spec.key)?.0))))
            .collect();
        let again = parse_file(&printed.to_string(), "c.json", Dialect::Own, None)
            .unwrap_or_else(|why| panic!("{why}: {printed}"));
        for spec in OPTIONS {
            let values = [&file.layer, &again.layer].map(|layer| layer.get(spec.key).map(|(value, _)| value));
            if spec.kind == Kind::Servers {
                // Each has the line where it stands, and JSON its own order.
                assert_eq!(values[0].map(printed_value), values[1].map(printed_value));
            } else {
                assert_eq!(values[0], values[1]);
            }
        }
    }
}

fn has_type(kind: Kind, value: &Json) -> bool {
    let is_whole = |unit: Unit, least, most| {
        let amount = value.as_u64().or_else(|| unit.read_amount(value.as_str()?));
        amount.is_some_and(|it| (least..=most).contains(&it))
    };
    match kind {
        Kind::VariableName | Kind::Path | Kind::Url | Kind::Text => value.as_str().is_some_and(|it| !it.is_empty()),
        Kind::Boolean => value.is_boolean(),
        Kind::Integer(unit, least, most) => is_whole(unit, least, most),
        Kind::AutoOrInteger(unit, least, most) => value == "auto" || is_whole(unit, least, most),
        Kind::Choice(words) => value.as_str().is_some_and(|it| words.contains(&it)),
        Kind::List => value.as_array().is_some_and(|items| items.iter().all(Json::is_string)),
        Kind::Gpu => value.is_string() || value.as_f64().is_some_and(|it| (0.0..=1.0).contains(&it)),
        Kind::PerModel | Kind::Servers => {
            value.as_object().is_some_and(|entries| entries.values().all(Json::is_object))
        }
    }
}

fn printed_value(value: &Value) -> Json {
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Path(path) => path.to_str().expect("it was UTF-8").into(),
        Value::Url(url) => url.to_string().into(),
        Value::Boolean(on) => (*on).into(),
        Value::Integer(number) => (*number).into(),
        Value::Auto => "auto".into(),
        Value::List(items) => items.as_slice().into(),
        Value::Gpu(gpu) => gpu.to_string().into(),
        Value::PerModel(models) => {
            let printed = |(model, values): (&String, &BTreeMap<&str, Value>)| {
                let values = values.iter().map(|(key, value)| ((*key).to_owned(), printed_value(value)));
                (model.clone(), values.collect::<Json>())
            };
            models.iter().map(printed).collect()
        }
        Value::Servers(entries) => {
            let printed = |entry: &ServerEntry| {
                let values = entry.layer.iter().map(|(key, value, _)| (key.to_owned(), printed_value(value)));
                (entry.name.clone(), values.collect::<Json>())
            };
            entries.iter().map(printed).collect()
        }
    }
}

/// opencode's configuration, and the head of one of its Markdown files.
pub fn opencode(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(mut head) = front_matter::parse(&text, &mut 1_000_000) {
        assert!((1..=text.split('\n').count()).contains(&head.line), "{text:?}: {}", head.line);
        let _ = head.take_name();
        let values = Json::Object(head.values);
        let _ = (check_agent(&values), check_command(&values));
    }
    let source = match source::read(&text, "o.json".to_owned(), Trust::Project, &Around) {
        Ok(source) => source,
        Err(why) => {
            assert!(why.starts_with("o.json"), "{why}");
            assert!(text.contains(TOKEN) || !why.contains(TOKEN), "{why}");
            return;
        }
    };
    let members = source.value.as_object().expect("anything but an object is an error");
    for name in ["model", "small_model", "default_agent"] {
        assert!(members.get(name).is_none_or(Json::is_string));
    }
    let sources = [source];
    if !text.contains(TOKEN) {
        assert_token_is_a_key(&sources[0].value);
    }
    ask(&sources);
    // A source that says nothing changes nothing.
    let nothing = source::read("{}", "n.json".to_owned(), Trust::User, &Around).expect("an object");
    let [source] = sources;
    let before = model_of(std::slice::from_ref(&source));
    assert_eq!(model_of(&[source, nothing]), before);
}

fn ask(sources: &[ConfigSource]) {
    let gated = ["lmstudio".to_owned(), "p".to_owned()];
    let subject = Subject { providers: &gated, model: Some("m"), is_built_in: false };
    if let Some(found) = provider::base_url(sources, subject) {
        assert!(!found.text.is_empty());
        assert!(found.place().starts_with("o.json"));
        let _ = provider::literal_base_url(found.source, subject);
    }
    let host = BaseUrl::parse("http://h").expect("a base URL");
    assert!(!provider::user_names_host(sources, subject, &host), "a project is not the user");
    assert_eq!(provider::key_variable(sources, "other"), None, "a project names no variable");
    let _ = provider::api_key(sources, "lmstudio").map(|found| found.place());
    let is_known = |_: &str| false;
    let roles = Roles { sources, gated: &gated, is_known: &is_known };
    for pin in roles.all() {
        assert!(gated.contains(&pin.provider));
        assert_message(&pin.reference());
        let _ = roles.exists(&pin);
    }
    for role in [Role::Main, Role::Small, Role::Agent("a".to_owned())] {
        let _ = roles.model_of(&role);
    }
}

fn model_of(sources: &[ConfigSource]) -> Option<Json> {
    source::find(sources, &["model"]).map(|(value, _)| value.clone())
}

/// The user's token goes where a key or an address stands, and nowhere else.
fn assert_token_is_a_key(value: &Json) {
    match value {
        Json::String(text) => assert!(!text.contains(TOKEN), "{text}"),
        Json::Array(items) => items.iter().for_each(assert_token_is_a_key),
        Json::Object(members) => {
            for (name, member) in members {
                assert!(!name.contains(TOKEN), "{name}");
                if !(member.is_string() && ["apiKey", "baseURL", "api"].contains(&name.as_str())) {
                    assert_token_is_a_key(member);
                }
            }
        }
        _ => {}
    }
}

/// What nothing else around the source holds.
const TOKEN: &str = "S3CRET";

struct Around;

impl Substitutions for Around {
    fn variable(&self, name: &str) -> String {
        // What is in the others may hold quotes, braces and further references.
        if name == "T" { TOKEN.to_owned() } else { name.to_lowercase().chars().rev().collect() }
    }
    fn file(&self, path: &str) -> Result<String, String> {
        let content = format!("\"{{env:{path}}}\n");
        if path.len().is_multiple_of(2) { Ok(content) } else { Err("not there".to_owned()) }
    }
    fn token_variable(&self) -> &'static str {
        "T"
    }
}

/// Names of models, and option values as flags and variables give them.
pub fn model(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let gated = ["lmstudio".to_owned()];
    match ModelKey::from_ref(&text, &gated) {
        Ok(key) => {
            let name = key.as_str();
            assert!(!name.trim().is_empty() && !name.starts_with('-') && name.len() <= MAX_KEY_BYTES);
            assert!(!name.chars().any(char::is_control));
            assert!(text.ends_with(name), "a key is what was typed, or the end of it");
            assert_eq!(ModelKey::parse(name).as_ref(), Ok(&key));
            assert_eq!(ModelKey::from_ref(&format!("lmstudio/{name}"), &gated).as_ref(), Ok(&key));
            assert!(matches_fuzzily(&key, name));
            assert!(key.is_copy(&format!("{name}:2")) && !key.is_copy(name) && !key.is_copy(&format!("{name}:")));
            let args = load_args(&key, &LoadOptions::default(), Placement::Local);
            assert_eq!(args[..5], ["load", name, "-y", "--identifier", name].map(str::to_owned));
            assert!(similar(name, [name, "other"]).contains(&name.to_owned()));
        }
        Err(why) => assert_message(&why.to_string()),
    }
    let _ = lmswarm::pure::arguments::parse_models(&[text.clone().into_owned()], &[]);
    for spec in OPTIONS {
        if let Ok(value) = spec.kind.read(&text, Some(Path::new("/home/me"))) {
            assert!(!text.is_empty(), "{}", spec.key);
            let numbers = |value: &Value| if let Value::Integer(number) = value { *number } else { 0 };
            if let Kind::Integer(_, least, most) = spec.kind {
                assert!((least..=most).contains(&numbers(&value)));
            }
        }
    }
}

/// Base URLs: two of them, parted by a NUL.
pub fn base_url(bytes: &[u8]) {
    let (first, second) = parts(bytes);
    let urls = [first, second].map(|text| {
        let text = String::from_utf8_lossy(text);
        match BaseUrl::parse(&text) {
            Ok(url) => Some(url),
            Err(why) => {
                assert_message(&why.to_string());
                None
            }
        }
    });
    for url in urls.iter().flatten() {
        assert_eq!(BaseUrl::parse(&url.to_string()).as_ref(), Ok(url), "{url}");
        assert_message(&url.to_string());
        assert!(url.port() > 0 && !url.host().is_empty());
        let shown = url.to_string();
        let root = shown.strip_suffix("/v1").expect("a base URL is shown with `/v1`");
        assert_eq!(url.endpoint("api/v1/models").as_str(), format!("{root}/api/v1/models"));
        let slug = url.slug();
        assert!(slug.starts_with("http") && slug.len() <= 100, "{slug}");
        assert!(
            slug.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || b".-_+=~".contains(&it)),
            "{slug}"
        );
    }
    if let [Some(first), Some(second)] = &urls
        && first.slug() == second.slug()
    {
        let place = |url: &BaseUrl| (url.is_https(), url.port(), url.endpoint("").path().to_owned());
        assert_eq!(place(first), place(second));
        assert!(first.host() == second.host() || (first.is_loopback() && second.is_loopback()), "{first} {second}");
    }
}

/// The words in the lock file, and the two files of the state directory.
pub fn state(bytes: &[u8]) {
    let json: Option<Json> = serde_json::from_slice(bytes).ok();
    let is_object = |json: &Option<Json>| json.as_ref().is_none_or(Json::is_object);
    if let Some(leader) = Leader::parse(bytes) {
        assert!(is_object(&json));
        let again = Leader::parse(&serde_json::to_vec(&leader).expect("words")).expect("the same words");
        assert_eq!((again.pid, again.model, again.since_ms), (leader.pid, leader.model, leader.since_ms));
    }
    if let Ok(facts) = state::parse::<History>(bytes) {
        assert!(is_object(&json));
        let again = serde_json::to_vec(&facts).expect("facts");
        let facts: History = state::parse(&again).expect("the same facts");
        assert_eq!(serde_json::to_vec(&facts).expect("facts"), again);
        let hour = Duration::from_secs(3600);
        let caller = Caller { began_ms: u64::MAX, cooldown: hour, is_fresh: false };
        for model in [None, Some("a")] {
            if let Some(failure) = facts.failure(model, "x", &caller, World::default) {
                assert!(failure.age.is_some_and(|age| age < hour), "a past failure is told with its age");
            }
        }
        let _ = facts.usual_load("a").map(lmswarm::pure::text::duration);
        let _ = facts.granted("a", hour);
        let _ = facts.ensured();
    }
    if let Ok(verdicts) = state::parse::<Verdicts>(bytes) {
        assert!(is_object(&json));
        let minute = Duration::from_secs(60);
        if let Some(verdict) = verdicts.young("a", minute) {
            let now = now_ms();
            assert!(verdict.at_ms <= now && now - verdict.at_ms <= 61_000, "old, or from the future");
        }
    }
}

/// Text that is shown.
pub fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let safe = printable(&text);
    assert!(!safe.chars().any(|it| it.is_control() || matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')));
    assert_eq!(printable(&safe), safe);
    for limit in [0, 1, 20, 400] {
        let line = excerpt(&text, limit);
        assert_message(&line);
        // `\u{10ffff}` is the longest escape.
        assert!(line.chars().count() <= limit * 10 + 1);
    }
    assert_message(&excerpt(&listed([&*text, "b"], "and"), 200));
    assert!(similar(&text, ["a", "b", &text]).len() <= 3);
    assert!(!decode(bytes).contains('\u{1b}'));
    // What is taken out is not found again.
    let shown = without_secrets(&text);
    assert_eq!(without_secrets(&shown), shown);
}
