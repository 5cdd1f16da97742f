//! `lmswarm ensure`: calls the gate and reports.

use std::time::Instant;

use super::call;
use super::error::CommandError;
use crate::cli::EnsureArgs;
use crate::pure::outcome::exit::ExitCode;
use crate::sys::output::{self, Console};

/// Runs the command.
pub(super) async fn run(args: EnsureArgs, console: Console, started: Instant) -> Result<ExitCode, CommandError> {
    let outcome = call::ensure(&args.models, &args.gate, console, started).await?;
    let _step = tracing::trace_span!("report").entered();
    outcome.tell(console);
    if args.json
        && let Err(error) = output::print_json(&outcome.report())
    {
        // The exit code still tells the truth about the models.
        console.warning(&format!("the report cannot be printed: {error}"));
    }
    Ok(outcome.verdict.exit)
}
