//! Observing llama.cpp: its list, and side by side with it the proof of each model asked for.
//! `loaded` in the list proves nothing: a process that is on its way out is listed so as well.

use std::time::{Duration, Instant};

use super::{LlamaCpp, of_model};
use crate::backend::{Context, Observation, is_settled};
use crate::pure::backend::BackendKind;
use crate::pure::http::{Reply, describe};
use crate::pure::json_list::End;
use crate::pure::llamacpp::list::{Model, ModelList, State};
use crate::pure::llamacpp::replies::{Router, is_busy, read_round};
use crate::pure::outcome::failure::Failure;
use crate::pure::residency::{Instance, Readiness, Reading};
use crate::sys::runtime::join_all;

/// A proof that took longer may be older than what it proves.
const QUICK: Duration = Duration::from_millis(250);
/// How often a server that contradicts itself is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a process that is to stop may take (`stop-timeout` of llama-server, by default).
const STOP_TIME: Duration = Duration::from_secs(10);

impl LlamaCpp<'_> {
    /// `GET /models` and `GET /props` of each model asked for, side by side.
    pub(crate) async fn read(&self) -> Reading {
        let started = Instant::now();
        let reading = self.round().await;
        if matches!(reading, Reading::Seen(_)) && started.elapsed() > QUICK { self.round().await } else { reading }
    }

    async fn round(&self) -> Reading {
        let names: Vec<&str> = self.context.requests.iter().map(|it| it.key.as_str()).collect();
        let proofs = names.iter().map(|name| async { self.context.server.get(&of_model("props", name)).await });
        let ((reply, list), proofs) = tokio::join!(self.list("models"), join_all(proofs));
        let list = self.complete(list).await;
        let proofs: Vec<(&str, Reply)> = names.into_iter().zip(proofs).collect();
        if list.end() == End::Whole {
            self.is_single.set(list.models.iter().any(|it| it.state.is_none()));
            if list.models.is_empty() && !self.is_router().await {
                return Reading::OtherProgram("it lists no models, and does not say that it is a router".to_owned());
            }
        }
        read_round(&reply, &list, &proofs)
    }

    /// The list as it is; where the user wants nothing that is old, and a model is not in it, as it
    /// is once the router has read its folder and presets again. That unloads what is gone from
    /// them, so it is never done unasked.
    async fn complete(&self, list: ModelList) -> ModelList {
        let is_missing = || self.context.requests.iter().any(|it| list.find(it.key.as_str()).is_none());
        let is_router = || list.models.iter().all(|it| it.state.is_some());
        if !self.context.fresh || self.has_reloaded.get() || list.end() != End::Whole || !is_missing() || !is_router() {
            return list;
        }
        self.has_reloaded.set(true);
        let (_, reloaded) = self.list("models?reload=1").await;
        if reloaded.end() == End::Whole { reloaded } else { list }
    }

    pub(super) async fn list(&self, path: &str) -> (Reply, ModelList) {
        let mut list = ModelList::new(self.context.requests.iter().map(|it| it.key.as_str()));
        let Context { server, config, .. } = self.context;
        let reply = server.stream(path, config.probe_timeout, &mut |piece: &[u8]| list.feed(piece)).await;
        (reply, list)
    }

    async fn is_router(&self) -> bool {
        Router::of(&self.context.server.get("props").await).is_some()
    }

    /// A model that is listed and does not answer is given the time that its process may take to
    /// stop; what is still so then is not known.
    pub(crate) async fn observe(&self, first: Option<Reading>) -> Result<Observation, Failure> {
        let context = self.context;
        let started = Instant::now();
        let mut reading = first;
        loop {
            let seen = match reading.take() {
                Some(reading) => reading,
                None => context.unless_stopped(self.read()).await?,
            };
            let patience = match &seen {
                Reading::Seen(snapshot) if !is_settled(snapshot, context.requests) => STOP_TIME,
                Reading::Unclear(_) => context.config.probe_timeout,
                _ => Duration::ZERO,
            };
            if started.elapsed() >= patience {
                return Ok(context.observation(seen, BackendKind::LlamaCpp));
            }
            context.sleep(RETRY_PAUSE).await?;
        }
    }

    /// Every model with a process, and whether it works for a client. One that sleeps is not asked:
    /// that would wake it. The models of this call are left out: nothing is to go for them.
    pub(crate) async fn activity(&self) -> Result<Result<Vec<Instance>, String>, Failure> {
        let (reply, list) = self.context.unless_stopped(self.list("models")).await?;
        if list.end() != End::Whole {
            let why = match reply {
                Reply::Answer(answer) => describe(&answer),
                _ => "no answer".to_owned(),
            };
            return Ok(Err(format!("its list cannot be read: {why}")));
        }
        let is_needed = |model: &Model| self.context.requests.iter().any(|it| model.is_called(it.key.as_str()));
        let mut resident = Vec::new();
        for model in list.models.iter().filter(|it| !is_needed(it)) {
            let busy = match model.state {
                Some(State::Unloaded { .. } | State::Downloading) => continue,
                Some(State::Sleeping) => Some(false),
                Some(State::Loading) => Some(true),
                Some(State::Other) => None,
                Some(State::Loaded) | None => {
                    let path = of_model("slots", &model.id);
                    is_busy(&self.context.unless_stopped(self.context.server.get(&path)).await?)
                }
            };
            resident.push(Instance {
                identifier: model.id.clone(),
                model_key: Some(model.id.clone()),
                readiness: Readiness::Unreported,
                context_length: model.context_length,
                max_context_length: model.max_context_length,
                parallel: None,
                device: None,
                busy,
                last_used: None,
                size_bytes: model.size_bytes,
            });
        }
        Ok(Ok(resident))
    }
}
