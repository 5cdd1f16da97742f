//! What must be so of failures that are told again instead of being found out again: callers that waited for one hear
//! it, later ones for as long as it took to find out, and nobody once the server has begun another life.

use serde_json::Value;

use super::check::{Caller, Facts, Verdict};

/// A failure that was quick to find out is told again this long.
const LEAST: u64 = 2000;
/// What a process needs to start, on a busy machine.
const STARTS: u64 = 500;
/// How long an application that crashes may still answer, on a busy machine.
const DIES: u64 = 200;
/// Between what a caller knows and what its log or its end shows, on a busy machine.
const SLACK: u64 = 1500;

pub fn check(facts: &Facts, verdict: &mut Verdict) {
    for caller in facts.callers.iter().filter(|it| !it.by_signal) {
        for entry in failures(caller) {
            if entry["replayed"] == true {
                replayed(facts, caller, &entry, verdict);
            } else if is_remembered(&entry) {
                found(facts, caller, &entry, verdict);
            }
        }
    }
}

/// The entries of its report that are failures.
fn failures(caller: &Caller) -> Vec<Value> {
    let report: Value = serde_json::from_str(&caller.stdout).unwrap_or_default();
    let entries = report["models"].as_array().into_iter().flatten();
    entries.filter(|it| it["category"].is_string()).cloned().collect()
}

/// Whether it is one that LM Studio itself has told, and not one that each caller finds out alone.
fn is_remembered(entry: &Value) -> bool {
    let reason = entry["reason"].as_str().unwrap_or_default();
    let is_of_load = matches!(entry["category"].as_str(), Some("load-refused" | "load-failed" | "load-timeout"));
    is_of_load && !["already", "identifier", "EMFILE", "signal"].iter().any(|it| reason.contains(it))
}

/// Nobody who waited while this was found out tries it once more, nor who comes at once.
fn found(facts: &Facts, finder: &Caller, entry: &Value, verdict: &mut Verdict) {
    let plan = &facts.plan;
    let key = entry["key"].as_str().unwrap_or_default();
    let is_kept = !plan.may_lose_state() && !plan.may_lose_lock() && plan.limits.cooldown >= LEAST;
    if !is_kept || !finder.sent.is_empty() || finder.hung || finder.keys.len() > 1 {
        return;
    }
    // It took as long as the load at least.
    let loads = facts.history.calls.iter().filter(|it| it.parent == finder.pid && it.loads() == Some(key));
    let took = loads.filter_map(|it| Some(it.exit? - it.at)).max().unwrap_or(0);
    let lasts = took.clamp(LEAST, plan.limits.cooldown);
    for again in facts.history.calls.iter().filter(|it| it.loads() == Some(key) && it.at > finder.exit) {
        let Some(caller) = facts.caller(again.parent).filter(|it| !it.is_last && it.keys.len() == 1) else { continue };
        let waited = caller.start + STARTS < finder.exit;
        let comes_at_once = !plan.fresh && again.at + STARTS < finder.exit + lasts;
        if !waited && !comes_at_once {
            continue;
        }
        // What is known of the server at its end counts, so what came or went since a little before that excuses.
        let since = finder.exit.saturating_sub(SLACK);
        let changed = facts.history.lives.iter().any(|it| {
            let between = |at: Option<u64>| at.is_some_and(|at| (since..=again.at).contains(&at));
            let is_own = it.key == key && it.is_named_after(key);
            between(it.ready) || (!is_own && (between(Some(it.began)) || between(it.ended)))
        });
        if changed || facts.turned(since, again.at) || hides_world(facts) {
            verdict.excuse("tried again what others had just failed at, where what was seen may have changed");
        } else {
            verdict.blame(format!("pid {} tried again what pid {} had failed at: {entry}", caller.pid, finder.pid));
        }
    }
}

/// Whether a fault makes the lists show less than there is.
fn hides_world(facts: &Facts) -> bool {
    facts.plan.faults().any(|it| it["on"].as_str().is_some_and(|on| on == "rest" || on.starts_with("GET ")))
}

/// Where every load fails, all that were left alone say so.
pub fn failing(facts: &Facts, verdict: &mut Verdict) {
    for caller in facts.callers.iter().filter(|it| !it.is_last && it.sent.is_empty() && it.code != 5) {
        let Caller { pid, code, .. } = caller;
        verdict.blame(format!("pid {pid} was left alone, and ended with {code} where every load fails"));
    }
}

/// It is told only as long as it took to find out, or to those who waited, and to the same server.
fn replayed(facts: &Facts, caller: &Caller, entry: &Value, verdict: &mut Verdict) {
    let Some(age) = entry["ageMs"].as_u64() else {
        return verdict.blame(format!("pid {} replays a failure without an age: {entry}", caller.pid));
    };
    // It was told at some moment of the caller's life, the end at the latest.
    let found = caller.exit.saturating_sub(age);
    if found >= caller.start {
        return;
    }
    let key = entry["key"].as_str().unwrap_or_default();
    let finders = facts.callers.iter().filter(|it| it.start <= found && it.keys.contains(&key));
    let took = finders.map(|it| it.exit.min(found + SLACK) - it.start).max().unwrap_or(0);
    let most = took.max(LEAST).min(facts.plan.limits.cooldown.max(LEAST));
    let elapsed = entry["elapsedMs"].as_u64().unwrap_or(0);
    if age > most + SLACK + elapsed + caller.stopped_ms {
        verdict.blame(format!("pid {} replays what took {took} ms to find out, {age} ms later: {entry}", caller.pid));
    }
    let is_of_load = entry["category"] != "server-unreachable";
    // Only Linux tells one life of a server from the next, and a server that is off tells nothing.
    if cfg!(target_os = "linux") && is_of_load && facts.turned(found + 1, caller.start.saturating_sub(DIES)) {
        verdict.blame(format!("pid {} replays what another life of the server has said: {entry}", caller.pid));
    }
}
