//! Puts the list and the proofs of one round together, and reads the answers to what is ordered.

use serde::Deserialize;
use serde_json::Value as Json;

use super::list::{Model, ModelList, State};
use crate::pure::http::{Answer, Reply, StatusClass, classify, describe};
use crate::pure::json_list::{End, LARGEST};
use crate::pure::residency::{Instance, Readiness, Reading, Routes, Snapshot, Source};
use crate::pure::text::excerpt;

/// What `GET /props?model=NAME&autoload=false` proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The model of this name answers, and serves so many requests at once.
    Answers {
        /// Its own name.
        model: String,
        /// How many requests.
        parallel: Option<u64>,
        /// It would load before it answers one.
        is_sleeping: bool,
    },
    /// It does not answer, in the server's words.
    Refused(String),
    /// No answer came in time.
    Mute,
}

#[derive(Deserialize)]
struct Props {
    model_alias: String,
    #[serde(default)]
    is_sleeping: bool,
    total_slots: Option<u64>,
}

/// What `GET /props` says of the server itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Router {
    /// How many models it holds at most; `None` if it does not limit that.
    pub max_instances: Option<usize>,
    /// Whether it loads a model for a client's request.
    pub loads_on_request: bool,
}

impl Router {
    /// Reads it; `None` if that is no router.
    pub(crate) fn of(reply: &Reply) -> Option<Self> {
        let props = json(answer(reply)?);
        let max = props["max_instances"].as_u64().and_then(|max| usize::try_from(max).ok());
        (props["role"] == "router").then_some(Self {
            max_instances: max.filter(|max| *max > 0),
            loads_on_request: props["models_autoload"] == true,
        })
    }
}

/// What a reply to a proof says.
pub(crate) fn read_proof(reply: &Reply) -> Proof {
    let Some(answer) = answer(reply) else { return Proof::Mute };
    match serde_json::from_slice::<Props>(&answer.body) {
        Ok(Props { model_alias: model, is_sleeping, total_slots: parallel }) if answer.status == 200 => {
            Proof::Answers { model, parallel, is_sleeping }
        }
        _ => Proof::Refused(words(answer)),
    }
}

/// What one round means for the models that were `requested`, each with its proof.
pub(crate) fn read_round(reply: &Reply, list: &ModelList, proofs: &[(&str, Reply)]) -> Reading {
    match list.end() {
        End::TooLarge => return Reading::TooLarge(format!("its list of models is too large (over {LARGEST})")),
        End::Whole => {}
        End::Broken => return read_failure(reply, proofs),
    }
    let mut routes = Routes::default();
    let mut instances: Vec<Instance> = Vec::new();
    for model in &list.models {
        let proof = proofs.iter().find(|(name, _)| model.is_called(name));
        for (name, _) in proofs.iter().filter(|(name, _)| *name != model.id && model.is_called(name)) {
            routes.identifiers.insert((*name).to_owned(), model.id.clone());
        }
        let (residency, parallel) = match proof.map(|(_, reply)| read_proof(reply)) {
            Some(proof) => {
                let parallel = if let Proof::Answers { parallel, .. } = &proof { *parallel } else { None };
                (judge(model, &proof), parallel)
            }
            None => (Ok(unproved(model.state)), None),
        };
        match residency {
            Ok(None) => {}
            Ok(Some(readiness)) => instances.push(instance(model, readiness, parallel)),
            Err(why) => {
                for (name, _) in proofs.iter().filter(|(name, _)| model.is_called(name)) {
                    routes.unclear.insert((*name).to_owned(), why.clone());
                }
                instances.push(instance(model, Readiness::Contradicted, parallel));
            }
        }
    }
    Reading::Seen(Snapshot { source: Source::Models, instances, downloaded: Some(list.downloaded()), routes })
}

/// What the list and the proof say together: `None` where it has to be loaded or woken, and why
/// where they disagree.
fn judge(model: &Model, proof: &Proof) -> Result<Option<Readiness>, String> {
    let id = &model.id;
    match (model.state, proof) {
        // The one model answers to any name, and calls itself what it likes.
        (None, Proof::Answers { is_sleeping, .. }) => Ok((!is_sleeping).then_some(Readiness::Ready)),
        (Some(State::Loaded), Proof::Answers { model, is_sleeping: false, .. }) if model == id => {
            Ok(Some(Readiness::Ready))
        }
        (Some(State::Loading | State::Downloading), _) => Ok(Some(Readiness::Loading)),
        (Some(State::Sleeping), Proof::Answers { is_sleeping: true, .. } | Proof::Refused(_))
        | (Some(State::Unloaded { .. }), Proof::Refused(_) | Proof::Mute) => Ok(None),
        (None | Some(State::Loaded), Proof::Refused(why)) => {
            Err(format!("`{id}` is listed as loaded, and does not answer ({why})"))
        }
        (_, Proof::Mute) => Err(format!("`{id}` does not answer in time: its process hangs")),
        (Some(State::Other), _) => Err(format!("it lists `{id}` in a state that is not known")),
        (Some(_), Proof::Answers { .. }) => Err(format!("its list and `{id}` itself do not agree")),
    }
}

/// A model that was not asked for, by the list alone.
fn unproved(state: Option<State>) -> Option<Readiness> {
    match state {
        Some(State::Unloaded { .. } | State::Sleeping) => None,
        Some(State::Loading | State::Downloading) => Some(Readiness::Loading),
        None | Some(State::Loaded | State::Other) => Some(Readiness::Unreported),
    }
}

fn instance(model: &Model, readiness: Readiness, parallel: Option<u64>) -> Instance {
    Instance {
        identifier: model.id.clone(),
        model_key: Some(model.id.clone()),
        readiness,
        context_length: model.context_length,
        max_context_length: model.max_context_length,
        parallel,
        device: None,
        busy: None,
        last_used: None,
        size_bytes: model.size_bytes,
    }
}

/// There is no list.
fn read_failure(reply: &Reply, proofs: &[(&str, Reply)]) -> Reading {
    let answer = match reply {
        Reply::Answer(answer) => answer,
        Reply::Refused => return Reading::Down,
        Reply::Unreachable(error) => return Reading::Unreachable(error.clone()),
        Reply::NotHttp(said) => return Reading::NotHttp(said.clone()),
        Reply::TimedOut => return Reading::Unclear("it does not answer in time".to_owned()),
        Reply::Broken(why) => return Reading::Unclear(why.clone()),
    };
    if is_starting(answer) {
        // Whatever its model is called, it is on its way.
        return Reading::Seen(starting(proofs.iter().map(|(name, _)| *name)));
    }
    match classify(answer.status) {
        StatusClass::Unauthorized if json(answer)["error"]["type"] == "authentication_error" => Reading::Unauthorized,
        StatusClass::Unauthorized => Reading::Forbidden(describe(answer)),
        StatusClass::RateLimited => Reading::RateLimited(format!("it answers with {}", describe(answer))),
        StatusClass::Temporary => Reading::Unclear(format!("it answers with {}", describe(answer))),
        StatusClass::Other => Reading::OtherProgram(describe(answer)),
    }
}

/// A server with a single model answers so to everything while it loads.
fn is_starting(answer: &Answer) -> bool {
    answer.status == 503 && json(answer)["error"]["type"] == "unavailable_error"
}

fn starting<'a>(names: impl Iterator<Item = &'a str>) -> Snapshot {
    let model = |name: &str| Model {
        id: name.to_owned(),
        aliases: Vec::new(),
        state: None,
        context_length: None,
        max_context_length: None,
        size_bytes: None,
    };
    let instances = names.map(|name| instance(&model(name), Readiness::Loading, None)).collect();
    Snapshot { source: Source::Models, instances, downloaded: None, routes: Routes::default() }
}

/// What an order (`POST /models/load`, `/models/unload`, `/tokenize`, `/models`) came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OrderReply {
    /// It is begun, or done.
    Accepted,
    /// It does not fit the state of the model: there is a process already, or none.
    Unfit,
    /// There is no such model.
    NotKnown,
    /// All places are taken by models that are busy or loading.
    NoPlace,
    /// The key is missing or wrong.
    Unauthorized,
    /// The connection broke, or the server is starting: it may be there again in a moment.
    Gone(String),
    /// No answer in time.
    TimedOut,
    /// Anything else, in the server's words.
    Failed(String),
}

/// Reads it.
pub(crate) fn read_order(reply: &Reply) -> OrderReply {
    let answer = match reply {
        Reply::Answer(answer) => answer,
        Reply::TimedOut => return OrderReply::TimedOut,
        Reply::Refused => return OrderReply::Gone("nothing listens there any more".to_owned()),
        Reply::Broken(why) => return OrderReply::Gone(why.clone()),
        Reply::Unreachable(error) => return OrderReply::Gone(error.to_string()),
        Reply::NotHttp(said) => return OrderReply::Failed(format!("no HTTP, but \"{said}\"")),
    };
    let words = words(answer);
    match answer.status {
        200 => OrderReply::Accepted,
        400 => OrderReply::Unfit,
        401 | 403 => OrderReply::Unauthorized,
        404 => OrderReply::NotKnown,
        500 if words.contains("limit") => OrderReply::NoPlace,
        502..=504 => OrderReply::Gone(words),
        _ => OrderReply::Failed(words),
    }
}

/// Whether one of a model's slots works, by `GET /slots?model=`; `None` where that is not told.
pub(crate) fn is_busy(reply: &Reply) -> Option<bool> {
    let slots = answer(reply).filter(|it| it.status == 200).map(json)?;
    Some(slots.as_array()?.iter().any(|slot| slot["is_processing"] != false))
}

fn answer(reply: &Reply) -> Option<&Answer> {
    match reply {
        Reply::Answer(answer) => Some(answer),
        _ => None,
    }
}

fn json(answer: &Answer) -> Json {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

/// An error in the server's words: those of the proxy in front of a model are no JSON.
fn words(answer: &Answer) -> String {
    match json(answer)["error"]["message"].as_str() {
        Some(message) => excerpt(message, 200),
        None => describe(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::model::ModelKey;
    use crate::pure::residency::Residency;

    fn reply(status: u16, body: &str) -> Reply {
        let signature = "llama.cpp, application/json".to_owned();
        Reply::Answer(Answer { status, signature, body: body.as_bytes().to_vec() })
    }

    fn list(body: &str) -> ModelList {
        let mut list = ModelList::new(["a", "b"]);
        for piece in body.as_bytes().chunks(7) {
            list.feed(piece);
        }
        list
    }

    fn router(status: &str) -> String {
        format!(
            r#"{{"data":[{{"id":"a","aliases":["b"],"owned_by":"llamacpp","status":{status},
            "meta":{{"n_ctx":1024,"n_ctx_train":4096,"size":9}}}}],"object":"list"}}"#
        )
    }

    /// What a round means for the model `a`, or why it means nothing.
    fn word(body: &str, proof: Reply) -> String {
        let reading = read_round(&reply(200, body), &list(body), &[("a", proof)]);
        let Reading::Seen(snapshot) = reading else { return format!("{reading:?}") };
        match snapshot.residency(&ModelKey::parse("a").unwrap()) {
            Residency::Addressable(it) => format!("ready {:?} {:?}", it.context_length.unwrap(), it.parallel),
            Residency::Loading(_) => "loading".to_owned(),
            Residency::Absent => "absent".to_owned(),
            Residency::Duplicates(_) => "copies".to_owned(),
            Residency::Unknown => snapshot.routes.unclear["a"].clone(),
        }
    }

    #[test]
    fn the_list_counts_only_with_the_proof() {
        let awake = || reply(200, r#"{"model_alias":"a","is_sleeping":false,"total_slots":4}"#);
        let asleep = || reply(200, r#"{"model_alias":"a","is_sleeping":true}"#);
        let other = || reply(200, r#"{"model_alias":"c","is_sleeping":false}"#);
        let broken = || reply(500, "proxy error: Could not establish connection");
        let not_loaded = || reply(400, r#"{"error":{"message":"model is not loaded"}}"#);
        for (value, proof, wanted) in [
            ("loaded", awake(), "ready 1024 Some(4)"),
            ("loaded", asleep(), "its list and `a` itself do not agree"),
            ("loaded", other(), "its list and `a` itself do not agree"),
            ("loaded", broken(), "`a` is listed as loaded, and does not answer (status 500"),
            ("loaded", not_loaded(), "`a` is listed as loaded, and does not answer (model is not loaded)"),
            ("loaded", Reply::TimedOut, "`a` does not answer in time"),
            ("loading", broken(), "loading"),
            ("downloading", not_loaded(), "loading"),
            ("downloaded", not_loaded(), "loading"),
            ("sleeping", asleep(), "absent"),
            ("sleeping", awake(), "its list and `a` itself do not agree"),
            ("unloaded", not_loaded(), "absent"),
            ("unloaded", awake(), "its list and `a` itself do not agree"),
            ("dreaming", not_loaded(), "it lists `a` in a state that is not known"),
        ] {
            let found = word(&router(&format!(r#"{{"args":["x"],"value":"{value}"}}"#)), proof);
            assert!(found.starts_with(wanted), "{value}: {found}");
        }
    }

    #[test]
    fn the_one_model_of_a_server_that_is_no_router_needs_no_state() {
        let body = router("null").replace(r#""status":null,"#, "");
        let proof = |is_sleeping| reply(200, &format!(r#"{{"model_alias":"/m/a.gguf","is_sleeping":{is_sleeping}}}"#));
        assert_eq!(word(&body, proof(false)), "ready 1024 None");
        assert_eq!(word(&body, proof(true)), "absent");
        assert_eq!(list(&body).models[0].state, None);
    }

    #[test]
    fn a_failure_is_kept_with_its_exit_code_and_an_alias_leads_to_its_model() {
        let body = router(r#"{"value":"unloaded","failed":true,"exit_code":1}"#);
        let list = list(&body);
        assert_eq!(
            list.find("b").unwrap().state,
            Some(State::Unloaded { failed: Some(super::super::list::Exit(Some(1))) })
        );
        let Reading::Seen(snapshot) = read_round(&reply(200, &body), &list, &[("b", reply(400, "{}"))]) else {
            panic!()
        };
        assert_eq!(snapshot.identifier(&ModelKey::parse("b").unwrap()), "a");
    }

    #[test]
    fn what_is_no_list_of_llama_cpp_is_none() {
        let starting = r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
        let wrong_key = r#"{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}"#;
        let swap = r#"{"data":[{"id":"a","owned_by":"llama-swap","status":{"value":"loaded"}}]}"#;
        for (answer, wanted) in [
            (reply(503, starting), "Loading"),
            (reply(503, "<html>"), "Unclear"),
            (reply(401, wrong_key), "Unauthorized"),
            (reply(401, "{}"), "Forbidden"),
            (reply(429, "{}"), "RateLimited"),
            (reply(200, swap), "OtherProgram"),
            (reply(404, "{}"), "OtherProgram"),
            (Reply::Refused, "Down"),
            (Reply::TimedOut, "Unclear"),
        ] {
            let body = match &answer {
                Reply::Answer(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
                _ => String::new(),
            };
            let reading = format!("{:?}", read_round(&answer, &list(&body), &[("a", Reply::TimedOut)]));
            assert!(reading.contains(wanted), "{wanted}: {reading}");
        }
    }

    #[test]
    fn an_order_is_read_by_its_status() {
        let error = |message: &str| format!(r#"{{"error":{{"message":"{message}"}}}}"#);
        for (answer, wanted) in [
            (reply(200, r#"{"success":true}"#), OrderReply::Accepted),
            (reply(400, &error("model is already running")), OrderReply::Unfit),
            (reply(404, &error("File Not Found")), OrderReply::NotKnown),
            (reply(500, &error("model limit reached, try again later")), OrderReply::NoPlace),
            (reply(500, &error("out of luck")), OrderReply::Failed("out of luck".to_owned())),
            (reply(401, "{}"), OrderReply::Unauthorized),
            (reply(503, &error("Loading model")), OrderReply::Gone("Loading model".to_owned())),
            (Reply::TimedOut, OrderReply::TimedOut),
        ] {
            assert_eq!(read_order(&answer), wanted);
        }
        assert!(matches!(read_order(&Reply::Refused), OrderReply::Gone(_)));
        let slots = |busy| reply(200, &format!(r#"[{{"is_processing":false}},{{"is_processing":{busy}}}]"#));
        assert_eq!(
            (is_busy(&slots(true)), is_busy(&slots(false)), is_busy(&reply(501, "{}"))),
            (Some(true), Some(false), None)
        );
    }
}
