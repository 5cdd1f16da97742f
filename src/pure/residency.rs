//! What is resident, and what that means for one model: addressable, drift, duplicates,
//! loading, absent, or unknown. Nothing is asked here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::pure::http::{Answer, ConnectError, Reply, StatusClass, classify, describe};
use crate::pure::load::LoadOptions;
use crate::pure::model::ModelKey;

/// Who told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `GET /api/v1/models`.
    RestV1,
    /// `GET /api/v0/models`.
    RestV0,
    /// `lms ps --json`.
    LmsPs,
    /// A verdict of `lms ps` that is not old yet.
    Cache,
    /// llama-swap's `GET /running`.
    Running,
    /// llama.cpp's `GET /models`.
    Models,
}

impl Source {
    /// Whether to ask it costs as much as to start a program.
    pub fn is_slow(self) -> bool {
        self == Self::LmsPs
    }
}

/// Whether an instance can answer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// The source says it is loaded.
    Ready,
    /// The source says it is loading.
    Loading,
    /// The source lists an instance from the start of its load and cannot tell the two apart.
    Unreported,
    /// Two sources disagree: it came or went between them.
    Contradicted,
}

/// One loaded copy of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The name the API routes by.
    pub identifier: String,
    /// The model it is a copy of, where the source tells.
    pub model_key: Option<String>,
    /// Whether it can answer.
    pub readiness: Readiness,
    /// Its context, in tokens.
    pub context_length: Option<u64>,
    /// The most context its model can have, in tokens, where the source tells.
    pub max_context_length: Option<u64>,
    /// Requests it serves at once.
    pub parallel: Option<u64>,
    /// The linked machine it is on (LM Link); `None`: this one, or the source cannot tell.
    pub device: Option<String>,
    /// Whether requests run or wait on it; only `lms ps` knows.
    pub busy: Option<bool>,
    /// When it last answered, in Unix milliseconds; only `lms ps` knows.
    pub last_used: Option<u64>,
    /// Its model's size on disk.
    pub size_bytes: Option<u64>,
}

/// A model that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Its key.
    pub key: String,
    /// Its variants (`KEY@q8_0`), which are keys to the REST API alone.
    pub variants: Vec<String>,
    /// The most context it can have, in tokens.
    pub max_context_length: Option<u64>,
    /// Size on disk.
    pub size_bytes: Option<u64>,
    /// The machine that has it. REST does not tell.
    pub location: Location,
}

/// Where a downloaded model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Location {
    /// On the machine LM Studio runs on.
    Here,
    /// On a machine linked with LM Link.
    Linked,
    /// The source does not tell.
    Unreported,
}

/// What one look at the server showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Who told.
    pub source: Source,
    /// Every instance.
    pub instances: Vec<Instance>,
    /// Every downloaded model, if the source lists them all; of more than 10,000 some, and those
    /// that the call asks for.
    pub downloaded: Option<Vec<Downloaded>>,
    /// How the server routes the names that are asked for.
    pub routes: Routes,
}

/// How a server routes names that are not those of its instances. Empty for a server that knows
/// no other names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// The identifier that the server takes a requested name for: an alias, say.
    pub identifiers: BTreeMap<String, String>,
    /// Requested names of which nothing can be told from here, and why.
    pub unclear: BTreeMap<String, String>,
}

/// What one round of requests to a server means.
#[derive(Debug)]
pub enum Reading {
    /// What is resident could be read.
    Seen(Snapshot),
    /// Nothing listens.
    Down,
    /// It cannot be connected to.
    Unreachable(ConnectError),
    /// The server wants a token, or another one.
    Unauthorized,
    /// Something refused the request for its token, in other words than the server's; holds what was
    /// said, for a message.
    Forbidden(String),
    /// Something refused the request because there were too many; holds what was said, for a message.
    /// To ask again at once makes it worse.
    RateLimited(String),
    /// Something answered, but with none of the lists; holds what was said, for a message.
    OtherProgram(String),
    /// What listens there speaks no HTTP; holds the beginning of what it said, for a message.
    NotHttp(String),
    /// A list that is longer than is read; says which. To ask again changes nothing.
    TooLarge(String),
    /// No usable answer at all; says what happened.
    Unclear(String),
}

impl Reading {
    /// What replies mean of which none tells what is resident. `is_own_refusal` knows the server's
    /// own way to refuse a token.
    pub fn of_replies(replies: &[&Reply], is_own_refusal: impl Fn(&Answer) -> bool) -> Self {
        let answers = || replies.iter().filter_map(|it| if let Reply::Answer(it) = it { Some(it) } else { None });
        let of_class = |class| answers().find(|it| classify(it.status) == class);
        if answers().any(is_own_refusal) {
            return Self::Unauthorized;
        }
        if let Some(it) = of_class(StatusClass::Unauthorized) {
            return Self::Forbidden(describe(it));
        }
        if let Some(it) = of_class(StatusClass::RateLimited) {
            return Self::RateLimited(format!("it answers with {}", describe(it)));
        }
        if replies.iter().all(|it| matches!(it, Reply::Refused)) {
            return Self::Down;
        }
        let unreachable = replies.iter().map(|it| if let Reply::Unreachable(error) = it { Some(error) } else { None });
        if let Some(errors) = unreachable.collect::<Option<Vec<_>>>()
            && let Some(error) = errors.first()
        {
            return Self::Unreachable((*error).clone());
        }
        if let Some(it) = of_class(StatusClass::Temporary) {
            return Self::Unclear(format!("it answers with {}", describe(it)));
        }
        if let Some(it) = answers().next() {
            return Self::OtherProgram(describe(it));
        }
        match replies.iter().find_map(|it| if let Reply::NotHttp(said) = it { Some(said) } else { None }) {
            Some(said) => Self::NotHttp(said.clone()),
            None => Self::Unclear(replies.first().map_or(String::new(), |it| no_answer(it))),
        }
    }
}

/// Why there is no answer, for a message.
pub(crate) fn no_answer(reply: &Reply) -> String {
    match reply {
        Reply::TimedOut => "it does not answer in time".to_owned(),
        Reply::Broken(why) => why.clone(),
        Reply::Unreachable(error) => error.to_string(),
        Reply::Refused | Reply::Answer(_) | Reply::NotHttp(_) => "it answers now and then".to_owned(),
    }
}

/// What a snapshot means for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Residency<'a> {
    /// Loaded under the bare key and, as far as anybody can tell, ready.
    Addressable(&'a Instance),
    /// A load is under way.
    Loading(&'a Instance),
    /// Only copies under other names (`KEY:2`) are loaded.
    Duplicates(Vec<&'a Instance>),
    /// Nothing of it is loaded.
    Absent,
    /// The sources disagree about it, or none can tell.
    Unknown,
}

impl Snapshot {
    /// The name of the instance that requests for `key` reach.
    pub fn identifier<'a>(&'a self, key: &'a ModelKey) -> &'a str {
        self.routes.identifiers.get(key.as_str()).map_or(key.as_str(), String::as_str)
    }

    /// What this snapshot means for `key`.
    pub fn residency(&self, key: &ModelKey) -> Residency<'_> {
        if self.routes.unclear.contains_key(key.as_str()) {
            return Residency::Unknown;
        }
        let identifier = self.identifier(key);
        // LM Link may show one identifier on two machines; prefer the copy that is ready.
        let bare = self.instances.iter().filter(|it| it.identifier == identifier).min_by_key(|it| match it.readiness {
            Readiness::Ready | Readiness::Unreported => (0, it.device.is_some()),
            Readiness::Loading => (1, false),
            Readiness::Contradicted => (2, false),
        });
        if let Some(instance) = bare {
            return match instance.readiness {
                Readiness::Ready | Readiness::Unreported => Residency::Addressable(instance),
                Readiness::Loading => Residency::Loading(instance),
                Readiness::Contradicted => Residency::Unknown,
            };
        }
        let copies: Vec<&Instance> = self.copies(key).collect();
        if copies.iter().any(|it| it.readiness == Readiness::Contradicted) {
            Residency::Unknown
        } else if let Some(loading) = copies.iter().find(|it| it.readiness == Readiness::Loading) {
            Residency::Loading(loading)
        } else if copies.is_empty() {
            Residency::Absent
        } else {
            Residency::Duplicates(copies)
        }
    }

    /// The instances named `KEY:2`, `KEY:3` … that are copies of `key`, or may be: where the source
    /// does not tell the model, another one may have been given that name.
    pub fn copies<'a, 'k>(&'a self, key: &'k ModelKey) -> impl Iterator<Item = &'a Instance> + use<'a, 'k> {
        self.instances.iter().filter(|it| {
            key.is_copy(&it.identifier) && it.model_key.as_deref().is_none_or(|name| key.is_of_model(name))
        })
    }

    /// The downloaded model that has exactly this name, or a variant of it.
    pub fn find_downloaded(&self, key: &ModelKey) -> Option<&Downloaded> {
        find_downloaded(self.downloaded.as_deref().unwrap_or_default(), key)
    }

    /// The most context `key` can have, where the source tells.
    pub fn max_context(&self, key: &ModelKey) -> Option<u64> {
        let resident = || self.instances.iter().find(|it| it.identifier == self.identifier(key));
        self.find_downloaded(key)
            .and_then(|it| it.max_context_length)
            .or_else(|| resident().and_then(|it| it.max_context_length))
    }
}

/// Whether machines linked with each other have several instances of this name. None of them can
/// then be unloaded by it.
pub fn is_ambiguous(resident: &[Instance], identifier: &str) -> bool {
    resident.iter().filter(|it| it.identifier == identifier).nth(1).is_some()
}

/// The model of exactly this name among `models`; one that is here before one that is linked.
pub fn find_downloaded<'a>(models: &'a [Downloaded], key: &ModelKey) -> Option<&'a Downloaded> {
    models
        .iter()
        .filter(|it| it.key == key.as_str() || it.variants.iter().any(|name| name == key.as_str()))
        .min_by_key(|it| it.location == Location::Linked)
}

/// Resident, but with less context than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drift {
    /// What the instance has, in tokens.
    pub has: u64,
    /// What was asked for, at most the model's maximum.
    pub wants: u64,
}

/// Compares an instance with what the configuration asks for.
///
/// The configured context is a minimum: more is never drift. What a source does not tell
/// is not drift either.
pub fn drift(instance: &Instance, options: &LoadOptions, max_context: Option<u64>) -> Option<Drift> {
    let wants = options.wanted_context(max_context)?;
    let has = instance.context_length?;
    (has < wants).then_some(Drift { has, wants })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An instance with 4,096 tokens, of which no more is known.
    pub(crate) fn instance(identifier: &str, readiness: Readiness) -> Instance {
        Instance {
            identifier: identifier.to_owned(),
            model_key: None,
            readiness,
            context_length: Some(4096),
            max_context_length: None,
            parallel: None,
            device: None,
            busy: None,
            last_used: None,
            size_bytes: None,
        }
    }

    /// A downloaded model, of which no more is known.
    pub(crate) fn downloaded(key: &str) -> Downloaded {
        Downloaded {
            key: key.to_owned(),
            variants: Vec::new(),
            max_context_length: None,
            size_bytes: None,
            location: Location::Here,
        }
    }

    /// What REST shows of these.
    pub(crate) fn snapshot(instances: Vec<Instance>, downloaded: Option<&[&str]>) -> Snapshot {
        let downloaded = downloaded.map(|keys| keys.iter().map(|key| self::downloaded(key)).collect());
        Snapshot { source: Source::RestV1, instances, downloaded, routes: Routes::default() }
    }

    fn word(snapshot: &Snapshot, key: &str) -> String {
        match snapshot.residency(&ModelKey::parse(key).unwrap()) {
            Residency::Addressable(it) => format!("addressable {}", it.identifier),
            Residency::Loading(it) => format!("loading {}", it.identifier),
            Residency::Duplicates(copies) => format!("{} copies", copies.len()),
            Residency::Absent => "absent".to_owned(),
            Residency::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn only_the_bare_key_that_is_ready_is_addressable() {
        use Readiness::{Contradicted, Loading, Ready, Unreported};
        for (instances, wanted) in [
            (vec![], "absent"),
            (vec![("a", Ready)], "addressable a"),
            (vec![("a", Unreported)], "addressable a"),
            (vec![("a", Loading)], "loading a"),
            (vec![("a", Contradicted)], "unknown"),
            (vec![("a:2", Ready)], "1 copies"),
            (vec![("a:2", Ready), ("a:3", Unreported)], "2 copies"),
            (vec![("a:2", Loading)], "loading a:2"),
            (vec![("a:2", Contradicted)], "unknown"),
            (vec![("a:2", Ready), ("a", Ready)], "addressable a"),
            (vec![("a", Loading), ("a", Ready)], "addressable a"),
            (vec![("ab", Ready), ("warm-a", Ready), ("a:b", Ready)], "absent"),
        ] {
            let found = snapshot(instances.iter().map(|(name, state)| instance(name, *state)).collect(), None);
            assert_eq!(word(&found, "a"), wanted, "{instances:?}");
        }
    }

    #[test]
    fn another_model_of_such_a_name_is_no_copy() {
        for (model, wanted) in [("a:2", "absent"), ("b", "absent"), ("a", "1 copies")] {
            let mut named = instance("a:2", Readiness::Ready);
            named.model_key = Some(model.to_owned());
            assert_eq!(word(&snapshot(vec![named], None), "a"), wanted, "{model}");
        }
    }

    #[test]
    fn drift_is_less_context_and_never_more() {
        let options = |wanted| LoadOptions { context_length: wanted, ..LoadOptions::default() };
        let has = |context| Instance { context_length: context, ..instance("a", Readiness::Ready) };
        for (context, wanted, max, drifts) in [
            (Some(4096), Some(8192), None, true),
            (Some(4096), Some(8192), Some(4096), false),
            (Some(4096), Some(8192), Some(6000), true),
            (Some(8192), Some(8192), None, false),
            (Some(16384), Some(8192), None, false),
            (None, Some(8192), None, false),
            (Some(4096), None, None, false),
        ] {
            assert_eq!(drift(&has(context), &options(wanted), max).is_some(), drifts, "{context:?} {wanted:?} {max:?}");
        }
    }

    proptest! {
        #[test]
        fn addressable_means_an_instance_of_exactly_that_name(
            names in proptest::collection::vec(("[ab](:[0-9b])?", 0..4u8), 0..5)
        ) {
            let states = [Readiness::Ready, Readiness::Loading, Readiness::Unreported, Readiness::Contradicted];
            let all = names.iter().map(|(name, state)| instance(name, states[usize::from(*state)])).collect();
            let found = snapshot(all, None);
            let key = ModelKey::parse("a").unwrap();
            if let Residency::Addressable(it) = found.residency(&key) {
                prop_assert_eq!(it.identifier.as_str(), "a");
                prop_assert!(matches!(it.readiness, Readiness::Ready | Readiness::Unreported));
            }
        }
    }
}
