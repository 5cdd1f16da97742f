//! One call of the gate, from what was typed to what to tell: shared by every command that
//! gates something.

use std::time::Instant;

use crate::cli::GateArgs;
use crate::gate::{self, Call, Refusal, Want};
use crate::pure::exit::ExitCode;
use crate::pure::failure::{FailMode, Failure, Verdict, verdict};
use crate::pure::model::ModelKey;
use crate::pure::report::{Outcome, Report};
use crate::sys::http::Server;
use crate::sys::paths;
use crate::sys::progress::Progress;
use crate::sys::settings::{self, Settings};
use crate::sys::term::Console;

/// Why a call failed as a whole.
pub(super) enum Trouble {
    /// The command line is wrong.
    Usage(String),
    /// The configuration is wrong; with what to do about it.
    Config(String, Option<&'static str>),
    /// Nobody foresaw this.
    Unexpected(anyhow::Error),
}

impl Trouble {
    /// The exit code, the sentence, and what to do next.
    pub(super) fn told(self) -> (ExitCode, String, Option<&'static str>) {
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

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        let hint =
            "make it a folder of yours that only you can write to (`chmod go-w`), or name another with --state-dir";
        Self::Config(refusal.0, Some(hint))
    }
}

/// What a call of the gate came to.
pub(super) struct Gated {
    outcomes: Vec<Outcome>,
    base_url: String,
    fail_mode: FailMode,
    /// The end of the call.
    pub(super) verdict: Verdict,
}

impl Gated {
    /// Tells a person: warnings, and failures with what to do next.
    pub(super) fn tell(&self, console: Console) {
        for warning in self.outcomes.iter().flat_map(|outcome| &outcome.warnings) {
            console.warning(warning);
        }
        for failure in failures(&self.outcomes) {
            console.failure(failure, self.verdict.exit != ExitCode::Success);
        }
    }

    /// What kept models from being addressable, for whoever speaks later. A signal is no
    /// reason: whoever sent it knows.
    pub(super) fn reasons(&self) -> Vec<String> {
        failures(&self.outcomes).iter().filter(|it| it.signal.is_none()).map(|it| it.reason.clone()).collect()
    }

    /// Tells a program.
    pub(super) fn report(&self) -> Report<'_> {
        Report::of_models(&self.outcomes, &self.base_url, self.fail_mode, self.verdict)
    }
}

fn failures(outcomes: &[Outcome]) -> Vec<&Failure> {
    outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()).collect()
}

/// Gathers the configuration and makes sure that every model is addressable.
pub(super) async fn ensure(
    models: &[String],
    gate: &GateArgs,
    console: Console,
    started: Instant,
) -> Result<Gated, Trouble> {
    let flags = gate.options.0.clone();
    let Settings { config, warnings } =
        settings::gather(gate.config.as_deref(), flags).map_err(|reason| Trouble::Config(reason, None))?;
    crate::sys::log::start(gate.voice.verbose, console.color(), config.log_file.clone());
    for warning in &warnings {
        console.warning(warning);
    }
    let mut wants: Vec<Want> = Vec::with_capacity(models.len());
    for requested in models {
        let key =
            ModelKey::from_ref(requested, &config.providers).map_err(|error| Trouble::Usage(error.to_string()))?;
        if wants.iter().all(|want| want.key != key) {
            let options = config.load_options(&key);
            wants.push(Want { requested: requested.clone(), key, options });
        }
    }
    let address = settings::address(&config).map_err(|reason| {
        let hint =
            "--base-url, or `baseURL` in lmswarm's own config file, makes it independent of opencode's configuration";
        Trouble::Config(reason, Some(hint))
    })?;
    let token = settings::token(&config, &address).map_err(|reason| Trouble::Config(reason, None))?;
    let server = Server::new(address.base, token, config.probe_timeout).map_err(Trouble::Unexpected)?;
    let call = Call {
        config: &config,
        server: &server,
        origin: &address.origin,
        state_dir: config.state_dir.clone().or_else(paths::state_dir),
        wants: &wants,
        fresh: gate.fresh,
        timeout: gate.timeout,
        progress: Progress::new(console, !gate.voice.no_progress, gate.voice.progress_every),
        started,
    };
    let outcomes = gate::ensure(&call).await?;
    let verdict = verdict(&failures(&outcomes), config.fail_mode);
    Ok(Gated { outcomes, base_url: server.base.to_string(), fail_mode: config.fail_mode, verdict })
}
