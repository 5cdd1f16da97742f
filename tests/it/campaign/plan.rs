//! What one round does: the machine, the options, and what happens when. `draw` makes it from a seed. Nothing here
//! touches anything.

use serde_json::Value;

use super::faults::{V0, V1};

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

/// What `lms` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LmsProgram {
    Missing,
    Plain,
    /// A shell's script that runs the real one and stays as its parent.
    Wrapped,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Leader,
    Waiter,
    Anybody,
}

/// What a leader is struck with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Kill,
    Terminate,
    Interrupt,
    /// It is stopped until every other caller has ended, or for longer than it may keep one.
    Freeze,
}

/// A moment of a leader's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Leads,
    /// It waits for its `lms ls`.
    Lists,
    /// It waits for its `lms load`.
    Loads,
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
    /// Strikes a leader so many milliseconds after this moment of its work.
    Strike(Blow, Moment, u64),
    /// By the application, whatever it is doing.
    Evict(usize),
    /// At the application's window. A copy takes the name `KEY:2`.
    GuiLoad {
        key: &'static str,
        copy: bool,
        takes_time: bool,
        context: Option<u64>,
    },
    /// At the application's window: the model `of` under the name that a copy of `key` would have.
    Foreign {
        key: &'static str,
        of: &'static str,
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
    /// The application dies as soon as a load is under way, and is there again after so many milliseconds.
    Restart {
        /// How long the load has been under way by then, in milliseconds.
        after: u64,
        down: u64,
    },
    Lock(Instead),
    /// As by `flock -s` on the lock file, as soon as no caller leads, for so many milliseconds.
    SharedLock(u64),
    StateDir(Instead),
    FillDisk,
    FreeDisk,
    /// The time of day was set by so many milliseconds since the state files were written.
    MoveClock(i64),
    /// The machine was switched off in the middle of a load of this model over REST, and its monotonic clock, with
    /// which such a load is written down, has begun anew.
    EarlierBoot(&'static str),
}

/// What kind of round it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    /// Nothing is in the way but signals that end some callers, and what must disturb no caller: everybody else must
    /// succeed.
    Calm,
    /// Calm, and a leader is stopped for long.
    Frozen,
    /// Calm, and the application is restarted in the middle of a load.
    Restarted,
    /// No load ends well, and nothing else is in the way: one caller finds it out, and the others are told.
    Failing,
    /// Everything goes wrong.
    Wild,
}

/// One round.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct Plan {
    pub seed: u64,
    pub mood: Mood,
    pub config: Value,
    pub shows_token: bool,
    pub lms: LmsProgram,
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

impl Plan {
    /// Whether every caller that is left alone must succeed.
    pub fn is_calm(&self) -> bool {
        matches!(self.mood, Mood::Calm | Mood::Frozen | Mood::Restarted)
    }

    pub fn has_lms(&self) -> bool {
        self.lms != LmsProgram::Missing
    }

    /// Every key that a caller asks for.
    pub fn keys(&self) -> Vec<&'static str> {
        let mut keys: Vec<&str> = Vec::new();
        for (_, step) in &self.steps {
            if let Step::Start { keys: asked, .. } = step {
                keys.extend(asked.iter().filter(|it| !keys.contains(it)).copied().collect::<Vec<_>>());
            }
        }
        keys
    }

    pub fn does(&self, is_it: impl Fn(&Step) -> bool) -> bool {
        self.steps.iter().any(|(_, step)| is_it(step))
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

    /// Why nothing could tell an instance that is loading from one that is ready, if so: there is no `/api/v0`, or
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

    /// Whether callers may work without the leader's lock, or with locks of their own.
    pub fn may_lose_lock(&self) -> bool {
        let goes_on =
            |step: &Step| matches!(step, Step::Lock(_) | Step::SharedLock(_) | Step::Strike(Blow::Freeze, ..));
        self.may_lose_state() || self.does(goes_on)
    }

    /// Whether some callers may not see the files of others, or not write their own.
    pub fn may_lose_state(&self) -> bool {
        let is_elsewhere = |step: &Step| matches!(step, Step::StateDir(_) | Step::Start { own_state: true, .. });
        self.disk != Disk::Plain || self.does(is_elsewhere)
    }

    /// Whether something is put there that must be refused (exit 78).
    pub fn may_refuse(&self) -> bool {
        let lock = [Instead::Symlink, Instead::WrongKind];
        let folder = [Instead::Symlink, Instead::WritableByAll];
        self.does(|step| {
            matches!(step, Step::Lock(it) if lock.contains(it))
                || matches!(step, Step::StateDir(it) if folder.contains(it))
        })
    }
}
