//! Carries out a plan with real processes, signals, files and a simulated LM Studio, and gathers the facts. It judges
//! nothing.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use lmswarm::pure::base_url::{BaseUrl, file_name};
use rustix::process::Signal;
use serde_json::json;

use super::application::Application;
use super::callers::{Callers, Order, Process, TICK, is_alive, raise};
use super::check::{Facts, Sent};
use super::history::{Call, History};
use super::plan::{Blow, Disk, LmsProgram, Moment, Plan, Step};
use super::ruin;
use crate::support::Machine;

/// Longest wait for what the round leaves behind, loads and `lms` of killed callers.
const SETTLES: Duration = Duration::from_secs(3);
/// Longest wait for a load that a restart is to strike.
const LOADS: Duration = Duration::from_secs(1);
/// How often an application that was started is looked after, and the pause between.
const STARTS: u32 = 5;
const AGAIN: Duration = Duration::from_millis(60);
/// Longest wait for the moment after which a leader is to be struck.
const COMES: Duration = Duration::from_secs(5);

/// Plays a round.
pub fn play(plan: &Plan) -> (Facts, Machine) {
    let mut stage = Stage::set(plan);
    let begin = Instant::now();
    let mut steps = plan.steps.iter().peekable();
    while steps.peek().is_some() || stage.is_at_it() {
        while let Some((_, step)) = steps.next_if(|(at, _)| begin.elapsed() >= Duration::from_millis(*at)) {
            stage.act(step);
        }
        stage.callers.watch(steps.peek().is_none());
        stage.go_on();
        std::thread::sleep(TICK);
    }
    if plan.is_patient {
        stage.callers.wait();
        stage.calm_down();
    } else {
        stage.calm_down();
        stage.callers.wait();
    }
    let mut left_over = stage.settle();
    for key in plan.keys() {
        let order = Order { keys: vec![key], timeout: None, state_dir: None, may_write: true, is_last: true };
        stage.callers.start(&stage.machine, order);
        stage.callers.wait();
    }
    left_over.extend(stage.running_lms());
    let resident = stage.application().resident();
    let history = History::of(&stage.machine.record());
    let callers = stage.callers.into_facts();
    let facts = Facts { plan: plan.clone(), history, callers, left_over, resident };
    (facts, stage.machine)
}

/// A restart of the application.
enum Restart {
    /// So long after a load is under way, or then at the latest.
    Due { latest: Instant, after: Duration, down: Duration },
    /// It dies then.
    Set(Instant, Duration),
    /// It is down, until then.
    Down(Instant),
    /// It is started once more in a moment: where the old one is not quite gone, the new one takes it for running and
    /// ends.
    Again(Instant),
}

/// A blow for a leader.
enum Strike {
    /// So long after this moment of its work, which comes by then or not at all.
    Due { blow: Blow, latest: Instant, moment: Moment, after: Duration },
    /// This caller is struck then.
    Set(Blow, Instant, u32),
}

struct Stage<'a> {
    plan: &'a Plan,
    // Before the machine, whose folder it is mounted in.
    mount: Option<ruin::Mount>,
    callers: Callers<'a>,
    /// Applications that were started again.
    started: Vec<Process>,
    machine: Machine,
    /// Where nothing may be mounted, what is started now may not write to any file.
    is_full: bool,
    state_dir: PathBuf,
    slug: String,
    lock: PathBuf,
    /// Requests that run; whose connection is closed is cancelled.
    chats: Vec<TcpStream>,
    restarts: Vec<Restart>,
    strikes: Vec<Strike>,
    /// Locks of the lock file and the ends of their time. Those without a file are to be had yet.
    holders: Vec<(Option<fs::File>, Duration, Instant)>,
}

impl<'a> Stage<'a> {
    fn set(plan: &'a Plan) -> Self {
        let mut machine = Machine::bare();
        machine.configure(plan.config.clone());
        if plan.has_lms() {
            machine.install_lms();
        }
        if plan.lms == LmsProgram::Wrapped || (plan.disk != Disk::Plain && plan.has_lms()) {
            wrap_lms(&machine.path("bin/lms"), plan.lms == LmsProgram::Wrapped);
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
        let mount = (plan.disk == Disk::Tmpfs).then(|| ruin::Mount::new(&state_dir)).flatten();
        let slug = BaseUrl::parse(&machine.base_url()).expect("an address").slug();
        let lock = state_dir.join(format!("{slug}.lock"));
        Self {
            plan,
            mount,
            callers: Callers::new(plan),
            started: Vec::new(),
            machine,
            is_full: false,
            state_dir,
            slug,
            lock,
            chats: Vec::new(),
            restarts: Vec::new(),
            strikes: Vec::new(),
            holders: Vec::new(),
        }
    }

    fn application(&self) -> Application<'_> {
        Application(&self.machine)
    }

    fn act(&mut self, step: &Step) {
        let application = Application(&self.machine);
        match step {
            Step::Start { keys, timeout, own_state, may_write } => {
                let own = own_state.then(|| self.machine.path(&format!("state-{}", self.callers.count())));
                let may_write = *may_write && !self.is_full;
                let keys = keys.clone();
                let order = Order { keys, timeout: *timeout, state_dir: own, may_write, is_last: false };
                self.callers.start(&self.machine, order);
            }
            Step::Kill(whom, number) => self.callers.signal(&self.lock, *whom, *number, Sent::Kill),
            Step::Terminate(whom, number) => self.callers.signal(&self.lock, *whom, *number, Sent::Terminate),
            Step::Interrupt(whom, number) => self.callers.signal(&self.lock, *whom, *number, Sent::Interrupt),
            Step::Stop(whom, number, ms) => {
                self.callers.stop(&self.lock, *whom, *number, Duration::from_millis(*ms));
            }
            Step::Strike(blow, moment, after) => {
                let (latest, after) = (Instant::now() + COMES, Duration::from_millis(*after));
                self.strikes.push(Strike::Due { blow: *blow, latest, moment: *moment, after });
            }
            Step::Evict(number) => {
                if let Some(name) = application.some_instance(*number) {
                    application.control("evict", &json!({ "identifier": name }));
                }
            }
            Step::GuiLoad { key, copy, takes_time, context } => {
                let name = if *copy { format!("{key}:2") } else { (*key).to_owned() };
                let order =
                    json!({ "key": key, "identifier": name, "takesTime": takes_time, "contextLength": context });
                application.control("load", &order);
            }
            Step::Foreign { key, of } => {
                application.control("load", &json!({ "key": of, "identifier": format!("{key}:2") }));
            }
            Step::Chat(key) => self.chats.extend(application.chat(key)),
            Step::Busy(number) => {
                if let Some(name) = application.some_instance(*number) {
                    application.control("busy", &json!({ "identifier": name, "busy": true }));
                }
            }
            Step::Idle => application.idle(),
            Step::Faults(faults) => application.faults(faults),
            Step::NoFaults => application.faults(&json!([])),
            Step::ServerOff => drop(application.control("rest", &json!({ "on": false }))),
            Step::ServerOn => {
                drop(application.control("rest", &json!({ "on": true, "port": self.machine.rest_port })));
            }
            Step::Crash => drop(application.control("crash", &json!({}))),
            Step::Restart { after, down } => {
                let [after, down] = [*after, *down].map(Duration::from_millis);
                self.restarts.push(Restart::Due { latest: Instant::now() + LOADS, after, down });
            }
            Step::Lock(instead) => ruin::replace_lock(&self.lock, *instead),
            Step::SharedLock(ms) => {
                self.holders.push((None, Duration::from_millis(*ms), Instant::now() + LOADS));
                self.go_on();
            }
            Step::StateDir(instead) => ruin::replace_folder(&self.state_dir, *instead),
            Step::FillDisk if self.mount.is_some() => ruin::fill(&self.state_dir.join("filler")),
            Step::FillDisk => self.is_full = true,
            Step::FreeDisk => self.free_disk(),
            Step::MoveClock(by) => ruin::move_clock(&self.state_dir, *by),
            Step::EarlierBoot(key) => {
                ruin::leave_order(&self.state_dir.join(format!("{}.{}.load", self.slug, file_name(key))));
            }
        }
    }

    /// Whether something goes on that must come to its end before the round calms down.
    fn is_at_it(&self) -> bool {
        let is_idle = self.restarts.is_empty() && self.strikes.is_empty() && self.holders.is_empty();
        self.callers.has_stopped() || !is_idle
    }

    /// Goes on with what takes its time.
    fn go_on(&mut self) {
        let now = Instant::now();
        for restart in std::mem::take(&mut self.restarts) {
            match restart {
                Restart::Due { latest, after, down } if now >= latest || !self.application().loading().is_empty() => {
                    self.restarts.push(Restart::Set(now + after, down));
                }
                Restart::Set(at, down) if now >= at => {
                    self.application().control("crash", &json!({}));
                    self.restarts.push(Restart::Down(now + down));
                }
                Restart::Down(until) if now >= until => {
                    self.started.push(self.application().start());
                    self.restarts.extend((1..=STARTS).map(|it| Restart::Again(now + AGAIN * it)));
                }
                Restart::Again(at) if now >= at => {
                    if !self.application().is_there() {
                        self.started.push(self.application().start());
                    }
                }
                waits => self.restarts.push(waits),
            }
        }
        for strike in std::mem::take(&mut self.strikes) {
            match strike {
                Strike::Due { blow, latest, moment, after } => match self.leader_at(moment) {
                    Some(pid) => self.strikes.push(Strike::Set(blow, now + after, pid)),
                    None if now < latest => self.strikes.push(strike),
                    None => {}
                },
                Strike::Set(blow, at, pid) if now >= at => self.callers.strike(pid, blow),
                Strike::Set(..) => self.strikes.push(strike),
            }
        }
        for (file, time, until) in &mut self.holders {
            if file.is_none() {
                *file = ruin::lock_shared(&self.lock);
                if file.is_some() {
                    *until = now + *time;
                }
            }
        }
        self.holders.retain(|(_, _, until)| now < *until);
    }

    /// Ends whatever goes wrong, but does not repair what lmswarm must: a dead application, a server that is off.
    fn calm_down(&mut self) {
        self.callers.resume_all();
        self.chats.clear();
        self.application().faults(&json!([]));
        let mut config = self.plan.config.clone();
        if let Some(config) = config.as_object_mut() {
            config.remove("ramBytes");
        }
        self.machine.configure(config);
        self.application().idle();
        self.free_disk();
        ruin::repair(&self.state_dir, &self.lock);
    }

    /// Waits for what killed callers left behind, and removes what would stay for ever; returns the `lms` that were
    /// left over.
    fn settle(&mut self) -> Vec<u32> {
        let left_over = self.running_lms();
        let until = Instant::now() + SETTLES;
        while Instant::now() < until && !(self.running_lms().is_empty() && self.application().loading().is_empty()) {
            std::thread::sleep(TICK);
        }
        for pid in self.running_lms() {
            raise(pid, Signal::KILL);
        }
        let application = self.application();
        for name in application.loading() {
            application.control("evict", &json!({ "identifier": name }));
        }
        // Where nothing tells whether a copy is idle, it must not be touched, and the key is not to be had.
        if self.plan.untold().is_some() || !self.plan.has_lms() {
            let state = application.state();
            for row in state["instances"].as_array().into_iter().flatten() {
                let name = row["identifier"].as_str().unwrap_or_default();
                let model = name.strip_suffix(":2");
                // Where `lms` is missing, nothing tells what it is a copy of, either.
                let is_copy = model.is_some_and(|model| !self.plan.has_lms() || row["modelKey"] == model);
                if is_copy || name == "odd" {
                    application.control("evict", &json!({ "identifier": name }));
                }
            }
        }
        left_over
    }

    /// The `lms` of callers that have not ended.
    fn running_lms(&self) -> Vec<u32> {
        let calls = self.open_calls().into_iter();
        calls.map(|it| it.pid).filter(|pid| is_alive(*pid)).collect()
    }

    /// The runs of `lms` by callers whose end is not recorded.
    fn open_calls(&self) -> Vec<Call> {
        let mut calls = History::of(&self.machine.record()).calls;
        calls.retain(|it| it.exit.is_none() && self.callers.has(it.parent));
        calls
    }

    /// The caller that leads, once it is there with its work.
    fn leader_at(&self, moment: Moment) -> Option<u32> {
        let is_it = |call: &Call| match moment {
            Moment::Leads => false,
            Moment::Lists => call.argv.first().is_some_and(|it| it == "ls"),
            Moment::Loads => call.loads().is_some(),
        };
        let is_led = |call: &Call| is_it(call) && self.callers.runs(call.parent);
        match moment {
            Moment::Leads => self.callers.leader(&self.lock),
            Moment::Lists | Moment::Loads => self.open_calls().iter().find(|it| is_led(it)).map(|it| it.parent),
        }
    }

    fn free_disk(&mut self) {
        self.is_full = false;
        let _ = fs::remove_file(self.state_dir.join("filler"));
    }
}

/// A free port that no connection is given by chance while the server is off, and no other campaign takes.
fn quiet_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // So many that none comes again while an earlier round still has it.
    const EACH: u16 = 400;
    let own = 10_000 + u16::try_from(std::process::id() % 50).unwrap_or_default() * EACH;
    for _ in 0..1000 {
        let port = own + NEXT.fetch_add(1, Ordering::Relaxed) % EACH;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// A script in the place of `lms`, which must be able to write though its caller is not. One that `stays` is the parent
/// of the real one, as if it had something to do behind it.
fn wrap_lms(place: &Path, stays: bool) {
    let real = fs::read_link(place).expect("a link to lms");
    let real = real.display();
    fs::remove_file(place).expect("its place");
    let run = if stays {
        format!("LMS_SIMULATOR_CALLER=$PPID '{real}' \"$@\"\ncode=$?\n: note it\nexit $code\n")
    } else {
        format!("exec '{real}' \"$@\"\n")
    };
    fs::write(place, format!("#!/bin/sh\nulimit -S -f unlimited\n{run}")).expect("a script");
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("a program");
}
