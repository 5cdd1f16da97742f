//! Looking: one round of requests, what it means, and whom to ask when REST cannot tell.

use std::time::{Duration, Instant};

use super::{Call, ModelRequest, Refusal, Work, open_store, outcome};
use crate::pure::http::{Reply, describe};
use crate::pure::lmstudio::rest::{Reading, is_greeting, read_lists};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Outcome, Ready};
use crate::pure::residency::{Instance, Readiness, Residency, Snapshot, Source, drift};
use crate::sys::http::{Server, greets};
use crate::sys::lmstudio::lms::Problem;
use crate::sys::shutdown::{Shutdown, Stop};
use crate::sys::state::{CachedVerdict, Store, now_ms};

/// How often a server that contradicts itself, or talks nonsense, is asked again.
const RETRIES: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(60);
/// How long a verdict of `lms ps` is reused unless configured: it takes 300 ms to get.
const LMS_PS_CACHE: Duration = Duration::from_secs(30);
/// A warm call is over by then; a longer one must be able to end in good order.
const WARM: Duration = Duration::from_millis(50);

/// The first look of a call, which costs no more than its requests.
#[derive(Debug)]
pub(super) struct Probe {
    reading: Result<Reading, Stop>,
    /// Who listens for signals, if it took so long that somebody must.
    pub(super) shutdown: Option<Shutdown>,
}

impl Probe {
    /// What was seen, if anything.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        match &self.reading {
            Ok(Reading::Seen(snapshot)) => Some(snapshot),
            _ => None,
        }
    }
}

/// What a look came to.
#[derive(Debug)]
pub(super) enum Observation {
    /// Somebody could tell.
    Seen(Snapshot),
    /// Nothing listens there.
    Down,
    /// It listens, but nobody can tell, for this reason.
    Blocked(Failure),
}

impl Observation {
    /// Whether nothing listens.
    pub(super) fn is_down(&self) -> bool {
        matches!(self, Self::Down)
    }
}

/// Listens for signals and for the end of `--timeout` from here on.
pub(super) fn listen(call: &Call<'_>) -> Shutdown {
    Shutdown::listen(call.timeout.map(|limit| limit.saturating_sub(call.started.elapsed())))
}

/// Asks once. Until a warm call would be over, a signal ends the process the default way:
/// there is nothing to clean up, and nothing is spent on it.
pub(super) async fn probe(call: &Call<'_>) -> Probe {
    let asking = async {
        let (v1, v0) = call.server.lists().await;
        tracing::trace_span!("read").in_scope(|| read_lists(&v1, &v0))
    };
    tokio::pin!(asking);
    let quick = call.timeout.map_or(WARM, |limit| limit.min(WARM));
    if let Ok(reading) = tokio::time::timeout(quick, &mut asking).await {
        return Probe { reading: Ok(reading), shutdown: None };
    }
    let shutdown = listen(call);
    Probe { reading: shutdown.or(asking).await, shutdown: Some(shutdown) }
}

/// Outcomes from the disk, if `verifyCacheMs` is a number and they settle every model. LoadMethod
/// default nothing is read.
pub(super) fn cached_outcomes(call: &Call<'_>) -> Result<Option<Vec<Outcome>>, Refusal> {
    let Some(max_age) = call.config.verify_cache.filter(|age| !age.is_zero() && !call.fresh) else {
        return Ok(None);
    };
    let Ok(store) = open_store(call)? else { return Ok(None) };
    let instances = cached_instances(&store, call.wants, max_age);
    Ok(instances.map(|instances| {
        let ready = |instance| Ready { action: Action::None, source: Source::Cache, instance, load_time: None };
        call.wants.iter().zip(instances).map(|(want, it)| outcome(call, want, Ok(ready(it)), Vec::new())).collect()
    }))
}

/// The verdicts on disk, if all are young enough and show no drift.
fn cached_instances(store: &Store, wants: &[ModelRequest], max_age: Duration) -> Option<Vec<Instance>> {
    wants
        .iter()
        .map(|want| {
            let verdict = store.verdict(want.key.as_str(), max_age)?;
            let instance = Instance {
                identifier: want.key.to_string(),
                model_key: Some(want.key.to_string()),
                readiness: Readiness::Ready,
                context_length: verdict.context_length,
                max_context_length: verdict.max_context_length,
                parallel: verdict.parallel,
                device: verdict.device,
                busy: None,
                last_used: None,
                size_bytes: None,
            };
            drift(&instance, &want.options, instance.max_context_length).is_none().then_some(instance)
        })
        .collect()
}

/// Keeps the verdicts that say yes; a no leads to work, after which it is another.
pub(super) fn remember_verdicts(call: &Call<'_>, outcomes: &[Outcome]) {
    let ready = outcomes.iter().filter_map(|it| Some((&it.key, it.result.as_ref().ok()?)));
    let mut kept = ready.filter(|(_, ready)| !kept_for(call, ready.source).is_zero()).peekable();
    if kept.peek().is_none() {
        return;
    }
    let Ok(Ok(store)) = open_store(call) else { return };
    for (key, ready) in kept {
        remember_verdict(call, &store, key, ready);
    }
}

/// How long a verdict is kept. Those of REST are kept only if the user gave a number.
fn kept_for(call: &Call<'_>, source: Source) -> Duration {
    match (call.config.verify_cache, source) {
        (_, Source::Cache) | (None, Source::RestV1 | Source::RestV0) => Duration::ZERO,
        (None, Source::LmsPs) => LMS_PS_CACHE,
        (Some(age), _) => age,
    }
}

/// Keeps one verdict, if its source is one to keep.
pub(super) fn remember_verdict(call: &Call<'_>, store: &Store, key: &str, Ready { source, instance, .. }: &Ready) {
    let max_age = kept_for(call, *source);
    if max_age.is_zero() {
        return;
    }
    let verdict = CachedVerdict {
        at_ms: now_ms(),
        context_length: instance.context_length,
        max_context_length: instance.max_context_length,
        parallel: instance.parallel,
        device: instance.device.clone(),
    };
    if let Err(error) = store.remember_verdict(key, verdict, max_age) {
        tracing::info!(%error, "a verdict cannot be remembered");
    }
}

impl Work<'_> {
    /// Looks anew.
    pub(super) async fn look(&self) -> Result<Observation, Failure> {
        let reading = self.read().await?;
        self.interpret(reading, false).await
    }

    /// Looks anew when a leader is done. It has left its verdict on disk: a herd must not
    /// start an `lms` each to see the same.
    pub(super) async fn look_after_leader(&self) -> Result<Observation, Failure> {
        let reading = self.read().await?;
        self.interpret(reading, true).await
    }

    /// What the first probe means. Only here and behind a leader a verdict on disk counts:
    /// whoever works on a model must see what is, not what was.
    pub(super) async fn sight_of(&self, probe: Probe) -> Result<Observation, Failure> {
        let reading = probe.reading.map_err(|stop| self.interrupted(stop))?;
        self.interpret(reading, true).await
    }

    async fn read(&self) -> Result<Reading, Failure> {
        let (v1, v0) = self.shutdown.or(self.server.lists()).await.map_err(|stop| self.interrupted(stop))?;
        Ok(read_lists(&v1, &v0))
    }

    async fn get(&self, path: &str) -> Result<Reply, Failure> {
        self.shutdown.or(self.server.get(path)).await.map_err(|stop| self.interrupted(stop))
    }

    /// Asks again, and others, where a reading means nothing yet.
    async fn interpret(&self, mut reading: Reading, may_use_cache: bool) -> Result<Observation, Failure> {
        // A server that is mute takes the whole of a probe's time at each try.
        let patience = Instant::now() + self.config.probe_timeout;
        for _ in 0..RETRIES {
            let is_settled = match &reading {
                Reading::Seen(snapshot) => {
                    self.call.wants.iter().all(|want| snapshot.residency(&want.key) != Residency::Unknown)
                }
                Reading::Unclear(_) => false,
                _ => true,
            };
            if is_settled || Instant::now() > patience {
                break;
            }
            self.sleep(RETRY_PAUSE).await?;
            reading = self.read().await?;
        }
        match reading {
            Reading::Seen(snapshot) => Ok(Observation::Seen(snapshot)),
            Reading::Down => Ok(Observation::Down),
            Reading::Unreachable(why) => {
                let reason = format!("{} (from {}) cannot be connected to: {why}", self.base(), self.call.origin);
                let failure = Failure::new(Category::ServerUnreachable, reason);
                Ok(Observation::Blocked(
                    failure.hinted("check the address (--base-url), and that this machine can reach it").cheap(),
                ))
            }
            Reading::Unauthorized if self.server.has_token() => Ok(Observation::Blocked(self.token_refused())),
            Reading::Unauthorized => self.look_through_lms(self.token_missing(), may_use_cache).await,
            Reading::NoList(said) => self.look_at_stranger(said, may_use_cache).await,
            Reading::Unclear(why) => Ok(Observation::Blocked(self.unknown(&why))),
        }
    }

    /// It answers, but with neither list: another program, or an LM Studio too old for both.
    async fn look_at_stranger(&self, said: String, may_use_cache: bool) -> Result<Observation, Failure> {
        let base = self.base();
        let answer = match self.get("lmstudio-greeting").await? {
            Reply::Answer(answer) if is_greeting(&answer.body) => {
                if said.contains("Unexpected endpoint") {
                    let failure = self.unknown("it is too old to tell (neither /api/v1/models nor /api/v0/models)");
                    let failure = failure.hinted("update LM Studio to 0.4 or later");
                    return self.look_through_lms(failure, may_use_cache).await;
                }
                return Ok(Observation::Blocked(self.unknown(&format!("it answers with {said}"))));
            }
            Reply::Answer(answer) if answer.status < 500 => answer,
            _ => return Ok(Observation::Blocked(self.unknown(&format!("it answers with {said}")))),
        };
        let reason =
            format!("what answers at {base} (from {}) is not LM Studio: {}", self.call.origin, describe(&answer));
        let hint = if base.without_path() != *base && self.greets_at_root().await? {
            format!("LM Studio answers at {}: drop the rest of the path", base.without_path())
        } else {
            format!("stop the program on port {}, or name LM Studio's address with --base-url", base.port())
        };
        Ok(Observation::Blocked(Failure::new(Category::NotLmStudio, reason).hinted(hint)))
    }

    async fn greets_at_root(&self) -> Result<bool, Failure> {
        let Ok(root) = Server::new(self.base().without_path(), None, self.config.probe_timeout) else {
            return Ok(false);
        };
        let greeting = self.shutdown.or(greets(&root)).await;
        greeting.map_err(|stop| self.interrupted(stop))
    }

    /// `lms ps` can tell for this machine, without a token; `otherwise` is the failure if not.
    async fn look_through_lms(&self, otherwise: Failure, may_use_cache: bool) -> Result<Observation, Failure> {
        let max_age = self.config.verify_cache.unwrap_or(LMS_PS_CACHE);
        if may_use_cache
            && !self.call.fresh
            && let Some(store) = &self.store
            && let Some(instances) = cached_instances(store, self.call.wants, max_age)
        {
            return Ok(Observation::Seen(Snapshot { source: Source::Cache, instances, downloaded: None }));
        }
        let Ok(lms) = &self.lms else { return Ok(Observation::Blocked(otherwise)) };
        // Through `--host` it is a stranger to LM Studio and would be refused as well.
        if !self.base().is_loopback() {
            return Ok(Observation::Blocked(otherwise));
        }
        match lms.ps().await {
            Ok(instances) => Ok(Observation::Seen(Snapshot { source: Source::LmsPs, instances, downloaded: None })),
            Err(Problem::Stopped(stop)) => Err(self.interrupted(stop)),
            Err(Problem::Failed(why)) => {
                let reason = format!("{}; and {why}", otherwise.reason);
                Ok(Observation::Blocked(Failure { reason, ..otherwise }))
            }
        }
    }

    fn token_missing(&self) -> Failure {
        let name = &self.config.api_token_env;
        let reason = format!("{} requires an API token, and the variable {name} holds none", self.base());
        Failure::new(Category::Unauthorized, reason)
            .hinted(format!("create a token in LM Studio's developer settings and put it into {name}"))
    }

    /// The client's request would be refused as well, so no other source is asked.
    pub(super) fn token_refused(&self) -> Failure {
        let reason = format!("{} refuses the API token in {}", self.base(), self.call.token_origin);
        Failure::new(Category::Unauthorized, reason).hinted("check the token in LM Studio's developer settings")
    }
}
