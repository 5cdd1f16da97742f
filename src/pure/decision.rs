//! What one snapshot means for one model of a call: nothing to do, something to wait for, or a
//! change to make. What earlier calls left on disk comes in as [`Known`].

use super::config::{Config, OnMismatch};
use super::load::ModelRequest;
use super::outcome::failure::{Category, Failure};
use super::residency::{Drift, Instance, Readiness, Residency, Snapshot, drift, find_downloaded};
use super::text::duration;

/// What our own locks tell of a load of this model. A load by others leaves no trace there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OwnLoad {
    /// One of us has ordered one, and it goes on.
    UnderWay,
    /// Another lmswarm leads because of this model: it is about to load, or has just done so.
    Led,
    /// No lmswarm is at it.
    #[default]
    No,
}

/// What is known of a model besides what the server shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// A failure that was expensive to find out and is still replayed.
    pub failure: Option<Failure>,
    /// What our own locks tell.
    pub own_load: OwnLoad,
    /// The context that was asked for and the one that was granted, not long ago.
    pub granted: Option<(u64, u64)>,
    /// There is no state directory, so a reload in vain would not be remembered.
    pub is_stateless: bool,
}

/// What to do about one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision<'a> {
    /// Nothing; with what the user should know.
    Ready(&'a Instance, Vec<String>),
    /// A load is under way: wait for it.
    Wait,
    /// Change what is resident.
    Change(Change),
    /// Nothing can be done: no such key is downloaded.
    NotDownloaded,
    /// Nothing is to be done about too little context.
    Drifted(Drift),
    /// An earlier call failed, and so would this one.
    Failed(Failure),
    /// The sources disagree.
    Unknown,
}

/// A change of what is resident that ends with the model loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Load it: nothing of it is resident.
    Load,
    /// Unload the copies under other names first.
    Reconcile,
    /// Unload it first: it has too little context.
    Reload,
}

/// What the decision needs to know of the program that serves the models.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    /// What messages call it.
    pub name: &'static str,
    /// Where the user sets a model's context, if a load cannot.
    pub context_is_set_in: Option<&'static str>,
}

/// Decides. Needs nothing of `known` for a model that is ready and without drift.
pub(crate) fn decide<'a>(
    snapshot: &'a Snapshot,
    request: &ModelRequest,
    config: &Config,
    known: &Known,
    program: Program,
) -> Decision<'a> {
    let instance = match snapshot.residency(&request.key) {
        Residency::Unknown => return Decision::Unknown,
        Residency::Loading(_) => return Decision::Wait,
        Residency::Absent if !config.auto_download && is_missing(snapshot, request) => return Decision::NotDownloaded,
        Residency::Absent => return replay_or(known, snapshot, request, Change::Load),
        Residency::Duplicates(_) => return replay_or(known, snapshot, request, Change::Reconcile),
        Residency::Addressable(instance) => instance,
    };
    // A source that lists an instance from the start of its load cannot tell that it is ready;
    // the process that loads it can.
    if instance.readiness == Readiness::Unreported {
        if known.own_load != OwnLoad::No {
            return Decision::Wait;
        }
        // A load that failed a moment ago may be listed still.
        if let Some(failure) = &known.failure {
            return Decision::Failed(failure.clone());
        }
    }
    let max_context = snapshot.max_context(&request.key);
    let mut warnings = Vec::new();
    if let Some(drift) = drift(instance, &request.options, max_context) {
        match accept(request, drift, config, known, program) {
            Acceptance::Silent => {}
            Acceptance::With(warning) => warnings.push(warning),
            Acceptance::No(decision) => return decision,
        }
    }
    warnings.extend(context_warning(request, max_context));
    Decision::Ready(instance, warnings)
}

/// Whether drift is let pass.
enum Acceptance<'a> {
    Silent,
    With(String),
    No(Decision<'a>),
}

fn accept<'a>(
    request: &ModelRequest,
    drift: Drift,
    config: &Config,
    known: &Known,
    program: Program,
) -> Acceptance<'a> {
    let Drift { has, wants } = drift;
    let key = &request.key;
    let lacks = format!("`{key}` has a context of {has} tokens, not {wants}");
    let Program { name, context_is_set_in } = program;
    match (config.on_mismatch, context_is_set_in) {
        (OnMismatch::Ignore, _) => Acceptance::Silent,
        (OnMismatch::Fail, _) => Acceptance::No(Decision::Drifted(drift)),
        // No load would help.
        (OnMismatch::Reload, Some(place)) => Acceptance::With(format!("{lacks}; {name} takes it from {place} alone")),
        // A reload in vain would not be remembered, and every call would reload.
        (OnMismatch::Reload, None) if known.is_stateless => {
            Acceptance::With(format!("{lacks}, and is not reloaded without a state directory"))
        }
        (OnMismatch::Reload, None) => {
            let asked = request.options.context_length.unwrap_or(wants);
            if known.granted.is_some_and(|(wanted, granted)| wanted >= asked && granted == has) {
                Acceptance::With(format!("{lacks}: {name} granted no more when it was loaded"))
            } else if let Some(failure) = &known.failure {
                // To unload it would be to end with nothing.
                let age = duration(failure.age.unwrap_or_default());
                Acceptance::With(format!("{lacks}: it is not reloaded, as that failed {age} ago: {}", failure.reason))
            } else {
                Acceptance::No(Decision::Change(Change::Reload))
            }
        }
    }
}

fn replay_or<'a>(known: &Known, snapshot: &Snapshot, request: &ModelRequest, change: Change) -> Decision<'a> {
    match &known.failure {
        // The user has downloaded it since.
        Some(failure)
            if failure.category == Category::DownloadFailed && snapshot.find_downloaded(&request.key).is_some() =>
        {
            Decision::Change(change)
        }
        Some(failure) => Decision::Failed(failure.clone()),
        None => Decision::Change(change),
    }
}

fn is_missing(snapshot: &Snapshot, request: &ModelRequest) -> bool {
    snapshot.downloaded.as_ref().is_some_and(|models| find_downloaded(models, &request.key).is_none())
}

/// Asking for more than the model has means all it has; the user should know.
pub(crate) fn context_warning(request: &ModelRequest, max: Option<u64>) -> Option<String> {
    let (asked, max) = (request.options.context_length?, max?);
    (asked > max)
        .then(|| format!("`{}` can have a context of {max} tokens at most; {asked} were asked for", request.key))
}

#[cfg(test)]
mod tests {
    use super::super::config::options::{Layer, Origin, Value};
    use super::super::load::LoadOptions;
    use super::super::model::ModelKey;
    use super::super::residency::tests::{instance, snapshot};
    use super::*;

    fn resident(instances: &[(&str, Readiness)], downloaded: &[&str]) -> Snapshot {
        let of_a = |(name, readiness): &(&str, Readiness)| Instance {
            model_key: Some("a".to_owned()),
            ..instance(name, *readiness)
        };
        snapshot(instances.iter().map(of_a).collect(), Some(downloaded))
    }

    fn word(snapshot: &Snapshot, context: Option<u64>, on_mismatch: &str, known: &Known) -> String {
        let mut layer = Layer::default();
        layer.put("onMismatch", Value::Text(on_mismatch.to_owned()), Origin::Flag("on-mismatch"));
        let config = Config::from_layer(&layer);
        let request = ModelRequest {
            requested: "a".to_owned(),
            key: ModelKey::parse("a").unwrap(),
            options: LoadOptions { context_length: context, ..LoadOptions::default() },
        };
        match decide(snapshot, &request, &config, known, Program { name: "it", context_is_set_in: None }) {
            Decision::Ready(_, warnings) if warnings.is_empty() => "ready".to_owned(),
            Decision::Ready(..) => "ready, with a warning".to_owned(),
            Decision::Wait => "wait".to_owned(),
            Decision::Change(change) => format!("{change:?}"),
            Decision::NotDownloaded => "not downloaded".to_owned(),
            Decision::Drifted(_) => "drifted".to_owned(),
            Decision::Failed(_) => "failed".to_owned(),
            Decision::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn a_snapshot_leads_to_one_decision() {
        use Readiness::{Contradicted, Loading, Ready, Unreported};
        let nothing = Known::default;
        let failed = || Known { failure: Some(Failure::new(Category::LoadRefused, "x")), ..Known::default() };
        let loads = |own_load| Known { own_load, ..Known::default() };
        for (instances, known, wanted) in [
            (&[][..], nothing(), "Load"),
            (&[], failed(), "failed"),
            (&[("a:2", Ready)], nothing(), "Reconcile"),
            (&[("a:2", Ready)], failed(), "failed"),
            (&[("a", Loading)], failed(), "wait"),
            (&[("a", Contradicted)], nothing(), "unknown"),
            (&[("a", Ready)], failed(), "ready"),
            (&[("a", Ready)], loads(OwnLoad::UnderWay), "ready"),
            (&[("a", Unreported)], nothing(), "ready"),
            (&[("a", Unreported)], failed(), "failed"),
            (&[("a", Unreported)], loads(OwnLoad::UnderWay), "wait"),
            (&[("a", Unreported)], loads(OwnLoad::Led), "wait"),
        ] {
            assert_eq!(word(&resident(instances, &["a"]), None, "reload", &known), wanted, "{instances:?} {known:?}");
        }
        assert_eq!(word(&resident(&[], &[]), None, "reload", &nothing()), "not downloaded");
    }

    #[test]
    fn too_little_context_is_reloaded_unless_that_is_known_to_be_in_vain() {
        let ready = resident(&[("a", Readiness::Ready)], &["a"]);
        let granted = |wanted| Known { granted: Some((wanted, 4096)), ..Known::default() };
        for (on_mismatch, known, wanted) in [
            ("reload", Known::default(), "Reload"),
            ("fail", Known::default(), "drifted"),
            ("ignore", Known::default(), "ready"),
            ("reload", Known { is_stateless: true, ..Known::default() }, "ready, with a warning"),
            ("reload", granted(8192), "ready, with a warning"),
            ("reload", granted(16384), "ready, with a warning"),
            ("reload", granted(8191), "Reload"),
            (
                "reload",
                Known { failure: Some(Failure::new(Category::LoadRefused, "x")), ..Known::default() },
                "ready, with a warning",
            ),
        ] {
            assert_eq!(word(&ready, Some(8192), on_mismatch, &known), wanted, "{on_mismatch} {known:?}");
        }
    }
}
