//! The fault campaign: many callers at once, on a machine where everything goes wrong at random moments, and what must
//! be so all the same.
//!
//! The test suite plays a few rounds. By hand, for an hour, or one round alone:
//!
//! ```text
//! LMSWARM_CAMPAIGN_SEED=7 LMSWARM_CAMPAIGN_SECONDS=3600 cargo test --test it campaign:: -- --nocapture
//! LMSWARM_CAMPAIGN_ROUND=123 cargo test --test it campaign:: -- --nocapture
//! ```
//!
//! The seed gives the plans of all rounds (`plan`, drawn by `draw`); `stage` plays one with its `callers`, the
//! `application` and the `ruin` of files, `history` reads the simulator's record of it, and `check` judges. Real processes never do the same thing twice, so a round that failed may need some tries. Its record
//! and what its callers said are kept below `target/tmp/campaign`, as are those of a round that is played alone.

mod application;
mod callers;
mod check;
mod clock;
mod draw;
mod faults;
mod history;
mod instances;
mod plan;
mod processes;
mod replays;
pub mod ruin;
mod stage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use check::{Facts, Sent, Verdict, judge};
use plan::Plan;

use crate::support::Machine;

/// What the test suite plays.
const SEED: u64 = 20;
const ROUNDS: usize = 12;
/// Rounds at a time: most of a round is waiting.
const LANES: usize = 6;

#[test]
fn whatever_goes_wrong_what_must_be_so_is_so() {
    let variable = |name: &str| {
        let text = std::env::var(format!("LMSWARM_CAMPAIGN_{name}")).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|error| panic!("LMSWARM_CAMPAIGN_{name}={text}: {error}")))
    };
    let seed = variable("SEED").unwrap_or(SEED);
    let mut seeds = fastrand::Rng::with_seed(seed);
    let tally = match (variable("ROUND"), variable("SECONDS")) {
        (Some(round), _) => campaign([round], true),
        (None, Some(seconds)) => {
            let until = Instant::now() + Duration::from_secs(seconds);
            campaign(std::iter::from_fn(|| (Instant::now() < until).then(|| seeds.u64(..))), false)
        }
        (None, None) => campaign((0..ROUNDS).map(|_| seeds.u64(..)), false),
    };
    eprintln!("campaign of seed {seed}: {tally:#?}");
    assert!(tally.violations.is_empty(), "of seed {seed}: {:#?}", tally.violations);
    assert!(tally.rounds > 0 && tally.callers > 0);
}

#[test]
fn every_fault_of_the_simulator_is_injected() {
    let source = include_str!("../../simulator/common/fault.rs");
    let kinds = source.split_once("pub enum Kind {").and_then(|(_, rest)| rest.split_once('}')).expect("the kinds").0;
    // What holds goes on when a test says so, and here no test does.
    let is_injected = |it: &String| !it.is_empty() && it != "hold";
    let kinds: Vec<String> = kinds.split(',').map(|it| kebab(it.trim())).filter(is_injected).collect();
    assert_eq!(kinds, faults::FAULTS.map(|(kind, _)| kind.to_owned()));
    let mut injected: Vec<String> = Vec::new();
    for seed in 0..1000 {
        let plan = Plan::of(seed);
        injected.extend(plan.faults().map(|it| it["kind"].as_str().expect("a kind").to_owned()));
    }
    injected.sort();
    injected.dedup();
    assert_eq!(injected, kinds);
}

#[test]
fn a_seed_gives_the_same_plan_each_time() {
    for seed in 0..50 {
        assert_eq!(format!("{:?}", Plan::of(seed)), format!("{:?}", Plan::of(seed)));
    }
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// What a campaign came to.
#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    kinds: BTreeMap<String, usize>,
    callers: usize,
    exits: BTreeMap<i32, usize>,
    signals: BTreeMap<Sent, usize>,
    steps: BTreeMap<String, usize>,
    faults: BTreeMap<String, usize>,
    lenient: BTreeMap<&'static str, usize>,
    excused: BTreeMap<&'static str, usize>,
    violations: Vec<String>,
}

impl Tally {
    fn add(&mut self, facts: &Facts, verdict: Verdict) {
        self.rounds += 1;
        *self.kinds.entry(format!("{:?}, lms {:?}", facts.plan.mood, facts.plan.lms)).or_default() += 1;
        self.callers += facts.callers.len();
        for caller in &facts.callers {
            *self.exits.entry(caller.code).or_default() += 1;
            for (_, sent) in &caller.sent {
                *self.signals.entry(*sent).or_default() += 1;
            }
        }
        for (_, step) in &facts.plan.steps {
            let words = format!("{step:?}");
            let name = words.split(|it: char| !it.is_alphanumeric()).next().unwrap_or_default();
            *self.steps.entry(name.to_owned()).or_default() += 1;
        }
        for (on, kind) in &facts.history.faults {
            *self.faults.entry(format!("{kind} of {on}")).or_default() += 1;
        }
        if let Some(why) = facts.plan.untold() {
            *self.lenient.entry(why).or_default() += 1;
        }
        for (why, count) in verdict.excused {
            *self.excused.entry(why).or_default() += count;
        }
        self.violations.extend(verdict.violations.into_iter().map(|it| format!("round {}: {it}", facts.plan.seed)));
    }
}

/// Plays rounds, some at a time.
fn campaign(seeds: impl IntoIterator<Item = u64, IntoIter: Send>, keeps_all: bool) -> Tally {
    let seeds = Mutex::new(seeds.into_iter());
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let seed = seeds.lock().expect("no panic holds it").next();
                    let Some(seed) = seed else { return };
                    round(seed, keeps_all, &tally);
                }
            });
        }
    });
    tally.into_inner().expect("no panic holds it")
}

fn round(seed: u64, keeps: bool, tally: &Mutex<Tally>) {
    let plan = Plan::of(seed);
    let played = catch_unwind(AssertUnwindSafe(|| stage::play(&plan)));
    let mut tally = tally.lock().expect("no panic holds it");
    let Ok((facts, machine)) = played else {
        tally.violations.push(format!("round {seed}: it could not be played"));
        return;
    };
    let verdict = judge(&facts);
    if !verdict.violations.is_empty() {
        eprintln!("round {seed}: {:#?}", verdict.violations);
    }
    if keeps || !verdict.violations.is_empty() {
        keep(&facts, &verdict, &machine);
    }
    tally.add(&facts, verdict);
}

/// Keeps what a round that failed left behind.
fn keep(facts: &Facts, verdict: &Verdict, machine: &Machine) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("campaign/{}", facts.plan.seed));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut text = format!("{verdict:#?}\n{:#?}\n", facts.plan);
    for caller in &facts.callers {
        let _ = writeln!(text, "{caller:?}");
        text.push_str(&caller.stderr);
    }
    std::fs::write(folder.join("round.txt"), text).expect("a file");
    std::fs::copy(machine.path(".lmstudio/.simulator/record.jsonl"), folder.join("record.jsonl")).expect("the record");
}
