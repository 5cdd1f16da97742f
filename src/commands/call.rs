//! One call of the gate, from what was typed to what it came to: shared by every command that
//! gates something.

use std::cell::{Cell, OnceCell};
use std::time::Instant;

use futures_util::future::join_all;

use super::error::CommandError;
use super::look::downloaded_keys;
use super::mistakes;
use crate::cli::GateArgs;
use crate::gate::{self, Call, ModelRequest, Probe, Refusal};
use crate::pure::choice::{Standing, choose};
use crate::pure::config::Config;
use crate::pure::model::ModelKey;
use crate::pure::opencode::ungated::without_provider;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::outcome::failure::{FailMode, Failure, Verdict, verdict};
use crate::pure::outcome::report::{Action, Outcome, Ready, Report};
use crate::resolve::{Endpoint, OpenModel, ServerModels, resolve, servers_of_plain_keys};
use crate::sys::http::Server;
use crate::sys::output::Console;
use crate::sys::paths;
use crate::sys::progress::Progress;
use crate::sys::shutdown::Shutdown;

/// What a call of the gate came to.
pub(super) struct CallOutcome {
    outcomes: Vec<Outcome>,
    fail_mode: FailMode,
    /// The end of the call.
    pub(super) verdict: Verdict,
}

impl CallOutcome {
    /// Tells a person: warnings, and failures with what to do next.
    pub(super) fn tell(&self, console: Console) {
        let mut told: Vec<&String> = Vec::new();
        for warning in self.outcomes.iter().flat_map(|outcome| &outcome.warnings) {
            if !told.contains(&warning) {
                console.warning(warning);
                told.push(warning);
            }
        }
        let failures = failures(&self.outcomes);
        // A signal ends the whole call: one line says so, and what became of the work of that moment.
        let stopped = failures.iter().find(|it| it.signal.is_some());
        for failure in failures.iter().filter(|it| it.signal.is_none()).chain(stopped) {
            console.failure(failure, self.verdict.exit != ExitCode::Success);
        }
    }

    /// What kept models from being addressable, to be told later. A signal is no reason: its
    /// sender knows of it.
    pub(super) fn reasons(&self) -> Vec<String> {
        failures(&self.outcomes).iter().filter(|it| it.signal.is_none()).map(|it| it.reason.clone()).collect()
    }

    /// Tells a program.
    pub(super) fn report(&self) -> Report<'_> {
        Report::of_models(&self.outcomes, self.fail_mode, self.verdict)
    }
}

fn failures(outcomes: &[Outcome]) -> Vec<&Failure> {
    outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()).collect()
}

/// Gathers the configuration, resolves what was typed (nothing: `main small`), and makes
/// sure that every model is addressable. They may be on several servers.
pub(super) async fn ensure(
    models: &[String],
    gate: &GateArgs,
    console: Console,
    started: Instant,
) -> Result<CallOutcome, CommandError> {
    mistakes::check_models(models)?;
    let gathering = Instant::now();
    let config = super::gather(&gate.settings, console)?;
    // These steps were over before there was a log.
    tracing::trace!(arguments = ?gathering - started, configuration = ?gathering.elapsed(), "began");
    let mut resolved = tracing::trace_span!("resolve").in_scope(|| resolve(models, &gate.key, &config))?;
    for note in &resolved.notes {
        console.note(note);
    }
    for warning in &resolved.warnings {
        console.warning(warning);
    }
    if resolved.servers.is_empty() && resolved.open.is_empty() && !resolved.ungated.is_empty() {
        // Nothing is to be warmed, so that asking costs no warm call.
        let keys = match servers_of_plain_keys(&config) {
            Ok(endpoints) => downloaded_keys(endpoints).await,
            Err(_) => Vec::new(),
        };
        for warning in resolved.ungated.iter().filter_map(|it| without_provider(it, &config.providers, &keys)) {
            console.warning(&warning);
        }
    }
    let (open, candidates) = (std::mem::take(&mut resolved.open), std::mem::take(&mut resolved.candidates));
    for candidate in candidates {
        resolved.server(candidate);
    }
    let clients = resolved.servers.iter().map(|models| {
        let Endpoint { base, token, config, .. } = &models.endpoint;
        Server::new(base.clone(), token.clone(), config.probe_timeout)
    });
    let clients: Vec<Server> = clients.collect::<Result<_, _>>()?;
    let shutdown = OnceCell::new();
    let caller = Caller { gate, console, started, shutdown: &shutdown };
    let mut refused = Vec::new();
    let mut probes = Vec::new();
    if clients.len() > 1 {
        probes = caller.probe_all(&clients, &resolved.servers, &open).await?;
        for model in open {
            refused.extend(choose_server(&mut resolved.servers, &probes, model, &config, started));
        }
    }
    let probed = Instant::now();
    let mut probes = probes.into_iter().map(|(_, probe)| probe);
    let mut calls: Vec<ServerCall<'_>> = Vec::new();
    for (server, models) in clients.iter().zip(&resolved.servers) {
        let probe = probes.next();
        if models.requests.is_empty() {
            continue;
        }
        let call = caller.call(server, &models.endpoint, &models.requests);
        call.found.set(probe.as_ref().and_then(|it| it.backend));
        // A signal is meant for the whole process, not for one server alone.
        let stopped = calls.iter().flat_map(|it| failures(&it.outcomes)).find(|it| it.signal.is_some());
        // What was seen before work on another server may not be so any more.
        let first = probe.and_then(|it| it.first).filter(|_| calls.iter().all(|it| it.worked.is_none()));
        let seen = first.is_some().then_some(probed);
        let outcomes = match stopped {
            Some(failure) => models.requests.iter().map(|request| skipped(request, &call, failure)).collect(),
            // Too much to be moved about with every future around it.
            None => Box::pin(gate::ensure(&call, first)).await?,
        };
        let has_worked = outcomes.iter().any(|it| !matches!(&it.result, Ok(Ready { action: Action::None, .. })));
        let now = Instant::now();
        let seen = seen.filter(|_| !has_worked).unwrap_or(now);
        calls.push(ServerCall { call, places: &models.places, outcomes, seen, worked: has_worked.then_some(now) });
    }
    confirm_all(&mut calls).await?;
    let mut outcomes = refused;
    for ServerCall { outcomes: of_server, places, .. } in calls {
        outcomes.extend(places.iter().copied().zip(of_server));
    }
    outcomes.sort_by_key(|(place, _)| *place);
    let mut outcomes: Vec<Outcome> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    for Outcome { requested, result, .. } in &mut outcomes {
        if let Err(failure) = result
            && models.contains(requested)
        {
            mistakes::improve(failure, requested);
        }
    }
    let verdict = verdict(&failures(&outcomes), config.fail_mode);
    Ok(CallOutcome { outcomes, fail_mode: config.fail_mode, verdict })
}

/// What all parts of a call have in common.
#[derive(Clone, Copy)]
struct Caller<'a> {
    gate: &'a GateArgs,
    console: Console,
    started: Instant,
    shutdown: &'a OnceCell<Shutdown>,
}

impl<'a> Caller<'a> {
    fn call(self, server: &'a Server, endpoint: &'a Endpoint<'_>, requests: &'a [ModelRequest]) -> Call<'a> {
        let output = &self.gate.settings.output;
        Call {
            config: endpoint.config,
            server,
            server_name: endpoint.name,
            found: Cell::new(None),
            origin: &endpoint.origin,
            is_configured: endpoint.is_configured,
            token_origin: &endpoint.token_origin,
            state_dir: endpoint.config.state_dir.clone().or_else(paths::state_dir),
            requests,
            fresh: self.gate.fresh,
            is_background: self.gate.background,
            timeout: self.gate.timeout,
            progress: Progress::new(self.console, !output.no_progress, output.progress_every),
            started: self.started,
            shutdown: self.shutdown,
        }
    }

    /// Looks at all servers side by side: for their own models, and for those whose server is yet
    /// to be chosen. With each probe come the keys that it was about.
    async fn probe_all(
        self,
        clients: &[Server],
        servers: &[ServerModels<'_>],
        open: &[OpenModel],
    ) -> Result<Vec<(Vec<ModelKey>, Probe)>, Refusal> {
        let looks = clients.iter().zip(servers).map(async |(client, models)| {
            let mut requests = models.requests.clone();
            for OpenModel { requested, key, .. } in open {
                let options = models.endpoint.config.load_options(key);
                requests.push(ModelRequest { requested: requested.clone(), key: key.clone(), options });
            }
            let probe = gate::probe(&self.call(client, &models.endpoint, &requests)).await?;
            Ok((requests.into_iter().map(|it| it.key).collect(), probe))
        });
        join_all(looks).await.into_iter().collect()
    }
}

/// Puts a model on the server that suits it best. If there is none, returns its place and outcome.
fn choose_server(
    servers: &mut [ServerModels<'_>],
    probes: &[(Vec<ModelKey>, Probe)],
    model: OpenModel,
    config: &Config,
    started: Instant,
) -> Option<(usize, Outcome)> {
    let OpenModel { requested, key, place } = model;
    let candidates: Vec<(usize, &str, &Standing)> = (servers.iter().zip(probes).enumerate())
        .filter_map(|(number, (models, (keys, probe)))| {
            let asked = keys.iter().position(|it| *it == key)?;
            Some((number, models.endpoint.name?, &probe.standings[asked]))
        })
        .collect();
    let standings: Vec<(&str, &Standing)> = candidates.iter().map(|(_, name, standing)| (*name, *standing)).collect();
    match choose(key.as_str(), &standings, config.spread.as_deref()) {
        Ok(chosen) => {
            let (number, name, standing) = candidates[chosen];
            tracing::debug!("`{key}` is asked of {name}: {standing:?}");
            servers[number].put(requested, key, place);
            None
        }
        Err((decides, failure)) => {
            let (number, ..) = candidates[decides];
            let Endpoint { name, base, .. } = &servers[number].endpoint;
            let outcome = Outcome {
                key: key.to_string(),
                requested,
                server: name.map(str::to_owned),
                base_url: base.to_string(),
                backend: probes[number].1.backend,
                was_tried: true,
                result: Err(failure),
                warnings: Vec::new(),
                elapsed: started.elapsed(),
            };
            Some((place, outcome))
        }
    }
}

/// The part of a call that concerns one server.
struct ServerCall<'a> {
    call: Call<'a>,
    /// The place of each model in the order given.
    places: &'a [usize],
    outcomes: Vec<Outcome>,
    /// When its models were looked at last.
    seen: Instant,
    /// When work on them ended, if there was any.
    worked: Option<Instant>,
}

/// Work on one server may have taken minutes, in which a model on another one went away. One more
/// look at each that has not been seen since heals that; what is lost after it is reported so.
async fn confirm_all(calls: &mut [ServerCall<'_>]) -> Result<(), CommandError> {
    for may_heal in [true, false] {
        for place in 0..calls.len() {
            let seen = calls[place].seen;
            let is_stopped = calls.iter().any(|it| failures(&it.outcomes).iter().any(|it| it.signal.is_some()));
            let is_old =
                calls.iter().enumerate().any(|(other, it)| other != place && it.worked.is_some_and(|end| end > seen));
            if is_stopped || !is_old {
                continue;
            }
            let one = &mut calls[place];
            let has_worked = gate::confirm(&one.call, &mut one.outcomes, may_heal).await?;
            one.seen = Instant::now();
            if has_worked {
                one.worked = Some(one.seen);
            }
        }
    }
    Ok(())
}

/// A model whose server had no turn any more.
fn skipped(request: &ModelRequest, call: &Call<'_>, failure: &Failure) -> Outcome {
    Outcome {
        key: request.key.to_string(),
        requested: request.requested.clone(),
        server: call.server_name.map(str::to_owned),
        base_url: call.server.base.to_string(),
        backend: call.config.backend,
        was_tried: false,
        result: Err(failure.clone()),
        warnings: Vec::new(),
        elapsed: call.started.elapsed(),
    }
}
