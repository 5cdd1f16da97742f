//! What a call came to, as `--json` prints it. The schema in `examples/report.schema.json`
//! describes it; the tests hold the two together.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::pure::backend::BackendKind;
use crate::pure::outcome::failure::{Category, FailMode, Failure, Verdict};
use crate::pure::outcome::hint::for_report;
use crate::pure::residency::{Instance, Source};
use crate::pure::text::printable;

/// What was done for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// It was addressable already, or nothing came of it.
    None,
    /// Another process loaded it meanwhile.
    Waited,
    /// It was loaded.
    Loaded,
    /// Copies under other names were unloaded, then it was loaded.
    Reconciled,
    /// It was unloaded and loaded again, for more context.
    Reloaded,
    /// It was not tried: the call ended before.
    Skipped,
}

/// An addressable model.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    /// What was done.
    pub action: Action,
    /// Who said it is addressable.
    pub source: Source,
    /// The instance.
    pub instance: Instance,
    /// How long our own load took.
    pub load_time: Option<Duration>,
}

/// What became of one model.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// The key.
    pub key: String,
    /// As it was typed, or the role that was asked for.
    pub requested: String,
    /// The name of the server in the configuration file, if it has one.
    pub server: Option<String>,
    /// The server that was asked.
    pub base_url: String,
    /// The program that serves the models there, as far as it is known.
    pub backend: Option<BackendKind>,
    /// Whether its turn came before the call had to end.
    pub was_tried: bool,
    /// Addressable, or why not.
    pub result: Result<Ready, Failure>,
    /// What the user should know and what stops no caller.
    pub warnings: Vec<String>,
    /// From the start of the call to this outcome.
    pub elapsed: Duration,
}

/// The whole report. Sentences are escaped, so that a program that passes one on need not do it; names
/// are data, and stay as they are.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report<'a> {
    schema: u8,
    ok: bool,
    proceed: bool,
    exit_code: u8,
    fail_mode: FailMode,
    error: Option<ErrorReport>,
    models: Vec<ModelReport<'a>>,
}

/// An error of the call as a whole (exit codes 1 and 78).
#[derive(Debug, Serialize)]
pub(crate) struct ErrorReport {
    reason: String,
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelReport<'a> {
    key: &'a str,
    requested: &'a str,
    server: Option<&'a str>,
    #[serde(rename = "baseURL")]
    base_url: &'a str,
    backend: Option<BackendKind>,
    addressable: bool,
    action: Action,
    source: Option<Source>,
    instance: Option<InstanceReport<'a>>,
    #[serde(serialize_with = "millis")]
    elapsed_ms: Duration,
    #[serde(serialize_with = "maybe_millis")]
    load_ms: Option<Duration>,
    warnings: Vec<String>,
    #[serde(flatten)]
    failure: Option<FailureReport<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InstanceReport<'a> {
    identifier: &'a str,
    context_length: Option<u64>,
    parallel: Option<u64>,
    device: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FailureReport<'a> {
    category: Category,
    confirmed: bool,
    replayed: bool,
    #[serde(serialize_with = "maybe_millis")]
    age_ms: Option<Duration>,
    reason: String,
    hint: Option<String>,
    suggestions: &'a [String],
}

fn millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[expect(clippy::ref_option, reason = "the signature is serde's")]
fn maybe_millis<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => millis(time, serializer),
        None => serializer.serialize_none(),
    }
}

impl<'a> Report<'a> {
    /// The report of a call that got as far as its models.
    pub(crate) fn of_models(outcomes: &'a [Outcome], mode: FailMode, verdict: Verdict) -> Self {
        Self {
            schema: 1,
            ok: verdict.ok,
            proceed: verdict.proceed,
            exit_code: verdict.exit.number(),
            fail_mode: mode,
            error: None,
            models: outcomes.iter().map(ModelReport::new).collect(),
        }
    }

    /// The report of a call that failed as a whole. It never says proceed: a process that cannot
    /// read the configuration cannot know that the user wanted to be let through.
    pub(crate) fn of_error(reason: &str, hint: Option<&str>, exit_code: u8) -> Self {
        Self {
            schema: 1,
            ok: false,
            proceed: false,
            exit_code,
            fail_mode: FailMode::Hybrid,
            error: Some(ErrorReport {
                reason: printable(reason),
                hint: hint.map(|it| printable(&for_report(it, None))),
            }),
            models: Vec::new(),
        }
    }
}

impl<'a> ModelReport<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        let ready = outcome.result.as_ref().ok();
        let failure = outcome.result.as_ref().err();
        Self {
            key: &outcome.key,
            requested: &outcome.requested,
            server: outcome.server.as_deref(),
            base_url: &outcome.base_url,
            backend: outcome.backend,
            addressable: ready.is_some(),
            action: match ready {
                Some(ready) => ready.action,
                None if outcome.was_tried => Action::None,
                None => Action::Skipped,
            },
            source: ready.map(|it| it.source),
            instance: ready.map(|it| InstanceReport {
                identifier: &it.instance.identifier,
                context_length: it.instance.context_length,
                parallel: it.instance.parallel,
                device: it.instance.device.as_deref(),
            }),
            elapsed_ms: outcome.elapsed,
            load_ms: ready.and_then(|it| it.load_time),
            warnings: outcome.warnings.iter().map(|it| printable(it)).collect(),
            failure: failure.map(|it| FailureReport {
                category: it.category,
                confirmed: it.category.is_confirmed(),
                replayed: it.age.is_some(),
                age_ms: it.age,
                reason: printable(&it.reason),
                hint: it.hint.as_deref().map(|hint| printable(&for_report(hint, Some(&outcome.key)))),
                suggestions: &it.suggestions,
            }),
        }
    }
}
