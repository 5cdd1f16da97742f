//! What a warm call spends its time on, as its own log (`-vv`) tells.

use std::time::Duration;

use serde_json::json;

use crate::support::LLAMA;
use crate::table::{median, ms};
use crate::warm;

/// The steps in their order, and how the log tells of each. What lies before the arguments
/// (the loader, the runtime of Rust) and after the report is not in it.
const STEPS: [(&str, &str); 6] = [
    ("parse the arguments", " arguments="),
    ("read the configuration", " configuration="),
    ("resolve the words", " resolve: "),
    ("make the client", " client: "),
    ("probe: wait for the answers, and read them", " probe: lmswarm::gate: "),
    ("report", " report: "),
];

/// Runs and prints the steps.
pub(crate) fn measure(rounds: usize) {
    let machine = warm::machine(30, json!({}));
    let logs: Vec<String> = (0..rounds).map(|_| machine.run(&["ensure", LLAMA, "-vv"]).expect(0).stderr).collect();
    println!("\nsteps of a warm `ensure KEY` (from `-vv`)     median");
    for (name, mark) in STEPS {
        let times: Vec<Duration> = logs.iter().map(|log| time(log, mark)).collect();
        println!("{name:42}  {:>5.2} ms", ms(median(&times)));
    }
}

/// The time behind the mark: a value of its own, or that of a span which ended.
fn time(log: &str, mark: &str) -> Duration {
    let ended = |line: &&str| line.contains(mark) && (mark.ends_with('=') || line.contains("close "));
    let line = log.lines().find(ended).unwrap_or_else(|| panic!("no {mark:?} in {log}"));
    let value = |name: &str| {
        let text = line.split(name).nth(1).and_then(|rest| rest.split_whitespace().next());
        text.and_then(duration).unwrap_or_else(|| panic!("no {name:?} in {line}"))
    };
    if mark.ends_with('=') { value(mark) } else { value("time.busy=") + value("time.idle=") }
}

/// `1.23ms`, as the log writes it.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|it: char| it.is_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    let seconds = match &text[unit..] {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(number * seconds))
}
