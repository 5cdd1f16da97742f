//! One call of the gate, from what was typed to what it came to: shared by every command that
//! gates something.

use std::time::Instant;

use super::error::CommandError;
use super::mistakes;
use crate::cli::GateArgs;
use crate::gate::{self, Call, ModelRequest};
use crate::pure::base_url::BaseUrl;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::outcome::failure::{FailMode, Failure, Verdict, verdict};
use crate::pure::outcome::report::{Outcome, Report};
use crate::resolve::{ServerModels, resolve};
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
        for warning in self.outcomes.iter().flat_map(|outcome| &outcome.warnings) {
            console.warning(warning);
        }
        for failure in failures(&self.outcomes) {
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
    let mut outcomes: Vec<(usize, Outcome)> = Vec::new();
    for ServerModels { endpoint, requests, places } in resolved.servers {
        // A signal is meant for the whole process, not for one server alone.
        let stopped = outcomes
            .iter()
            .find_map(|(_, outcome)| outcome.result.as_ref().err().filter(|failure| failure.signal.is_some()).cloned());
        let of_server = if let Some(failure) = stopped {
            requests.iter().map(|request| skipped(request, &endpoint.base, &failure, started)).collect()
        } else {
            let server = Server::new(endpoint.base, endpoint.token, config.probe_timeout)
                .map_err(|error| CommandError::unexpected(&error))?;
            let output = &gate.settings.output;
            let call = Call {
                config: &config,
                server: &server,
                origin: &endpoint.origin,
                token_origin: &endpoint.token_origin,
                state_dir: config.state_dir.clone().or_else(paths::state_dir),
                requests: &requests,
                fresh: gate.fresh,
                is_background: gate.background,
                timeout: gate.timeout,
                progress: Progress::new(console, !output.no_progress, output.progress_every),
                started,
            };
            gate::ensure(&call).await?
        };
        outcomes.extend(places.into_iter().zip(of_server));
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

/// A model whose server had no turn any more.
fn skipped(request: &ModelRequest, base: &BaseUrl, failure: &Failure, started: Instant) -> Outcome {
    Outcome {
        key: request.key.to_string(),
        requested: request.requested.clone(),
        base_url: base.to_string(),
        was_tried: false,
        result: Err(failure.clone()),
        warnings: Vec::new(),
        elapsed: started.elapsed(),
    }
}
