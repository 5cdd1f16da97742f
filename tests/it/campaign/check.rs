//! What must be so after a round, whatever happened in it: pure functions over the record and the callers' ends.
//!
//! Nobody can look and load in one step, so whatever came between a caller's last look and its `lms` is no fault of
//! the caller: that is the slack, and what it excuses is counted.

use std::collections::BTreeMap;

use super::faults::LOAD;
use super::history::{Call, History, Life};
use super::plan::{Mood, Plan, Step};
use super::{instances, processes, replays};

/// How long an answer may take from LM Studio to the caller on a busy machine.
const ANSWER: u64 = 300;
/// What a caller needs from its last look to its `lms`, and from there to its end, on a busy machine.
pub const SLACK: u64 = 1000;
/// How long a child that was asked to stop may take: the gate's own grace.
const GRACE: u64 = 5000;
/// How long a caller may take where nothing is in its way for long.
const CALM_BOUND: u64 = 120_000;
/// What scheduling may add to any limit.
pub const LATE: u64 = 4000;
/// How long a leader that shows no life, or a process that leads nothing, may keep a caller from going on.
pub const BLOCKED: u64 = 10_000;
/// How long a load that lives in the server is believed in beyond its own limit.
const OVERTIME: u64 = 10_000;

/// How a caller was ended, if not by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    Kill,
    Terminate,
    Interrupt,
    Stop,
}

/// One `lmswarm ensure`. Times are those of the monotonic clock, in milliseconds.
#[derive(Debug)]
pub struct Caller {
    pub pid: u32,
    pub keys: Vec<&'static str>,
    pub timeout: Option<u64>,
    /// One that was started when nothing went wrong any more.
    pub is_last: bool,
    pub start: u64,
    pub exit: u64,
    pub code: i32,
    pub by_signal: bool,
    pub sent: Vec<(u64, Sent)>,
    pub stopped_ms: u64,
    /// Since when it was stopped as long as others ran.
    pub frozen: Option<u64>,
    /// It had to be killed, as it did not end within its limits.
    pub hung: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Caller {
    pub fn was_sent(&self, what: Sent) -> bool {
        self.sent.iter().any(|(_, it)| *it == what)
    }

    /// How old its last look was at this moment, by its own log. The log counts from its own start, which is a little
    /// after that of the process, so the look was not older than that.
    fn age_of_last_look(&self, at: u64) -> Option<u64> {
        self.requests().into_iter().filter_map(|it| at.checked_sub(self.start + it)).min()
    }

    /// When it had the answers to its requests for lists, by its own log, in milliseconds from its start.
    pub fn requests(&self) -> Vec<u64> {
        let is_request = |line: &&str| line.contains("] GET ") && line.contains("/api/v");
        self.stderr.lines().filter(is_request).filter_map(time_of).collect()
    }
}

/// `lmswarm: [12.345 s] ...` as milliseconds.
fn time_of(line: &str) -> Option<u64> {
    let time = line.strip_prefix("lmswarm: [")?.split_once(" s]")?.0;
    let (seconds, millis) = time.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1000 + millis.parse::<u64>().ok()?)
}

/// Everything there is to judge.
pub struct Facts {
    pub plan: Plan,
    pub history: History,
    pub callers: Vec<Caller>,
    /// `lms` processes that ran when every caller had ended.
    pub left_over: Vec<u32>,
    /// What was resident in the end: the identifier, and whether it is loading.
    pub resident: Vec<(String, bool)>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<String>,
    /// What was let pass, by reason.
    pub excused: BTreeMap<&'static str, usize>,
}

impl Verdict {
    pub fn excuse(&mut self, why: &'static str) {
        *self.excused.entry(why).or_default() += 1;
    }

    pub fn blame(&mut self, text: String) {
        self.violations.push(text);
    }
}

/// How long a caller may take from its start, told by its limits alone.
pub fn bound(plan: &Plan, keys: usize, timeout: Option<u64>) -> u64 {
    if let Some(timeout) = timeout {
        return timeout + GRACE + LATE;
    }
    // Its limits are far away there, and nothing takes as long.
    if plan.mood != Mood::Wild {
        return CALM_BOUND;
    }
    let limits = plan.limits;
    // Its turn, then the start; what is under way, the load, what beats it, the proof.
    let server = 2 * (limits.server_start + GRACE);
    let load = 4 * (limits.load + GRACE);
    // An instance that stays is waited for 5 s; there are few.
    let unloads = if plan.has_fault("ghost") || plan.evicts { 20_000 } else { 5000 };
    let looks = 10 * limits.probe;
    (limits.lock_wait + BLOCKED + server + load + unloads + looks) * 2 * keys as u64 + LATE
}

/// The same for one that was told to end.
pub const SIGNAL_BOUND: u64 = GRACE + LATE;

/// Judges a round.
pub fn judge(facts: &Facts) -> Verdict {
    let mut verdict = Verdict::default();
    exits(facts, &mut verdict);
    instances::addressable(facts, &mut verdict);
    instances::one_instance(facts, &mut verdict);
    instances::attempts(facts, &mut verdict);
    instances::unloads(facts, &mut verdict);
    processes::left_over(facts, &mut verdict);
    processes::cancelled(facts, &mut verdict);
    processes::busy_loops(facts, &mut verdict);
    processes::floods(facts, &mut verdict);
    replays::check(facts, &mut verdict);
    last(facts, &mut verdict);
    if facts.plan.is_calm() {
        calm(facts, &mut verdict);
    }
    match facts.plan.mood {
        Mood::Frozen => processes::frozen(facts, &mut verdict),
        Mood::Failing => replays::failing(facts, &mut verdict),
        Mood::Calm | Mood::Restarted | Mood::Wild => {}
    }
    verdict
}

impl Facts {
    pub fn caller(&self, pid: u32) -> Option<&Caller> {
        self.callers.iter().find(|it| it.pid == pid)
    }

    /// How long before `lms` the last look may have been.
    pub fn slack(&self, caller: Option<&Caller>) -> u64 {
        let start = self.plan.config["lmsStartMs"].as_u64().unwrap_or(0);
        let slow = if self.plan.has_fault("slow") { 3000 } else { 0 };
        let estimates = if self.plan.evicts { 1500 } else { 0 };
        SLACK + 6 * start + slow + estimates + caller.map_or(0, |it| it.stopped_ms)
    }

    /// When the caller last looked before it ran `lms`.
    pub fn looked(&self, call: &Call) -> u64 {
        let caller = self.caller(call.parent);
        let seen = caller.and_then(|it| self.seen_by(it, call.at));
        seen.unwrap_or(call.at.saturating_sub(self.slack(caller)))
    }

    /// From when the latest is that a caller had seen by then. That is a little before its last look was over: from
    /// before it was stopped, or from before an answer was held up.
    pub fn seen_by(&self, caller: &Caller, at: u64) -> Option<u64> {
        let slow = if self.plan.has_fault("slow") { 700 } else { 0 };
        let earlier = caller.age_of_last_look(at)? + ANSWER + slow + caller.stopped_ms;
        Some(at.saturating_sub(earlier))
    }

    /// When the lists began to show it.
    pub fn listed(&self, life: &Life) -> u64 {
        life.began + self.plan.config["listLoadingAfterMs"].as_u64().unwrap_or(0)
    }

    /// The load by `lms` that began this life.
    pub fn call_of(&self, life: &Life) -> Option<&Call> {
        let could = |it: &Call| {
            let had_ended = it.exit.is_some_and(|exit| exit < life.began);
            it.loads() == Some(&life.key) && it.at <= life.began && !had_ended
        };
        let mut calls = self.history.calls.iter().rev();
        calls.find(|it| life.by == "lms" && could(it))
    }

    /// Whether a lock or a mark told all the time since the begin of this load of ours that it goes on.
    pub fn is_locked(&self, life: &Life, until: u64) -> bool {
        let hides_load = |it: &serde_json::Value| matches!(it["on"].as_str(), Some("rest" | LOAD));
        match life.by.as_str() {
            // Of files that it must refuse a caller knows nothing.
            _ if self.plan.may_lose_state() || self.plan.may_refuse() => false,
            // The kernel tells as long as `lms` runs, whichever process ordered it.
            "lms" => self.call_of(life).is_some_and(|call| call.ran(life.began, until)),
            // A load whose answer does not come through is taken for ended.
            "rest" if self.plan.faults().any(hides_load) => false,
            "rest" => until < life.began + self.plan.limits.load + OVERTIME - LATE && !self.turned(life.began, until),
            _ => false,
        }
    }

    /// Whether the application or its server came or went meanwhile.
    pub fn turned(&self, since: u64, until: u64) -> bool {
        self.history.turns.iter().any(|at| (since..=until).contains(at))
    }
}

/// Every end is one of those that the round explains, in time, and its report says the same.
fn exits(facts: &Facts, verdict: &mut Verdict) {
    let plan = &facts.plan;
    for caller in &facts.callers {
        let pid = caller.pid;
        if caller.hung {
            verdict.blame(format!("pid {pid} did not end within its limits"));
            continue;
        }
        let tells_401 = plan.config["token"].is_string() || plan.has_fault("status");
        let is_explained = match caller.code {
            0 => true,
            6 => !plan.is_calm() && has_unusable(facts, caller),
            3 | 5 | 75 => !plan.is_calm() || !caller.sent.is_empty(),
            7 => tells_401,
            78 => plan.may_refuse(),
            130 => caller.was_sent(Sent::Interrupt),
            143 => caller.was_sent(Sent::Terminate),
            137 => caller.was_sent(Sent::Kill),
            _ => false,
        };
        if !is_explained {
            verdict.blame(format!("pid {pid} ended with {}, which nothing in this round explains", caller.code));
        }
        if caller.by_signal {
            continue;
        }
        let report: serde_json::Value = serde_json::from_str(&caller.stdout).unwrap_or_default();
        if report["exitCode"] != caller.code || (report["ok"] == true) != (caller.code == 0) {
            verdict.blame(format!("pid {pid} ended with {}, and reports {}", caller.code, caller.stdout));
        }
    }
}

/// Whether there was a copy or an instance with too little context, or what could not be told from a copy.
fn has_unusable(facts: &Facts, caller: &Caller) -> bool {
    let plan = &facts.plan;
    plan.context.is_some()
        || facts.history.lives.iter().any(|it| {
            let is_copy = caller.keys.iter().any(|key| it.identifier != *key && it.is_named_after(key));
            let reaches = it.began <= caller.exit && it.ended.is_none_or(|ended| ended >= caller.start);
            is_copy && reaches && (it.is_named_after(&it.key) || !plan.has_lms())
        })
}

/// When nothing goes wrong any more, everybody succeeds.
fn last(facts: &Facts, verdict: &mut Verdict) {
    for caller in facts.callers.iter().filter(|it| it.is_last) {
        let key = caller.keys[0];
        if caller.code != 0 {
            let Caller { code, stdout, .. } = caller;
            verdict.blame(format!("the last ensure of `{key}` ended with {code}: {stdout}"));
        }
    }
    let last = facts.callers.iter().rfind(|it| it.is_last);
    let key = last.map_or("", |it| it.keys[0]);
    if !facts.resident.iter().any(|(identifier, is_loading)| identifier == key && !is_loading) {
        verdict.blame(format!("`{key}` is not there in the end: {:?}", facts.resident));
    }
}

/// Where nothing goes wrong, all that were left alone succeed, with one load for each that was taken away, and one more
/// for each restart of LM Studio.
fn calm(facts: &Facts, verdict: &mut Verdict) {
    let failed = facts.callers.iter().filter(|it| it.sent.is_empty() && it.code != 0);
    for caller in failed {
        verdict.blame(format!("pid {} was left alone, and ended with {}", caller.pid, caller.code));
    }
    let ended = facts.callers.iter().filter(|it| !it.sent.is_empty()).count();
    let restarts = facts.plan.steps.iter().filter(|(_, it)| matches!(it, Step::Restart { .. })).count();
    // Callers that go on without the lock may try at the same time, and the server lets one of them load.
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    let tried = facts.history.calls.iter().filter_map(Call::loads);
    let begun = facts.history.lives.iter().filter(|it| it.is_ours()).map(|it| it.key.as_str());
    let keys: Vec<&str> = if facts.plan.may_lose_lock() { begun.collect() } else { tried.collect() };
    for key in keys {
        *loads.entry(key).or_default() += 1;
    }
    for (key, count) in loads {
        if count > 1 + ended + restarts {
            verdict.blame(format!(
                "`{key}` was to be loaded {count} times, and only {ended} callers were ended, with {restarts} restarts"
            ));
        }
    }
}
