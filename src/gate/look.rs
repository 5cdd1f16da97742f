//! Looking: one round of requests, what it means, and whom to ask when REST cannot tell.

use std::time::Duration;

use super::{Call, Want, Work};
use crate::pure::failure::{Category, Failure};
use crate::pure::report::{Action, Ready};
use crate::pure::residency::{Instance, Readiness, Residency, Snapshot, Source, drift};
use crate::pure::rest::{Reading, Reply, describe, is_greeting, read_lists};
use crate::sys::http::Server;
use crate::sys::lms::Problem;
use crate::sys::memory::{CachedVerdict, Store, now_ms};

/// How often a server that contradicts itself, or talks nonsense, is asked again.
const RETRIES: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(60);
/// How long a verdict of `lms ps` is reused unless configured: it takes 300 ms to get.
const LMS_PS_CACHE: Duration = Duration::from_secs(30);

/// The first look of a call, which costs no more than its requests.
#[derive(Debug)]
pub(super) struct Probe(Result<Reading, ()>);

impl Probe {
    /// What was seen, if anything.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        match &self.0 {
            Ok(Reading::Seen(snapshot)) => Some(snapshot),
            _ => None,
        }
    }
}

/// What a look came to.
#[derive(Debug)]
pub(super) enum Sight {
    /// Somebody could tell.
    Seen(Snapshot),
    /// Nothing listens there.
    Down,
    /// It listens, but nobody can tell, for this reason.
    Blocked(Failure),
}

/// Asks once. A call whose time is over by then finds out in the work that follows.
pub(super) async fn probe(call: &Call<'_>) -> Probe {
    let asking = async {
        let (v1, v0) = call.server.lists().await;
        read_lists(&v1, &v0)
    };
    match call.timeout {
        Some(limit) => Probe(tokio::time::timeout(limit, asking).await.map_err(drop)),
        None => Probe(Ok(asking.await)),
    }
}

/// A verdict from the disk that is young enough and shows no drift.
pub(super) fn cached(store: &Store, want: &Want, max_age: Duration) -> Option<Ready> {
    let verdict = store.verdict(want.key.as_str(), max_age)?;
    let instance = Instance {
        identifier: want.key.to_string(),
        model_key: Some(want.key.to_string()),
        readiness: Readiness::Untold,
        context_length: verdict.context_length,
        parallel: verdict.parallel,
        device: verdict.device,
        busy: None,
        last_used: None,
        size_bytes: None,
    };
    if drift(&instance, &want.options, None).is_some() {
        return None;
    }
    Some(Ready { action: Action::None, source: Source::Cache, instance, load_time: None })
}

impl Work<'_> {
    /// Looks anew.
    pub(super) async fn look(&self) -> Result<Sight, Failure> {
        let (v1, v0) = self.lists().await?;
        self.sight_of(Probe(Ok(read_lists(&v1, &v0)))).await
    }

    /// What a probe means; asks again, and others, where it means nothing yet.
    pub(super) async fn sight_of(&self, probe: Probe) -> Result<Sight, Failure> {
        let mut reading = if let Ok(reading) = probe.0 {
            reading
        } else {
            let (v1, v0) = self.lists().await?;
            read_lists(&v1, &v0)
        };
        for _ in 0..RETRIES {
            let is_settled = match &reading {
                Reading::Seen(snapshot) => !self.is_contradicted(snapshot),
                Reading::Unclear(_) => false,
                _ => true,
            };
            if is_settled {
                break;
            }
            self.sleep(RETRY_PAUSE).await?;
            let (v1, v0) = self.lists().await?;
            reading = read_lists(&v1, &v0);
        }
        match reading {
            Reading::Seen(snapshot) if self.is_contradicted(&snapshot) => {
                Ok(Sight::Blocked(self.unknown("its two lists (/api/v1/models and /api/v0/models) do not agree")))
            }
            Reading::Seen(snapshot) => {
                self.remember(&snapshot, self.config.verify_cache.unwrap_or_default());
                Ok(Sight::Seen(snapshot))
            }
            Reading::Down => Ok(Sight::Down),
            Reading::Unauthorized if self.server.has_token() => Ok(Sight::Blocked(self.token_refused())),
            Reading::Unauthorized => self.look_through_lms(self.token_missing()).await,
            Reading::NoList(said) => self.look_at_stranger(said).await,
            Reading::Unclear(why) => Ok(Sight::Blocked(self.unknown(&why))),
        }
    }

    async fn lists(&self) -> Result<(Reply, Reply), Failure> {
        self.stopper.or(self.server.lists()).await.map_err(|stop| self.interrupted(stop))
    }

    fn is_contradicted(&self, snapshot: &Snapshot) -> bool {
        self.call.wants.iter().any(|want| snapshot.residency(&want.key) == Residency::Unknown)
    }

    /// It answers, but with neither list: another program, or an LM Studio too old for both.
    async fn look_at_stranger(&self, said: String) -> Result<Sight, Failure> {
        let greeting = self.stopper.or(self.server.get("lmstudio-greeting")).await;
        let greeting = greeting.map_err(|stop| self.interrupted(stop))?;
        let base = self.base();
        match &greeting {
            Reply::Answer(answer) if is_greeting(&answer.body) => {
                if said.contains("Unexpected endpoint") {
                    let failure = self.unknown("it is too old to tell (neither /api/v1/models nor /api/v0/models)");
                    return self.look_through_lms(failure.hinted("update LM Studio to 0.4 or later")).await;
                }
                Ok(Sight::Blocked(self.unknown(&format!("it answers with {said}"))))
            }
            Reply::Answer(answer) if answer.status < 500 => Ok(Sight::Blocked(
                Failure::new(
                    Category::NotLmStudio,
                    format!(
                        "what answers at {base} (from {}) is not LM Studio: {}",
                        self.call.origin,
                        describe(answer)
                    ),
                )
                .hinted(format!(
                    "stop the program on port {}, or name LM Studio's address with --base-url",
                    base.port()
                )),
            )),
            _ => Ok(Sight::Blocked(self.unknown(&format!("it answers with {said}")))),
        }
    }

    /// `lms ps` can tell for this machine, without a token; `otherwise` is the failure if not.
    async fn look_through_lms(&self, otherwise: Failure) -> Result<Sight, Failure> {
        if let Some(snapshot) = self.cached_snapshot() {
            return Ok(Sight::Seen(snapshot));
        }
        let Ok(lms) = &self.lms else { return Ok(Sight::Blocked(otherwise)) };
        // Through `--host` it is a stranger to LM Studio and would be refused as well.
        if !self.base().is_loopback() {
            return Ok(Sight::Blocked(otherwise));
        }
        match lms.ps().await {
            Ok(instances) => {
                let snapshot = Snapshot { source: Source::LmsPs, instances, downloaded: None };
                self.remember(&snapshot, self.lms_ps_cache());
                Ok(Sight::Seen(snapshot))
            }
            Err(Problem::Stopped(stop)) => Err(self.interrupted(stop)),
            Err(Problem::Failed(why)) => {
                let reason = format!("{}; and {why}", otherwise.reason);
                Ok(Sight::Blocked(Failure { reason, ..otherwise }))
            }
        }
    }

    fn lms_ps_cache(&self) -> Duration {
        self.config.verify_cache.unwrap_or(LMS_PS_CACHE)
    }

    /// The verdicts on disk as a snapshot, if they settle every model of this call.
    fn cached_snapshot(&self) -> Option<Snapshot> {
        let store = self.store.as_ref().filter(|_| !self.call.fresh)?;
        let instances: Option<Vec<Instance>> = self
            .call
            .wants
            .iter()
            .map(|want| cached(store, want, self.lms_ps_cache()).map(|ready| ready.instance))
            .collect();
        Some(Snapshot { source: Source::Cache, instances: instances?, downloaded: None })
    }

    /// Keeps the verdicts that say yes: a no leads to work, after which it is another.
    fn remember(&self, snapshot: &Snapshot, max_age: Duration) {
        let Some(store) = self.store.as_ref().filter(|_| !max_age.is_zero()) else { return };
        for want in self.call.wants {
            let Residency::Addressable(instance) = snapshot.residency(&want.key) else { continue };
            let verdict = CachedVerdict {
                at_ms: now_ms(),
                context_length: instance.context_length,
                parallel: instance.parallel,
                device: instance.device.clone(),
            };
            if let Err(error) = store.remember_verdict(want.key.as_str(), verdict, max_age) {
                tracing::info!(%error, "a verdict cannot be remembered");
            }
        }
    }

    fn token_missing(&self) -> Failure {
        let name = &self.config.api_token_env;
        Failure::new(
            Category::Unauthorized,
            format!("{} requires an API token, and the variable {name} holds none", self.base()),
        )
        .hinted(format!("create a token in LM Studio's developer settings and put it into {name}"))
    }

    /// The client's request would be refused as well, so no other source is asked.
    pub(super) fn token_refused(&self) -> Failure {
        let name = &self.config.api_token_env;
        Failure::new(Category::Unauthorized, format!("{} refuses the API token in the variable {name}", self.base()))
            .hinted("check the token in LM Studio's developer settings")
    }
}

/// Whether an LM Studio greets at another port of this machine.
pub(super) async fn greets(port: u16, server: &Server) -> bool {
    port != server.base.port() && crate::sys::http::greets(port, Duration::from_millis(500)).await
}
