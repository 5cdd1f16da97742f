//! Loading, waking, unloading and downloading. An order is answered at once; how it ends is seen
//! in the list.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::LlamaCpp;
use crate::backend::{LoadResult, LoadTarget};
use crate::pure::json_list::End;
use crate::pure::llamacpp::events::LoadEvents;
use crate::pure::llamacpp::list::{Exit, Model, State};
use crate::pure::llamacpp::replies::{OrderReply, Proof, read_order, read_proof};
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::text::listed;
use crate::sys::progress::Progress;

/// Intervals of the poll for the end of a load.
const FIRST_POLL: Duration = Duration::from_millis(25);
const LAST_POLL: Duration = Duration::from_millis(500);
/// Intervals between tries for a place while all are taken.
const FIRST_TRY: Duration = Duration::from_millis(500);
const LAST_TRY: Duration = Duration::from_secs(2);
/// How long an unload may take: a process that does not stop is killed after ten seconds.
const UNLOAD_LIMIT: Duration = Duration::from_secs(12);
/// How long a router may ask a hub about a model before it begins to download it.
const HUB_LIMIT: Duration = Duration::from_secs(60);
/// Says nothing yet.
const NO_PERCENT: u8 = u8::MAX;

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// Nothing has been ordered, or what was ordered is over.
    No,
    /// Another client's order, or our own that was answered as such.
    Other,
    /// Our own order.
    Own,
}

impl LlamaCpp<'_> {
    pub(crate) async fn load(
        &self,
        request: &ModelRequest,
        target: &LoadTarget,
        mut on_percent: impl FnMut(u8),
    ) -> Result<LoadResult, Failure> {
        let id = target.base_key.as_str();
        let percent = AtomicU8::new(NO_PERCENT);
        let has_begun = Cell::new(false);
        let tell = || match percent.load(Ordering::Relaxed) {
            NO_PERCENT => {}
            percent => on_percent(percent),
        };
        let work = async {
            tokio::select! {
                biased;
                result = self.bring_up(request, id, &has_begun, tell) => result,
                never = self.listen(id, &percent) => never,
            }
        };
        match self.context.shutdown().or(work).await {
            Ok(result) => result,
            Err(stop) => {
                let failure = self.context.interrupted(stop);
                let key = &request.key;
                Err(if has_begun.get() {
                    failure.and(&format!("the load of `{key}` goes on in llama.cpp"))
                } else {
                    failure
                })
            }
        }
    }

    /// Listens to how far the load is. A server without events is merely silent.
    async fn listen<T>(&self, id: &str, percent: &AtomicU8) -> T {
        let mut events = LoadEvents::of(id);
        let mut sink = |piece: &[u8]| {
            if let Some(now) = events.feed(piece) {
                percent.store(now, Ordering::Relaxed);
            }
            true
        };
        self.context.server.stream("models/sse", self.context.config.load_timeout, &mut sink).await;
        std::future::pending().await
    }

    /// Orders the load, or the end of a sleep, and waits for its end.
    async fn bring_up(
        &self,
        request: &ModelRequest,
        id: &str,
        has_begun: &Cell<bool>,
        mut tell: impl FnMut(),
    ) -> Result<LoadResult, Failure> {
        let deadline = Instant::now() + self.context.config.load_timeout;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        let failed =
            |why: &str| Failure::new(Category::LoadFailed, format!("`{}` could not be loaded: {why}", request.key));
        if self.is_single.get() {
            return Ok(self.wake(id, remaining()).await?.unwrap_or_else(|reply| match reply {
                OrderReply::Gone(why) => LoadResult::CutOff(failed(&why)),
                OrderReply::TimedOut => LoadResult::TimedOut,
                reply => LoadResult::Failed(failed(&format!("it does not wake up: {}", words(reply)))),
            }));
        }
        let (mut begun, mut was_lost) = (Begun::No, false);
        let (mut poll, mut pause) = (FIRST_POLL, FIRST_TRY);
        loop {
            if begun == Begun::No {
                match read_order(&self.context.server.post("models/load", &json!({ "model": id }), remaining()).await) {
                    OrderReply::Accepted => {
                        has_begun.set(true);
                        (begun, poll) = (Begun::Own, FIRST_POLL);
                    }
                    // It has a process already; the list tells in which state.
                    OrderReply::Unfit | OrderReply::TimedOut => (begun, poll) = (Begun::Other, FIRST_POLL),
                    OrderReply::NotKnown => return Ok(LoadResult::Failed(self.not_known(request, &[]).cheap())),
                    OrderReply::Unauthorized => return Err(self.unauthorized()),
                    OrderReply::Gone(why) => return Ok(LoadResult::CutOff(failed(&why))),
                    OrderReply::Failed(why) => return Ok(LoadResult::Failed(failed(&why))),
                    OrderReply::NoPlace if remaining() < pause => return Err(self.no_place(request).await?),
                    OrderReply::NoPlace => {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 3 / 2).min(LAST_TRY);
                        // Meanwhile another client may have ordered it.
                        let listed = self.listed(id).await;
                        if matches!(&listed, Ok(Some(model)) if !matches!(model.state, Some(State::Unloaded { .. }))) {
                            begun = Begun::Other;
                        }
                        continue;
                    }
                }
            }
            let model = match self.listed(id).await {
                Ok(Some(model)) => model,
                Ok(None) => return Ok(LoadResult::Failed(self.not_known(request, &[]).cheap())),
                Err(OrderReply::Gone(why)) => return Ok(LoadResult::CutOff(failed(&why))),
                // Busy with the load, it may be slow to answer.
                Err(_) if !remaining().is_zero() => {
                    tokio::time::sleep(poll).await;
                    continue;
                }
                Err(_) => return Ok(LoadResult::TimedOut),
            };
            tell();
            match model.state {
                Some(State::Loaded) if self.answers(id).await => return Ok(LoadResult::Loaded),
                Some(State::Sleeping) => match self.wake(id, remaining()).await? {
                    Ok(result) => return Ok(result),
                    // How it failed, the list tells.
                    Err(OrderReply::Unfit) => begun = Begun::Other,
                    Err(_) => begun = Begun::Own,
                },
                Some(State::Unloaded { failed: Some(exit) }) if begun == Begun::Own => {
                    return self.ended(request, exit).await;
                }
                // Unloaded or put out by another client.
                Some(State::Unloaded { .. }) if begun == Begun::Own && was_lost => {
                    let reason = format!("`{}` was unloaded again each time before it was ready", request.key);
                    let hint = "another client, or `--models-max` of llama-server, puts it out: its log tells";
                    return Ok(LoadResult::Failed(Failure::new(Category::NotAddressable, reason).hinted(hint)));
                }
                Some(State::Unloaded { .. }) => {
                    was_lost |= begun == Begun::Own;
                    begun = Begun::No;
                    continue;
                }
                _ => {}
            }
            if remaining().is_zero() {
                return Ok(LoadResult::TimedOut);
            }
            tokio::time::sleep(poll.min(remaining())).await;
            poll = (poll * 3 / 2).min(LAST_POLL);
        }
    }

    /// The model as it is listed now.
    async fn listed(&self, id: &str) -> Result<Option<Model>, OrderReply> {
        let (reply, list) = self.list("models").await;
        if list.end() == End::Whole { Ok(list.find(id).cloned()) } else { Err(read_order(&reply)) }
    }

    async fn answers(&self, id: &str) -> bool {
        let reply = self.context.server.get(&super::of_model("props", id)).await;
        matches!(read_proof(&reply), Proof::Answers { is_sleeping: false, .. })
    }

    /// Wakes a model that sleeps: what wakes it answers when it is awake. It loads nothing.
    async fn wake(&self, id: &str, limit: Duration) -> Result<Result<LoadResult, OrderReply>, Failure> {
        let body = json!({ "model": id, "content": "" });
        Ok(match read_order(&self.context.server.post("tokenize?autoload=false", &body, limit).await) {
            OrderReply::Accepted => Ok(LoadResult::Loaded),
            OrderReply::Unauthorized => return Err(self.unauthorized()),
            reply => Err(reply),
        })
    }

    /// The process of a load has ended. The server tells nobody why; if the user lets room be made,
    /// and there is something to make it of, want of memory is what is tried against, once.
    async fn ended(&self, request: &ModelRequest, exit: Exit) -> Result<LoadResult, Failure> {
        if self.context.config.eviction.is_some()
            && !self.has_made_room.get()
            && self.activity().await?.is_ok_and(|resident| !resident.is_empty())
        {
            self.has_made_room.set(true);
            return Ok(LoadResult::OutOfMemory(how(exit)));
        }
        Ok(LoadResult::Failed(load_failed(request, &how(exit))))
    }

    /// All places are taken, to the end.
    async fn no_place(&self, request: &ModelRequest) -> Result<Failure, Failure> {
        let (_, list) = self.list("models").await;
        let has_process = |it: &&Model| !matches!(it.state, Some(State::Unloaded { .. } | State::Downloading));
        let resident = list.models.iter().filter(has_process).map(|it| it.id.as_str());
        let reason = format!(
            "llama.cpp has no place for `{}`: {} are resident, and busy or loading",
            request.key,
            listed(resident, "and")
        );
        let failure = Failure::new(Category::LoadRefused, reason)
            .hinted("wait until one is idle, unload one, or raise `--models-max` of llama-server");
        Ok(if self.loads_on_request().await? { failure.served() } else { failure })
    }

    fn unauthorized(&self) -> Failure {
        let reason = format!("{} refuses the API key in {}", self.context.base(), self.context.token_origin);
        Failure::new(Category::Unauthorized, reason).hinted("check the API key that llama.cpp was given")
    }

    /// Unloads a model, and waits until its process is gone.
    pub(crate) async fn unload(&self, identifier: &str) -> Result<Result<(), String>, Failure> {
        let work = async {
            let until = Instant::now() + UNLOAD_LIMIT;
            let body = json!({ "model": identifier });
            match read_order(&self.context.server.post("models/unload", &body, UNLOAD_LIMIT).await) {
                OrderReply::Accepted => {}
                // It has no process.
                OrderReply::Unfit => return Ok(()),
                reply => return Err(words(reply)),
            }
            loop {
                match self.listed(identifier).await {
                    Ok(None | Some(Model { state: Some(State::Unloaded { .. }), .. })) => return Ok(()),
                    _ if Instant::now() >= until => return Err("its process does not stop".to_owned()),
                    _ => tokio::time::sleep(FIRST_POLL).await,
                }
            }
        };
        self.context.unless_stopped(work).await
    }

    /// Downloads a model of a hub into the router's cache, and waits for its end.
    pub(crate) async fn download(&self, request: &ModelRequest, progress: Progress) -> Result<(), Failure> {
        let key = request.key.as_str();
        let failed =
            |why: &str| Failure::new(Category::DownloadFailed, format!("`{key}` could not be downloaded: {why}"));
        if self.is_single.get() {
            return Err(self.not_known(request, &[]));
        }
        let activity = progress.begin(&format!("downloading `{key}`"), None);
        let work = async {
            let body = json!({ "model": key });
            match read_order(&self.context.server.post("models", &body, HUB_LIMIT).await) {
                OrderReply::Accepted => {}
                OrderReply::Unauthorized => return Err(self.unauthorized()),
                OrderReply::Unfit => {
                    return Err(failed("that is no name of a model on a hub")
                        .hinted("write it `USER/REPO:QUANT`")
                        .cheap());
                }
                OrderReply::TimedOut => {
                    return Err(failed("the hub does not answer").hinted("llama-server's log tells more"));
                }
                reply => return Err(failed(&words(reply))),
            }
            let percent = AtomicU8::new(NO_PERCENT);
            let wait = async {
                let mut poll = FIRST_POLL;
                loop {
                    match self.listed(key).await {
                        Ok(Some(Model { state: Some(State::Downloading), .. })) | Err(OrderReply::TimedOut) => {}
                        Ok(_) => return Ok(()),
                        Err(reply) => return Err(failed(&words(reply)).for_waiters()),
                    }
                    if percent.load(Ordering::Relaxed) != NO_PERCENT {
                        activity.percent(percent.load(Ordering::Relaxed));
                    }
                    tokio::time::sleep(poll).await;
                    poll = (poll * 3 / 2).min(LAST_POLL);
                }
            };
            tokio::select! {
                biased;
                result = wait => result,
                never = self.listen(key, &percent) => never,
            }
        };
        self.context.unless_stopped(work).await?
    }
}

/// The failure of a load whose process has ended in this way.
pub(in crate::backend) fn load_failed(request: &ModelRequest, how: &str) -> Failure {
    let reason = format!("`{}` could not be loaded: its process {how}", request.key);
    Failure::new(Category::LoadFailed, reason).hinted(
        "what llama-server writes to its terminal or log tells why (a broken file, a wrong option, too little memory); it tells clients no more",
    )
}

/// Why an order was not carried out, in words.
fn words(reply: OrderReply) -> String {
    match reply {
        OrderReply::Gone(why) | OrderReply::Failed(why) => why,
        OrderReply::TimedOut => "no answer in time".to_owned(),
        OrderReply::Unauthorized => "the API key is refused".to_owned(),
        OrderReply::NotKnown => "there is no such model".to_owned(),
        OrderReply::NoPlace => "no place for it".to_owned(),
        OrderReply::Accepted | OrderReply::Unfit => "it is in another state".to_owned(),
    }
}

/// How a process ended, in words.
fn how(Exit(code): Exit) -> String {
    match code {
        Some(code) => format!("ended with exit code {code}"),
        None => "failed".to_owned(),
    }
}
