//! Reads what the REST server answers. LM Studio answers unknown paths with status 200 and
//! an `error` member, so a body counts only when it has the member wanted; whatever cannot
//! be read is *unknown*, never *empty*.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::pure::http::{Answer, Reply, StatusClass, classify, describe};
use crate::pure::json::Object;
use crate::pure::json_list::{Cursor, End, JsonList, LARGEST, Stop, Value};
use crate::pure::residency::{Downloaded, Instance, Location, Readiness, Reading, Routes, Snapshot, Source, no_answer};
use crate::pure::text::excerpt;

/// Most models that are kept of a list besides those that are asked for; only suggestions come
/// from the others.
pub const MOST_MODELS: usize = 10_000;
/// Most instances of a list.
const MOST_INSTANCES: usize = 1000;

/// The list of `GET /api/v1/models`, as it comes in: models, each with `key` and
/// `loaded_instances`. What else is missing or mistyped is merely not told.
#[derive(Debug)]
pub struct V1List {
    list: JsonList,
    requested: Vec<String>,
    /// Whether a variant may be among those.
    has_variant: bool,
    instances: Vec<Instance>,
    downloaded: Vec<Downloaded>,
}

impl V1List {
    /// Expects the list; the models that are `requested` are found in it however long it is.
    pub fn new<'a>(requested: impl IntoIterator<Item = &'a str>) -> Self {
        let requested: Vec<String> = requested.into_iter().map(str::to_owned).collect();
        Self {
            list: JsonList::new("models"),
            // `KEY@q8_0`; to look into those of every model costs more than all else of it.
            has_variant: requested.iter().any(|key| key.contains('@')),
            requested,
            instances: Vec::new(),
            downloaded: Vec::new(),
        }
    }

    /// Takes the next piece of the body; whether more of it is wanted.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        let Self { list, requested, has_variant, instances, downloaded } = self;
        list.feed(piece, &mut |cursor| {
            let model = V1Model::read(cursor)?;
            let key = model.key.text()?;
            for Object(instance) in model.loaded()? {
                if instances.len() == MOST_INSTANCES {
                    return Err(Stop::TooLarge);
                }
                instances.push(model.instance(&key, instance));
            }
            let variants = if *has_variant { model.variants(requested) } else { Vec::new() };
            if downloaded.len() < MOST_MODELS || !variants.is_empty() || requested.contains(&key) {
                downloaded.push(model.downloaded(key, variants));
            }
            Ok(())
        });
        !list.is_given_up()
    }
}

/// The list of `GET /api/v0/models`, as it comes in: entries, each with `id` and `state`. Of
/// what is not loaded nothing is kept.
#[derive(Debug)]
pub struct V0List {
    list: JsonList,
    models: Vec<V0Model>,
}

impl Default for V0List {
    fn default() -> Self {
        Self { list: JsonList::new("data"), models: Vec::new() }
    }
}

impl V0List {
    /// Takes the next piece of the body; whether more of it is wanted.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        let Self { list, models } = self;
        list.feed(piece, &mut |cursor| {
            if let Some(model) = V0Model::read(cursor)? {
                if models.len() == MOST_INSTANCES {
                    return Err(Stop::TooLarge);
                }
                models.push(model);
            }
            Ok(())
        });
        !list.is_given_up()
    }
}

/// What a request for a list came to: the reply without its body, of which only the beginning is
/// there, and what was read of that.
#[derive(Debug)]
pub struct Received<List> {
    /// The reply.
    pub reply: Reply,
    /// The list.
    pub list: List,
}

/// Puts the answers of `GET /api/v1/models` and `GET /api/v0/models` together.
pub fn read_lists(v1: Received<V1List>, v0: Received<V0List>) -> Reading {
    let ends = [v1.list.list.end(), v0.list.list.end()];
    if ends.contains(&End::TooLarge) {
        return Reading::TooLarge(format!("its list of models is too large (over {LARGEST})"));
    }
    let [has_v1, has_v0] = ends.map(|end| end == End::Whole);
    let V1List { instances, downloaded, .. } = v1.list;
    let mut snapshot =
        Snapshot { source: Source::RestV1, instances, downloaded: Some(downloaded), routes: Routes::default() };
    match (has_v1, has_v0) {
        (true, true) => confirm(&mut snapshot, v0.list.models),
        (true, false) if has_no_v0(&v0.reply) => {}
        // It has one and did not tell: what is listed may still be loading.
        (true, false) => confirm(&mut snapshot, Vec::new()),
        (false, true) => snapshot = snapshot_of_v0(v0.list.models),
        (false, false) => return read_neither(&v1.reply, &v0.reply),
    }
    Reading::Seen(snapshot)
}

/// Whether that server has no `/api/v0`, or keeps it from us for good.
fn has_no_v0(v0: &Reply) -> bool {
    answer(v0).is_some_and(|it| matches!(it.status, 401 | 403 | 404 | 405 | 501) || is_unexpected(it))
}

/// LM Studio's answer to a path that it does not know.
fn is_unexpected(answer: &Answer) -> bool {
    String::from_utf8_lossy(&answer.body).contains("Unexpected endpoint")
}

fn read_neither(v1: &Reply, v0: &Reply) -> Reading {
    let both = [v1, v0];
    let is_refused = |it: &&Reply| {
        let class = answer(it).map(|it| classify(it.status));
        matches!(class, Some(StatusClass::Unauthorized | StatusClass::RateLimited))
    };
    // A server without v1 is too old for both only if it says so of v0, too: one answer that
    // got lost must not make `lms ps` the judge, which cannot tell loading from ready.
    if !both.iter().any(is_refused) && answer(v1).is_some_and(is_unexpected) && !has_no_v0(v0) {
        return Reading::Unclear(match answer(v0) {
            Some(it) => format!("it answers with {}", describe(it)),
            None => no_answer(v0),
        });
    }
    Reading::of_replies(&both, is_token_error)
}

fn answer(reply: &Reply) -> Option<&Answer> {
    match reply {
        Reply::Answer(answer) => Some(answer),
        _ => None,
    }
}

/// LM Studio's own 401. Another program on the port may well answer 401, too.
fn is_token_error(answer: &Answer) -> bool {
    answer.status == 401
        && serde_json::from_str::<Json>(&text(&answer.body)).is_ok_and(|it| it["error"]["code"] == "invalid_api_key")
}

/// A model as the list has it, not decoded yet.
struct V1Model<'a> {
    key: Value<'a>,
    loaded_instances: Value<'a>,
    max_context_length: Option<u64>,
    size_bytes: Option<u64>,
    variants: Option<Value<'a>>,
}

impl<'a> V1Model<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Stop> {
        let (mut key, mut loaded_instances, mut variants) = (None, None, None);
        let (mut max_context_length, mut size_bytes) = (None, None);
        cursor.object(|name, value| match name {
            b"key" => key = Some(value),
            b"loaded_instances" => loaded_instances = Some(value),
            b"max_context_length" => max_context_length = value.number(),
            b"size_bytes" => size_bytes = value.number(),
            b"variants" => variants = Some(value),
            _ => {}
        })?;
        let (Some(key), Some(loaded_instances)) = (key, loaded_instances) else { return Err(Stop::Malformed) };
        Ok(Self { key, loaded_instances, max_context_length, size_bytes, variants })
    }

    fn loaded(&self) -> Result<Vec<Object<V1Instance>>, Stop> {
        if self.loaded_instances.is_empty_list() { Ok(Vec::new()) } else { self.loaded_instances.decode() }
    }

    /// Those of its variants that are requested: nothing else is asked of them.
    fn variants(&self, requested: &[String]) -> Vec<String> {
        let Some(Ok(Json::Array(items))) = self.variants.map(Value::decode) else { return Vec::new() };
        let texts = items.into_iter().filter_map(|item| match item {
            Json::String(text) => Some(text),
            _ => None,
        });
        texts.filter(|text| requested.contains(text)).collect()
    }

    fn instance(&self, key: &str, V1Instance { id, config }: V1Instance) -> Instance {
        Instance {
            identifier: id,
            model_key: Some(key.to_owned()),
            readiness: Readiness::Unreported,
            context_length: config.get("context_length").and_then(Json::as_u64),
            max_context_length: self.max_context_length,
            parallel: config.get("parallel").and_then(Json::as_u64),
            device: None,
            busy: None,
            last_used: None,
            size_bytes: self.size_bytes,
        }
    }

    fn downloaded(&self, key: String, variants: Vec<String>) -> Downloaded {
        Downloaded {
            key,
            variants,
            max_context_length: self.max_context_length,
            size_bytes: self.size_bytes,
            location: Location::Unreported,
        }
    }
}

#[derive(Deserialize)]
struct V1Instance {
    id: String,
    #[serde(default)]
    config: Json,
}

/// An entry that may be loaded.
#[derive(Debug)]
struct V0Model {
    id: String,
    state: String,
    loaded_context_length: Option<u64>,
    max_context_length: Option<u64>,
}

impl V0Model {
    /// `None` if it is not loaded.
    fn read(cursor: &mut Cursor<'_>) -> Result<Option<Self>, Stop> {
        let (mut id, mut state) = (None, None);
        let (mut loaded_context_length, mut max_context_length) = (None, None);
        cursor.object(|name, value| match name {
            b"id" => id = Some(value),
            b"state" => state = Some(value),
            b"loaded_context_length" => loaded_context_length = value.number(),
            b"max_context_length" => max_context_length = value.number(),
            _ => {}
        })?;
        let (Some(id), Some(state)) = (id, state) else { return Err(Stop::Malformed) };
        if id.is_text() && state.is_plainly("not-loaded") {
            return Ok(None);
        }
        Ok(Some(Self { id: id.text()?, state: state.text()?, loaded_context_length, max_context_length }))
    }

    fn instance(self, readiness: Readiness) -> Instance {
        Instance {
            identifier: self.id,
            model_key: None,
            readiness,
            context_length: self.loaded_context_length,
            max_context_length: self.max_context_length,
            parallel: None,
            device: None,
            busy: None,
            last_used: None,
            size_bytes: None,
        }
    }
}

/// Only v0 tells whether an instance is ready, so it has a say in each one of v1.
fn confirm(snapshot: &mut Snapshot, states: Vec<V0Model>) {
    for instance in &mut snapshot.instances {
        let state = states.iter().find(|it| it.id == instance.identifier).map(|it| &*it.state);
        instance.readiness = match state {
            Some("loaded") => Readiness::Ready,
            Some("loading") => Readiness::Loading,
            _ => Readiness::Contradicted,
        };
    }
    for model in states {
        if snapshot.instances.iter().any(|it| it.identifier == model.id) {
            continue;
        }
        let readiness = match &*model.state {
            "loading" => Readiness::Loading,
            "loaded" => Readiness::Contradicted,
            _ => continue,
        };
        snapshot.instances.push(model.instance(readiness));
    }
}

/// A server without `/api/v1`. The list holds all downloaded models or only the loaded
/// ones, depending on a setting, so it does not tell what is downloaded.
fn snapshot_of_v0(entries: Vec<V0Model>) -> Snapshot {
    let instance = |model: V0Model| {
        let readiness = match &*model.state {
            "loaded" => Readiness::Ready,
            "loading" => Readiness::Loading,
            "not-loaded" => return None,
            // There is no other list to say whether it is resident.
            _ => Readiness::Contradicted,
        };
        Some(model.instance(readiness))
    };
    let instances = entries.into_iter().filter_map(instance).collect();
    Snapshot { source: Source::RestV0, instances, downloaded: None, routes: Routes::default() }
}

/// Whether an answer to `GET /lmstudio-greeting` is LM Studio's.
pub fn is_greeting(body: &[u8]) -> bool {
    serde_json::from_str::<Json>(&text(body)).is_ok_and(|it| it["lmstudio"] == Json::Bool(true))
}

/// What a management request (`/api/v1/models/…`) came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManagementReply {
    /// The JSON object that was answered.
    Done(Json),
    /// 401 or 403.
    Unauthorized,
    /// An error in the server's words, with the status.
    Refused(u16, String),
    /// Nothing listens there any more.
    Gone,
    /// No answer in time.
    TimedOut,
    /// No answer, or nothing that can be read; says what.
    Unclear(String),
}

/// Reads an answer to a management request; it counts only with the member `wanted`.
pub fn read_management_reply(reply: &Reply, wanted: &str) -> ManagementReply {
    let answer = match reply {
        Reply::Answer(answer) => answer,
        Reply::Refused => return ManagementReply::Gone,
        Reply::TimedOut => return ManagementReply::TimedOut,
        Reply::Broken(why) => return ManagementReply::Unclear(why.clone()),
        Reply::Unreachable(error) => return ManagementReply::Unclear(error.to_string()),
        Reply::NotHttp(said) => return ManagementReply::Unclear(format!("no HTTP, but \"{said}\"")),
    };
    if classify(answer.status) == StatusClass::Unauthorized {
        return ManagementReply::Unauthorized;
    }
    let Ok(json) = serde_json::from_str::<Json>(&text(&answer.body)) else {
        return ManagementReply::Unclear(describe(answer));
    };
    if answer.status < 300 && json.get(wanted).is_some() {
        return ManagementReply::Done(json);
    }
    // `error` is an object or a bare string; both occur for one and the same error.
    let message = match &json["error"] {
        Json::String(text) => Some(text.as_str()),
        error => error["message"].as_str(),
    };
    match message {
        Some(text) => ManagementReply::Refused(answer.status, excerpt(text.trim_end_matches('.'), 400)),
        None => ManagementReply::Unclear(describe(answer)),
    }
}

/// The body without a byte order mark. Bytes that are no UTF-8 spoil the name they stand in,
/// not the whole list.
fn text(body: &[u8]) -> Cow<'_, str> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::model::ModelKey;
    use crate::pure::residency::Residency;
    use proptest::prelude::*;

    const V1: &[u8] = include_bytes!("../../../tests/fixtures/lmstudio/rest/api-v1-models.json");
    const V0: &[u8] = include_bytes!("../../../tests/fixtures/lmstudio/rest/api-v0-models.jit-on.json");
    const OLD: &[u8] = include_bytes!("../../../tests/fixtures/lmstudio/rest/api-v1-models.old-version.json");
    const MISSING: &[u8] = include_bytes!("../../../tests/fixtures/lmstudio/rest/auth.missing.json");

    fn read_lists(v1: &Reply, v0: &Reply) -> Reading {
        let (mut list_v1, mut list_v0) = (V1List::new(["qwen/qwen3-coder-30b@q8_0"]), V0List::default());
        if let Reply::Answer(answer) = v1 {
            let _ = list_v1.feed(&answer.body);
        }
        if let Reply::Answer(answer) = v0 {
            let _ = list_v0.feed(&answer.body);
        }
        super::read_lists(Received { reply: v1.clone(), list: list_v1 }, Received { reply: v0.clone(), list: list_v0 })
    }

    fn reply(status: u16, body: &[u8]) -> Reply {
        Reply::Answer(Answer { status, signature: String::new(), body: body.to_vec() })
    }

    fn seen(v1: &Reply, v0: &Reply) -> Snapshot {
        match read_lists(v1, v0) {
            Reading::Seen(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    fn is_addressable(snapshot: &Snapshot, key: &str) -> bool {
        matches!(snapshot.residency(&ModelKey::parse(key).unwrap()), Residency::Addressable(_))
    }

    #[test]
    fn the_real_lists_are_read() {
        let snapshot = seen(&reply(200, V1), &reply(200, V0));
        assert_eq!(snapshot.source, Source::RestV1);
        assert!(is_addressable(&snapshot, "llama-3.2-1b-instruct"));
        assert!(is_addressable(&snapshot, "warm-a"));
        assert!(!is_addressable(&snapshot, "google/gemma-3-12b"), "resident under another identifier");
        let variant = ModelKey::parse("qwen/qwen3-coder-30b@q8_0").unwrap();
        assert_eq!(snapshot.find_downloaded(&variant).unwrap().key, "qwen/qwen3-coder-30b");
        assert_eq!(snapshot.max_context(&variant), Some(262_144));
    }

    #[test]
    fn an_older_server_answers_200_to_a_path_it_does_not_know() {
        let snapshot = seen(&reply(200, OLD), &reply(200, V0));
        assert_eq!(snapshot.source, Source::RestV0);
        assert!(is_addressable(&snapshot, "llama-3.2-1b-instruct"));
        assert_eq!(snapshot.downloaded, None);
    }

    #[test]
    fn an_instance_that_only_one_list_has_is_unknown() {
        let none = br#"{"data":[]}"#;
        let snapshot = seen(&reply(200, V1), &reply(200, none));
        assert_eq!(snapshot.residency(&ModelKey::parse("llama-3.2-1b-instruct").unwrap()), Residency::Unknown);
        let only_v0 = seen(&reply(200, br#"{"models":[]}"#), &reply(200, V0));
        assert_eq!(only_v0.residency(&ModelKey::parse("llama-3.2-1b-instruct").unwrap()), Residency::Unknown);
    }

    #[test]
    fn a_state_that_nobody_knows_is_not_taken_for_unloaded() {
        for (state, residency) in [("not-loaded", Residency::Absent), ("unloading", Residency::Unknown)] {
            let v0 = format!(r#"{{"data":[{{"id":"a","state":"{state}"}}]}}"#);
            let snapshot = seen(&reply(200, OLD), &reply(200, v0.as_bytes()));
            assert_eq!(snapshot.residency(&ModelKey::parse("a").unwrap()), residency, "{state}");
        }
    }

    #[test]
    fn loading_is_not_ready() {
        let v0 = br#"{"data":[{"id":"llama-3.2-1b-instruct","state":"loading"}]}"#;
        for v1 in [V1, br#"{"models":[]}"#.as_slice(), OLD] {
            let snapshot = seen(&reply(200, v1), &reply(200, v0));
            let key = ModelKey::parse("llama-3.2-1b-instruct").unwrap();
            assert!(matches!(snapshot.residency(&key), Residency::Loading(_)));
        }
    }

    #[test]
    fn garbage_is_never_an_empty_list() {
        for body in [
            "",
            "null",
            "[]",
            "{}",
            "[{}]",
            "<html></html>",
            "{\"models\":{}}",
            "{\"models\":null}",
            "{\"models\":[{}]}",
            "{\"models\":[{\"key\":\"a\"}]}",
            "{\"result\":{\"models\":[]}}",
            "{\"models\":[{\"key\":\"a\",\"loaded_instances\":[{}]}]}",
            "{\"models\":[",
            "{\"data\":[{\"id\":\"a\"}]}",
            "{\"data\":[",
            "[[]]",
            "{\"models\":[[\"a\",[]]]}",
            "{\"models\":[{\"key\":\"a\",\"loaded_instances\":[[\"a\",{}]]}]}",
            "{\"data\":[[\"a\",\"loaded\"]]}",
        ] {
            let reading = read_lists(&reply(200, body.as_bytes()), &reply(200, body.as_bytes()));
            assert!(matches!(reading, Reading::OtherProgram(_)), "{body}: {reading:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_told_apart() {
        let missing = reply(401, MISSING);
        assert!(matches!(read_lists(&missing, &missing), Reading::Unauthorized));
        assert!(matches!(read_lists(&Reply::Refused, &Reply::Refused), Reading::Down));
        assert!(matches!(read_lists(&Reply::TimedOut, &Reply::TimedOut), Reading::Unclear(_)));
        let not_http = Reply::NotHttp("SSH-2.0".to_owned());
        assert!(matches!(read_lists(&not_http, &not_http), Reading::NotHttp(_)));
        assert!(matches!(read_lists(&Reply::TimedOut, &not_http), Reading::NotHttp(_)));
    }

    #[test]
    fn the_status_of_a_proxy_is_not_taken_for_another_program() {
        for (v1, v0, wanted) in [
            (401, 401, "Forbidden"),
            (403, 404, "Forbidden"),
            (404, 403, "Forbidden"),
            (429, 403, "Forbidden"),
            (429, 429, "RateLimited"),
            (404, 429, "RateLimited"),
            (408, 408, "Unclear"),
            (502, 502, "Unclear"),
            (404, 503, "Unclear"),
            (404, 404, "OtherProgram"),
            (200, 200, "OtherProgram"),
            (302, 302, "OtherProgram"),
        ] {
            let reading = read_lists(&reply(v1, b"<html>"), &reply(v0, b"<html>"));
            assert!(format!("{reading:?}").starts_with(wanted), "{v1} {v0}: {reading:?}");
        }
        // What is told is the status that decided.
        assert!(matches!(read_lists(&reply(404, b""), &reply(503, b"")), Reading::Unclear(it) if it.contains("503")));
        // One list tells, although the other is kept from us.
        assert_eq!(seen(&reply(200, V1), &reply(403, b"<html>")).source, Source::RestV1);
    }

    #[test]
    fn a_refused_management_request_says_why() {
        let guardrail = include_bytes!("../../../tests/fixtures/lmstudio/rest/api-v1-load.guardrail.json");
        match read_management_reply(&reply(500, guardrail), "instance_id") {
            ManagementReply::Refused(500, why) => assert!(why.contains("insufficient system resources")),
            other => panic!("{other:?}"),
        }
        let bare = reply(200, br#"{"error":"Unexpected endpoint or method. (POST /x)"}"#);
        assert!(matches!(read_management_reply(&bare, "instance_id"), ManagementReply::Refused(200, _)));
        assert!(matches!(read_management_reply(&reply(200, b"{}"), "instance_id"), ManagementReply::Unclear(_)));
    }

    proptest! {
        #[test]
        fn a_list_that_is_cut_off_is_no_list(cut in 0..V1.len()) {
            let reading = read_lists(&reply(200, &V1[..cut]), &Reply::TimedOut);
            prop_assert!(!matches!(read_lists(&reply(200, V1), &Reply::TimedOut), Reading::Seen(it) if it.instances.iter().any(|it| it.readiness != Readiness::Contradicted)));
            prop_assert!(!matches!(reading, Reading::Seen(_)));
        }
    }
}
