//! Commands that are run in turns, and the table of what they took.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command, and the time of each of its runs.
pub(crate) struct Row {
    name: String,
    command: Command,
    /// The rows to compare with, by their places.
    against: [Option<usize>; 3],
    times: Vec<Duration>,
}

/// Rows that are run in turns.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds a command to compare with, unless it cannot be run here.
    pub(crate) fn baseline(&mut self, name: &str, command: Command) -> Option<usize> {
        self.add(name, command, [None; 3])
    }

    /// Adds a command; `against` are the places of `/bin/true`, `curl` and `lms ps`.
    pub(crate) fn add(&mut self, name: &str, mut command: Command, against: [Option<usize>; 3]) -> Option<usize> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The first run warms caches, and shows whether it works.
        match command.status() {
            Ok(status) => assert!(status.success(), "{name}: {status}"),
            Err(error) => {
                println!("left out: {name}: {error}");
                return None;
            }
        }
        self.0.push(Row { name: name.to_owned(), command, against, times: Vec::new() });
        Some(self.0.len() - 1)
    }

    /// Runs every command once a round, each round beginning with another one.
    pub(crate) fn run(&mut self, rounds: usize) {
        for round in 0..rounds {
            for turn in 0..self.0.len() {
                let place = (round + turn) % self.0.len();
                let row = &mut self.0[place];
                let started = Instant::now();
                let status = row.command.status();
                row.times.push(started.elapsed());
                assert!(status.is_ok_and(|it| it.success()), "{} failed", row.name);
            }
        }
    }

    pub(crate) fn print(&self, title: &str) {
        let width = self.0.iter().map(|row| row.name.len()).max().unwrap_or_default();
        println!("\n{title:width$}  /bin/true     curl   lms ps      median         min");
        for row in &self.0 {
            print!("{:width$}", row.name);
            for other in row.against {
                match other {
                    Some(other) => print!("  {:>6.2}x", ratio(&row.times, &self.0[other].times)),
                    None => print!("  {:>7}", "-"),
                }
            }
            println!(
                "  {:>7.2} ms  {:>7.2} ms",
                ms(median(&row.times)),
                ms(row.times.iter().copied().min().unwrap_or_default())
            );
        }
    }
}

/// The median of the rounds' ratios.
fn ratio(times: &[Duration], others: &[Duration]) -> f64 {
    let mut ratios: Vec<f64> =
        times.iter().zip(others).map(|(time, other)| time.as_secs_f64() / other.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The middle one.
pub(crate) fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One line of median, least and most.
pub(crate) fn print_line(name: &str, times: &[Duration], budget: &str) {
    let least = times.iter().min().copied().unwrap_or_default();
    let most = times.iter().max().copied().unwrap_or_default();
    let n = times.len();
    println!(
        "{name}: median {:.1} ms, {:.1} to {:.1} (n = {n}; budget {budget})",
        ms(median(times)),
        ms(least),
        ms(most)
    );
}
