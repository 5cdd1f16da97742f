//! One call of the gate, from what was typed to what it came to: shared by every command that
//! gates something.

use std::cell::{Cell, OnceCell};
use std::time::Instant;

use super::error::CommandError;
use super::look::downloaded_keys;
use super::mistakes;
use crate::cli::GateArgs;
use crate::gate::{self, Call, ModelRequest};
use crate::pure::opencode::ungated::without_provider;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::outcome::failure::{FailMode, Failure, Verdict, verdict};
use crate::pure::outcome::report::{Action, Outcome, Ready, Report};
use crate::resolve::{Endpoint, resolve, server_of_plain_keys};
use crate::sys::http::Server;
use crate::sys::output::Console;
use crate::sys::paths;
use crate::sys::progress::Progress;

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
    let resolved = tracing::trace_span!("resolve").in_scope(|| resolve(models, &gate.key, &config))?;
    for note in &resolved.notes {
        console.note(note);
    }
    for warning in &resolved.warnings {
        console.warning(warning);
    }
    if resolved.servers.is_empty() && !resolved.ungated.is_empty() {
        // Nothing is to be warmed, so that asking costs no warm call.
        let keys = match server_of_plain_keys(&config) {
            Ok(endpoint) => downloaded_keys(endpoint).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        for warning in resolved.ungated.iter().filter_map(|it| without_provider(it, &config.providers, &keys)) {
            console.warning(&warning);
        }
    }
    let mut servers = Vec::new();
    for models in resolved.servers {
        let Endpoint { base, token, .. } = &models.endpoint;
        let server = Server::new(base.clone(), token.clone(), config.probe_timeout)?;
        servers.push((server, models));
    }
    let output = &gate.settings.output;
    let shutdown = OnceCell::new();
    let mut calls: Vec<ServerCall<'_>> = Vec::new();
    for (server, models) in &servers {
        let call = Call {
            config: &config,
            server,
            found: Cell::new(None),
            origin: &models.endpoint.origin,
            token_origin: &models.endpoint.token_origin,
            state_dir: config.state_dir.clone().or_else(paths::state_dir),
            requests: &models.requests,
            fresh: gate.fresh,
            is_background: gate.background,
            timeout: gate.timeout,
            progress: Progress::new(console, !output.no_progress, output.progress_every),
            started,
            shutdown: &shutdown,
        };
        // A signal is meant for the whole process, not for one server alone.
        let stopped = calls.iter().flat_map(|it| failures(&it.outcomes)).find(|it| it.signal.is_some());
        let outcomes = match stopped {
            Some(failure) => models.requests.iter().map(|request| skipped(request, &call, failure)).collect(),
            None => gate::ensure(&call).await?,
        };
        let has_worked = outcomes.iter().any(|it| !matches!(&it.result, Ok(Ready { action: Action::None, .. })));
        let now = Instant::now();
        calls.push(ServerCall { call, outcomes, seen: now, worked: has_worked.then_some(now) });
    }
    confirm_all(&mut calls).await?;
    let mut outcomes: Vec<(usize, Outcome)> = Vec::new();
    for (ServerCall { outcomes: of_server, .. }, (_, models)) in calls.into_iter().zip(&servers) {
        outcomes.extend(models.places.iter().copied().zip(of_server));
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

/// The part of a call that concerns one server.
struct ServerCall<'a> {
    call: Call<'a>,
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
        base_url: call.server.base.to_string(),
        backend: call.config.backend,
        was_tried: false,
        result: Err(failure.clone()),
        warnings: Vec::new(),
        elapsed: call.started.elapsed(),
    }
}
