//! Observing LM Studio: its two lists side by side, and `lms` where REST cannot tell.

use std::time::{Duration, Instant};

use super::LmStudio;
use crate::backend::{Observation, is_settled};
use crate::pure::http::{Reply, StatusClass, classify, describe};
use crate::pure::lmstudio::rest::{is_greeting, read_lists};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::{Downloaded, Instance, Readiness, Reading, Routes, Snapshot, Source};
use crate::sys::http::{Server, greets};
use crate::sys::lmstudio::lms::Problem;

/// How often a server that contradicts itself, or talks nonsense, is asked again.
const RETRIES: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(60);

impl LmStudio<'_> {
    /// `GET /api/v1/models` and `GET /api/v0/models`, side by side.
    pub(crate) async fn read(&self) -> Reading {
        let requested = self.context.requests.iter().map(|it| it.key.as_str());
        let (v1, v0) = self.context.server.lists(requested).await;
        read_lists(v1, v0)
    }

    pub(crate) async fn observe(
        &self,
        first: Option<Reading>,
        cached: &dyn Fn() -> Option<Vec<Instance>>,
    ) -> Result<Observation, Failure> {
        let context = self.context;
        let mut reading = match first {
            Some(reading) => reading,
            None => context.unless_stopped(self.read()).await?,
        };
        // A server that is mute takes the whole of a probe's time at each try.
        let patience = Instant::now() + context.config.probe_timeout;
        for _ in 0..RETRIES {
            let is_clear = match &reading {
                Reading::Seen(snapshot) => is_settled(snapshot, context.requests),
                Reading::Unclear(_) => false,
                _ => true,
            };
            if is_clear || Instant::now() > patience {
                break;
            }
            context.sleep(RETRY_PAUSE).await?;
            reading = context.unless_stopped(self.read()).await?;
        }
        match reading {
            Reading::Seen(snapshot) => Ok(Observation::Seen(snapshot)),
            Reading::Down => Ok(Observation::Down),
            Reading::Unreachable(error) => Ok(Observation::Blocked(error.failure(context.base(), context.origin))),
            Reading::Unauthorized if context.server.has_token() => Ok(Observation::Blocked(self.token_refused())),
            Reading::Unauthorized => {
                self.lacks_token.set(true);
                self.observe_through_lms(self.token_missing(), cached).await
            }
            // `lms` would speak of LM Studio itself, whatever this is.
            Reading::Forbidden(said) => Ok(Observation::Blocked(context.forbidden(&said))),
            Reading::OtherProgram(said) => self.observe_stranger(said, cached).await,
            Reading::NotHttp(said) => {
                let said = format!("it speaks no HTTP, but says \"{said}\"");
                Ok(Observation::Blocked(self.not_lm_studio(&said, self.hint_at_other_program())))
            }
            Reading::Unclear(why) | Reading::TooLarge(why) | Reading::RateLimited(why) => {
                Ok(Observation::Blocked(context.unknown(&why)))
            }
        }
    }

    /// It answers, but with neither list: another program, or an LM Studio too old for both.
    async fn observe_stranger(
        &self,
        said: String,
        cached: &dyn Fn() -> Option<Vec<Instance>>,
    ) -> Result<Observation, Failure> {
        let context = self.context;
        let base = context.base();
        let answer = match context.unless_stopped(context.server.get("lmstudio-greeting")).await? {
            Reply::Answer(answer) if is_greeting(&answer.body) => {
                if said.contains("Unexpected endpoint") {
                    let failure = context.unknown("it is too old to tell (neither /api/v1/models nor /api/v0/models)");
                    let failure = failure.hinted("update LM Studio to 0.4 or later");
                    return self.observe_through_lms(failure, cached).await;
                }
                return Ok(Observation::Blocked(context.unknown(&format!("it answers with {said}"))));
            }
            Reply::Answer(answer) => match classify(answer.status) {
                StatusClass::Other => answer,
                StatusClass::Unauthorized => return Ok(Observation::Blocked(context.forbidden(&describe(&answer)))),
                StatusClass::RateLimited | StatusClass::Temporary => {
                    let why = format!("it answers with {}", describe(&answer));
                    return Ok(Observation::Blocked(context.unknown(&why)));
                }
            },
            _ => return Ok(Observation::Blocked(context.unknown(&format!("it answers with {said}")))),
        };
        let hint = if base.without_path() != *base && self.greets_at_root().await? {
            format!("LM Studio answers at {}: drop the rest of the path", base.without_path())
        } else {
            self.hint_at_other_program()
        };
        Ok(Observation::Blocked(self.not_lm_studio(&describe(&answer), hint)))
    }

    fn not_lm_studio(&self, said: &str, hint: String) -> Failure {
        let reason = format!("what answers at {} is not LM Studio: {said}", self.context.address());
        Failure::new(Category::NotLmStudio, reason).hinted(hint)
    }

    fn hint_at_other_program(&self) -> String {
        let port = self.context.base().port();
        format!("stop the program on port {port}, or name LM Studio's address with --base-url")
    }

    async fn greets_at_root(&self) -> Result<bool, Failure> {
        let root = self.context.base().without_path();
        let Ok(root) = Server::new(root, None, self.context.config.probe_timeout) else { return Ok(false) };
        self.context.unless_stopped(greets(&root)).await
    }

    /// `lms ps` can tell for this machine, without a token; `otherwise` is the failure if not.
    async fn observe_through_lms(
        &self,
        otherwise: Failure,
        cached: &dyn Fn() -> Option<Vec<Instance>>,
    ) -> Result<Observation, Failure> {
        if let Some(instances) = cached() {
            return Ok(Observation::Seen(Snapshot {
                source: Source::Cache,
                instances,
                downloaded: None,
                routes: Routes::default(),
            }));
        }
        let Ok(lms) = self.lms() else { return Ok(Observation::Blocked(otherwise)) };
        // Through `--host` it is a stranger to LM Studio and would be refused as well.
        if !self.context.base().is_loopback() {
            return Ok(Observation::Blocked(otherwise));
        }
        match lms.ps().await {
            Ok(instances) => Ok(Observation::Seen(Snapshot {
                source: Source::LmsPs,
                instances,
                downloaded: None,
                routes: Routes::default(),
            })),
            Err(Problem::Stopped(stop)) => Err(self.context.interrupted(stop)),
            Err(Problem::Failed(why)) => {
                let reason = format!("{}; and {why}", otherwise.reason);
                Ok(Observation::Blocked(Failure { reason, ..otherwise }))
            }
        }
    }

    /// Every instance with what only `lms ps` knows, whether it is busy. It shows one that is
    /// loading as idle, so REST must say that it is not; where that cannot be told, an instance
    /// that was never used may be one. `lms ps` has the last word, so that an unload which follows
    /// is based on nothing older.
    pub(crate) async fn activity(&self) -> Result<Result<Vec<Instance>, String>, Failure> {
        let lms = match self.lms() {
            Ok(lms) => lms,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        let (source, seen) = match self.observe(None, &|| None).await? {
            Observation::Seen(snapshot) => (Some(snapshot.source), snapshot.instances),
            _ => (None, Vec::new()),
        };
        let mut resident = if source == Some(Source::LmsPs) {
            seen.clone()
        } else {
            match lms.ps().await {
                Ok(resident) => resident,
                Err(Problem::Stopped(stop)) => return Err(self.context.interrupted(stop)),
                Err(Problem::Failed(error)) => return Ok(Err(error.reason)),
            }
        };
        for instance in resident.iter_mut().filter(|it| it.busy == Some(false)) {
            let readiness = seen.iter().find(|it| it.identifier == instance.identifier).map(|it| it.readiness);
            instance.busy = match readiness {
                Some(Readiness::Ready) => Some(false),
                Some(Readiness::Loading) => Some(true),
                Some(Readiness::Unreported) if instance.last_used.is_some() => Some(false),
                _ => None,
            };
        }
        Ok(Ok(resident))
    }

    pub(crate) async fn downloaded(&self, snapshot: &Snapshot) -> Result<Vec<Downloaded>, Failure> {
        if let Some(models) = &snapshot.downloaded {
            return Ok(models.clone());
        }
        let lms = self.lms().map_err(|why| {
            let hint =
                "update LM Studio to 0.4 or later, set an API token if it requires one, or name `lms` with --lms-path";
            let reason = format!("{} does not tell what is downloaded, and {why}", self.context.base());
            Failure::new(Category::LoadFailed, reason).hinted(self.lms_hint(hint)).cheap()
        })?;
        lms.ls().await.map_err(|problem| match problem {
            Problem::Stopped(stop) => self.context.interrupted(stop),
            Problem::Failed(error) => self.context.unknown(&error.reason),
        })
    }
}
