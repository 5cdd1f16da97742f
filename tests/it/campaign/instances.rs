//! What must be so of the instances: what 0 means, that no second one comes to be, and what may be unloaded.

use super::check::{Facts, Verdict};
use super::history::{Call, Life};

/// 0 means that every key was addressable.
pub fn addressable(facts: &Facts, verdict: &mut Verdict) {
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
            // A leader says what it loads, and a lock that the load goes on, so neither may be taken for ready.
            let is_led = |it: &Life| {
                let leader = facts.call_of(it).and_then(|call| facts.caller(call.parent));
                leader.is_some_and(|leader| leader.exit > caller.exit)
                    && !plan.may_lose_lock()
                    && !plan.may_lose_state()
            };
            let is_known = |it: &Life| is_led(it) || facts.is_locked(it, caller.exit);
            let untold = named().find(|it| plan.untold().is_some() && reaches(it.began, it) && !is_known(it));
            if let Some(life) = untold {
                verdict.excuse(if life.is_ours() {
                    "0 during a load of ours without its `lms` or its state, where no list tells"
                } else {
                    "0 during a load of another client, where no list tells"
                });
                continue;
            }
            verdict.blame(format!("pid {} ended with 0, and `{key}` was not addressable", caller.pid));
        }
    }
}

/// No load of ours begins beside another copy.
pub fn one_instance(facts: &Facts, verdict: &mut Verdict) {
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
pub fn attempts(facts: &Facts, verdict: &mut Verdict) {
    let plan = &facts.plan;
    for call in &facts.history.calls {
        let (Some(identifier), Some(caller)) = (call.loads(), facts.caller(call.parent)) else { continue };
        // What is listed after a restart may be its own load, still under way: it loads once more, and is refused.
        let was_cut_off = facts.history.calls.iter().any(|it| {
            let is_earlier = it.parent == call.parent && it.loads() == Some(identifier) && it.at < call.at;
            is_earlier && facts.turned(it.at, call.at)
        });
        let there = facts.history.lives.iter().filter(|it| it.identifier == identifier && it.lives_at(call.at));
        for life in there {
            if facts.listed(life) >= facts.looked(call) {
                verdict.excuse("a load of what came between the look and the load");
            } else if was_cut_off && plan.untold().is_some() {
                verdict.excuse("a load once more after a restart, where no list tells");
            } else {
                verdict.blame(format!("pid {} tries to load what is there: {life:?}, {call:?}", caller.pid));
            }
        }
    }
}

/// Only what is idle, ready and in the way is unloaded. The caller's own `lms ps` just before is its last look.
pub fn unloads(facts: &Facts, verdict: &mut Verdict) {
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
        // To make room, any idle instance may go.
        if !life.is_named_after(&life.key) && !is_undone && !facts.plan.evicts {
            verdict.blame(format!("an instance of another model was unloaded: {unload:?}"));
        }
        let is_wanted = facts.plan.context.is_some() || facts.plan.evicts;
        if !is_wanted && life.identifier == life.key {
            verdict.blame(format!("unloaded without a reason: {unload:?}"));
        }
    }
}
