//! What one round does, made from its seed alone: the machine, the options, and what happens when. Nothing here
//! touches anything.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::support::{GEMMA, LLAMA, QWEN};

pub const TOKEN: &str = "sk-lm-CaMpAiGn:AbCdEfGhIjKlMnOpQrSt";

/// What every `ensure` of a round is given, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub load: u64,
    pub lock_wait: u64,
    pub probe: u64,
    pub server_start: u64,
    pub cooldown: u64,
}

/// Where the state directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Plain,
    /// On a file system of 16 KiB, or like `FileSize` where none may be mounted.
    Tmpfs,
    /// Plain, for processes of which some may not write a byte to any file.
    FileSize,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Leader,
    Waiter,
    Anybody,
}

/// What is put in the place of the lock file or the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    Nothing,
    /// The same thing anew.
    Another,
    Garbage,
    Symlink,
    /// A directory for the lock, a file for the directory.
    WrongKind,
    WritableByAll,
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Step {
    Start {
        keys: Vec<&'static str>,
        timeout: Option<u64>,
        own_state: bool,
        may_write: bool,
    },
    Kill(Whom, usize),
    Terminate(Whom, usize),
    Interrupt(Whom, usize),
    /// For so many milliseconds.
    Stop(Whom, usize, u64),
    /// By the application, whatever it is doing.
    Evict(usize),
    /// At the application's window. A copy takes the name `KEY:2`.
    GuiLoad {
        key: &'static str,
        copy: bool,
        takes_time: bool,
        context: Option<u64>,
    },
    /// By a client that does not ask the gate: it loads the model if it is not there, and works on it.
    Chat(&'static str),
    Busy(usize),
    Idle,
    Faults(Value),
    NoFaults,
    ServerOff,
    ServerOn,
    Crash,
    Lock(Instead),
    StateDir(Instead),
    FillDisk,
    FreeDisk,
    /// Moves the times in the state files an hour ahead.
    FutureClock,
}

/// One round.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct Plan {
    pub seed: u64,
    /// Only callers, and signals that end some of them: everybody else must succeed.
    pub is_calm: bool,
    pub config: Value,
    pub shows_token: bool,
    pub has_lms: bool,
    pub server_on: bool,
    pub preload: Vec<&'static str>,
    pub disk: Disk,
    pub limits: Limits,
    /// The context that is asked for.
    pub context: Option<u64>,
    /// How many seconds an instance lives unused.
    pub ttl: Option<u64>,
    /// Whether failures are tried again at once.
    pub fresh: bool,
    pub evicts: bool,
    pub loader: &'static str,
    /// Whether verdicts of `lms ps` are reused.
    pub caches: bool,
    /// Whether the faults last until everybody has ended.
    pub is_patient: bool,
    /// By time, in milliseconds from the start.
    pub steps: Vec<(u64, Step)>,
}

/// Every kind of fault, with whom it may strike.
pub const FAULTS: [(&str, &[&str]); 27] = [
    ("bom", &["rest", V1, V0, "lms", "lms ps", "lms ls"]),
    ("crash", &["load"]),
    ("empty", &["rest", V1, V0, GREETING, "lms", "lms load", "lms ps", "lms ls", "lms unload", "lms server start"]),
    ("fail", &["lms", "lms load", "lms ps", "lms ls", "lms unload", ESTIMATE, "lms server start", "lms daemon up"]),
    ("flood", &["lms", "lms load", "lms ps", "lms unload", "lms server start"]),
    ("garbage", &["rest", V1, V0, GREETING, "lms", "lms ps", "lms ls", ESTIMATE]),
    ("ghost", &["load", "lms unload", "lms server start"]),
    ("grandchild", &["lms", "lms load", "lms ps", "lms server start"]),
    ("hang", &["rest", V1, V0, GREETING, LOAD, "load", "lms load", "lms server start", "lms ps", "lms unload"]),
    ("html", &["rest", V1, V0, GREETING, "lms ps", "lms ls"]),
    ("huge", &["rest", V1, V0]),
    ("ignore-sigint", &["lms load"]),
    ("less-context", &["load"]),
    ("notice", &["lms", "lms ps", "lms ls"]),
    ("null", &["rest", V1, V0, LOAD]),
    ("other-id", &["load"]),
    ("port-taken", &["lms server start"]),
    ("race", &["lms ps", "lms ls", "lms unload", "lms load"]),
    ("refuse", &["load"]),
    ("reset", &["rest", V1, V0, LOAD]),
    ("slow", &["rest", V1, V0, "load", "lms", "lms load", "lms ps", "lms unload", "lms server start"]),
    ("status", &["rest", V1, V0, GREETING, LOAD]),
    ("truncated", &["rest", V1, V0, "lms ps", "lms ls"]),
    ("unexpected", &["rest", V1, V0, LOAD]),
    ("utf16", &["rest", V1, V0, "lms ps", "lms ls"]),
    ("vanish", &["load"]),
    ("wrapper", &["rest", V1, V0, "lms ps", "lms ls"]),
];
const V1: &str = "GET /api/v1/models";
const V0: &str = "GET /api/v0/models";
const GREETING: &str = "GET /lmstudio-greeting";
const LOAD: &str = "POST /api/v1/models/load";
const ESTIMATE: &str = "lms load --estimate-only";

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        if one_in(rng, 8) { calm(seed, rng) } else { wild(seed, rng) }
    }

    /// Every key that somebody asks for.
    pub fn keys(&self) -> Vec<&'static str> {
        let mut keys: Vec<&str> = Vec::new();
        for (_, step) in &self.steps {
            if let Step::Start { keys: asked, .. } = step {
                keys.extend(asked.iter().filter(|it| !keys.contains(it)).copied().collect::<Vec<_>>());
            }
        }
        keys
    }

    pub fn faults(&self) -> impl Iterator<Item = &Value> {
        let lists = self.steps.iter().filter_map(|(_, step)| match step {
            Step::Faults(list) => list.as_array(),
            _ => None,
        });
        lists.flatten()
    }

    pub fn has_fault(&self, kind: &str) -> bool {
        self.faults().any(|it| it["kind"] == kind)
    }

    /// Why nobody could tell an instance that is loading from one that is ready, if so: there is no `/api/v0`, or
    /// `lms ps` alone tells, or a fault makes it look like that.
    pub fn untold(&self) -> Option<&'static str> {
        let strikes = |kind: &str| {
            self.faults().any(|it| {
                let on = it["on"].as_str().unwrap_or_default();
                it["kind"] == kind && (on == "rest" || on == V1 || on == V0)
            })
        };
        if self.config["v0"] == false {
            Some("no /api/v0")
        } else if self.config["restVersion"] == "openai" {
            Some("lms ps alone")
        } else if self.config["token"].is_string() && !self.shows_token {
            Some("no token, so lms ps alone")
        } else if strikes("unexpected") || strikes("status") {
            Some("a fault hides /api/v0")
        } else {
            None
        }
    }

    /// Whether there may be two leaders, or one that others cannot see.
    pub fn may_lose_lock(&self) -> bool {
        let does = |step: &Step| match step {
            Step::Lock(_) | Step::StateDir(_) => true,
            Step::Start { own_state, .. } => *own_state,
            _ => false,
        };
        self.steps.iter().any(|(_, step)| does(step))
    }

    /// Whether something is put there that must be refused (exit 78).
    pub fn may_refuse(&self) -> bool {
        let is_refused = |step: &Step| {
            let lock = [Instead::Symlink, Instead::WrongKind];
            let folder = [Instead::Symlink, Instead::WritableByAll];
            matches!(step, Step::Lock(it) if lock.contains(it))
                || matches!(step, Step::StateDir(it) if folder.contains(it))
        };
        self.steps.iter().any(|(_, step)| is_refused(step))
    }
}

fn one_in(rng: &mut Rng, count: u32) -> bool {
    rng.u32(0..count) == 0
}

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(0..of.len())]
}

fn calm(seed: u64, rng: &mut Rng) -> Plan {
    let mut steps = Vec::new();
    let latest = pick(rng, &[1, 40, 500]);
    for _ in 0..rng.u32(6..20) {
        let keys = if one_in(rng, 6) { vec![LLAMA, GEMMA] } else { vec![LLAMA] };
        steps.push((rng.u64(0..latest), Step::Start { keys, timeout: None, own_state: false, may_write: true }));
    }
    for _ in 0..rng.u32(0..4) {
        let end = if rng.bool() { end(rng, Whom::Leader, 0) } else { end_somebody(rng) };
        steps.push((rng.u64(20..900), end));
    }
    steps.sort_by_key(|(at, _)| *at);
    Plan {
        seed,
        is_calm: true,
        config: json!({ "loadMs": rng.u64(100..600) }),
        shows_token: false,
        has_lms: true,
        server_on: rng.bool(),
        preload: Vec::new(),
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

fn wild(seed: u64, rng: &mut Rng) -> Plan {
    let has_lms = !one_in(rng, 12);
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
        is_calm: false,
        config,
        shows_token,
        has_lms,
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
        return match rng.u32(0..23) {
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
            19 => Step::FutureClock,
            _ => continue,
        };
    }
}

fn fault(rng: &mut Rng, all_timed: bool) -> Value {
    let (kind, on) = loop {
        let (kind, targets) = pick(rng, &FAULTS);
        let on = pick(rng, targets);
        let hangs_long = kind == "hang" && matches!(on, "lms ps" | "lms unload");
        if !hangs_long || all_timed {
            break (kind, on);
        }
    };
    let mut fault = json!({ "on": on, "kind": kind });
    if !one_in(rng, 4) {
        fault["times"] = rng.u64(1..4).into();
    }
    let ms = rng.u64(100..700);
    match kind {
        "slow" | "grandchild" => fault["ms"] = ms.into(),
        "flood" | "huge" => fault["bytes"] = (1 << 20).into(),
        "status" => fault["status"] = pick(rng, &[401, 404, 500, 503]).into(),
        "less-context" => fault["contextLength"] = 2048.into(),
        "other-id" => fault["identifier"] = "odd".into(),
        _ => {}
    }
    fault
}
