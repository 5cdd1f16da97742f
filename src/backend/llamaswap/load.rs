//! Loads by one request that is passed on to the model, and unloads.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{LlamaSwap, Way};
use crate::backend::{Backoff, LoadResult, LoadTarget};
use crate::pure::backend::BackendKind;
use crate::pure::http::{Answer, Reply, describe};
use crate::pure::llamaswap::lists::State;
use crate::pure::llamaswap::reply::{LoadReply, OLDEST, in_path, read_load_reply, reason_in_log, release};
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::{Downloaded, Reading};
use crate::pure::text::{duration, listed};
use crate::sys::operation::Operation;

/// How often is looked whether the model is ready, beside the request that loads it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a request to a model that is ready may take to be answered.
const ANSWERS: Duration = Duration::from_millis(250);
/// How long the places of a model may all be taken until one is asked for again.
const PLACES_TAKEN: Duration = Duration::from_secs(5);
/// How long a change of llama-swap's configuration may take.
const RELOADS: Duration = Duration::from_secs(10);
/// An unload is answered when the model's server has ended.
const UNLOAD_LIMIT: Duration = Duration::from_secs(60);
/// The log of a model comes at once; then the connection stays open.
const LOG_LIMIT: Duration = Duration::from_millis(400);
/// What is read of a log's end.
const MOST_OF_LOG: usize = 16 * 1024;

/// What one request that loads came to.
enum Attempt {
    Replied(Reply),
    /// The model is ready, though the request was not answered.
    IsReady,
}

impl LlamaSwap<'_> {
    /// Leaves nothing to choose, and warns of a release that is too old.
    pub(crate) async fn load_target(&self, found: &Downloaded) -> Result<LoadTarget, Failure> {
        let reply = self.context.unless_stopped(self.context.server.get("api/version")).await?;
        let warning = release(&reply).filter(|number| *number < OLDEST).map(|number| {
            let which = if number == 0 { "older than v173".to_owned() } else { format!("v{number}") };
            format!("this llama-swap is {which}, and v{OLDEST} is the oldest that lmswarm supports: update it")
        });
        Ok(LoadTarget { warning, ..LoadTarget::of(found) })
    }

    /// Loads by one request, which stays until it is answered: where every client has hung up, a
    /// model with a time to live is stopped as soon as it is ready.
    pub(crate) async fn load(
        &self,
        request: &ModelRequest,
        operation: Option<&Operation>,
    ) -> Result<LoadResult, Failure> {
        let context = self.context;
        if let Some(Err(error)) = operation.map(|it| it.begin_in_server(context.config.load_timeout)) {
            tracing::debug!(%error, "others cannot see this load");
        }
        let result = context.shutdown().or(self.attempts(request)).await;
        match result {
            Ok(result) => {
                if let Some(operation) = operation {
                    operation.end();
                }
                Ok(result)
            }
            Err(stop) => {
                let key = &request.key;
                Err(context.interrupted(stop).and(&format!("a start of `{key}` that has begun goes on in llama-swap")))
            }
        }
    }

    async fn attempts(&self, request: &ModelRequest) -> LoadResult {
        let name = request.key.as_str();
        let limit = self.context.config.load_timeout;
        let until = Instant::now() + limit;
        let before: Vec<String> = self.lists.borrow().ready().map(str::to_owned).collect();
        let mut way = Way::to(name, &self.lists.borrow());
        let mut was_broken_off = false;
        let mut reloads_until = until;
        let mut was_stopped = false;
        let mut is_refused = false;
        let mut backoff = Backoff::default();
        loop {
            if Instant::now() >= until {
                return if is_refused { self.no_place(request) } else { LoadResult::TimedOut };
            }
            let reply = match self.attempt(name, way, until).await {
                Attempt::IsReady => return LoadResult::Loaded,
                Attempt::Replied(reply) => reply,
            };
            let reply = read_load_reply(&reply);
            tracing::debug!(?reply, "the request that loads");
            is_refused = reply == LoadReply::TooMany;
            if matches!(reply, LoadReply::BrokenOff(_)) {
                reloads_until = reloads_until.min(Instant::now() + RELOADS);
            }
            match reply {
                LoadReply::Answered => match self.is_ready(name).await {
                    Some(false) if was_stopped => return self.gone(request).await,
                    Some(false) => was_stopped = true,
                    Some(true) | None => return LoadResult::Loaded,
                },
                LoadReply::Silent => match self.is_ready(name).await {
                    // Its server listens a while after llama-swap takes it for ready.
                    Some(true) => {
                        let pause = backoff.interval();
                        if Instant::now() + pause >= until {
                            let reason = format!(
                                "llama-swap says that `{name}` is ready, but the model's server did not answer within \
                                 loadTimeoutMs ({})",
                                duration(limit)
                            );
                            let hint = "set `checkEndpoint` in llama-swap's configuration to a path that tells";
                            return LoadResult::Failed(Failure::new(Category::NotAddressable, reason).hinted(hint));
                        }
                        tokio::time::sleep(pause).await;
                    }
                    _ if was_broken_off => {
                        return self.failed(request, &before, "its server ended as it was asked").await;
                    }
                    _ => was_broken_off = true,
                },
                // Until the new configuration has taken over, which stops every model first.
                LoadReply::BrokenOff(why) if why.contains("shutting down") && Instant::now() < reloads_until => {
                    tokio::time::sleep(backoff.interval()).await;
                }
                LoadReply::BrokenOff(why) if was_broken_off => return self.failed(request, &before, &why).await,
                LoadReply::BrokenOff(_) => was_broken_off = true,
                LoadReply::Ignored if way == Way::Upstream => way = Way::Props,
                LoadReply::Ignored => {
                    return self
                        .failed(request, &before, "`upstream.ignorePaths` forbids every request that loads")
                        .await;
                }
                LoadReply::TooMany => {
                    if self.becomes_ready(name, until.min(Instant::now() + PLACES_TAKEN)).await {
                        return LoadResult::Loaded;
                    }
                }
                LoadReply::Cut(_) => {
                    if self.becomes_ready(name, Instant::now() + Duration::from_millis(500)).await {
                        return LoadResult::Loaded;
                    }
                }
                LoadReply::Failed(why) => return self.failed(request, &before, &why).await,
                LoadReply::NotHealthy(why) => return self.not_healthy(request, &before, &why).await,
                LoadReply::NotConfigured => return LoadResult::Failed(self.not_configured(request, &[]).cheap()),
                LoadReply::Unauthorized => {
                    let seen = self.context.observation(Reading::Unauthorized, BackendKind::LlamaSwap);
                    let crate::backend::Observation::Blocked(failure) = seen else { return LoadResult::TimedOut };
                    return LoadResult::Failed(failure);
                }
                LoadReply::Lost(why) => {
                    let reason = format!("`{name}` could not be loaded: {why}");
                    return LoadResult::CutOff(Failure::new(Category::LoadFailed, reason));
                }
                LoadReply::TimedOut => return LoadResult::TimedOut,
            }
        }
    }

    /// Sends the request, and looks beside it: before v218 it may wait behind another one that is
    /// answered at length by a model that is ready by now.
    async fn attempt(&self, name: &str, way: Way, until: Instant) -> Attempt {
        let path = way.path(name);
        let answer = self.context.server.get_within(&path, until.saturating_duration_since(Instant::now()));
        tokio::pin!(answer);
        loop {
            tokio::select! {
                biased;
                reply = &mut answer => return Attempt::Replied(reply),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            // One that is ready answers a request at once.
            let look = async {
                if self.is_ready(name).await != Some(true) {
                    return false;
                }
                tokio::time::sleep(ANSWERS).await;
                self.is_ready(name).await == Some(true)
            };
            tokio::select! {
                biased;
                reply = &mut answer => return Attempt::Replied(reply),
                is_ready = look => if is_ready { return Attempt::IsReady },
            }
        }
    }

    /// Polls until the model is ready, but not beyond `until`.
    async fn becomes_ready(&self, name: &str, until: Instant) -> bool {
        loop {
            if self.is_ready(name).await == Some(true) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
        }
    }

    /// A start that failed, with the reason from the model's own output where it can be had.
    async fn failed(&self, request: &ModelRequest, before: &[String], why: &str) -> LoadResult {
        LoadResult::Failed(self.explained(request, before, Category::LoadFailed, why).await)
    }

    async fn not_healthy(&self, request: &ModelRequest, before: &[String], why: &str) -> LoadResult {
        let why = why.trim_start_matches("unspecific error: ").trim_start_matches("unable to start process: ");
        let failure = self.explained(request, before, Category::LoadTimeout, why).await;
        let hint = "raise `healthCheckTimeout` in llama-swap's configuration if the model is just slow";
        LoadResult::Failed(failure.hinted(hint))
    }

    async fn explained(&self, request: &ModelRequest, before: &[String], category: Category, why: &str) -> Failure {
        let name = request.key.as_str();
        let mut reason = format!("llama-swap could not start `{name}`: {why}");
        if let Some(line) = self.log(name).await.as_deref().and_then(reason_in_log) {
            reason = format!("{reason}; its output says \"{line}\"");
        }
        // What was stopped for it stays away.
        let now = self.running().await;
        let is_gone = |id: &&String| now.as_ref().is_some_and(|now| now.get(*id) != Some(&State::Ready));
        let gone: Vec<&str> = before.iter().filter(is_gone).map(String::as_str).collect();
        if !gone.is_empty() {
            reason = format!("{reason}; llama-swap has stopped {} for it", listed(gone, "and"));
        }
        let path = format!("logs/stream/{}", in_path(name).unwrap_or_default());
        Failure::new(category, reason).hinted(format!("{} has all of its output", self.context.base().endpoint(&path)))
    }

    /// The end of the model's own output, also of one that has failed.
    async fn log(&self, name: &str) -> Option<String> {
        let path = format!("logs/stream/{}", in_path(name)?);
        let mut log = Vec::new();
        let mut keep = |piece: &[u8]| {
            log.extend_from_slice(piece);
            if log.len() > 2 * MOST_OF_LOG {
                log.drain(..log.len() - MOST_OF_LOG);
            }
            true
        };
        let reply = self.context.server.stream(&path, LOG_LIMIT, &mut keep).await;
        let is_log = match &reply {
            Reply::Answer(answer) => answer.status == 200,
            // It never ends.
            reply => matches!(reply, Reply::TimedOut),
        };
        is_log.then(|| String::from_utf8_lossy(&log).into_owned())
    }

    /// It was ready, or a peer answered, and it is not listed.
    async fn gone(&self, request: &ModelRequest) -> LoadResult {
        let name = request.key.as_str();
        let statuses = self.statuses().await.unwrap_or_default();
        if let Some(peer) = statuses.iter().find_map(|it| it.peer_of(name)) {
            let why = format!(
                "`{name}` is a model of its peer `{peer}`, and llama-swap does not know what its peers have loaded"
            );
            return LoadResult::Failed(self.context.unknown(&why));
        }
        let lists = self.lists.borrow();
        let now: Vec<&str> = lists.ready().collect();
        let now = if now.is_empty() { "nothing is".to_owned() } else { format!("{} is", listed(now, "and")) };
        let reason = format!("`{name}` was loaded twice and is gone again: {now} ready at {} now", self.context.base());
        LoadResult::Failed(
            Failure::new(Category::NotAddressable, reason)
                .hinted("another client may be asking for a model that does not fit beside it; llama-swap's log tells"),
        )
    }

    fn no_place(&self, request: &ModelRequest) -> LoadResult {
        let limit = duration(self.context.config.load_timeout);
        let why = format!("it has answered requests for `{}` with 429 (too many) for {limit}", request.key);
        let hint = "raise the model's `concurrencyLimit` in llama-swap's configuration, or try again later";
        LoadResult::Failed(self.context.unknown(&why).hinted(hint))
    }

    /// Asks a model that is ready for its health, as any request would: a ready model of an exclusive
    /// group stops those of other groups.
    pub(crate) async fn touch(&self, request: &ModelRequest) -> Result<(), Failure> {
        let name = request.key.as_str();
        let touch = async {
            // Otherwise it would be loaded, and put out another.
            if self.is_ready(name).await == Some(true) {
                let path = Way::to(name, &self.lists.borrow()).path(name);
                self.context.server.get(&path).await;
            }
        };
        self.context.unless_stopped(touch).await
    }

    /// Unloads the model, busy or not; only its events would tell which.
    pub(crate) async fn unload(&self, name: &str) -> Result<Result<(), String>, Failure> {
        let Some(path) = in_path(name) else { return Ok(Err("no path can hold its name".to_owned())) };
        let server = self.context.server;
        let path = format!("api/models/unload/{path}");
        let reply = self.context.unless_stopped(server.post(&path, &json!({}), UNLOAD_LIMIT)).await?;
        Ok(match reply {
            Reply::Answer(Answer { status: 200, .. }) => Ok(()),
            Reply::Answer(answer) => Err(format!("llama-swap answers with {}", describe(&answer))),
            Reply::TimedOut => Err(format!("it did not end within {}", duration(UNLOAD_LIMIT))),
            _ => Err("llama-swap does not answer".to_owned()),
        })
    }
}
