//! How versions before v218 decide when a request is answered: each takes the locks of the groups it touches. A client that
//! hangs up changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::response::Response;
use tokio::sync::Mutex;

use crate::common::http::Call;
use crate::config::{Config, Version};
use crate::engine::{App, Engine};
use crate::fail;
use crate::process::{Process, State, Work, stop_all};

/// The lock of each group, and which of its models was asked for last.
#[derive(Debug)]
pub struct Groups(BTreeMap<String, Mutex<Option<String>>>);

impl Groups {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let names = config.groups.keys().cloned().chain(["(default)".to_owned(), "(matrix)".to_owned()]);
        Self(names.map(|name| (name, Mutex::new(None))).collect())
    }
}

impl Engine {
    /// Answers a request to a model, whether or not its client waits for it.
    pub async fn answer_old(self: &Arc<Self>, app: &Arc<App>, id: &str, call: Call, path: String) -> Response {
        let (engine, app, id) = (Arc::clone(self), Arc::clone(app), id.to_owned());
        let answer = tokio::spawn(async move { engine.in_turn(&app, &id, Some((&call, &path)), "request").await });
        answer.await.unwrap_or_default()
    }

    /// Has a model ready, for nobody's request.
    pub async fn load_old(self: &Arc<Self>, app: &Arc<App>, id: &str, by: &'static str) -> Result<(), String> {
        let answer = self.in_turn(app, id, None, by).await;
        if answer.status().is_success() { Ok(()) } else { Err(format!("{id} cannot be loaded")) }
    }

    async fn in_turn(&self, app: &App, id: &str, call: Option<(&Call, &str)>, by: &'static str) -> Response {
        let process = &self.processes[id];
        if self.config.matrix.is_some() {
            let turn = self.groups.0["(matrix)"].lock().await;
            let evicted = self.evicted_by(id, &self.running().collect::<BTreeSet<_>>());
            stop_idle(app, self.some(&evicted), "swap").await;
            drop(turn);
            return proxy(process, call, by).await;
        }
        let (name, group) = self.group_of(id);
        if group.exclusive {
            for (other, turn) in self.groups.0.iter().filter(|(other, _)| **other != name && *other != "(matrix)") {
                if self.config.groups.get(other).is_some_and(|group| group.persistent) {
                    continue;
                }
                let _turn = turn.lock().await;
                let members = self.processes.values().filter(|it| self.group_of(&it.id).0 == *other);
                stop_idle(app, members.cloned().collect(), "swap").await;
            }
        }
        if group.swap {
            let mut last = self.groups.0[&name].lock().await;
            if last.as_deref() != Some(id) {
                if let Some(before) = last.take().and_then(|before| self.processes.get(&before)) {
                    stop_idle(app, vec![Arc::clone(before)], "swap").await;
                }
                *last = Some(id.to_owned());
                // What came between v150 and v180 was not looked at.
                if Version::of(&self.version).since(180) {
                    let answer = proxy(process, call, by).await;
                    drop(last);
                    return answer;
                }
            }
        }
        proxy(process, call, by).await
    }

    /// Unloads: what starts is not stopped, and a swap group waits for the request that holds it.
    pub async fn unload_old(&self, app: &App, ids: Vec<String>) {
        for id in ids {
            let (name, group) = self.group_of(&id);
            let turn = &self.groups.0[&name];
            let mut last = if group.swap || self.config.groups.is_empty() { Some(turn.lock().await) } else { None };
            if let Some(last) = last.as_mut().filter(|last| last.as_deref() == Some(&id)) {
                **last = None;
            }
            let process = &self.processes[&id];
            if process.state() == State::Ready {
                process.stop("unload", app.seconds(10)).await;
            }
        }
    }
}

/// Waits until each is idle, then stops it.
async fn stop_idle(app: &App, processes: Vec<Arc<Process>>, reason: &'static str) {
    for process in &processes {
        if matches!(process.state(), State::Starting | State::Ready) {
            process.idle().await;
        }
    }
    let ready = processes.into_iter().filter(|it| it.state() == State::Ready).collect();
    stop_all(ready, reason, app.seconds(10)).await;
}

async fn proxy(process: &Arc<Process>, call: Option<(&Call, &str)>, by: &'static str) -> Response {
    if process.state() == State::Stopping {
        return fail::plain(503, "Process can not ProxyRequest, state is stopping");
    }
    if usize::try_from(process.in_flight()).is_ok_and(|count| count >= process.limit()) {
        return fail::plain(429, "Too many requests");
    }
    let work = Work::begin(process, None);
    if let Err(error) = process.ensure_ready(by).await {
        return fail::plain(502, &format!("unable to start process: {error}"));
    }
    match call {
        Some((call, path)) => process.answer(call, path, work).await,
        None => fail::bare(axum::http::StatusCode::OK),
    }
}
