//! Carries out a plan with real processes, signals, files and a simulated LM Studio, and gathers the facts. It judges
//! nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lmswarm::pure::base_url::BaseUrl;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::check::{Caller, Facts, SIGNAL_BOUND, Sent, bound};
use super::history::History;
use super::plan::{Disk, Instead, Plan, Step, TOKEN, Whom};
use crate::support::Machine;

const TICK: Duration = Duration::from_millis(4);
/// Longest wait for what the round leaves behind, loads and `lms` of killed callers.
const SETTLES: Duration = Duration::from_secs(3);

/// Plays a round.
pub fn play(plan: &Plan) -> (Facts, Machine) {
    let mut stage = Stage::set(plan);
    let begin = Instant::now();
    let mut steps = plan.steps.iter().peekable();
    while steps.peek().is_some() || !stage.resumes.is_empty() {
        while let Some((_, step)) = steps.next_if(|(at, _)| begin.elapsed() >= Duration::from_millis(*at)) {
            stage.act(step);
        }
        stage.watch();
        std::thread::sleep(TICK);
    }
    if plan.is_patient {
        stage.wait_for_callers();
        stage.calm_down();
    } else {
        stage.calm_down();
        stage.wait_for_callers();
    }
    let mut left_over = stage.settle();
    for key in plan.keys() {
        stage.start(&[key], None, None, true, true);
        stage.wait_for_callers();
    }
    left_over.extend(stage.running_lms());
    let resident = stage.resident();
    let history = History::of(&stage.machine.record());
    let callers = stage.actors.drain(..).map(|it| it.caller).collect();
    let facts = Facts { plan: plan.clone(), history, callers, left_over, resident };
    (facts, stage.machine)
}

struct Actor {
    caller: Caller,
    /// Until it has ended.
    child: Option<Process>,
}

/// A child that does not outlive a round that fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage<'a> {
    plan: &'a Plan,
    // Before the machine, whose folder it is mounted in.
    mount: Option<Mount>,
    /// Where nothing may be mounted, who is started now may not write to any file.
    is_full: bool,
    machine: Machine,
    state_dir: PathBuf,
    lock: PathBuf,
    actors: Vec<Actor>,
    /// Requests that run; whose connection is closed is cancelled.
    chats: Vec<TcpStream>,
    /// Who is stopped, and when that began and is to end.
    resumes: Vec<(usize, Instant, Instant)>,
}

impl<'a> Stage<'a> {
    fn set(plan: &'a Plan) -> Self {
        let mut machine = Machine::bare();
        machine.configure(plan.config.clone());
        if plan.has_lms {
            machine.install_lms();
        }
        if plan.disk != Disk::Plain && plan.has_lms {
            wrap_lms(&machine.path("bin/lms"));
        }
        machine.install_app();
        let port = quiet_port();
        if plan.server_on {
            machine.start_app(&["--rest-port", &port.to_string()]);
        } else {
            machine.start_app(&[]);
        }
        machine.rest_port = port;
        for key in &plan.preload {
            machine.preload(key);
        }
        let state_dir = machine.path(".cache/lmswarm");
        let mount = (plan.disk == Disk::Tmpfs).then(|| Mount::new(&state_dir)).flatten();
        let slug = BaseUrl::parse(&machine.base_url()).expect("an address").slug();
        let lock = state_dir.join(format!("{slug}.lock"));
        Self {
            plan,
            mount,
            is_full: false,
            machine,
            state_dir,
            lock,
            actors: Vec::new(),
            chats: Vec::new(),
            resumes: Vec::new(),
        }
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::Start { keys, timeout, own_state, may_write } => {
                let own = own_state.then(|| self.machine.path(&format!("state-{}", self.actors.len())));
                self.start(keys, *timeout, own, *may_write, false);
            }
            Step::Kill(whom, number) => self.signal(*whom, *number, Sent::Kill),
            Step::Terminate(whom, number) => self.signal(*whom, *number, Sent::Terminate),
            Step::Interrupt(whom, number) => self.signal(*whom, *number, Sent::Interrupt),
            Step::Stop(whom, number, ms) => self.stop(*whom, *number, Duration::from_millis(*ms)),
            Step::Evict(number) => {
                if let Some(name) = self.some_instance(*number) {
                    self.control("evict", &json!({ "identifier": name }));
                }
            }
            Step::GuiLoad { key, copy, takes_time, context } => {
                let name = if *copy { format!("{key}:2") } else { (*key).to_owned() };
                let order =
                    json!({ "key": key, "identifier": name, "takesTime": takes_time, "contextLength": context });
                self.control("load", &order);
            }
            Step::Chat(key) => self.chats.extend(self.chat(key)),
            Step::Busy(number) => {
                if let Some(name) = self.some_instance(*number) {
                    self.control("busy", &json!({ "identifier": name, "busy": true }));
                }
            }
            Step::Idle => self.idle(),
            Step::Faults(faults) => self.faults(faults),
            Step::NoFaults => self.faults(&json!([])),
            Step::ServerOff => drop(self.control("rest", &json!({ "on": false }))),
            Step::ServerOn => drop(self.control("rest", &json!({ "on": true, "port": self.machine.rest_port }))),
            Step::Crash => drop(self.control("crash", &json!({}))),
            Step::Lock(instead) => replace_lock(&self.lock, *instead),
            Step::StateDir(instead) => replace_folder(&self.state_dir, *instead),
            Step::FillDisk if self.mount.is_some() => fill(&self.state_dir.join("filler")),
            Step::FillDisk => self.is_full = true,
            Step::FreeDisk => self.free_disk(),
            Step::FutureClock => move_clock(&self.state_dir),
        }
    }

    fn start(
        &mut self,
        keys: &[&'static str],
        timeout: Option<u64>,
        own_state: Option<PathBuf>,
        may_write: bool,
        is_last: bool,
    ) {
        let plan = self.plan;
        let mut args: Vec<String> = ["ensure", "--json", "-v"].map(str::to_owned).to_vec();
        args.extend(keys.iter().map(|&it| it.to_owned()));
        let limits = plan.limits;
        let mut give = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        if is_last {
            give("retry-cooldown-ms", "0".to_owned());
        } else {
            give("load-timeout-ms", limits.load.to_string());
            give("lock-wait-timeout-ms", limits.lock_wait.to_string());
            give("probe-timeout-ms", limits.probe.to_string());
            give("server-start-timeout-ms", limits.server_start.to_string());
            give("retry-cooldown-ms", limits.cooldown.to_string());
        }
        if is_last || !plan.caches {
            give("verify-cache-ms", "0".to_owned());
        }
        give("loader", plan.loader.to_owned());
        if let Some(context) = plan.context {
            give("context-length", context.to_string());
        }
        if let Some(seconds) = plan.ttl {
            give("ttl-seconds", seconds.to_string());
        }
        if let Some(timeout) = timeout {
            give("timeout", format!("{timeout}ms"));
        }
        if let Some(folder) = own_state {
            give("state-dir", folder.display().to_string());
        }
        if plan.fresh && !is_last {
            args.push("--fresh".to_owned());
        }
        if plan.evicts {
            args.push("--evict-on-pressure".to_owned());
        }
        let mut command = Command::new("/bin/sh");
        // A process over its limit is told by a signal that kills, unless it is ignored.
        let script =
            if may_write && !self.is_full { "exec \"$@\"" } else { "trap '' XFSZ; ulimit -S -f 0; exec \"$@\"" };
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_lmswarm")]).args(args);
        command.env_clear().envs(self.machine.environment());
        if plan.shows_token {
            command.env("LM_API_TOKEN", TOKEN);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = now_ms();
        let child = command.spawn().expect("lmswarm starts");
        let caller = Caller {
            pid: child.id(),
            keys: keys.to_vec(),
            timeout,
            is_last,
            start,
            exit: 0,
            code: 0,
            by_signal: false,
            sent: Vec::new(),
            stopped_ms: 0,
            hung: false,
            stdout: String::new(),
            stderr: String::new(),
        };
        self.actors.push(Actor { caller, child: Some(Process(child)) });
    }

    /// One of the callers that run. If nobody leads, anybody does for the leader.
    fn choose(&self, whom: Whom, number: usize) -> Option<usize> {
        let words: Option<Value> = fs::read(&self.lock).ok().and_then(|it| serde_json::from_slice(&it).ok());
        let leader = words.and_then(|it| it["pid"].as_u64());
        let alive: Vec<usize> = (0..self.actors.len()).filter(|it| self.actors[*it].child.is_some()).collect();
        let leads = |it: &usize| Some(u64::from(self.actors[*it].caller.pid)) == leader;
        let (leaders, waiters): (Vec<usize>, Vec<usize>) = alive.iter().partition(|it| leads(it));
        let chosen = match whom {
            Whom::Leader if !leaders.is_empty() => leaders,
            Whom::Waiter if !waiters.is_empty() => waiters,
            _ => alive,
        };
        (!chosen.is_empty()).then(|| chosen[number % chosen.len()])
    }

    fn signal(&mut self, whom: Whom, number: usize, sent: Sent) {
        let Some(place) = self.choose(whom, number) else { return };
        // A program that was told to ignore SIGINT goes on doing so, and so would ours.
        let sent = if sent == Sent::Interrupt && ignores_interrupts() { Sent::Terminate } else { sent };
        self.send(place, sent);
    }

    fn send(&mut self, place: usize, sent: Sent) {
        let signal = match sent {
            Sent::Kill => Signal::KILL,
            Sent::Terminate => Signal::TERM,
            Sent::Interrupt => Signal::INT,
            Sent::Stop => Signal::STOP,
        };
        let caller = &mut self.actors[place].caller;
        caller.sent.push((now_ms(), sent));
        raise(caller.pid, signal);
    }

    fn stop(&mut self, whom: Whom, number: usize, time: Duration) {
        let Some(place) = self.choose(whom, number) else { return };
        if self.resumes.iter().any(|(other, ..)| *other == place) {
            return;
        }
        self.send(place, Sent::Stop);
        let now = Instant::now();
        self.resumes.push((place, now, now + time));
    }

    /// Lets go on whose time has come, and notes who has ended.
    fn watch(&mut self) {
        let now = Instant::now();
        self.resume(|until| until <= now);
        for actor in &mut self.actors {
            let Some(Process(child)) = &mut actor.child else { continue };
            let Some(status) = child.try_wait().expect("a state") else { continue };
            let caller = &mut actor.caller;
            caller.exit = now_ms();
            caller.by_signal = status.signal().is_some();
            caller.code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            // All it wrote is in the pipes, which nobody else holds.
            let read = |pipe: Option<&mut dyn std::io::Read>| {
                let mut bytes = Vec::new();
                let _ = pipe.map(|it| it.read_to_end(&mut bytes));
                String::from_utf8_lossy(&bytes).into_owned()
            };
            caller.stdout = read(child.stdout.as_mut().map(|it| it as _));
            caller.stderr = read(child.stderr.as_mut().map(|it| it as _));
            actor.child = None;
        }
    }

    fn resume(&mut self, is_due: impl Fn(Instant) -> bool) {
        let due = self.resumes.extract_if(.., |(_, _, until)| is_due(*until));
        for (place, since, _) in due {
            let Actor { caller, child } = &mut self.actors[place];
            caller.stopped_ms += u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            // Once its end is noted, the number may be another's.
            if child.is_some() {
                raise(caller.pid, Signal::CONT);
            }
        }
    }

    fn wait_for_callers(&mut self) {
        loop {
            self.watch();
            let mut hung = Vec::new();
            for (place, Actor { caller, child }) in self.actors.iter().enumerate() {
                if child.is_none() {
                    continue;
                }
                let told = caller.sent.iter().find(|(_, it)| *it != Sent::Stop);
                let whole = if caller.is_last { 120_000 } else { bound(self.plan, caller.keys.len(), caller.timeout) };
                let until = told.map_or(u64::MAX, |(at, _)| at + SIGNAL_BOUND).min(caller.start + whole);
                if now_ms() > until + caller.stopped_ms {
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

    /// Ends whatever goes wrong, but does not repair what lmswarm must: a dead application, a server that is off.
    fn calm_down(&mut self) {
        self.resume(|_| true);
        self.chats.clear();
        self.faults(&json!([]));
        let mut config = self.plan.config.clone();
        if let Some(config) = config.as_object_mut() {
            config.remove("ramBytes");
        }
        self.machine.configure(config);
        self.idle();
        self.free_disk();
        let is = |path: &Path, wrong: fn(fs::FileType) -> bool| {
            path.symlink_metadata().is_ok_and(|found| wrong(found.file_type()))
        };
        if is(&self.state_dir, |it| !it.is_dir()) {
            fs::remove_file(&self.state_dir).expect("the state directory's place is free");
        }
        if is(&self.state_dir, |it| it.is_dir()) {
            let _ = fs::set_permissions(&self.state_dir, fs::Permissions::from_mode(0o700));
        }
        if is(&self.lock, |it| it.is_dir()) {
            let _ = fs::remove_dir(&self.lock);
        } else if is(&self.lock, |it| it.is_symlink()) {
            let _ = fs::remove_file(&self.lock);
        }
    }

    /// Waits for what killed callers left behind, and removes what would stay for ever; returns the `lms` that were
    /// left over.
    fn settle(&mut self) -> Vec<u32> {
        let left_over = self.running_lms();
        let until = Instant::now() + SETTLES;
        while Instant::now() < until && !(self.running_lms().is_empty() && self.loading().is_empty()) {
            std::thread::sleep(TICK);
        }
        for pid in self.running_lms() {
            raise(pid, Signal::KILL);
        }
        for name in self.loading() {
            self.control("evict", &json!({ "identifier": name }));
        }
        // Where nobody can tell whether a copy is idle, it must not be touched, and the key is not to be had.
        if self.plan.untold().is_some() || !self.plan.has_lms {
            let rows = self.state();
            for name in names(&rows["instances"]).filter(|it| it.contains(":2") || it == "odd") {
                self.control("evict", &json!({ "identifier": name }));
            }
        }
        left_over
    }

    /// The `lms` of callers that have not ended.
    fn running_lms(&self) -> Vec<u32> {
        let history = History::of(&self.machine.record());
        let is_ours = |pid: u32| self.actors.iter().any(|it| it.caller.pid == pid);
        let calls = history.calls.iter().filter(|it| it.exit.is_none() && is_ours(it.parent));
        calls.map(|it| it.pid).filter(|pid| is_alive(*pid)).collect()
    }

    fn loading(&self) -> Vec<String> {
        names(&self.state()["loads"]).collect()
    }

    fn resident(&self) -> Vec<(String, bool)> {
        let state = self.state();
        let rows = state["instances"].as_array().into_iter().flatten();
        rows.map(|it| (it["identifier"].as_str().unwrap_or_default().to_owned(), it["loading"] == true)).collect()
    }

    fn some_instance(&self, number: usize) -> Option<String> {
        let state = self.state();
        let names: Vec<String> = names(&state["instances"]).collect();
        (!names.is_empty()).then(|| names[number % names.len()].clone())
    }

    fn free_disk(&mut self) {
        self.is_full = false;
        let _ = fs::remove_file(self.state_dir.join("filler"));
    }

    fn idle(&self) {
        for name in names(&self.state()["instances"]) {
            self.control("busy", &json!({ "identifier": name, "busy": false }));
        }
    }

    fn state(&self) -> Value {
        self.ask("GET", "state", &json!({})).unwrap_or_default()
    }

    fn control(&self, verb: &str, body: &Value) -> Option<Value> {
        self.ask("POST", verb, body)
    }

    /// Sends a request to the model, if the server is on; nobody waits for the answer.
    fn chat(&self, key: &str) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.machine.rest_port)).ok()?;
        let body = json!({ "model": key, "messages": [] }).to_string();
        let (token, length) = (TOKEN, body.len());
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost";
        write!(stream, "{head}\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}").ok()?;
        Some(stream)
    }

    /// An order to the application, if it is there: it may have crashed, and another one may have been started.
    fn ask(&self, method: &str, verb: &str, body: &Value) -> Option<Value> {
        let file = fs::read(self.machine.path(".lmstudio/.internal/http-server.json")).ok()?;
        let port =
            serde_json::from_slice::<Value>(&file).ok()?["port"].as_u64().and_then(|it| u16::try_from(it).ok())?;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let body = body.to_string();
        write!(stream, "{method} /control/{verb} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Under the lock with which the simulator counts faults down, or it would bring old ones back.
    fn faults(&self, faults: &Value) {
        let path = self.machine.path(".lmstudio/.simulator/faults.lock");
        let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("a lock");
        fs2::FileExt::lock_exclusive(&lock).expect("the lock");
        self.machine.faults(faults.clone());
    }
}

fn names(rows: &Value) -> impl Iterator<Item = String> {
    let rows = rows.as_array().into_iter().flatten();
    rows.map(|it| it["identifier"].as_str().unwrap_or_default().to_owned())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// An error means that it is gone.
fn raise(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether it runs: an orphan that ended stays in the list of processes until somebody buries it.
fn is_alive(pid: u32) -> bool {
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

/// A free port that no connection is given by chance while the server is off, and no other campaign takes.
fn quiet_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = 10_000 + u16::try_from(std::process::id() % 199).unwrap_or_default() * 100;
    for _ in 0..1000 {
        let port = own + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// `lms` must be able to write though its caller is not.
fn wrap_lms(place: &Path) {
    let real = fs::read_link(place).expect("a link to lms");
    fs::remove_file(place).expect("its place");
    let script = format!("#!/bin/sh\nulimit -S -f unlimited\nexec '{}' \"$@\"\n", real.display());
    fs::write(place, script).expect("a script");
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("a program");
}

fn replace_lock(lock: &Path, instead: Instead) {
    // The directory may be gone, or another thing: then there is no lock to replace.
    let _ = fs::remove_file(lock).or_else(|_| fs::remove_dir(lock));
    let _ = match instead {
        Instead::Nothing => Ok(()),
        Instead::Another => fs::write(lock, ""),
        Instead::Garbage | Instead::WritableByAll => fs::write(lock, b"\xff\x00{\"pid\":\"none\""),
        Instead::Symlink => std::os::unix::fs::symlink("/dev/null", lock),
        Instead::WrongKind => fs::create_dir(lock),
    };
}

fn replace_folder(folder: &Path, instead: Instead) {
    let _ = fs::remove_dir_all(folder).or_else(|_| fs::remove_file(folder));
    let parent = folder.parent().expect("a folder in a home");
    fs::create_dir_all(parent).expect("a folder for it");
    let private = |mode| fs::set_permissions(folder, fs::Permissions::from_mode(mode));
    // Callers make it anew at the same time.
    let _ = match instead {
        Instead::Nothing => Ok(()),
        Instead::Another => fs::create_dir(folder).and_then(|()| private(0o700)),
        Instead::Garbage | Instead::WrongKind => fs::write(folder, "no folder"),
        Instead::Symlink => std::os::unix::fs::symlink(parent, folder),
        Instead::WritableByAll => fs::create_dir(folder).and_then(|()| private(0o777)),
    };
}

fn fill(path: &Path) {
    let Ok(mut file) = fs::File::create(path) else { return };
    while file.write_all(&[b'#'; 512]).is_ok() {}
}

/// Every time in every state file, an hour ahead.
fn move_clock(folder: &Path) {
    fn ahead(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match member.as_u64() {
                        Some(at) if name == "atMs" || name == "sinceMs" => *member = (at + 3_600_000).into(),
                        _ => ahead(member),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(ahead),
            _ => {}
        }
    }
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path()) {
        let parsed = fs::read(&path).ok().and_then(|it| serde_json::from_slice::<Value>(&it).ok());
        if let Some(mut value) = parsed {
            ahead(&mut value);
            let _ = fs::write(&path, value.to_string());
        }
    }
}

/// A small file system of its own, if we may mount one.
struct Mount(PathBuf);

impl Mount {
    fn new(place: &Path) -> Option<Self> {
        fs::create_dir_all(place).expect("a folder");
        let args = ["-t", "tmpfs", "-o", "size=16k,mode=0700", "lmswarm-campaign"];
        let mounted = Command::new("mount").args(args).arg(place).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|it| it.success()) {
            return Some(Self(place.to_owned()));
        }
        fs::set_permissions(place, fs::Permissions::from_mode(0o700)).expect("a private folder");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it, and nobody sees it any more.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
