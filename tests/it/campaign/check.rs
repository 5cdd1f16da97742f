//! What must be so after a round, whatever happened in it: pure functions over the record and the callers' ends.
//!
//! Nobody can look and load in one step, so whatever came between a caller's last look and its `lms` is no fault of
//! the caller: that is the slack, and what it excuses is counted.

use std::collections::BTreeMap;

use super::history::{Call, History, Life};
use super::plan::Plan;

/// How long an answer may take from LM Studio to the caller on a busy machine.
const ANSWER: u64 = 300;
/// What a caller needs from its last look to its `lms`, and from there to its end, on a busy machine.
const SLACK: u64 = 1000;
/// How long a child that was asked to stop may take: the gate's own grace.
const GRACE: u64 = 5000;
/// What scheduling may add to any limit.
const LATE: u64 = 4000;

/// How a caller was ended, if not by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    Kill,
    Terminate,
    Interrupt,
    Stop,
}

/// One `lmswarm ensure`. Times are those of the record.
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
    /// It had to be killed, as it did not end within its limits.
    pub hung: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Caller {
    fn was_sent(&self, what: Sent) -> bool {
        self.sent.iter().any(|(_, it)| *it == what)
    }

    /// How old its last look was at this moment, by its own log.
    fn age_of_last_look(&self, at: u64) -> Option<u64> {
        const DAY: u64 = 24 * 3600 * 1000;
        let is_look = |line: &&str| line.contains("path=\"api/v");
        let looks = self.stderr.lines().filter(is_look).filter_map(time_of_day);
        let ages = looks.map(|it| (at + DAY - it) % DAY);
        // One from after that moment would be nearly a day old.
        ages.filter(|it| *it < DAY / 2).min()
    }
}

/// `2026-01-31T12:34:56.789…` as milliseconds since midnight.
fn time_of_day(line: &str) -> Option<u64> {
    let time = line.split_once('T')?.1;
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<u64>().ok();
    Some(((number(0, 2)? * 60 + number(3, 5)?) * 60 + number(6, 8)?) * 1000 + number(9, 12)?)
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
    fn excuse(&mut self, why: &'static str) {
        *self.excused.entry(why).or_default() += 1;
    }

    fn blame(&mut self, text: String) {
        self.violations.push(text);
    }
}

/// How long a caller may take from its start, told by its limits alone.
pub fn bound(plan: &Plan, keys: usize, timeout: Option<u64>) -> u64 {
    if let Some(timeout) = timeout {
        return timeout + GRACE + LATE;
    }
    let limits = plan.limits;
    // Its turn, then the start; what is under way, the load, what beats it, the proof.
    let server = 2 * (limits.server_start + GRACE);
    let load = 4 * (limits.load + GRACE);
    // An instance that stays is waited for 5 s; there are few.
    let unloads = if plan.has_fault("ghost") || plan.evicts { 20_000 } else { 5000 };
    let looks = 10 * limits.probe;
    (limits.lock_wait + server + load + unloads + looks) * 2 * keys as u64 + LATE
}

/// The same for one that was told to end.
pub const SIGNAL_BOUND: u64 = GRACE + LATE;

/// Judges a round.
pub fn judge(facts: &Facts) -> Verdict {
    let mut verdict = Verdict::default();
    exits(facts, &mut verdict);
    addressable(facts, &mut verdict);
    one_instance(facts, &mut verdict);
    attempts(facts, &mut verdict);
    unloads(facts, &mut verdict);
    left_over(facts, &mut verdict);
    last(facts, &mut verdict);
    if facts.plan.is_calm {
        calm(facts, &mut verdict);
    }
    verdict
}

impl Facts {
    fn caller(&self, pid: u32) -> Option<&Caller> {
        self.callers.iter().find(|it| it.pid == pid)
    }

    /// How long before `lms` the last look may have been.
    fn slack(&self, caller: Option<&Caller>) -> u64 {
        let start = self.plan.config["lmsStartMs"].as_u64().unwrap_or(0);
        let slow = if self.plan.has_fault("slow") { 3000 } else { 0 };
        let estimates = if self.plan.evicts { 1500 } else { 0 };
        SLACK + 6 * start + slow + estimates + caller.map_or(0, |it| it.stopped_ms)
    }

    /// When the caller last looked before it ran `lms`.
    fn looked(&self, call: &Call) -> u64 {
        let caller = self.caller(call.parent);
        let seen = caller.and_then(|it| self.seen_by(it, call.at));
        seen.unwrap_or(call.at.saturating_sub(self.slack(caller)))
    }

    /// From when the latest is that a caller had seen by then. That is a little before its last look was over: from
    /// before it was stopped, or from before an answer was held up.
    fn seen_by(&self, caller: &Caller, at: u64) -> Option<u64> {
        let slow = if self.plan.has_fault("slow") { 700 } else { 0 };
        let earlier = caller.age_of_last_look(at)? + ANSWER + slow + caller.stopped_ms;
        Some(at.saturating_sub(earlier))
    }

    /// When the lists began to show it.
    fn listed(&self, life: &Life) -> u64 {
        life.began + self.plan.config["listLoadingAfterMs"].as_u64().unwrap_or(0)
    }

    /// The load by `lms` that began this life.
    fn call_of(&self, life: &Life) -> Option<&Call> {
        let mut calls = self.history.calls.iter().rev();
        calls.find(|it| life.by == "lms" && it.loads().is_some() && it.at <= life.began)
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
            3 | 5 | 6 | 75 => !plan.is_calm || !caller.sent.is_empty(),
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

/// 0 means that every key was addressable.
fn addressable(facts: &Facts, verdict: &mut Verdict) {
    let plan = &facts.plan;
    for caller in facts.callers.iter().filter(|it| it.code == 0) {
        let recent = match (plan.caches && plan.untold().is_some(), caller.keys.as_slice()) {
            (true, _) => caller.start.saturating_sub(30_000),
            // The others are looked after meanwhile.
            (_, [_, _, ..]) => caller.start,
            _ => facts.seen_by(caller, caller.exit).unwrap_or(caller.start),
        };
        for key in &caller.keys {
            let named = || facts.history.lives.iter().filter(|it| it.identifier == *key);
            let reaches = |since: u64, life: &Life| since <= caller.exit && life.ended.is_none_or(|it| it >= recent);
            if named().any(|it| it.ready.is_some_and(|ready| reaches(ready, it))) {
                continue;
            }
            // A leader says what it loads, so nobody may take that for ready.
            let is_led = |it: &Life| {
                let leader = facts.call_of(it).and_then(|call| facts.caller(call.parent));
                leader.is_some_and(|leader| leader.exit > caller.exit) && !plan.may_lose_lock()
            };
            let untold = named().find(|it| plan.untold().is_some() && reaches(it.began, it) && !is_led(it));
            if let Some(life) = untold {
                verdict.excuse(if life.is_ours() {
                    "0 during the load of a leader that is gone or not to be seen, where nobody can tell"
                } else {
                    "0 during a load that nobody leads, where nobody can tell"
                });
                continue;
            }
            verdict.blame(format!("pid {} ended with 0, and `{key}` was not addressable", caller.pid));
        }
    }
}

/// No load of ours begins beside another copy.
fn one_instance(facts: &Facts, verdict: &mut Verdict) {
    let lives = &facts.history.lives;
    for life in lives.iter().filter(|it| it.is_ours()) {
        let call = facts.call_of(life);
        let looked = call.map_or(life.began.saturating_sub(facts.slack(None)), |it| facts.looked(it));
        for other in lives.iter().filter(|it| it.id != life.id || it.began != life.began) {
            let is_copy = other.key == life.key && other.is_named_after(&life.key);
            if !is_copy || !other.lives_at(life.began) || other.began > life.began {
                continue;
            }
            let stood_by = |at: u64| other.lives_at(at) && at <= life.began;
            let is_reload = facts.history.unloads.iter().any(|it| it.life.identifier == life.key && stood_by(it.at));
            if facts.listed(other) >= looked {
                verdict.excuse("a copy that came between the look and the load");
            } else if is_reload {
                verdict.excuse("a copy of somebody else's that stood by the one that was loaded again");
            } else {
                verdict.blame(format!("a load began beside a copy: {life:?} beside {other:?}"));
            }
        }
    }
    for life in lives.iter().filter(|it| it.is_ours() && it.ended.is_none()) {
        let twin = lives
            .iter()
            .any(|it| it.is_ours() && it.ended.is_none() && it.key == life.key && it.identifier != life.identifier);
        // A load over REST cannot be called back: whoever is ended during one leaves it, under whatever name.
        let may_stay = facts.plan.has_fault("other-id") || facts.callers.iter().any(|it| it.code != 0);
        if twin && !may_stay {
            verdict.blame(format!("two copies of ours stayed: {life:?}"));
        }
    }
}

/// Nobody even tries to load what is there.
fn attempts(facts: &Facts, verdict: &mut Verdict) {
    for call in &facts.history.calls {
        let (Some(identifier), Some(caller)) = (call.loads(), facts.caller(call.parent)) else { continue };
        let there = facts.history.lives.iter().filter(|it| it.identifier == identifier && it.lives_at(call.at));
        for life in there {
            if facts.listed(life) >= facts.looked(call) {
                verdict.excuse("a load of what came between the look and the load");
            } else {
                verdict.blame(format!("pid {} tries to load what is there: {life:?}, {call:?}", caller.pid));
            }
        }
    }
}

/// Only what is idle, ready and in the way is unloaded. The caller's own `lms ps` just before is its last look.
fn unloads(facts: &Facts, verdict: &mut Verdict) {
    let history = &facts.history;
    for unload in &history.unloads {
        let life = &unload.life;
        let last = |is_it: &dyn Fn(&Call) -> bool, until: u64| {
            history.calls.iter().rev().find(|it| it.at <= until && is_it(it))
        };
        let call = last(&|it| it.unloads(&life.identifier), unload.at).filter(|_| unload.by == "lms");
        let look = call.and_then(|call| last(&|it| it.parent == call.parent && it.lists(), call.at));
        let looked = look.map_or(unload.at.saturating_sub(facts.slack(None)), |it| it.at);
        // What a load of our own brought up under a wrong name goes at once, whoever uses it by then.
        let is_undone = life.is_ours() && life.identifier != life.key;
        match unload.busy_since {
            _ if is_undone => {}
            Some(since) if since < looked => verdict.blame(format!("a busy one was unloaded: {unload:?}")),
            Some(_) => verdict.excuse("unloaded, and busy only since the look"),
            None => {}
        }
        if life.ready.is_none() && !is_undone {
            if facts.listed(life) < looked {
                verdict.blame(format!("one that was loading was unloaded: {unload:?}"));
            } else {
                verdict.excuse("unloaded while loading, and begun only since the look");
            }
        }
        let is_wanted = facts.plan.context.is_some() || facts.plan.evicts;
        if !is_wanted && life.identifier == life.key {
            verdict.blame(format!("unloaded without a reason: {unload:?}"));
        }
    }
}

/// No `lms` outlives its caller, but for the load of one that was killed.
fn left_over(facts: &Facts, verdict: &mut Verdict) {
    for call in &facts.history.calls {
        let Some(caller) = facts.caller(call.parent) else { continue };
        let was_killed = caller.was_sent(Sent::Kill) || caller.hung;
        let outlives = |by: u64| match call.exit {
            Some(exit) => exit > caller.exit + by,
            None => facts.left_over.contains(&call.pid),
        };
        if was_killed && outlives(0) {
            verdict.excuse("the `lms` of a caller that was killed goes on");
        } else if outlives(SLACK / 2) {
            verdict.blame(format!("an `lms` outlived pid {}: {call:?}", caller.pid));
        }
    }
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

/// Where nothing goes wrong, all that were left alone succeed, with one load for each that was taken away.
fn calm(facts: &Facts, verdict: &mut Verdict) {
    let failed = facts.callers.iter().filter(|it| it.sent.is_empty() && it.code != 0);
    for caller in failed {
        verdict.blame(format!("pid {} was left alone, and ended with {}", caller.pid, caller.code));
    }
    let ended = facts.callers.iter().filter(|it| !it.sent.is_empty()).count();
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    for key in facts.history.calls.iter().filter_map(Call::loads) {
        *loads.entry(key).or_default() += 1;
    }
    for (key, count) in loads {
        if count > 1 + ended {
            verdict.blame(format!("`{key}` was to be loaded {count} times, and only {ended} callers were ended"));
        }
    }
}
