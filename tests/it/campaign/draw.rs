//! Draws a plan from a seed.

use fastrand::Rng;
use serde_json::json;

use super::faults::fault;
use super::plan::{Blow, Disk, Instead, Limits, LmsProgram, Moment, Mood, Plan, Step, TOKEN, Whom};
use crate::support::{GEMMA, LLAMA, QWEN};

/// How far clocks jump, in milliseconds.
const JUMPS: [i64; 6] = [3_600_000, -3_600_000, 3000, -3000, 31_536_000_000, -31_536_000_000];

impl Plan {
    /// The plan of this seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        match rng.u32(0..24) {
            0..5 => calm(seed, rng),
            5 | 6 => frozen(seed, rng),
            7 | 8 => restarted(seed, rng),
            9..12 => failing(seed, rng),
            _ => wild(seed, rng),
        }
    }
}

pub fn one_in(rng: &mut Rng, count: u32) -> bool {
    rng.u32(0..count) == 0
}

pub fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(0..of.len())]
}

fn start(keys: Vec<&'static str>) -> Step {
    Step::Start { keys, timeout: None, own_state: false, may_write: true }
}

fn calm(seed: u64, rng: &mut Rng) -> Plan {
    let mut steps = Vec::new();
    let latest = pick(rng, &[1, 40, 500]);
    for _ in 0..rng.u32(6..20) {
        let keys = if one_in(rng, 6) { vec![LLAMA, GEMMA] } else { vec![LLAMA] };
        steps.push((rng.u64(0..latest), start(keys)));
    }
    for _ in 0..rng.u32(0..3) {
        let end = if rng.bool() { end(rng, Whom::Leader, 0) } else { end_somebody(rng) };
        steps.push((rng.u64(20..900), end));
    }
    for _ in 0..rng.u32(0..3) {
        let blow = pick(rng, &[Blow::Kill, Blow::Kill, Blow::Terminate, Blow::Interrupt]);
        steps.push((rng.u64(0..900), Step::Strike(blow, Moment::Loads, rng.u64(0..300))));
    }
    if one_in(rng, 3) {
        // So that it is there before a caller can look.
        steps.push((0, Step::Foreign { key: LLAMA, of: pick(rng, &[GEMMA, QWEN]) }));
    }
    if one_in(rng, 3) {
        let ms = if one_in(rng, 4) { 11_500 } else { rng.u64(50..1500) };
        // From before the first caller on it keeps one from leading, and later only where a leader is ended.
        let begins = if rng.bool() { 0 } else { rng.u64(0..600) };
        steps.push((begins, Step::SharedLock(ms)));
    }
    for _ in 0..rng.u32(0..5) {
        steps.push((rng.u64(0..1200), Step::MoveClock(pick(rng, &JUMPS))));
    }
    let is_there = one_in(rng, 4);
    if is_there || one_in(rng, 3) {
        steps.push((if is_there { 0 } else { rng.u64(0..1500) }, Step::EarlierBoot(LLAMA)));
    }
    steps.sort_by_key(|(at, _)| *at);
    // A load that takes long shows whether it was cancelled.
    let load_ms = if one_in(rng, 4) { 3000 } else { rng.u64(100..600) };
    let mut config = json!({ "loadMs": load_ms });
    if rng.bool() {
        config["v0"] = false.into();
    }
    let is_wrapped = one_in(rng, 3);
    Plan {
        seed,
        mood: Mood::Calm,
        config,
        shows_token: false,
        lms: if is_wrapped { LmsProgram::Wrapped } else { LmsProgram::Plain },
        server_on: rng.bool(),
        preload: if is_there { vec![LLAMA] } else { Vec::new() },
        disk: Disk::Plain,
        limits: Limits { load: 60_000, lock_wait: 60_000, probe: 10_000, server_start: 30_000, cooldown: 60_000 },
        context: None,
        ttl: None,
        fresh: false,
        evicts: false,
        loader: "auto",
        caches: false,
        is_patient: false,
        steps,
    }
}

/// A leader is stopped at some moment of its work, and callers come for its model and another one.
fn frozen(seed: u64, rng: &mut Rng) -> Plan {
    let mut plan = calm(seed, rng);
    plan.mood = Mood::Frozen;
    plan.limits.lock_wait = 120_000;
    plan.steps = (0..rng.u32(3..8)).map(|_| (rng.u64(0..400), start(vec![pick(rng, &[LLAMA, GEMMA])]))).collect();
    let freeze = if one_in(rng, 3) {
        // The list of downloaded models is asked of `lms`, and the first who asks hangs: the leader is stopped before
        // it loads anything. It is stopped while it hangs, or the hang would strike another caller.
        plan.config = json!({ "restVersion": "v0", "loadMs": 200 });
        plan.steps.push((0, Step::Faults(json!([{ "on": "lms ls", "kind": "hang", "times": 1 }]))));
        Step::Strike(Blow::Freeze, Moment::Lists, rng.u64(0..700))
    } else {
        Step::Strike(Blow::Freeze, pick(rng, &[Moment::Leads, Moment::Loads]), rng.u64(0..700))
    };
    plan.steps.push((0, freeze));
    plan.steps.sort_by_key(|(at, _)| *at);
    plan
}

/// LM Studio is restarted in the middle of a load: each caller waits that out.
fn restarted(seed: u64, rng: &mut Rng) -> Plan {
    let mut plan = calm(seed, rng);
    plan.mood = Mood::Restarted;
    plan.server_on = true;
    plan.preload = Vec::new();
    let load_ms = rng.u64(200..1500);
    plan.config["loadMs"] = load_ms.into();
    // What is resident from another client's load is lost with it.
    plan.steps.retain(|(_, it)| !matches!(it, Step::Foreign { .. }));
    plan.steps.push((0, Step::Restart { after: rng.u64(0..load_ms), down: pick(rng, &[0, 50, 400, 1500]) }));
    plan.steps.sort_by_key(|(at, _)| *at);
    plan
}

/// Every load fails, and callers come before and after that, some of them to a server that was restarted.
fn failing(seed: u64, rng: &mut Rng) -> Plan {
    let mut plan = calm(seed, rng);
    plan.mood = Mood::Failing;
    plan.is_patient = true;
    plan.preload = Vec::new();
    plan.server_on = true;
    let (on, kind) = pick(rng, &[("load", "crash"), ("load", "crash"), ("load", "refuse"), ("lms load", "fail")]);
    let load_ms = if rng.bool() { 9000 } else { rng.u64(100..1000) };
    plan.config = json!({ "loadMs": load_ms });
    plan.steps = vec![(0, Step::Faults(json!([{ "on": on, "kind": kind }])))];
    plan.steps.extend((0..rng.u32(3..8)).map(|_| (rng.u64(0..400), start(vec![LLAMA]))));
    if one_in(rng, 3) {
        plan.steps.push((rng.u64(20..400), end(rng, Whom::Leader, 0)));
    }
    // A crash comes after a third of the load, and a failure is believed a little later. It is told again as long as that
    // took, and at least for two seconds.
    let took = 1700 + if kind == "crash" { load_ms / 3 } else { 0 };
    let found = 200 + took;
    let over = found + took.max(2000);
    if rng.bool() {
        plan.steps.push((found + rng.u64(0..1000), Step::MoveClock(pick(rng, &JUMPS))));
    }
    if one_in(rng, 3) {
        let at = if rng.bool() { rng.u64(0..found) } else { found };
        plan.steps.push((at, Step::Restart { after: rng.u64(0..1000), down: pick(rng, &[0, 200]) }));
    }
    // Those who come soon are told, and those who come late try once more.
    plan.steps.extend((0..rng.u32(2..6)).map(|_| (rng.u64(500..over), start(vec![LLAMA]))));
    plan.steps.extend((0..rng.u32(1..3)).map(|_| (over + rng.u64(2500..4500), start(vec![LLAMA]))));
    plan.steps.sort_by_key(|(at, _)| *at);
    plan
}

fn wild(seed: u64, rng: &mut Rng) -> Plan {
    let lms = match rng.u32(0..12) {
        0 => LmsProgram::Missing,
        1..4 => LmsProgram::Wrapped,
        _ => LmsProgram::Plain,
    };
    let has_lms = lms != LmsProgram::Missing;
    let disk = if one_in(rng, 5) { pick(rng, &[Disk::Tmpfs, Disk::FileSize]) } else { Disk::Plain };
    let evicts = has_lms && one_in(rng, 6);
    let context = one_in(rng, 4).then_some(8192);
    // `lms` calls that have no short limit of their own may hang only if every caller has one.
    let all_timed = rng.bool();
    let mut config = json!({ "loadMs": rng.u64(80..800), "chatMs": rng.u64(0..600) });
    let loader = if !has_lms || one_in(rng, 8) { "rest" } else { "auto" };
    // REST loads only where there is a `/api/v1`, and with a token where one is required.
    let needs_rest = loader == "rest";
    let mut shows_token = false;
    match rng.u32(0..16) {
        0 | 1 => config["v0"] = false.into(),
        2 if !needs_rest => config["restVersion"] = "v0".into(),
        3 if !needs_rest => config["restVersion"] = "openai".into(),
        4 | 5 => {
            config["token"] = TOKEN.into();
            shows_token = needs_rest || rng.bool();
        }
        6 => config["listLoadingAfterMs"] = 200.into(),
        7 => config["lmsStartMs"] = rng.u64(20..150).into(),
        8 => config["serverStartMs"] = rng.u64(50..400).into(),
        _ => {}
    }
    if one_in(rng, 12) {
        config["loadMs"] = 3000.into();
    }
    if one_in(rng, 4) {
        config["onClientGone"] = "cancel".into();
    }
    if one_in(rng, 4) {
        config["clientBuild"] = "node".into();
    }
    if evicts {
        // Room for one of the two small ones, and never for both.
        config["ramBytes"] = 9_000_000_000_u64.into();
    }
    let limits = Limits {
        load: rng.u64(1500..4000),
        lock_wait: rng.u64(1500..5000),
        probe: rng.u64(300..1000),
        server_start: rng.u64(1500..4000),
        cooldown: pick(rng, &[0, 200, 60_000]),
    };
    let span = rng.u64(400..1400);
    // Some come in volleys.
    let volley = rng.u64(0..span);
    let mut steps = Vec::new();
    for _ in 0..rng.u32(4..14) {
        let keys = match rng.u32(0..10) {
            0 => vec![LLAMA, GEMMA],
            1 | 2 => vec![GEMMA],
            _ => vec![LLAMA],
        };
        let timeout = (all_timed || one_in(rng, 6)).then(|| rng.u64(300..2500));
        let may_write = disk != Disk::FileSize || rng.bool();
        let at = if one_in(rng, 3) { volley } else { rng.u64(0..span) };
        steps.push((at, Step::Start { keys, timeout, own_state: one_in(rng, 20), may_write }));
    }
    // Whoever comes first leads, and loads for as long as that takes.
    let first = steps.iter().map(|(at, _)| *at).min().unwrap_or_default();
    if one_in(rng, 2) {
        steps.push((first + rng.u64(20..800), end(rng, Whom::Leader, 0)));
    }
    if context.is_some() || evicts {
        // Something that is in the way, and at work half of the time.
        let key = pick(rng, &[LLAMA, GEMMA]);
        let copy = one_in(rng, 4);
        let in_the_way = Step::GuiLoad { key, copy, takes_time: rng.bool(), context: Some(2048) };
        let began = rng.u64(0..span / 2);
        steps.push((began, in_the_way));
        if rng.bool() {
            steps.push((rng.u64(began..span), Step::Busy(rng.usize(0..100))));
            steps.push((span, Step::Idle));
        }
    }
    for number in 0..rng.u32(2..10) {
        let is_full = number == 0 && disk == Disk::Tmpfs;
        let step = if is_full { Step::FillDisk } else { something(rng, disk, has_lms, all_timed) };
        // What ends must have begun.
        let at = rng.u64(0..span);
        match &step {
            Step::ServerOff => steps.push((rng.u64(at..=span), Step::ServerOn)),
            Step::Busy(_) => steps.push((rng.u64(at..=span), Step::Idle)),
            Step::FillDisk => steps.push((rng.u64(at..=span), Step::FreeDisk)),
            _ => {}
        }
        steps.push((at, step));
    }
    steps.sort_by_key(|(at, _)| *at);
    let preload = match rng.u32(0..6) {
        0 => vec![LLAMA],
        1 => vec![GEMMA],
        2 if !evicts => vec![QWEN],
        _ => Vec::new(),
    };
    Plan {
        seed,
        mood: Mood::Wild,
        config,
        shows_token,
        lms,
        server_on: !has_lms || !one_in(rng, 5),
        preload,
        disk,
        limits,
        context,
        ttl: one_in(rng, 10).then_some(1),
        fresh: one_in(rng, 8),
        evicts,
        loader,
        caches: one_in(rng, 10),
        is_patient: one_in(rng, 6),
        steps,
    }
}

fn whom(rng: &mut Rng) -> (Whom, usize) {
    (pick(rng, &[Whom::Leader, Whom::Leader, Whom::Waiter, Whom::Anybody]), rng.usize(0..100))
}

fn end_somebody(rng: &mut Rng) -> Step {
    let (whom, number) = whom(rng);
    end(rng, whom, number)
}

fn end(rng: &mut Rng, whom: Whom, number: usize) -> Step {
    match rng.u32(0..3) {
        0 => Step::Kill(whom, number),
        1 => Step::Terminate(whom, number),
        _ => Step::Interrupt(whom, number),
    }
}

fn something(rng: &mut Rng, disk: Disk, has_lms: bool, all_timed: bool) -> Step {
    loop {
        return match rng.u32(0..28) {
            0..=3 | 20 | 21 => end_somebody(rng),
            4 => {
                let (whom, number) = whom(rng);
                Step::Stop(whom, number, rng.u64(50..800))
            }
            5 | 6 => Step::Evict(rng.usize(0..100)),
            7 | 8 => Step::GuiLoad {
                key: pick(rng, &[LLAMA, LLAMA, GEMMA]),
                copy: one_in(rng, 3),
                takes_time: rng.bool(),
                context: one_in(rng, 3).then_some(2048),
            },
            9 => Step::Busy(rng.usize(0..100)),
            22 => Step::Chat(pick(rng, &[LLAMA, GEMMA])),
            10..=13 => Step::Faults((0..rng.u32(1..4)).map(|_| fault(rng, all_timed)).collect()),
            14 => Step::NoFaults,
            // Without `lms` nothing but a person could start it again.
            15 if has_lms => Step::ServerOff,
            16 if has_lms => Step::Crash,
            17 => Step::Lock(pick(
                rng,
                &[
                    Instead::Nothing,
                    Instead::Nothing,
                    Instead::Another,
                    Instead::Garbage,
                    Instead::Symlink,
                    Instead::WrongKind,
                ],
            )),
            // A mount point cannot be replaced.
            18 if disk != Disk::Tmpfs => Step::StateDir(pick(
                rng,
                &[
                    Instead::Nothing,
                    Instead::Nothing,
                    Instead::Another,
                    Instead::Symlink,
                    Instead::WrongKind,
                    Instead::WritableByAll,
                ],
            )),
            18 => Step::FillDisk,
            19 => Step::MoveClock(pick(rng, &JUMPS)),
            23 => Step::SharedLock(if one_in(rng, 6) { 11_500 } else { rng.u64(50..2500) }),
            24 | 25 if has_lms => Step::Restart { after: rng.u64(0..300), down: pick(rng, &[0, 50, 400, 1500]) },
            26 => Step::Foreign { key: pick(rng, &[LLAMA, LLAMA, GEMMA]), of: QWEN },
            27 => Step::EarlierBoot(pick(rng, &[LLAMA, GEMMA])),
            _ => continue,
        };
    }
}
