//! Reads what llama-swap tells of its models (`/running`, `/v1/models`, `/api/profiles`, and the
//! list in its events), and finds out which one a name means, as llama-swap does.
//!
//! Only `/running` tells what is loaded: `status` in `/v1/models` says `loaded` of a model that is
//! starting or stopping as well.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::reply::is_own_refusal;
use crate::pure::http::{Answer, Reply, StatusClass, classify, describe};
use crate::pure::json::Object;
use crate::pure::json_list::{Cursor, End, JsonList, LARGEST, Stop, Value};
use crate::pure::model::ModelKey;
use crate::pure::residency::{Downloaded, Instance, Location, Readiness, Reading, Routes, Snapshot, Source};

/// Most models that are kept of a list besides those that are asked for.
const MOST_MODELS: usize = 10_000;
/// Most processes of `/running`.
const MOST_RUNNING: usize = 1000;

/// What a process does. Versions before v218 list only those that are ready, unless they have a
/// matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its health check has passed.
    Ready,
    /// It has been started.
    Starting,
    /// It is ending.
    Stopping,
    /// A word that no version is known to use.
    Other,
}

/// The list of `GET /running`, as it comes in. The command lines in it, which may hold secrets, are
/// not kept.
#[derive(Debug)]
pub struct RunningList {
    list: JsonList,
    running: BTreeMap<String, State>,
}

impl Default for RunningList {
    fn default() -> Self {
        Self { list: JsonList::new("running"), running: BTreeMap::new() }
    }
}

impl RunningList {
    /// Takes the next piece of the body; whether more of it is wanted.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        let Self { list, running } = self;
        list.feed(piece, &mut |cursor| {
            let (mut model, mut state) = (None, None);
            cursor.object(|name, value| match name {
                b"model" => model = Some(value),
                b"state" => state = Some(value),
                _ => {}
            })?;
            let (Some(model), Some(state)) = (model, state) else { return Err(Stop::Malformed) };
            if running.len() == MOST_RUNNING {
                return Err(Stop::TooLarge);
            }
            let state = match &*state.text()? {
                "ready" => State::Ready,
                "starting" => State::Starting,
                "stopping" => State::Stopping,
                _ => State::Other,
            };
            running.insert(model.text()?, state);
            Ok(())
        });
        !list.is_given_up()
    }

    /// The processes by id, if the whole list was there.
    pub fn whole(self) -> Option<BTreeMap<String, State>> {
        (self.list.end() == End::Whole).then_some(self.running)
    }
}

/// What a name in `/v1/models` is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A model. Versions before v241 tell nothing, and mean a model or one of a peer.
    Model,
    /// Another name of the model with this id.
    Alias(String),
    /// A name for one of these targets, which it chooses by this rule.
    Selector(Rule, Vec<String>),
    /// A model of this other server, which llama-swap passes requests on to.
    Peer(String),
}

/// How a selector chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The first target.
    First,
    /// One that is ready, else one that is starting, else the first.
    Warm,
}

#[derive(Debug, Clone)]
struct Listed {
    kind: Kind,
    aliases: Vec<String>,
    /// As its owner has declared it; nobody has measured it.
    context_length: Option<u64>,
}

/// The list of `GET /v1/models`, as it comes in.
#[derive(Debug)]
pub struct ModelList {
    list: JsonList,
    requested: Vec<String>,
    models: BTreeMap<String, Listed>,
}

impl ModelList {
    /// Expects the list; the names that are `requested` are found in it however long it is.
    pub fn new<'a>(requested: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            list: JsonList::new("data"),
            requested: requested.into_iter().map(str::to_owned).collect(),
            models: BTreeMap::new(),
        }
    }

    /// Takes the next piece of the body; whether more of it is wanted.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        let Self { list, requested, models } = self;
        list.feed(piece, &mut |cursor| {
            let (id, listed) = read_model(cursor)?;
            let is_requested = requested.iter().any(|name| *name == id || listed.aliases.contains(name));
            if models.len() < MOST_MODELS || is_requested {
                models.insert(id, listed);
            }
            Ok(())
        });
        !list.is_given_up()
    }
}

fn read_model(cursor: &mut Cursor<'_>) -> Result<(String, Listed), Stop> {
    let (mut id, mut meta, mut context_length) = (None, None, None);
    cursor.object(|name, value| match name {
        b"id" => id = Some(value),
        b"meta" => meta = Some(value),
        b"context_length" => context_length = value.number(),
        _ => {}
    })?;
    let id = id.ok_or(Stop::Malformed)?.text()?;
    // Before v241 it is free text, of any shape.
    let own = meta.and_then(|meta: Value<'_>| meta.decode::<Meta>().ok()).unwrap_or_default().llamaswap;
    let Own { r#type, model_id, aliases, strategy, targets, peer_id } = own;
    let rule = if strategy == "pin" { Rule::First } else { Rule::Warm };
    let kind = match &*r#type {
        "alias" => Kind::Alias(model_id),
        "selector" => Kind::Selector(rule, targets),
        "peer" => Kind::Peer(peer_id),
        _ => Kind::Model,
    };
    Ok((id, Listed { kind, aliases, context_length }))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Meta {
    llamaswap: Own,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Own {
    r#type: String,
    #[serde(rename = "modelID")]
    model_id: String,
    aliases: Vec<String>,
    strategy: String,
    targets: Vec<String>,
    #[serde(rename = "peerID")]
    peer_id: String,
}

/// Names that a profile replaces while it is active (v241).
#[derive(Debug, Clone, Default, Deserialize)]
struct Profiles {
    active: Option<String>,
    profiles: Vec<Profile>,
}

#[derive(Debug, Clone, Deserialize)]
struct Profile {
    id: String,
    #[serde(default)]
    pins: BTreeMap<String, String>,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'a> {
    /// The model with this id.
    Id(&'a str),
    /// A model of this peer.
    Peer(&'a str),
    /// Nothing, as long as this profile is active.
    SwitchedOff(&'a str),
    /// This name, which no list has: an unlisted model or an alias, or nothing at all.
    Unlisted(&'a str),
}

/// What llama-swap tells of its models.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    running: BTreeMap<String, State>,
    models: BTreeMap<String, Listed>,
    profile: Option<Profile>,
    /// Names that no list has, and that llama-swap knows all the same: it does not tell what for.
    known: Vec<String>,
}

impl Lists {
    /// Puts the answers of one round together.
    ///
    /// # Errors
    /// What the round means where it does not tell.
    pub fn read(
        running: (&Reply, RunningList),
        models: (&Reply, ModelList),
        profiles: &Reply,
    ) -> Result<Self, Reading> {
        let replies = [running.0, models.0, profiles];
        if [running.1.list.end(), models.1.list.end()].contains(&End::TooLarge) {
            return Err(Reading::TooLarge(format!("its list of models is too large (over {LARGEST})")));
        }
        let is_listed = models.1.list.end() == End::Whole;
        let (Some(running), true, Ok(profile)) = (running.1.whole(), is_listed, read_profile(profiles)) else {
            return Err(why_not(&replies, is_listed));
        };
        Ok(Self { running, models: models.1.models, profile, known: Vec::new() })
    }

    /// What a request for `name` reaches.
    pub fn route<'a>(&'a self, name: &'a str) -> Route<'a> {
        let pin = self.profile.as_ref().and_then(|profile| Some((&profile.id, profile.pins.get(name)?)));
        let name = match pin {
            Some((profile, target)) if target.is_empty() => return Route::SwitchedOff(profile),
            Some((_, target)) => target,
            None => name,
        };
        match self.models.get(name).map(|it| &it.kind) {
            Some(Kind::Selector(rule, targets)) => self.chosen(*rule, targets).unwrap_or(Route::Unlisted(name)),
            _ => self.of_model(name),
        }
    }

    /// What a name that is none of a selector reaches.
    fn of_model<'a>(&'a self, name: &'a str) -> Route<'a> {
        if let Some((id, _)) = self.running.get_key_value(name) {
            return Route::Id(id);
        }
        match self.models.get(name).map(|it| &it.kind) {
            Some(Kind::Model) => return Route::Id(name),
            Some(Kind::Alias(id)) => return Route::Id(id),
            Some(Kind::Peer(peer)) => return Route::Peer(peer),
            Some(Kind::Selector(..)) | None => {}
        }
        if let Some((id, _)) = self.models.iter().find(|(_, it)| it.aliases.iter().any(|alias| alias == name)) {
            return Route::Id(id);
        }
        let mut peers = self.models.iter().filter_map(|(id, it)| match &it.kind {
            Kind::Peer(peer) if id.strip_prefix(&**peer).and_then(|rest| rest.strip_prefix('/')) == Some(name) => {
                Some(peer)
            }
            _ => None,
        });
        match (peers.next(), peers.next()) {
            (Some(peer), None) => Route::Peer(peer),
            _ => Route::Unlisted(name),
        }
    }

    fn chosen<'a>(&'a self, rule: Rule, targets: &'a [String]) -> Option<Route<'a>> {
        let in_state = |state: State| {
            let has = move |route: &Route<'_>| matches!(route, Route::Id(id) if self.running.get(*id) == Some(&state));
            targets.iter().map(|target| self.of_model(target)).find(has)
        };
        let warm = if rule == Rule::Warm { in_state(State::Ready).or_else(|| in_state(State::Starting)) } else { None };
        warm.or_else(|| targets.first().map(|target| self.of_model(target)))
    }

    /// The names that these mean and no list has, each once.
    pub fn unlisted<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for name in names {
            if let Route::Unlisted(name) = self.route(name)
                && !found.iter().any(|it| it == name)
            {
                found.push(name.to_owned());
            }
        }
        found
    }

    /// Adds what the events tell: unlisted models, and every alias.
    pub fn add(&mut self, statuses: Vec<Status>) {
        for Status { id, aliases, peer_id } in statuses {
            let kind = if peer_id.is_empty() { Kind::Model } else { Kind::Peer(peer_id) };
            let listed = self.models.entry(id).or_insert(Listed {
                kind: Kind::Model,
                aliases: Vec::new(),
                context_length: None,
            });
            if matches!(listed.kind, Kind::Model) {
                *listed = Listed { kind, aliases, context_length: listed.context_length };
            }
        }
    }

    /// Adds a name that llama-swap knows, without what it means.
    pub fn add_known(&mut self, name: String) {
        self.known.push(name);
    }

    /// What is ready, in no order that means anything.
    pub fn ready(&self) -> impl Iterator<Item = &str> {
        self.running.iter().filter(|(_, state)| **state == State::Ready).map(|(id, _)| id.as_str())
    }

    /// Whether a request for `name` reaches a model that is ready.
    pub fn is_ready(&self, name: &str) -> bool {
        matches!(self.route(name), Route::Id(id) if self.running.get(id) == Some(&State::Ready))
    }

    /// Whether llama-swap chooses the model: it has no path of its own then.
    pub fn is_selector(&self, name: &str) -> bool {
        matches!(self.models.get(name).map(|it| &it.kind), Some(Kind::Selector(..)))
    }

    /// Whether this is a name of anything.
    pub fn has(&self, name: &str) -> bool {
        self.known.iter().any(|it| it == name) || !matches!(self.route(name), Route::Unlisted(_))
    }

    /// Puts another look at `/running` in the place of the last one.
    pub fn look(&mut self, running: BTreeMap<String, State>) {
        self.running = running;
    }

    /// What all this says of the requested models.
    pub fn snapshot<'a>(&self, requested: impl IntoIterator<Item = &'a ModelKey>) -> Snapshot {
        let instances = self.running.iter().filter_map(|(id, state)| {
            let readiness = match state {
                State::Ready => Readiness::Ready,
                State::Starting => Readiness::Loading,
                // A request waits for its end, and starts it again.
                State::Stopping => return None,
                State::Other => Readiness::Contradicted,
            };
            Some(self.instance(id, readiness))
        });
        let mut names: Vec<&str> = self.models.keys().map(String::as_str).collect();
        names.extend(self.models.values().flat_map(|it| it.aliases.iter().map(String::as_str)));
        let mut routes = Routes::default();
        for key in requested {
            let name = key.as_str();
            match self.route(name) {
                Route::Id(id) => {
                    if id != name {
                        routes.identifiers.insert(name.to_owned(), id.to_owned());
                    }
                    names.push(name);
                }
                Route::Peer(peer) => {
                    let why = format!(
                        "`{name}` is a model of its peer `{peer}`, and llama-swap does not know what its peers have loaded"
                    );
                    routes.unclear.insert(name.to_owned(), why);
                }
                Route::Unlisted(meant) if self.known.iter().any(|it| it == meant) => {
                    let why = format!("it knows `{name}`, but does not tell which model that is (use the model's id)");
                    routes.unclear.insert(name.to_owned(), why);
                }
                // As if there were no such model.
                Route::SwitchedOff(_) => names.retain(|it| *it != name),
                Route::Unlisted(_) => {}
            }
        }
        names.sort_unstable();
        names.dedup();
        let downloaded = names.into_iter().map(|key| Downloaded {
            key: key.to_owned(),
            variants: Vec::new(),
            max_context_length: None,
            size_bytes: None,
            location: Location::Unreported,
        });
        Snapshot {
            source: Source::Running,
            instances: instances.collect(),
            downloaded: Some(downloaded.collect()),
            routes,
        }
    }

    fn instance(&self, id: &str, readiness: Readiness) -> Instance {
        Instance {
            identifier: id.to_owned(),
            model_key: Some(id.to_owned()),
            readiness,
            context_length: self.models.get(id).and_then(|it| it.context_length),
            max_context_length: None,
            parallel: None,
            device: None,
            busy: None,
            last_used: None,
            size_bytes: None,
        }
    }
}

/// The active profile. Versions before v241 have no such path, and no profiles.
fn read_profile(reply: &Reply) -> Result<Option<Profile>, ()> {
    let Reply::Answer(answer) = reply else { return Err(()) };
    match answer.status {
        404 | 405 => Ok(None),
        _ => {
            let Object(Profiles { active, profiles }) = serde_json::from_slice(&answer.body).map_err(drop)?;
            Ok(active.and_then(|active| profiles.into_iter().find(|it| it.id == active)))
        }
    }
}

/// What a round means that does not tell what is running.
fn why_not(replies: &[&Reply; 3], is_listed: bool) -> Reading {
    let running = replies[0];
    // The list is there, though cut off.
    let begins_well = matches!(running, Reply::Answer(it) if it.status == 200 && it.body.trim_ascii_start().starts_with(b"{\"running\""));
    let answers: Vec<&Answer> =
        replies.iter().filter_map(|it| if let Reply::Answer(it) = it { Some(it) } else { None }).collect();
    match running {
        Reply::Answer(it) if it.status == 404 && is_listed && !is_own_refusal(it) => {
            Reading::Unclear("it has no /running: a llama-swap before v94, or another program".to_owned())
        }
        _ if begins_well && !answers.iter().any(|it| classify(it.status) != StatusClass::Other) => {
            let odd =
                answers.iter().find(|it| it.status != 200).or(answers.last()).map_or(String::new(), |it| describe(it));
            Reading::Unclear(format!("its answers cannot be read: {odd}"))
        }
        _ => Reading::of_replies(replies, is_own_refusal),
    }
}

/// A model as the events list it: all of them, with those that `/v1/models` leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    id: String,
    /// Since v194.
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(rename = "peerID", default)]
    peer_id: String,
}

impl Status {
    /// The peer that has this model under this name.
    pub fn peer_of(&self, name: &str) -> Option<&str> {
        (self.id == name && !self.peer_id.is_empty()).then_some(self.peer_id.as_str())
    }
}

/// The beginning of `GET /api/events`, as it comes in: the whole log first, of which nothing is
/// kept, then the list of models.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    statuses: Option<Vec<Status>>,
}

impl Events {
    /// Takes the next piece of the body; whether more of it is wanted.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() > MOST_OF_A_LINE {
                return false;
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                if let Some(statuses) = read_event(&line) {
                    self.statuses = Some(statuses);
                    return false;
                }
            }
        }
        true
    }

    /// Every model, if the list came.
    pub fn statuses(self) -> Option<Vec<Status>> {
        self.statuses
    }
}

/// Most of one line of the events: the log in it is that of everything since the start.
const MOST_OF_A_LINE: usize = 16 * 1024 * 1024;

fn read_event(line: &[u8]) -> Option<Vec<Status>> {
    #[derive(Deserialize)]
    struct Event {
        r#type: String,
        data: String,
    }
    let data = line.strip_prefix(b"data:")?;
    // The log is not worth decoding.
    memchr::memmem::find(&data[..data.len().min(100)], b"modelStatus")?;
    let Object(Event { r#type, data }) = serde_json::from_slice(data).ok()?;
    if r#type != "modelStatus" {
        return None;
    }
    let statuses: Vec<Object<Status>> = serde_json::from_str(&data).ok()?;
    Some(statuses.into_iter().map(|Object(status)| status).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(status: u16, body: &[u8]) -> Reply {
        Reply::Answer(Answer { status, signature: String::new(), body: body.to_vec() })
    }

    /// Reads a round as it comes in, in pieces of this size.
    fn read(running: &str, models: &str, profiles: &Reply, size: usize) -> Result<Lists, Reading> {
        let (mut of_running, mut of_models) = (RunningList::default(), ModelList::new(["hidden"]));
        for piece in running.as_bytes().chunks(size) {
            of_running.feed(piece);
        }
        for piece in models.as_bytes().chunks(size) {
            of_models.feed(piece);
        }
        let replies = (answer(200, running.as_bytes()), answer(200, models.as_bytes()));
        Lists::read((&replies.0, of_running), (&replies.1, of_models), profiles)
    }

    const PROFILED: &str = include_str!("../../../tests/fixtures/llamaswap/profiles.models.json");
    const LOCAL_READY: &str = r#"{"running":[{"model":"local","state":"ready","cmd":"x --api-key sk-1","ttl":0}]}"#;

    fn coding() -> Reply {
        let body = r#"{"active":"coding","profiles":[{"id":"coding","pins":{"code":"local","other":""}}]}"#;
        answer(200, body.as_bytes())
    }

    #[test]
    fn a_name_means_what_llama_swap_takes_it_for() {
        let lists = read(LOCAL_READY, PROFILED, &coding(), 7).unwrap();
        for (name, wanted) in [
            ("local", Route::Id("local")),
            ("loc", Route::Id("local")),
            ("local:high", Route::Id("local")),
            ("best", Route::Id("local")),
            ("fixed", Route::Id("other")),
            ("code", Route::Id("local")),
            ("other", Route::SwitchedOff("coding")),
            ("box/main", Route::Peer("box")),
            ("main", Route::Peer("box")),
            ("far", Route::Peer("dead")),
            ("Local", Route::Unlisted("Local")),
        ] {
            assert_eq!(lists.route(name), wanted, "{name}");
        }
        let snapshot = lists.snapshot([&ModelKey::parse("loc").unwrap()]);
        assert_eq!(snapshot.identifier(&ModelKey::parse("loc").unwrap()), "local");
        assert!(!format!("{snapshot:?}").contains("sk-1"), "no command line is kept");
    }

    #[test]
    fn what_events_tell_completes_the_lists() {
        let sample = include_str!("../../../tests/fixtures/llamaswap/events.sse");
        let models = include_str!("../../../tests/fixtures/llamaswap/models.none-loaded.json");
        let running = include_str!("../../../tests/fixtures/llamaswap/running.empty.json");
        let mut lists = read(running, models, &answer(404, b""), 100).unwrap();
        assert_eq!(lists.unlisted(["main", "gpt-4o", "hidden", "nope", "hidden"]), ["hidden", "nope"]);
        let mut events = Events::default();
        assert!(sample.as_bytes().chunks(50).any(|piece| !events.feed(piece)), "no more is wanted");
        lists.add(events.statuses().unwrap());
        assert_eq!(lists.unlisted(["main", "gpt-4o", "hidden", "nope"]), ["nope"]);
    }

    #[test]
    fn a_state_leads_to_what_a_request_would_find() {
        let running = r#"{"running":[{"model":"a","state":"ready"},{"model":"b","state":"starting"},
                         {"model":"c","state":"stopping"},{"model":"d","state":"sleeping"}]}"#;
        let lists = read(running, r#"{"data":[],"object":"list"}"#, &answer(404, b""), 1000).unwrap();
        let snapshot = lists.snapshot([]);
        let states: Vec<_> = snapshot.instances.iter().map(|it| (it.identifier.as_str(), it.readiness)).collect();
        assert_eq!(states, [("a", Readiness::Ready), ("b", Readiness::Loading), ("d", Readiness::Contradicted)]);
    }

    #[test]
    fn a_round_that_does_not_tell_says_why() {
        let none = || answer(404, b"");
        let models = r#"{"data":[],"object":"list"}"#;
        for (running, models, profiles) in [
            (r#"{"running":[{"model":"a""#, models, none()),
            (r#"{"running":[{"model":1,"state":"ready"}]}"#, models, none()),
            (r#"{"running":[]}"#, "", none()),
            (r#"{"running":[]}"#, models, answer(200, b"{}")),
            (r#"{"running":[]}"#, models, Reply::TimedOut),
        ] {
            let reading = read(running, models, &profiles, 5).unwrap_err();
            assert!(matches!(reading, Reading::Unclear(_)), "{running} {models} {profiles:?}: {reading:?}");
        }
        let other = read(r#"{"error":"Unexpected endpoint"}"#, models, &none(), 5).unwrap_err();
        assert!(matches!(other, Reading::OtherProgram(_)), "{other:?}");
    }

    proptest! {
        #[test]
        fn nothing_that_is_answered_is_taken_for_more_than_it_says(running in ".{0,60}", models in ".{0,60}") {
            if let Ok(lists) = read(&running, &models, &answer(404, b""), 3) {
                prop_assert_eq!(lists.ready().count(), 0, "{} {}", running, models);
            }
        }
    }
}
