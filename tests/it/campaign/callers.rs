//! The callers of a round: how they are started, whom a signal reaches, and how they end.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::check::{Caller, SIGNAL_BOUND, Sent, bound};
use super::clock::now;
use super::plan::{Blow, Plan, TOKEN, Whom};
use crate::support::Machine;

pub const TICK: Duration = Duration::from_millis(4);
/// How long a leader is frozen at most.
const FROZEN: Duration = Duration::from_secs(40);

/// A child that does not outlive a round that fails.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One caller to start.
pub struct Order {
    pub keys: Vec<&'static str>,
    pub timeout: Option<u64>,
    pub state_dir: Option<PathBuf>,
    pub may_write: bool,
    /// When nothing goes wrong any more.
    pub is_last: bool,
}

struct Actor {
    caller: Caller,
    /// Until it has ended, with what it says.
    child: Option<(Process, [JoinHandle<String>; 2])>,
}

/// A caller that is stopped.
struct Stopped {
    place: usize,
    since: Instant,
    until: Instant,
    /// It goes on as soon as every other caller has ended.
    is_frozen: bool,
}

/// All callers.
pub struct Callers<'a> {
    plan: &'a Plan,
    actors: Vec<Actor>,
    stopped: Vec<Stopped>,
}

impl<'a> Callers<'a> {
    pub fn new(plan: &'a Plan) -> Self {
        Self { plan, actors: Vec::new(), stopped: Vec::new() }
    }

    pub fn count(&self) -> usize {
        self.actors.len()
    }

    pub fn has_stopped(&self) -> bool {
        !self.stopped.is_empty()
    }

    pub fn has(&self, pid: u32) -> bool {
        self.actors.iter().any(|it| it.caller.pid == pid)
    }

    pub fn into_facts(self) -> Vec<Caller> {
        self.actors.into_iter().map(|it| it.caller).collect()
    }

    pub fn start(&mut self, machine: &Machine, order: Order) {
        let plan = self.plan;
        let mut command = Command::new("/bin/sh");
        // A process over its limit is told by a signal that kills, unless it is ignored.
        let script = if order.may_write { "exec \"$@\"" } else { "trap '' XFSZ; ulimit -S -f 0; exec \"$@\"" };
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_lmswarm")]).args(arguments(plan, &order));
        command.env_clear().envs(machine.environment());
        if plan.shows_token {
            command.env("LM_API_TOKEN", TOKEN);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = now();
        let mut child = command.spawn().expect("lmswarm starts");
        let says = [read(child.stdout.take().expect("a pipe")), read(child.stderr.take().expect("a pipe"))];
        let caller = Caller {
            pid: child.id(),
            keys: order.keys,
            timeout: order.timeout,
            is_last: order.is_last,
            start,
            exit: 0,
            code: 0,
            by_signal: false,
            sent: Vec::new(),
            stopped_ms: 0,
            frozen: None,
            hung: false,
            stdout: String::new(),
            stderr: String::new(),
        };
        self.actors.push(Actor { caller, child: Some((Process(child), says)) });
    }

    /// The caller that leads, by the words in the lock file, if it has not ended.
    pub fn leader(&self, lock: &Path) -> Option<u32> {
        let words: Value = serde_json::from_slice(&fs::read(lock).ok()?).ok()?;
        let pid = u32::try_from(words["pid"].as_u64()?).ok()?;
        self.runs(pid).then_some(pid)
    }

    /// Whether this caller has not ended.
    pub fn runs(&self, pid: u32) -> bool {
        self.actors.iter().any(|it| it.child.is_some() && it.caller.pid == pid)
    }

    /// One of the callers that run. If none leads, any does for the leader.
    fn choose(&self, lock: &Path, whom: Whom, number: usize) -> Option<usize> {
        let leader = self.leader(lock);
        let alive: Vec<usize> = (0..self.actors.len()).filter(|it| self.actors[*it].child.is_some()).collect();
        let leads = |it: &usize| Some(self.actors[*it].caller.pid) == leader;
        let (leaders, waiters): (Vec<usize>, Vec<usize>) = alive.iter().partition(|it| leads(it));
        let chosen = match whom {
            Whom::Leader if !leaders.is_empty() => leaders,
            Whom::Waiter if !waiters.is_empty() => waiters,
            _ => alive,
        };
        (!chosen.is_empty()).then(|| chosen[number % chosen.len()])
    }

    pub fn signal(&mut self, lock: &Path, whom: Whom, number: usize, sent: Sent) {
        if let Some(place) = self.choose(lock, whom, number) {
            self.send(place, sent);
        }
    }

    fn send(&mut self, place: usize, sent: Sent) {
        // A program that was told to ignore SIGINT goes on doing so, and so would ours.
        let sent = if sent == Sent::Interrupt && ignores_interrupts() { Sent::Terminate } else { sent };
        let signal = match sent {
            Sent::Kill => Signal::KILL,
            Sent::Terminate => Signal::TERM,
            Sent::Interrupt => Signal::INT,
            Sent::Stop => Signal::STOP,
        };
        let caller = &mut self.actors[place].caller;
        caller.sent.push((now(), sent));
        raise(caller.pid, signal);
    }

    /// Stops one for so long.
    pub fn stop(&mut self, lock: &Path, whom: Whom, number: usize, time: Duration) {
        let Some(place) = self.choose(lock, whom, number) else { return };
        if self.stopped.iter().any(|it| it.place == place) {
            return;
        }
        self.send(place, Sent::Stop);
        let since = Instant::now();
        self.stopped.push(Stopped { place, since, until: since + time, is_frozen: false });
    }

    /// Strikes this one, if it has not ended.
    pub fn strike(&mut self, pid: u32, blow: Blow) {
        let runs = |it: &Actor| it.child.is_some() && it.caller.pid == pid;
        let Some(place) = self.actors.iter().position(runs) else { return };
        match blow {
            Blow::Kill => self.send(place, Sent::Kill),
            Blow::Terminate => self.send(place, Sent::Terminate),
            Blow::Interrupt => self.send(place, Sent::Interrupt),
            Blow::Freeze => self.freeze(place),
        }
    }

    /// Stops it until every other one has ended.
    fn freeze(&mut self, place: usize) {
        self.send(place, Sent::Stop);
        self.actors[place].caller.frozen = Some(now());
        let since = Instant::now();
        self.stopped.push(Stopped { place, since, until: since + FROZEN, is_frozen: true });
    }

    /// Lets those go on whose time has come, and notes which have ended. `is_all`: no more callers will come.
    pub fn watch(&mut self, is_all: bool) {
        let now_instant = Instant::now();
        let is_stopped = |place: usize| self.stopped.iter().any(|it| it.place == place);
        let runs = |(place, it): (usize, &Actor)| it.child.is_some() && !is_stopped(place);
        let are_others_done = is_all && !self.actors.iter().enumerate().any(runs);
        self.resume(|it| it.until <= now_instant || (it.is_frozen && are_others_done));
        for actor in &mut self.actors {
            let Some((Process(child), _)) = &mut actor.child else { continue };
            let Some(status) = child.try_wait().expect("a state") else { continue };
            let caller = &mut actor.caller;
            caller.exit = now();
            caller.by_signal = status.signal().is_some();
            caller.code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            let (_, says) = actor.child.take().expect("it is there");
            [caller.stdout, caller.stderr] = says.map(|it| it.join().expect("no panic while it is read"));
        }
    }

    fn resume(&mut self, is_due: impl Fn(&Stopped) -> bool) {
        for stopped in self.stopped.extract_if(.., |it| is_due(it)) {
            let Actor { caller, child } = &mut self.actors[stopped.place];
            caller.stopped_ms += u64::try_from(stopped.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            // Once its end is noted, the number may be another's.
            if child.is_some() {
                raise(caller.pid, Signal::CONT);
            }
        }
    }

    pub fn resume_all(&mut self) {
        self.resume(|_| true);
    }

    pub fn wait(&mut self) {
        loop {
            self.watch(true);
            let mut hung = Vec::new();
            for (place, Actor { caller, child }) in self.actors.iter().enumerate() {
                if child.is_none() {
                    continue;
                }
                let told = caller.sent.iter().find(|(_, it)| *it != Sent::Stop);
                let whole = if caller.is_last { 120_000 } else { bound(self.plan, caller.keys.len(), caller.timeout) };
                let until = told.map_or(u64::MAX, |(at, _)| at + SIGNAL_BOUND).min(caller.start + whole);
                if now() > until + caller.stopped_ms {
                    hung.push(place);
                }
            }
            for place in hung {
                self.actors[place].caller.hung = true;
                raise(self.actors[place].caller.pid, Signal::KILL);
            }
            if self.actors.iter().all(|it| it.child.is_none()) {
                return;
            }
            std::thread::sleep(TICK);
        }
    }
}

fn arguments(plan: &Plan, order: &Order) -> Vec<String> {
    let mut args: Vec<String> = ["ensure", "--json", "-v"].map(str::to_owned).to_vec();
    args.extend(order.keys.iter().map(|&it| it.to_owned()));
    let limits = plan.limits;
    let mut give = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    if order.is_last {
        give("retry-cooldown-ms", "0".to_owned());
    } else {
        give("load-timeout-ms", limits.load.to_string());
        give("lock-wait-timeout-ms", limits.lock_wait.to_string());
        give("probe-timeout-ms", limits.probe.to_string());
        give("server-start-timeout-ms", limits.server_start.to_string());
        give("retry-cooldown-ms", limits.cooldown.to_string());
    }
    if order.is_last || !plan.caches {
        give("verify-cache-ms", "0".to_owned());
    }
    give("loader", plan.loader.to_owned());
    if let Some(context) = plan.context {
        give("context-length", context.to_string());
    }
    if let Some(seconds) = plan.ttl {
        give("ttl-seconds", seconds.to_string());
    }
    if let Some(timeout) = order.timeout {
        give("timeout", format!("{timeout}ms"));
    }
    if let Some(folder) = &order.state_dir {
        give("state-dir", folder.display().to_string());
    }
    if plan.fresh && !order.is_last {
        args.push("--fresh".to_owned());
    }
    if plan.evicts {
        args.push("--evict-on-pressure".to_owned());
    }
    args
}

/// Reads all that a caller writes: a pipe that is full would stop it.
fn read(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// An error means that it is gone.
pub fn raise(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether this `lms` runs: an orphan that ended stays in the list of processes until it is buried.
pub fn is_alive(pid: u32) -> bool {
    if Path::new("/proc/self/stat").exists() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        return stat.contains("(lms)") && !stat.contains(") Z");
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// Whether SIGINT is ignored here, as in a shell's background, and so by all that we start.
fn ignores_interrupts() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).is_some_and(|it| it & 0b10 != 0)
}
