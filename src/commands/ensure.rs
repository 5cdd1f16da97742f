//! `lmswarm ensure`: calls the gate and reports.

use std::time::Instant;

use super::call;
use crate::cli::EnsureArgs;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::outcome::report::Report;
use crate::sys::output::{self, Console};

/// Runs the command.
pub(super) async fn run(args: EnsureArgs, started: Instant) -> ExitCode {
    let console = Console::new(args.gate.settings.output.quiet, args.gate.settings.output.color);
    match call::ensure(&args.models, &args.gate, console, started).await {
        Ok(gated) => {
            let _step = tracing::trace_span!("report").entered();
            gated.tell(console);
            if args.json {
                print_json(console, &gated.report());
            }
            gated.verdict.exit
        }
        Err(trouble) => {
            let (exit, reason, hint) = trouble.into_message();
            console.error(&reason, hint);
            if args.json && exit != ExitCode::Usage {
                print_json(console, &Report::of_error(&reason, hint, exit.number()));
            }
            exit
        }
    }
}

fn print_json(console: Console, report: &Report<'_>) {
    if let Err(error) = output::print_json(report) {
        console.warning(&format!("the report cannot be printed: {error}"));
    }
}
