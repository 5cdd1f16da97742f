//! What must be so of the processes: that no `lms` outlives its caller, that a load is cancelled with it, that no caller
//! asks without a pause, and that one that is stopped keeps no other.

use super::check::{BLOCKED, Facts, LATE, SLACK, Sent, Verdict};
use super::history::Call;
use super::plan::Mood;

/// How long it may take until a load is cancelled, on a busy machine.
const CANCELS: u64 = 1500;

/// No `lms` outlives its caller, but for the load of one that was killed.
pub fn left_over(facts: &Facts, verdict: &mut Verdict) {
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

/// The load of a caller that is told to end is cancelled, whatever stands between the caller and the real `lms`.
pub fn cancelled(facts: &Facts, verdict: &mut Verdict) {
    // One that hears nothing is killed in the end, and its load goes on.
    let is_deaf = facts.plan.has_fault("ignore-sigint") || facts.plan.has_fault("slow");
    for call in facts.history.calls.iter().filter(|it| it.loads().is_some() && !is_deaf) {
        let Some(caller) = facts.caller(call.parent) else { continue };
        let told = caller.sent.iter().find(|(_, it)| matches!(it, Sent::Terminate | Sent::Interrupt));
        let Some((told, _)) = told.filter(|_| caller.sent.len() == 1) else { continue };
        let lives = facts
            .history
            .lives
            .iter()
            .filter(|it| it.by == "lms" && facts.call_of(it).is_some_and(|it| it.pid == call.pid));
        for life in lives {
            if life.began < *told && life.ready.is_some_and(|ready| ready > told + CANCELS) {
                verdict.blame(format!("pid {} was told to end, and its load went on: {life:?}", caller.pid));
            }
        }
    }
}

/// No caller asks without a pause, whatever keeps it: the more it has asked, the longer it waits. Its own log tells, as
/// the record does not say who asks.
pub fn busy_loops(facts: &Facts, verdict: &mut Verdict) {
    // Each step of the gate begins with short pauses, and there are few steps.
    const AT_ONCE: u64 = 30;
    // A look is two requests, and a pause grows to half a second; but a server that contradicts itself is asked again
    // after 50 ms, a few times for each look.
    let each_second = if facts.plan.mood == Mood::Wild { 40 } else { 10 };
    for caller in &facts.callers {
        let requests = caller.requests();
        for seconds in [1, 3, 10] {
            let most = AT_ONCE + each_second * seconds;
            let places = 0..requests.len();
            let within = |place: usize| requests[place..].partition_point(|at| *at < requests[place] + seconds * 1000);
            let Some((place, count)) = places.map(|it| (it, within(it))).max_by_key(|(_, count)| *count) else { break };
            if count as u64 > most {
                let (pid, since) = (caller.pid, requests[place]);
                verdict.blame(format!("pid {pid} sent {count} requests within {seconds} s, from {since} ms on"));
            }
        }
    }
}

/// All callers together ask no more than so many may.
pub fn floods(facts: &Facts, verdict: &mut Verdict) {
    // A look is two requests, and each is 50 ms after the one before at least.
    const EACH: usize = 40;
    let requests = &facts.history.requests;
    let mut first = 0;
    for (place, at) in requests.iter().enumerate() {
        while requests[first] + 1000 <= *at {
            first += 1;
        }
        let since = requests[first];
        let alive = facts.callers.iter().filter(|it| it.start <= *at && it.exit + SLACK >= since).count();
        let count = place + 1 - first;
        if count > EACH * (alive + 1) {
            return verdict.blame(format!("{count} requests of {alive} callers within a second, from {since} on"));
        }
    }
}

/// A leader that is stopped keeps no other caller for long: whatever it works on goes on without it, and what it has
/// not begun is done by others.
pub fn frozen(facts: &Facts, verdict: &mut Verdict) {
    let Some((whom, since)) = facts.callers.iter().find_map(|it| Some((it.pid, it.frozen?))) else { return };
    // What it began takes its time, then it is looked at once in a while.
    let most = 2 * BLOCKED + LATE;
    // Stopped while it starts its `lms load`, it keeps the file by which the kernel tells whether that goes on.
    let starts_load = |it: &Call| it.parent == whom && it.loads().is_some() && it.at.abs_diff(since) < SLACK / 2;
    let may_keep_load = facts.plan.untold().is_some() && facts.history.calls.iter().any(starts_load);
    for caller in facts.callers.iter().filter(|it| it.frozen.is_none() && !it.is_last) {
        let time = caller.exit.saturating_sub(caller.start.max(since));
        if time <= most {
            continue;
        }
        if may_keep_load {
            verdict.excuse("kept by a leader that was stopped as it started its `lms load`, where no list tells");
        } else {
            verdict.blame(format!("pid {} took {time} ms while pid {whom} was stopped", caller.pid));
        }
    }
}
