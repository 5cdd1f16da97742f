//! `lmswarm ensure`: gathers the configuration, calls the gate, reports.

use std::time::Instant;

use crate::cli::EnsureArgs;
use crate::gate::{self, Call, Refusal, Want};
use crate::pure::exit::ExitCode;
use crate::pure::failure::{Failure, verdict};
use crate::pure::model::ModelKey;
use crate::pure::report::Report;
use crate::sys::http::Server;
use crate::sys::progress::Progress;
use crate::sys::settings::{self, Settings};
use crate::sys::term::{self, Console};
use crate::sys::{log, paths};

/// Why the call failed as a whole.
enum Trouble {
    Usage(String),
    Config(String, Option<&'static str>),
    Unexpected(anyhow::Error),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Config(
            refusal.0,
            Some(
                "make it a folder of yours that only you can write to (`chmod go-w`), or name another with --state-dir",
            ),
        )
    }
}

/// Runs the command.
pub(super) async fn run(args: EnsureArgs) -> ExitCode {
    let started = Instant::now();
    let console = Console::new(args.voice.quiet, args.voice.color);
    let json = args.json;
    let (exit, reason, hint) = match ensure(args, console, started).await {
        Ok(exit) => return exit,
        Err(Trouble::Usage(reason)) => {
            console.error(&reason, Some("`lmswarm ensure --help` shows what can be given"));
            return ExitCode::Usage;
        }
        Err(Trouble::Config(reason, hint)) => (ExitCode::Config, reason, hint),
        Err(Trouble::Unexpected(error)) => (
            ExitCode::Unexpected,
            format!("{error:#}"),
            Some("this should not happen; please report it with the output of -vv"),
        ),
    };
    console.error(&reason, hint);
    if json {
        print_json(console, &Report::of_error(&reason, hint, exit.number()));
    }
    exit
}

async fn ensure(args: EnsureArgs, console: Console, started: Instant) -> Result<ExitCode, Trouble> {
    let Settings { config, warnings } =
        settings::gather(args.config.as_deref(), args.options.0).map_err(|reason| Trouble::Config(reason, None))?;
    log::start(args.voice.verbose, console.color(), config.log_file.clone());
    for warning in &warnings {
        console.warning(warning);
    }
    let mut wants: Vec<Want> = Vec::with_capacity(args.models.len());
    for requested in args.models {
        let key =
            ModelKey::from_ref(&requested, &config.providers).map_err(|error| Trouble::Usage(error.to_string()))?;
        if wants.iter().all(|want| want.key != key) {
            let options = config.load_options(&key);
            wants.push(Want { requested, key, options });
        }
    }
    let address = settings::address(&config).map_err(|reason| {
        Trouble::Config(reason, Some("--base-url, or `baseURL` in lmswarm's own config file, makes it independent of opencode's configuration"))
    })?;
    let token = settings::token(&config, &address).map_err(|reason| Trouble::Config(reason, None))?;
    let server = Server::new(address.base, token, config.probe_timeout).map_err(Trouble::Unexpected)?;
    let call = Call {
        config: &config,
        server: &server,
        origin: &address.origin,
        state_dir: config.state_dir.clone().or_else(paths::state_dir),
        wants: &wants,
        fresh: args.fresh,
        timeout: args.timeout,
        progress: Progress::new(console, !args.voice.no_progress),
        started,
    };
    let outcomes = gate::ensure(&call).await?;
    let failures: Vec<&Failure> = outcomes.iter().filter_map(|outcome| outcome.result.as_ref().err()).collect();
    let verdict = verdict(&failures, config.fail_mode);
    for outcome in &outcomes {
        for warning in &outcome.warnings {
            console.warning(warning);
        }
    }
    for failure in failures {
        console.failure(failure, verdict.exit != ExitCode::Success);
    }
    if args.json {
        let base_url = server.base.to_string();
        print_json(console, &Report::of_models(&outcomes, &base_url, config.fail_mode, verdict));
    }
    Ok(verdict.exit)
}

fn print_json(console: Console, report: &Report<'_>) {
    let printed = serde_json::to_string(report).map_err(std::io::Error::from).and_then(|text| term::print(&text));
    if let Err(error) = printed {
        console.warning(&format!("the report cannot be printed: {error}"));
    }
}
