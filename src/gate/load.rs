//! The load itself, by `lms` or by REST, then the proof that the model is addressable. Exit
//! code 0 of `lms load` alone proves nothing.

use std::fs::File;
use std::time::{Duration, Instant};

use serde_json::json;

use super::evaluate::{context_warning, drift_failure};
use super::look::Observation;
use super::obtain::{LoadMethod, Target};
use super::room::{Evictions, Room};
use super::{Backoff, Lead, ModelRequest, Work};
use crate::pure::config::{Device, OnMismatch};
use crate::pure::lmstudio::lms_output::{
    LoadProblem, decode, error_sentence, is_identifier_taken, load_problem, loaded_identifier,
};
use crate::pure::lmstudio::rest::ManagementReply;
use crate::pure::load::{Placement, load_args};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::{Action, Ready};
use crate::pure::residency::{Instance, Readiness, Residency, drift};
use crate::pure::text::{duration, printable};
use crate::sys::lmstudio::lms::{Lms, complaint};
use crate::sys::process::Exit;
use crate::sys::progress::Activity;

/// How long an instance may take to appear in the lists: `lms ps` shows a load about 200 ms
/// after it began.
const APPEARS: Duration = Duration::from_millis(1500);

/// How one attempt to load ended.
enum Attempt {
    /// It says it loaded.
    Loaded,
    /// It did not.
    Failed(Failure),
    /// The guardrail refused it; holds the server's words.
    OutOfMemory(String),
    /// `lms` did not find the key where it was told to look.
    NotFound(Failure),
    /// It did not end in time.
    TimedOut,
    /// `lms` was killed; what became of the load nobody said.
    Died(Failure),
    /// It ended up under this other name.
    Misnamed(String),
}

impl Work<'_> {
    /// Loads, making room as far as allowed; returns how long it took and what is shown of
    /// it, or `None` when somebody else's load made it ready.
    pub(super) async fn load(
        &self,
        want: &ModelRequest,
        target: &Target,
        by: &LoadMethod<'_>,
        lead: &Lead,
    ) -> Result<Option<(Duration, Activity)>, Failure> {
        if let Some(warning) = context_warning(want, target.max_context) {
            self.warn(warning);
        }
        if let Some(store) = &self.store {
            store.forget_verdicts();
        }
        let mut target = target.clone();
        let mut evictions = Evictions::default();
        let room = self.make_room(want, &target, lead, &mut evictions).await?;
        if room == Room::NotNeeded {
            return Ok(None);
        }
        loop {
            let activity = self.call.progress.begin(&format!("loading `{}`", want.key), self.usual_load(want));
            let started = Instant::now();
            let lent = self.lock_load(want);
            let attempt = match by {
                LoadMethod::Lms(lms) => {
                    self.load_by_lms(lms, want, &target, lent, |percent| activity.percent(percent)).await?
                }
                LoadMethod::Rest => {
                    let _kept = lent;
                    self.load_by_rest(want, &target).await?
                }
            };
            let time = started.elapsed();
            if matches!(attempt, Attempt::Loaded) {
                return Ok(Some((time, activity)));
            }
            drop(activity);
            // A copy of ours goes in any case, also where somebody else's load won the name.
            if let Attempt::Misnamed(name) = &attempt {
                let failure = self.undo(want, by, name, lead).await?;
                return if self.was_beaten(want, &attempt).await? { Ok(None) } else { Err(failure) };
            }
            // A load that "fails" while the model is there, or on its way, was beaten by
            // somebody else's.
            if self.was_beaten(want, &attempt).await? {
                return Ok(None);
            }
            match attempt {
                Attempt::OutOfMemory(words) => {
                    if room == Room::Expected
                        && let (Some(policy), Ok(lms)) = (&self.config.eviction, &self.lms)
                        && self.evict_one(lms, policy, lead, &mut evictions).await?
                    {
                        continue;
                    }
                    return Err(self.refused(want, &words));
                }
                // The model is on a linked machine alone.
                Attempt::NotFound(_) if target.placement == Placement::Local => target.placement = Placement::Any,
                Attempt::NotFound(failure) | Attempt::Failed(failure) | Attempt::Died(failure) => return Err(failure),
                Attempt::TimedOut => return Err(self.load_timeout(want, "was not loaded")),
                Attempt::Misnamed(_) | Attempt::Loaded => return Ok(None),
            }
        }
    }

    /// The lock that tells others of this load; `None` if there is none to be had.
    fn lock_load(&self, want: &ModelRequest) -> Option<File> {
        self.store.as_ref()?.load_lock(want.key.as_str()).lock_for_child().unwrap_or_else(|error| {
            // Others then see less of this load, which only matters where no list tells.
            tracing::info!(%error, "the lock of the load does not work");
            None
        })
    }

    /// Whether somebody else's load has made the model ready, or does so now. A load that
    /// has hardly begun is not listed yet, so a plain failure is not believed at once; nor is
    /// a copy, which only comes to be when somebody has the name.
    async fn was_beaten(&self, want: &ModelRequest, attempt: &Attempt) -> Result<bool, Failure> {
        let patience = match attempt {
            Attempt::Failed(_) => APPEARS,
            Attempt::Misnamed(name) if want.key.is_copy(name) => APPEARS,
            _ => Duration::ZERO,
        };
        let until = Instant::now() + patience;
        // Our own load that hangs, or goes on without its `lms`, is listed as well; where
        // readiness is not told, that is no proof of anything.
        let may_be_ours = matches!(attempt, Attempt::TimedOut | Attempt::Died(_));
        let mut backoff = Backoff::new();
        loop {
            let mut sight = self.look().await?;
            if !matches!(attempt, Attempt::TimedOut) {
                sight = self.wait_for_load_under_way(want, sight).await?.0;
            }
            if let Observation::Seen(snapshot) = &sight
                && let Residency::Addressable(instance) = snapshot.residency(&want.key)
                && (instance.readiness == Readiness::Ready || !may_be_ours)
            {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            self.sleep(backoff.next()).await?;
        }
    }

    fn refused(&self, want: &ModelRequest, words: &str) -> Failure {
        let hint = if self.config.eviction.is_some() {
            "nothing more may be unloaded: unload something by hand, or ask for less context"
        } else {
            "unload something (`lms ps`, `lms unload`), ask for less context, or let lmswarm make room with --evict-on-pressure"
        };
        Failure::new(Category::LoadRefused, format!("LM Studio refused to load `{}`: {words}", want.key)).hinted(hint)
    }

    async fn load_by_lms(
        &self,
        lms: &Lms,
        want: &ModelRequest,
        target: &Target,
        lent: Option<File>,
        on_percent: impl FnMut(u8),
    ) -> Result<Attempt, Failure> {
        let args = load_args(&want.key, &want.options.within(target.max_context), target.placement);
        let limit = self.config.load_timeout;
        let finished = lms
            .load(args.clone(), limit, lent, on_percent)
            .await
            .map_err(|problem| self.failed(Category::LoadFailed, problem))?;
        let words = decode(&finished.stderr);
        let failure = || {
            let reason = format!("`{}` could not be loaded: {}", want.key, complaint(&args, &finished, limit));
            Failure::new(Category::LoadFailed, reason).hinted("LM Studio's log (`lms log stream`) tells more")
        };
        Ok(match (&finished.exit, load_problem(&words)) {
            (Exit::Code(0), _) => match loaded_identifier(&finished.stderr) {
                Some(name) if name != want.key.as_str() => Attempt::Misnamed(name),
                _ => Attempt::Loaded,
            },
            (Exit::LimitExpired, _) => Attempt::TimedOut,
            (Exit::Signal(_), _) => Attempt::Died(failure()),
            (_, LoadProblem::Memory) => Attempt::OutOfMemory(error_sentence(&finished.stderr)),
            (_, LoadProblem::NotFound) => Attempt::NotFound(failure()),
            // Somebody else loads it, only out of sight; the next call will see.
            (_, LoadProblem::Other) if is_identifier_taken(&words) => Attempt::Failed(failure().cheap()),
            (_, LoadProblem::Other) => Attempt::Failed(failure()),
        })
    }

    /// REST knows neither identifier nor TTL, and stacks copies.
    async fn load_by_rest(&self, want: &ModelRequest, target: &Target) -> Result<Attempt, Failure> {
        let options = want.options.within(target.max_context);
        let unused: Vec<&str> = [
            ("ttlSeconds", options.ttl_seconds.is_some()),
            ("parallel", options.parallel.is_some()),
            ("gpu", options.gpu.is_some()),
            ("device", self.config.device == Device::Preferred),
        ]
        .into_iter()
        .filter_map(|(name, is_set)| is_set.then_some(name))
        .collect();
        if !unused.is_empty() {
            self.warn(format!("`{}` is loaded over REST, which cannot apply {}", want.key, unused.join(", ")));
        }
        let mut body = json!({ "model": want.key.as_str() });
        if let Some(tokens) = options.context_length {
            body["context_length"] = json!(tokens);
        }
        let failed = |why: &str| {
            Failure::new(Category::LoadFailed, format!("`{}` could not be loaded over REST: {why}", want.key))
        };
        Ok(match self.manage("load", &body, "instance_id").await? {
            ManagementReply::Done(loaded) => match loaded["instance_id"].as_str() {
                Some(name) if name != want.key.as_str() => Attempt::Misnamed(name.to_owned()),
                _ => Attempt::Loaded,
            },
            ManagementReply::Unauthorized if self.server.has_token() => return Err(self.token_refused()),
            ManagementReply::Unauthorized => {
                let reason = format!("{} requires an API token to load a model", self.base());
                let hint = format!("put one into the variable {}", self.config.api_token_env);
                return Err(Failure::new(Category::Unauthorized, reason).hinted(hint));
            }
            ManagementReply::TimedOut => Attempt::TimedOut,
            ManagementReply::Gone => Attempt::Failed(failed("the server went away")),
            ManagementReply::Refused(_, why) if load_problem(&why) == LoadProblem::Memory => Attempt::OutOfMemory(why),
            ManagementReply::Refused(_, why) if why.contains("Unexpected endpoint") => {
                let hint = "update LM Studio to 0.4 or later, or install its `lms` command here";
                Attempt::Failed(failed("this LM Studio is too old for it").hinted(hint))
            }
            ManagementReply::Refused(_, why) | ManagementReply::Unclear(why) => Attempt::Failed(failed(&why)),
        })
    }

    /// Our own load ended up under another name, or is of another model: unload it again,
    /// with what loaded it, and tell.
    async fn undo(
        &self,
        want: &ModelRequest,
        by: &LoadMethod<'_>,
        identifier: &str,
        lead: &Lead,
    ) -> Result<Failure, Failure> {
        match by {
            // Success proves nothing; that it is gone does.
            LoadMethod::Lms(lms) => drop(lms.unload(identifier).await),
            LoadMethod::Rest => {
                drop(self.manage("unload", &json!({ "instance_id": identifier }), "instance_id").await?);
            }
        }
        let name = printable(identifier);
        let end = if self.is_gone(identifier, lead).await? {
            "it was unloaded again".to_owned()
        } else {
            format!("unload it by hand (`lms unload {name}`)")
        };
        let reason = format!(
            "LM Studio loaded `{}` under the name `{name}`, which requests for it do not reach; {end}",
            want.key
        );
        Ok(Failure::new(Category::NotAddressable, reason)
            .hinted("another client may be loading the same model; try again with --fresh"))
    }

    /// Proves that the model is addressable, and that it is the right one.
    pub(super) async fn verify(
        &self,
        want: &ModelRequest,
        target: &Target,
        by: &LoadMethod<'_>,
        is_ours: bool,
        lead: &Lead,
    ) -> Result<Ready, Failure> {
        let started = Instant::now();
        let mut backoff = Backoff::new();
        let mut appears_until = started + APPEARS;
        loop {
            let sight = self.look().await?;
            if let Observation::Seen(snapshot) = &sight {
                match snapshot.residency(&want.key) {
                    Residency::Addressable(instance) => {
                        if let Some(other) = other_model(instance, want, target).filter(|_| is_ours) {
                            let undone = self.undo(want, by, &instance.identifier, lead).await?;
                            let reason = format!("LM Studio loaded `{}` in place of `{}`", printable(other), want.key);
                            return Err(Failure { reason, hint: None, ..undone });
                        }
                        let (source, instance) = (snapshot.source, instance.clone());
                        let ready = Ready { action: Action::Loaded, source, instance, load_time: None };
                        return self.check_granted(want, target, ready, is_ours);
                    }
                    Residency::Loading(_) => {
                        if started.elapsed() >= self.config.load_timeout {
                            return Err(self.load_timeout(want, "is still loading"));
                        }
                        appears_until = Instant::now() + APPEARS;
                    }
                    _ => {}
                }
            }
            if Instant::now() >= appears_until {
                return Err(not_addressable(want, sight));
            }
            self.sleep(backoff.next()).await?;
        }
    }

    /// LM Studio may quietly grant less context than asked for.
    fn check_granted(
        &self,
        want: &ModelRequest,
        target: &Target,
        ready: Ready,
        is_ours: bool,
    ) -> Result<Ready, Failure> {
        let Some(drift) = drift(&ready.instance, &want.options, target.max_context) else { return Ok(ready) };
        match self.config.on_mismatch {
            OnMismatch::Fail => Err(drift_failure(want, drift)),
            OnMismatch::Reload | OnMismatch::Ignore => {
                let why = if is_ours { "LM Studio granted no more" } else { "another client loaded it so" };
                self.warn(format!(
                    "`{}` was loaded with a context of {} tokens, not {}: {why}",
                    want.key, drift.has, drift.wants
                ));
                Ok(ready)
            }
        }
    }
}

/// The model this instance is of, if it is not the one that was wanted: `lms load` may have
/// matched another one.
fn other_model<'a>(instance: &'a Instance, want: &ModelRequest, target: &Target) -> Option<&'a str> {
    let model = instance.model_key.as_deref()?;
    (model != target.base_key && model != want.key.as_str()).then_some(model)
}

fn not_addressable(want: &ModelRequest, sight: Observation) -> Failure {
    let down = match sight {
        Observation::Blocked(failure) => return failure,
        Observation::Down => ": the server went down",
        Observation::Seen(_) => "",
    };
    let reason =
        format!("LM Studio said it loaded `{}`, but it is not resident {} later{down}", want.key, duration(APPEARS));
    Failure::new(Category::NotAddressable, reason)
        .hinted("something may have unloaded it at once (memory, another client); LM Studio's log tells")
}
