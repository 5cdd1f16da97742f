//! Loads, unloads and estimates, by `lms` or by REST.

use std::io;
use std::time::Duration;

use serde_json::json;

use super::{LOG, LmStudio, LoadMethod, LoadTarget, remember_unless_local, unload_command};
use crate::backend::LoadResult;
use crate::pure::config::Device;
use crate::pure::eviction::Estimate;
use crate::pure::http::{Reply, StatusClass, classify};
use crate::pure::lmstudio::lms_output::{
    LoadProblem, decode, error_sentence, is_cut_off, is_identifier_taken, is_load_cancelled, load_problem,
    loaded_identifier,
};
use crate::pure::lmstudio::load_args::{Placement, estimate_args, load_args, matches_fuzzily};
use crate::pure::lmstudio::rest::{MOST_MODELS, ManagementReply, read_management_reply};
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::{Downloaded, Location, find_downloaded};
use crate::pure::text::printable;
use crate::sys::lmstudio::lms::{Lms, LmsError, Problem, UNLOAD_LIMIT};
use crate::sys::operation::Operation;
use crate::sys::process::Exit;

/// How long a caller that must end waits for the end of its load over REST.
const SEEN_TO_ITS_END: Duration = Duration::from_secs(5);

/// What one `lms load` came to.
enum Attempt {
    Ended(LoadResult),
    /// `lms` did not find the key where it was told to look.
    NotFound(Failure),
}

impl LmStudio<'_> {
    pub(crate) async fn load_target(
        &self,
        request: &ModelRequest,
        found: &Downloaded,
        models: &[Downloaded],
    ) -> Result<LoadTarget, Failure> {
        let (placement, warning) = self.placement(request, found, models).await?;
        Ok(LoadTarget {
            placement,
            warning,
            base_key: found.key.clone(),
            max_context: found.max_context_length,
            size_bytes: found.size_bytes,
        })
    }

    /// Which machine loads, with a warning where that is left to LM Link against the user's wish.
    ///
    /// `--local` leaves linked machines out: where the key is on one of those alone, `lms` then
    /// takes what is similar here. Without `--local` an equal key always wins, though it may be the
    /// one of a linked machine.
    async fn placement(
        &self,
        request: &ModelRequest,
        found: &Downloaded,
        models: &[Downloaded],
    ) -> Result<(Placement, Option<String>), Failure> {
        let is_risky = || {
            let is_similar = |it: &Downloaded| it.key != found.key && matches_fuzzily(&request.key, &it.key);
            // Of a longer list not every model is kept.
            models.len() >= MOST_MODELS || models.iter().any(is_similar)
        };
        match (self.context.config.device, found.location) {
            (Device::Preferred, _) | (_, Location::Linked) => return Ok((Placement::Any, None)),
            (Device::LocalFirst, Location::Here) => return Ok((Placement::Local, None)),
            (Device::LocalFirst, Location::Unreported) if !is_risky() => return Ok((Placement::Local, None)),
            (Device::LocalFirst, Location::Unreported) => {}
        }
        // REST loads as LM Link prefers in any case.
        let Ok(LoadMethod::Lms(lms)) = self.load_method(request) else { return Ok((Placement::Any, None)) };
        let why = match lms.ls().await {
            Ok(models) => match find_downloaded(&models, &request.key).map(|it| it.location) {
                Some(Location::Here) => return Ok((Placement::Local, None)),
                Some(_) => return Ok((Placement::Any, None)),
                None => "`lms ls` does not list it".to_owned(),
            },
            Err(Problem::Stopped(stop)) => return Err(self.context.interrupted(stop)),
            Err(Problem::Failed(error)) => error.reason,
        };
        let key = &request.key;
        let warning = format!("`{key}` may be loaded on another machine: nobody can tell which one has it ({why})");
        Ok((Placement::Any, Some(warning)))
    }

    /// REST knows neither identifier nor TTL.
    pub(crate) fn unsupported(&self, request: &ModelRequest) -> Option<String> {
        let Ok(LoadMethod::Rest) = self.load_method(request) else { return None };
        let options = &request.options;
        let unused: Vec<&str> = [
            ("ttlSeconds", options.ttl_seconds.is_some()),
            ("parallel", options.parallel.is_some()),
            ("gpu", options.gpu.is_some()),
            ("device", self.context.config.device == Device::Preferred),
        ]
        .into_iter()
        .filter_map(|(name, is_set)| is_set.then_some(name))
        .collect();
        (!unused.is_empty())
            .then(|| format!("`{}` is loaded over REST, which cannot apply {}", request.key, unused.join(", ")))
    }

    pub(crate) async fn load(
        &self,
        request: &ModelRequest,
        target: &LoadTarget,
        operation: Option<&Operation>,
        on_percent: impl FnMut(u8),
    ) -> Result<LoadResult, Failure> {
        match self.load_method(request)? {
            LoadMethod::Lms(lms) => self.load_by_lms(lms, request, target, operation, on_percent).await,
            LoadMethod::Rest => {
                let limit = self.context.config.load_timeout;
                if let Some(operation) = operation {
                    noted(operation.begin_in_server(limit));
                }
                let (result, goes_on) = self.load_by_rest(request, target).await;
                if let Some(operation) = operation.filter(|_| !goes_on) {
                    operation.end();
                }
                result
            }
        }
    }

    async fn load_by_lms(
        &self,
        lms: &Lms,
        request: &ModelRequest,
        target: &LoadTarget,
        operation: Option<&Operation>,
        mut on_percent: impl FnMut(u8),
    ) -> Result<LoadResult, Failure> {
        match self.try_lms(lms, request, target, target.placement, operation, &mut on_percent).await? {
            Attempt::Ended(result) => Ok(result),
            // The model is on a linked machine alone.
            Attempt::NotFound(_) if target.placement == Placement::Local => {
                match self.try_lms(lms, request, target, Placement::Any, operation, &mut on_percent).await? {
                    Attempt::Ended(result) => Ok(result),
                    Attempt::NotFound(failure) => Ok(LoadResult::Failed(failure)),
                }
            }
            Attempt::NotFound(failure) => Ok(LoadResult::Failed(failure)),
        }
    }

    async fn try_lms(
        &self,
        lms: &Lms,
        request: &ModelRequest,
        target: &LoadTarget,
        placement: Placement,
        operation: Option<&Operation>,
        on_percent: &mut impl FnMut(u8),
    ) -> Result<Attempt, Failure> {
        let args = load_args(&request.key, &request.options.within(target.max_context), placement);
        let limit = self.context.config.load_timeout;
        let lock = operation.and_then(|operation| noted(operation.begin(limit)).flatten());
        let finished = lms
            .load(args.clone(), limit, lock, on_percent)
            .await
            .map_err(|error| remember_unless_local(Failure::new(Category::LoadFailed, error.reason), error.is_local))?;
        // Where `lms` was killed the load may go on, and the lock tells.
        if let (Exit::Code(_), Some(operation)) = (&finished.exit, operation) {
            operation.end();
        }
        let words = decode(&finished.stderr);
        if let Exit::Stopped(stop) = finished.exit {
            let key = &request.key;
            let became = if is_load_cancelled(&words) {
                format!("the load of `{key}` was cancelled")
            } else {
                format!("whether the load of `{key}` was cancelled is not known, as `lms` did not say so")
            };
            return Err(self.context.interrupted(stop).and(&became));
        }
        let failure = || {
            let error = LmsError::of(&args, &finished, limit);
            let reason = format!("`{}` could not be loaded: {error}", request.key);
            let failure = Failure::new(Category::LoadFailed, reason);
            if error.is_local {
                failure.hinted("`lms` did not run as it should: look at this machine, not at LM Studio").cheap()
            } else {
                failure.hinted(format!("{LOG} tells more"))
            }
        };
        Ok(Attempt::Ended(match (&finished.exit, load_problem(&words)) {
            (Exit::Code(0), _) => match loaded_identifier(&finished.stderr) {
                Some(name) if name != request.key.as_str() => LoadResult::Misnamed(name),
                _ => LoadResult::Loaded,
            },
            (Exit::LimitExpired, _) => LoadResult::TimedOut,
            (Exit::Signal(_), _) => LoadResult::Lost(failure()),
            (_, LoadProblem::Memory) => LoadResult::OutOfMemory(error_sentence(&finished.stderr)),
            (_, LoadProblem::Other) if is_cut_off(&words) => LoadResult::CutOff(failure()),
            (_, LoadProblem::NotFound) => return Ok(Attempt::NotFound(failure())),
            // Another client loads it, and no list shows that yet; the next call will see.
            (_, LoadProblem::Other) if is_identifier_taken(&words) => LoadResult::Failed(failure().cheap()),
            (_, LoadProblem::Other) => LoadResult::Failed(failure()),
        }))
    }

    /// Loads over REST; also tells whether the load goes on in the server, whose end is not known.
    async fn load_by_rest(&self, request: &ModelRequest, target: &LoadTarget) -> (Result<LoadResult, Failure>, bool) {
        let mut body = json!({ "model": request.key.as_str() });
        if let Some(tokens) = request.options.within(target.max_context).context_length {
            body["context_length"] = json!(tokens);
        }
        let shutdown = self.context.shutdown();
        let answer = self.context.server.post("api/v1/models/load", &body, self.context.config.load_timeout);
        tokio::pin!(answer);
        let reply = match shutdown.or(&mut answer).await {
            Ok(reply) => reply,
            Err(stop) => {
                // It cannot be cancelled. What it makes of a race that it loses would stay.
                tracing::debug!("told to stop while a load over REST goes on: waiting for its end, but not for long");
                let reply = tokio::select! {
                    biased;
                    reply = &mut answer => Some(read_management_reply(&reply, "instance_id")),
                    () = shutdown.forced() => None,
                    () = tokio::time::sleep(SEEN_TO_ITS_END) => None,
                };
                let (became, goes_on) = self.leave_load(request, reply).await;
                return (Err(self.context.interrupted(stop).and(&became)), goes_on);
            }
        };
        let goes_on = matches!(reply, Reply::TimedOut);
        (self.read_load_reply(request, &reply), goes_on)
    }

    /// Says what becomes of a load over REST whose caller must end; a copy that it made is unloaded.
    /// Also tells whether it goes on.
    async fn leave_load(&self, request: &ModelRequest, reply: Option<ManagementReply>) -> (String, bool) {
        let key = &request.key;
        match reply {
            None | Some(ManagementReply::TimedOut) => {
                (format!("a load over REST cannot be cancelled, so that of `{key}` goes on in LM Studio"), true)
            }
            Some(ManagementReply::Done(loaded)) => match loaded["instance_id"].as_str() {
                Some(name) if name != key.as_str() => {
                    let is_unloaded = self.unload_over_rest(name).await;
                    let name = printable(name);
                    let became = if is_unloaded {
                        format!("`{name}`, which it had loaded, was unloaded again")
                    } else {
                        format!("it had loaded `{name}`: unload that by hand (`{}`)", unload_command(&name))
                    };
                    (became, false)
                }
                _ => (format!("`{key}` was loaded before that could be cancelled"), false),
            },
            Some(_) => (format!("the load of `{key}` had failed"), false),
        }
    }

    /// REST stacks copies, so the instance it names is compared with the key.
    fn read_load_reply(&self, request: &ModelRequest, reply: &Reply) -> Result<LoadResult, Failure> {
        let failed = |why: &str| {
            Failure::new(Category::LoadFailed, format!("`{}` could not be loaded over REST: {why}", request.key))
        };
        Ok(match read_management_reply(reply, "instance_id") {
            ManagementReply::Done(loaded) => match loaded["instance_id"].as_str() {
                Some(name) if name != request.key.as_str() => LoadResult::Misnamed(name.to_owned()),
                _ => LoadResult::Loaded,
            },
            ManagementReply::Unauthorized if self.context.server.has_token() => return Err(self.token_refused()),
            ManagementReply::Unauthorized => {
                let reason = format!("{} requires an API token to load a model", self.context.base());
                let hint = format!("put one into the variable {}", self.context.config.api_token_env);
                return Err(Failure::new(Category::Unauthorized, reason).hinted(hint));
            }
            ManagementReply::TimedOut => LoadResult::TimedOut,
            ManagementReply::Gone => LoadResult::CutOff(failed("the server went away")),
            ManagementReply::Refused(_, why) if load_problem(&why) == LoadProblem::Memory => {
                LoadResult::OutOfMemory(why)
            }
            ManagementReply::Refused(_, why) if why.contains("Unexpected endpoint") => {
                let hint = "update LM Studio to 0.4 or later, or install its `lms` command here";
                LoadResult::Failed(failed("this LM Studio is too old for it").hinted(hint))
            }
            ManagementReply::Refused(_, why) | ManagementReply::Unclear(why) if is_outage(reply) => {
                LoadResult::CutOff(failed(&why))
            }
            ManagementReply::Refused(_, why) => LoadResult::Failed(failed(&why)),
            ManagementReply::Unclear(why) if is_rate_limited(reply) => {
                let failure = Failure { category: Category::UnknownState, ..failed(&why) };
                LoadResult::Failed(failure.hinted("try again later").for_waiters())
            }
            // That is not LM Studio's word.
            ManagementReply::Unclear(why) => LoadResult::Failed(failed(&why).for_waiters()),
        })
    }

    pub(crate) async fn undo_load(
        &self,
        request: &ModelRequest,
        identifier: &str,
        operation: Option<&Operation>,
    ) -> Result<(), Failure> {
        match self.load_method(request)? {
            // Success proves nothing; that it is gone does.
            LoadMethod::Lms(_) => drop(self.unload(identifier, operation).await?),
            LoadMethod::Rest => drop(self.unload_over_rest(identifier).await),
        }
        Ok(())
    }

    /// Unloads what a load over REST brought up under a wrong name, also for a caller that must
    /// end; returns whether the server says that it did.
    async fn unload_over_rest(&self, identifier: &str) -> bool {
        let body = json!({ "instance_id": identifier });
        let reply = self.context.server.post("api/v1/models/unload", &body, self.context.config.probe_timeout).await;
        matches!(read_management_reply(&reply, "instance_id"), ManagementReply::Done(_))
    }

    pub(crate) async fn unload(
        &self,
        identifier: &str,
        operation: Option<&Operation>,
    ) -> Result<Result<(), String>, Failure> {
        let lms = match self.lms() {
            Ok(lms) => lms,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        let lock = operation.and_then(|operation| noted(operation.begin(UNLOAD_LIMIT)).flatten());
        let unloaded = lms.unload(identifier, lock).await;
        if let (Ok(()), Some(operation)) = (&unloaded, operation) {
            operation.end();
        }
        match unloaded {
            Ok(()) => Ok(Ok(())),
            Err(Problem::Stopped(stop)) => Err(self.context.interrupted(stop)),
            Err(Problem::Failed(error)) => Ok(Err(error.reason)),
        }
    }

    pub(crate) async fn estimate(
        &self,
        request: &ModelRequest,
        target: &LoadTarget,
    ) -> Result<Option<Estimate>, Failure> {
        let Ok(lms) = self.lms() else { return Ok(None) };
        let args = estimate_args(&request.key, &request.options.within(target.max_context), target.placement);
        lms.estimate(args).await.map_err(|stop| self.context.interrupted(stop))
    }

    pub(crate) fn refused(&self, request: &ModelRequest, words: &str) -> Failure {
        let hint = if self.context.config.eviction.is_some() {
            "nothing more may be unloaded: unload something by hand, or ask for less context"
        } else {
            "unload something (`lms ps`, `lms unload`), ask for less context, or let lmswarm make room with --evict-on-pressure"
        };
        Failure::new(Category::LoadRefused, format!("LM Studio refused to load `{}`: {words}", request.key))
            .hinted(hint)
    }
}

/// Others see less of an operation whose lock does not work, and no more than that.
fn noted<T>(locked: io::Result<T>) -> Option<T> {
    locked.inspect_err(|error| tracing::info!(%error, "the lock of an operation does not work")).ok()
}

/// Whether the server, or the proxy in front of it, did not live to answer.
fn is_outage(reply: &Reply) -> bool {
    match reply {
        Reply::Broken(_) => true,
        Reply::Answer(answer) => matches!(answer.status, 408 | 502..=504),
        _ => false,
    }
}

/// Whether a proxy in front of the server let no more requests through.
fn is_rate_limited(reply: &Reply) -> bool {
    matches!(reply, Reply::Answer(answer) if classify(answer.status) == StatusClass::RateLimited)
}
