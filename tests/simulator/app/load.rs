//! One load, from the request to the instance: naming, refusals, progress and the faults that strike a load.
//!
//! It must not know who waits for the load. Everybody watches the instance's phase, and a load goes on without a watcher.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::common::{Fault, Kind};
use crate::engine::{App, By, Info, Instance, Phase, Refusal, Ticket};
use crate::lmstudio::{Model, size_1000};

/// The context an instance gets if nobody asks for one.
const DEFAULT_CONTEXT: u64 = 4096;

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// The key, or `KEY@variant`.
    pub name: String,
    /// The instance's name; without it the key, stacked as `:2`.
    pub identifier: Option<String>,
    /// None: the preferred device, which is this machine if it has the model. Some(None): this machine.
    pub device: Option<Option<String>>,
    /// The context asked for.
    pub context_length: Option<u64>,
    /// How long it lives unused.
    pub ttl_ms: Option<u64>,
    /// How many requests at a time.
    pub parallel: Option<u32>,
    /// The share of the GPU; only recorded.
    pub gpu: Option<f64>,
    /// Whether `--local` was given; only recorded.
    pub local_only: bool,
    /// Who asks.
    pub by: By,
    /// Lets the client cancel it.
    pub token: Option<String>,
    /// Whether it is ready at once, for a test that wants a model to be there.
    pub at_once: bool,
}

impl LoadRequest {
    /// A load of `name` with all defaults.
    pub fn new(name: &str, by: By) -> Self {
        Self {
            name: name.to_owned(),
            identifier: None,
            device: None,
            context_length: None,
            ttl_ms: None,
            parallel: None,
            gpu: None,
            local_only: false,
            by,
            token: None,
            at_once: false,
        }
    }
}

/// Refuses a load or begins it. All checks and the new instance are one step under the caller's lock.
pub fn begin(
    app: &Arc<App>,
    instances: &mut Vec<Instance>,
    downloaded: &[Model],
    request: LoadRequest,
    fault: Option<Fault>,
) -> Result<Ticket, Refusal> {
    let device = request.device.as_ref().map(|device| device.as_deref());
    let (model, variant) = find(downloaded, &request.name, device).ok_or(Refusal::Unknown)?;
    let mut model = model.clone();
    if let Some(variant) = variant {
        // [open] what `modelKey` of a variant is: the base key, so that `lms ls` and `lms ps` agree.
        model.head.selected_variant = Some(variant);
    }
    let wanted = request.identifier.clone().unwrap_or_else(|| request.name.clone());
    let refuse = |text: String, reason: &str| {
        app.record.write(
            "load-refused",
            json!({ "key": model.key(), "identifier": wanted, "by": request.by.name(), "reason": reason }),
        );
        Err(Refusal::Text(text))
    };

    let used = |name: &str| {
        let device = model.head.device_identifier.as_deref();
        instances.iter().any(|instance| instance.identifier == name && instance.device() == device)
    };
    if request.identifier.is_some() && used(&wanted) {
        // The text is [open].
        let text =
            format!("A model with identifier \"{wanted}\" is already loaded. Please choose a different identifier.");
        return refuse(text, "identifier");
    }
    if fault.as_ref().is_some_and(|fault| fault.kind == Kind::Refuse) {
        return refuse(guardrail_text(&model), "guardrail");
    }
    if let Some(text) = app.guardrail(instances, &model) {
        return refuse(text, "guardrail");
    }

    let mut identifier = wanted.clone();
    let mut copy = 2;
    while request.identifier.is_none() && used(&identifier) {
        identifier = format!("{wanted}:{copy}");
        copy += 1;
    }
    let limit = model.tail.max_context_length;
    let mut context_length = request.context_length.unwrap_or(DEFAULT_CONTEXT).min(limit);
    match &fault {
        Some(Fault { kind: Kind::OtherId, identifier: Some(other), .. }) => identifier.clone_from(other),
        Some(Fault { kind: Kind::LessContext, context_length: Some(less), .. }) => context_length = *less,
        _ => {}
    }

    let id = app.next_serial();
    let parallel = (!model.is_embedding()).then(|| request.parallel.unwrap_or(4));
    let cancel = Arc::new(Notify::new());
    let (sender, receiver) = watch::channel(Phase::Loading(0));
    app.record.write(
        "load-begin",
        json!({
            "id": id,
            "key": model.key(),
            "identifier": identifier,
            "by": request.by.name(),
            "device": model.head.device_identifier,
            "contextLength": request.context_length,
            "ttlMs": request.ttl_ms,
            "parallel": request.parallel,
            "gpu": request.gpu,
            "localOnly": request.local_only,
        }),
    );
    let key = model.key().to_owned();
    instances.push(Instance {
        id,
        identifier: identifier.clone(),
        model,
        context_length,
        ttl_ms: request.ttl_ms,
        parallel,
        by: request.by,
        began: Instant::now(),
        last_used: None,
        idle_since: Instant::now(),
        running: 0,
        busy: None,
        busy_since_ms: 0,
        phase: sender,
        cancel: Arc::clone(&cancel),
        held: false,
        token: request.token,
    });

    if request.at_once {
        finish(app, instances, id, Outcome::Ready, fault.as_ref());
    } else {
        let app = Arc::clone(app);
        tokio::spawn(async move {
            let outcome = tokio::select! {
                // Whoever cancels has taken the instance out already.
                () = cancel.notified() => return,
                outcome = steps(&app, id, &key, fault.as_ref()) => outcome,
            };
            finish(&app, &mut app.instances(), id, outcome, fault.as_ref());
        });
    }
    Ok(Ticket { id, identifier, phase: receiver })
}

#[derive(Clone, Copy)]
enum Outcome {
    Ready,
    Failed,
}

async fn steps(app: &App, id: u64, key: &str, fault: Option<&Fault>) -> Outcome {
    let config = app.config();
    let mut total = config.load_ms_by_key.get(key).copied().unwrap_or(config.load_ms);
    if let Some(Fault { kind: Kind::Slow, ms, .. }) = fault {
        total += ms.unwrap_or(1000);
    }
    // LM Studio reports progress at most ten times a second.
    let count = (total / 100).max(1);
    let mut start = Instant::now();
    let mut past_half = false;
    for step in 1..=count {
        sleep_until(start + Duration::from_millis(total * step / count)).await;
        if !past_half && step * 2 >= count {
            past_half = true;
            if app.config().hold_loads {
                let began = Instant::now();
                hold(app, id).await;
                start += began.elapsed();
            }
        }
        let percent = (step * 200 + count) / (count * 2);
        match fault.map(|fault| (fault.kind, fault.percent)) {
            Some((Kind::Crash, at)) if percent >= at.unwrap_or(33) => {
                report(app, id, percent.min(at.unwrap_or(33)));
                // Between two reports, as in the sample: the last one is seen before the end.
                sleep(Duration::from_millis(total / count / 2)).await;
                return Outcome::Failed;
            }
            Some((Kind::Hang, at)) if percent >= at.unwrap_or(50) => {
                report(app, id, percent.min(at.unwrap_or(50)));
                return std::future::pending().await;
            }
            _ => report(app, id, percent),
        }
    }
    Outcome::Ready
}

fn report(app: &App, id: u64, percent: u64) {
    if let Some(instance) = app.instances().iter().find(|instance| instance.id == id) {
        instance.phase.send_replace(Phase::Loading(percent));
    }
}

async fn hold(app: &App, id: u64) {
    let released = app.release.notified();
    tokio::pin!(released);
    // Listening before anybody can see that the load is held: a release in between would be lost.
    released.as_mut().enable();
    if let Some(instance) = app.instances().iter_mut().find(|instance| instance.id == id) {
        instance.held = true;
        instance.phase.send_replace(Phase::Loading(50));
    }
    released.await;
    if let Some(instance) = app.instances().iter_mut().find(|instance| instance.id == id) {
        instance.held = false;
    }
}

fn finish(app: &App, instances: &mut Vec<Instance>, id: u64, outcome: Outcome, fault: Option<&Fault>) {
    let Some(instance) = instances.iter_mut().find(|instance| instance.id == id) else {
        return;
    };
    let event = json!({
        "id": id,
        "key": instance.model.key(),
        "identifier": instance.identifier,
        "by": instance.by.name(),
    });
    match outcome {
        Outcome::Failed => {
            app.record.write("load-failed", event);
            // The application's text as the reports have it.
            instance.phase.send_replace(Phase::Failed("Failed to load model.".into()));
            instances.retain(|instance| instance.id != id);
        }
        Outcome::Ready => {
            app.record.write("load-ready", event);
            instance.idle_since = Instant::now();
            let info = Info {
                identifier: instance.identifier.clone(),
                device: instance.model.head.device_identifier.clone(),
                size_bytes: instance.model.head.size_bytes,
                context_length: instance.context_length,
            };
            match fault.map(|fault| fault.kind) {
                Some(Kind::Vanish) => {
                    instance.phase.send_replace(Phase::Ready(None));
                    app.evict(instances, id, "gui");
                }
                Some(Kind::Ghost) => {
                    instance.phase.send_replace(Phase::Ready(Some(info)));
                    app.evict(instances, id, "ghost");
                }
                _ => {
                    instance.phase.send_replace(Phase::Ready(Some(info)));
                }
            }
        }
    }
}

/// Finds a downloaded model by key or by `KEY@variant`; the second is the variant.
pub fn find<'a>(
    downloaded: &'a [Model],
    name: &str,
    device: Option<Option<&str>>,
) -> Option<(&'a Model, Option<String>)> {
    let here = |model: &&Model| device.is_none_or(|device| model.head.device_identifier.as_deref() == device);
    let mut candidates = downloaded.iter().filter(here);
    let exact = candidates.clone().find(|model| model.key() == name);
    if let Some(model) = exact {
        return Some((model, None));
    }
    let has = |model: &Model| model.head.variants.iter().flatten().any(|variant| variant == name);
    candidates.find(|model| has(model)).map(|model| (model, Some(name.to_owned())))
}

/// The guardrail's text for a model.
pub fn guardrail_text(model: &Model) -> String {
    format!(
        "Model loading was stopped due to insufficient system resources. Under the current settings, this model requires \
         approximately {} of memory, and continuing to load it would likely overload your system and cause it to freeze. \
         If you think this is incorrect, you can adjust the model loading guardrails in settings.",
        size_1000(model.head.size_bytes)
    )
}
