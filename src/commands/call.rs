//! One call of the gate, from what was typed to what to tell: shared by every command that
//! gates something.

use std::time::Instant;

use crate::cli::{GateArgs, SettingsArgs};
use crate::gate::{self, Call, ModelRequest, Refusal};
use crate::pure::config::Config;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::outcome::failure::{FailMode, Failure, Verdict, verdict};
use crate::pure::outcome::report::{Outcome, Report};
use crate::resolve::{self, Target};
use crate::sys::http::Server;
use crate::sys::output::Console;
use crate::sys::paths;
use crate::sys::progress::Progress;
use crate::sys::settings::{self, Address, Credential, Settings};

/// Why a call failed as a whole.
pub(crate) enum CommandError {
    /// The command line is wrong.
    Usage(String),
    /// The configuration is wrong; with what to do about it.
    Config(String, Option<&'static str>),
    /// Nobody foresaw this.
    Unexpected(anyhow::Error),
}

impl CommandError {
    /// The exit code, the sentence, and what to do next.
    pub(crate) fn into_message(self) -> (ExitCode, String, Option<&'static str>) {
        match self {
            Self::Usage(reason) => (ExitCode::Usage, reason, Some("--help shows what can be given")),
            Self::Config(reason, hint) => (ExitCode::Config, reason, hint),
            Self::Unexpected(error) => (
                ExitCode::Unexpected,
                format!("{error:#}"),
                Some("this should not happen; please report it with the output of -vv"),
            ),
        }
    }
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        let hint =
            "make it a folder of yours that only you can write to (`chmod go-w`), or name another with --state-dir";
        Self::Config(refusal.0, Some(hint))
    }
}

/// What a call of the gate came to.
pub(crate) struct CallOutcome {
    outcomes: Vec<Outcome>,
    fail_mode: FailMode,
    /// The end of the call.
    pub(crate) verdict: Verdict,
}

impl CallOutcome {
    /// Tells a person: warnings, and failures with what to do next.
    pub(crate) fn tell(&self, console: Console) {
        for warning in self.outcomes.iter().flat_map(|outcome| &outcome.warnings) {
            console.warning(warning);
        }
        for failure in failures(&self.outcomes) {
            console.failure(failure, self.verdict.exit != ExitCode::Success);
        }
    }

    /// What kept models from being addressable, for whoever speaks later. A signal is no
    /// reason: whoever sent it knows.
    pub(crate) fn reasons(&self) -> Vec<String> {
        failures(&self.outcomes).iter().filter(|it| it.signal.is_none()).map(|it| it.reason.clone()).collect()
    }

    /// Tells a program.
    pub(crate) fn report(&self) -> Report<'_> {
        Report::of_models(&self.outcomes, self.fail_mode, self.verdict)
    }
}

fn failures(outcomes: &[Outcome]) -> Vec<&Failure> {
    outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()).collect()
}

/// Gathers the configuration, begins to log, and tells what is odd.
pub(crate) fn gather(args: &SettingsArgs, console: Console) -> Result<Config, CommandError> {
    let Settings { config, warnings } = settings::gather(args.config.as_deref(), args.options.0.clone())
        .map_err(|reason| CommandError::Config(reason, None))?;
    crate::sys::log::start(args.output.verbose, config.log_file.clone());
    for warning in &warnings {
        console.warning(warning);
    }
    Ok(config)
}

/// The models of one server.
struct Group {
    address: Address,
    credential: Credential,
    wants: Vec<ModelRequest>,
    /// Where their outcomes belong.
    places: Vec<usize>,
}

/// One group for each server and token, in the order given.
fn group(targets: Vec<Target>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (place, Target { want, address, credential }) in targets.into_iter().enumerate() {
        let is_same =
            |group: &&mut Group| group.address.base == address.base && group.credential.token == credential.token;
        match groups.iter_mut().find(is_same) {
            Some(group) => {
                group.wants.push(want);
                group.places.push(place);
            }
            None => groups.push(Group { address, credential, wants: vec![want], places: vec![place] }),
        }
    }
    groups
}

/// Gathers the configuration, resolves what was typed (nothing: `main small`), and makes
/// sure that every model is addressable. They may be on several servers.
pub(crate) async fn ensure(
    models: &[String],
    gate: &GateArgs,
    console: Console,
    started: Instant,
) -> Result<CallOutcome, CommandError> {
    let gathering = Instant::now();
    let config = gather(&gate.settings, console)?;
    // These steps were over before there was a log.
    tracing::trace!(arguments = ?gathering - started, configuration = ?gathering.elapsed(), "began");
    let resolved = tracing::trace_span!("resolve").in_scope(|| resolve::resolve(models, &gate.key, &config))?;
    for note in &resolved.notes {
        console.note(note);
    }
    for warning in &resolved.warnings {
        console.warning(warning);
    }
    let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(resolved.targets.len());
    for Group { address, credential, wants, places } in group(resolved.targets) {
        // Whoever asked this process to stop did not mean one server alone.
        let stopped = outcomes
            .iter()
            .find_map(|(_, outcome)| outcome.result.as_ref().err().filter(|failure| failure.signal.is_some()).cloned());
        let of_group = if let Some(failure) = stopped {
            wants.iter().map(|want| skipped(want, &address, &failure, started)).collect()
        } else {
            let server =
                Server::new(address.base, credential.token, config.probe_timeout).map_err(CommandError::Unexpected)?;
            let call = Call {
                config: &config,
                server: &server,
                origin: &address.origin,
                token_origin: &credential.origin,
                state_dir: config.state_dir.clone().or_else(paths::state_dir),
                wants: &wants,
                fresh: gate.fresh,
                timeout: gate.timeout,
                progress: Progress::new(
                    console,
                    !gate.settings.output.no_progress,
                    gate.settings.output.progress_every,
                ),
                started,
            };
            gate::ensure(&call).await?
        };
        outcomes.extend(places.into_iter().zip(of_group));
    }
    outcomes.sort_by_key(|(place, _)| *place);
    let outcomes: Vec<Outcome> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    let verdict = verdict(&failures(&outcomes), config.fail_mode);
    Ok(CallOutcome { outcomes, fail_mode: config.fail_mode, verdict })
}

fn skipped(want: &ModelRequest, address: &Address, failure: &Failure, started: Instant) -> Outcome {
    Outcome {
        key: want.key.to_string(),
        requested: want.requested.clone(),
        base_url: address.base.to_string(),
        was_tried: false,
        result: Err(failure.clone()),
        warnings: Vec::new(),
        elapsed: started.elapsed(),
    }
}
