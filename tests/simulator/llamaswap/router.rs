//! How versions since v218 decide when a request is answered: one loop that takes one event after the other. A request is
//! served, joins a swap, is queued, or starts a swap.
//!
//! It must not know what a request is for, nor start or stop anything itself but through `process`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::engine::{App, Engine};
use crate::process::{State, Work, stop_all};

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    Request(Waiting),
    /// The client of this request has hung up.
    Cancel(u64),
    Swapped {
        model: String,
        number: u64,
        result: Result<(), String>,
    },
    Served,
    Unload(Vec<String>, oneshot::Sender<()>),
    Shutdown(oneshot::Sender<()>),
}

/// A request that waits for its model.
#[derive(Debug)]
pub struct Waiting {
    pub number: u64,
    pub model: String,
    pub by: &'static str,
    pub grant: oneshot::Sender<Result<Work, String>>,
}

/// A swap under way.
#[derive(Debug, Default)]
struct Swap {
    /// Which of all: one that was given up may end when there is a new one for the same model.
    number: u64,
    evicts: BTreeSet<String>,
    waiters: Vec<Waiting>,
}

/// The loop's own state.
struct Router {
    app: Arc<App>,
    engine: Arc<Engine>,
    sender: mpsc::UnboundedSender<Event>,
    swaps: BTreeMap<String, Swap>,
    queue: Vec<Waiting>,
}

/// Runs until the configuration is given up.
pub async fn run(
    app: Arc<App>,
    engine: Arc<Engine>,
    sender: mpsc::UnboundedSender<Event>,
    mut events: mpsc::UnboundedReceiver<Event>,
) {
    let mut router = Router { app, engine, sender, swaps: BTreeMap::new(), queue: Vec::new() };
    while let Some(event) = events.recv().await {
        match event {
            Event::Request(request) => {
                let request = router.decide(request);
                router.queue.extend(request);
            }
            Event::Cancel(number) => {
                router.queue.retain(|it| it.number != number);
                router.swaps.values_mut().for_each(|swap| swap.waiters.retain(|it| it.number != number));
            }
            Event::Swapped { model, number, result } => {
                let is_it = router.swaps.get(&model).is_some_and(|swap| swap.number == number);
                let swap = if is_it { router.swaps.remove(&model) } else { None };
                for waiter in swap.map(|swap| swap.waiters).unwrap_or_default() {
                    match &result {
                        Ok(()) => router.serve(waiter),
                        Err(error) => drop(waiter.grant.send(Err(error.clone()))),
                    }
                }
                router.drain();
            }
            Event::Served => router.drain(),
            Event::Unload(models, done) => {
                let error = format!("{}: model unloaded", router.engine.router_name());
                for model in &models {
                    let swap = router.swaps.remove(model).unwrap_or_default();
                    swap.waiters.into_iter().for_each(|it| drop(it.grant.send(Err(error.clone()))));
                }
                let (gone, kept) = router.queue.drain(..).partition(|it| models.contains(&it.model));
                router.queue = kept;
                Vec::<Waiting>::into_iter(gone).for_each(|it| drop(it.grant.send(Err(error.clone()))));
                // Nothing else is decided meanwhile, as with the real one.
                router.stop(&models, "unload", router.engine.config.unload_timeout).await;
                let _ = done.send(());
                router.drain();
            }
            Event::Shutdown(done) => {
                let error = format!("{} is shutting down", router.engine.router_name());
                let swaps = std::mem::take(&mut router.swaps).into_values().flat_map(|swap| swap.waiters);
                swaps.chain(router.queue.drain(..)).for_each(|it| drop(it.grant.send(Err(error.clone()))));
                let all: Vec<String> = router.engine.processes.keys().cloned().collect();
                router.stop(&all, "reload", router.engine.config.health_check_timeout).await;
                let _ = done.send(());
                return;
            }
        }
    }
}

impl Router {
    /// Serves a request, lets it join or start a swap; gives it back if it has to be queued.
    fn decide(&mut self, request: Waiting) -> Option<Waiting> {
        let model = request.model.clone();
        if let Some(swap) = self.swaps.get_mut(&model) {
            swap.waiters.push(request);
            return None;
        }
        let running = self.engine.running().chain(self.swaps.keys().cloned()).collect();
        let evicts = self.engine.evicted_by(&model, &running);
        let collides = self.swaps.iter().any(|(target, swap)| {
            evicts.contains(target) || swap.evicts.contains(&model) || !swap.evicts.is_disjoint(&evicts)
        });
        let process = &self.engine.processes[&model];
        if process.state() == State::Ready && evicts.is_empty() && !collides {
            self.serve(request);
            return None;
        }
        let is_busy = |id: &String| self.engine.processes[id].in_flight() > 0;
        if collides || evicts.iter().any(is_busy) {
            return Some(request);
        }
        let victims = self.engine.some(&evicts);
        let (process, by, number, sender) = (Arc::clone(process), request.by, request.number, self.sender.clone());
        let grace = self.app.seconds(self.engine.config.health_check_timeout);
        tokio::spawn(async move {
            stop_all(victims, "swap", grace).await;
            let result = process.ensure_ready(by).await;
            let _ = sender.send(Event::Swapped { model: process.id.clone(), number, result });
        });
        self.swaps.insert(model, Swap { number, evicts, waiters: vec![request] });
        None
    }

    /// Decides again about all that is queued, in its order.
    fn drain(&mut self) {
        for request in std::mem::take(&mut self.queue) {
            let request = self.decide(request);
            self.queue.extend(request);
        }
    }

    fn serve(&self, request: Waiting) {
        // Nothing is counted for a client that is gone.
        if !request.grant.is_closed() {
            let work = Work::begin(&self.engine.processes[&request.model], Some(self.sender.clone()));
            let _ = request.grant.send(Ok(work));
        }
    }

    async fn stop(&self, models: &[String], reason: &'static str, seconds: u64) {
        stop_all(self.engine.some(models), reason, self.app.seconds(seconds)).await;
    }
}
