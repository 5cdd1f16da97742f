//! Looks at llama-swap without any effect: no request here loads a model, takes one of its places
//! or resets its time to live.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::LlamaSwap;
use crate::backend::Observation;
use crate::pure::backend::BackendKind;
use crate::pure::http::Reply;
use crate::pure::llamaswap::lists::{Events, Lists, ModelList, RunningList, State, Status};
use crate::pure::llamaswap::reply::in_path;
use crate::pure::model::ModelKey;
use crate::pure::outcome::failure::Failure;
use crate::pure::residency::Reading;

/// How often a server whose answers cannot be read is asked again.
const RETRIES: u32 = 4;
const RETRY_PAUSE: Duration = Duration::from_millis(60);

impl LlamaSwap<'_> {
    /// `GET /running`, `/v1/models` and `/api/profiles`, side by side. A name that none of them has
    /// takes one more round.
    pub(crate) async fn read(&self) -> Reading {
        let (server, limit) = (self.context.server, self.context.config.probe_timeout);
        let keys = || self.context.requests.iter().map(|it| &it.key);
        let (mut running, mut models) = (RunningList::default(), ModelList::new(keys().map(ModelKey::as_str)));
        let (mut feed_running, mut feed_models) =
            (|piece: &[u8]| running.feed(piece), |piece: &[u8]| models.feed(piece));
        let (of_running, of_models, of_profiles) = tokio::join!(
            server.stream("running", limit, &mut feed_running),
            server.stream("v1/models", limit, &mut feed_models),
            server.get("api/profiles")
        );
        let mut lists = match Lists::read((&of_running, running), (&of_models, models), &of_profiles) {
            Ok(lists) => lists,
            Err(reading) => return reading,
        };
        let unlisted = lists.unlisted(keys().map(ModelKey::as_str));
        if !unlisted.is_empty() {
            Box::pin(self.look_up(&mut lists, unlisted)).await;
        }
        let snapshot = lists.snapshot(keys());
        self.lists.replace(lists);
        Reading::Seen(snapshot)
    }

    /// Finds out what names mean that no list has: unlisted models, and aliases before v241.
    async fn look_up(&self, lists: &mut Lists, names: Vec<String>) {
        let known = async {
            let mut known = Vec::new();
            for name in names {
                if self.is_known(&name).await {
                    known.push(name);
                }
            }
            known
        };
        let (known, statuses) = tokio::join!(known, self.statuses());
        lists.add(statuses.unwrap_or_default());
        for name in known {
            lists.add_known(name);
        }
    }

    /// Without the slash at its end this path loads nothing: it leads on, or there is no such name.
    async fn is_known(&self, name: &str) -> bool {
        let Some(path) = in_path(name) else { return false };
        matches!(self.context.server.get(&format!("upstream/{path}")).await, Reply::Answer(it) if it.status == 301)
    }

    /// Every model with its aliases, as the events begin.
    pub(super) async fn statuses(&self) -> Option<Vec<Status>> {
        let mut events = Events::default();
        let mut feed = |piece: &[u8]| events.feed(piece);
        self.context.server.stream("api/events", self.context.config.probe_timeout, &mut feed).await;
        events.statuses()
    }

    /// What is running; nothing where that cannot be told.
    pub(super) async fn running(&self) -> Option<BTreeMap<String, State>> {
        let mut running = RunningList::default();
        let mut feed = |piece: &[u8]| running.feed(piece);
        self.context.server.stream("running", self.context.config.probe_timeout, &mut feed).await;
        running.whole()
    }

    /// Whether a request for `name` reaches a model that is ready now; nothing where that cannot be
    /// told.
    pub(super) async fn is_ready(&self, name: &str) -> Option<bool> {
        let running = self.running().await?;
        let mut lists = self.lists.borrow_mut();
        lists.look(running);
        Some(lists.is_ready(name))
    }

    pub(crate) async fn observe(&self, first: Option<Reading>) -> Result<Observation, Failure> {
        let context = self.context;
        let mut reading = match first {
            Some(reading) => reading,
            None => context.unless_stopped(self.read()).await?,
        };
        // A server that is mute takes the whole of a probe's time at each try.
        let patience = Instant::now() + context.config.probe_timeout;
        for _ in 0..RETRIES {
            if !matches!(reading, Reading::Unclear(_)) || Instant::now() > patience {
                break;
            }
            context.sleep(RETRY_PAUSE).await?;
            reading = context.unless_stopped(self.read()).await?;
        }
        Ok(context.observation(reading, BackendKind::LlamaSwap))
    }
}
