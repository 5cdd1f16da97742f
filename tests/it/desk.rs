//! A machine with the real opencode on it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::needs;
use crate::support::{Machine, Run, Running};

/// An opencode start takes seconds of a core, so one scenario runs at a time: a slow machine
/// would otherwise make hangs of what only waits its turn.
static TURN: Mutex<()> = Mutex::new(());

/// Longest that opencode may take.
pub const CAP: Duration = Duration::from_secs(240);

/// A machine with opencode on it.
pub struct Desk {
    pub machine: Machine,
    pub opencode: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Desk {
    /// LM Studio, the plugin, and opencode set to these two models. Models are never loaded
    /// just in time: a request that comes too early fails, and the record shows it.
    pub fn new(main: &str, small: &str) -> Option<Self> {
        let opencode = needs::opencode()?;
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = Machine::with(json!({ "jit": false }));
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lmswarm"), machine.path("bin/lmswarm")).expect("a place for it");
        std::fs::create_dir_all(machine.path("work")).expect("a place for it");
        // opencode wants its plugin package in each such folder, and would wait for the
        // registry; it is content with a lock file that names it.
        let package = json!({ "dependencies": { "@opencode-ai/plugin": "1.18.33" } });
        let lock = json!({
            "lockfileVersion": 3,
            "packages": { "": package, "node_modules/@opencode-ai/plugin": { "version": "1.18.33" } },
        });
        std::fs::create_dir_all(machine.path(".config/opencode/node_modules")).expect("a place for it");
        machine.write(".config/opencode/package.json", &package.to_string());
        machine.write(".config/opencode/package-lock.json", &lock.to_string());
        let desk = Self { machine, opencode, _turn: turn };
        desk.configure(main, small, json!({}));
        desk.machine.run(&["hook", "opencode"]).expect(0);
        Some(desk)
    }

    pub fn configure(&self, main: &str, small: &str, options: Value) {
        let mut options = options;
        options["baseURL"] = self.machine.base_url().into();
        let config = json!({
            "model": format!("lmstudio/{main}"),
            "small_model": format!("lmstudio/{small}"),
            "provider": { "lmstudio": { "options": options, "models": { main: {}, small: {} } } },
        });
        self.machine.write(".config/opencode/opencode.json", &config.to_string());
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let home = self.machine.home();
        let mut path = self.machine.path("bin").into_os_string();
        path.push(":/usr/bin:/bin");
        let mut command = Command::new(&self.opencode);
        command.args(args).current_dir(self.machine.path("work")).env_clear().stdin(Stdio::null());
        command.env("HOME", home).env("PATH", path).env("TERM", "dumb");
        for (name, place) in [("CONFIG", ".config"), ("DATA", "data"), ("STATE", "state"), ("CACHE", "cache")] {
            command.env(format!("XDG_{name}_HOME"), home.join(place));
        }
        for name in ["MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD"] {
            command.env(format!("OPENCODE_DISABLE_{name}"), "1");
        }
        command
    }

    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(&mut self.command(args))
    }

    /// Runs opencode to its end.
    pub fn run(&self, args: &[&str]) -> Run {
        self.start(args).end_within(CAP)
    }

    /// How many requests each model answered. None may have failed, nor been answered by an
    /// instance of another name, nor sent before its load was through.
    #[track_caller]
    pub fn chats(&self, key: &str) -> usize {
        let record = self.machine.record();
        let chats = record.iter().filter(|it| it["event"] == "chat");
        for chat in chats.clone() {
            assert_eq!((&chat["status"], &chat["instance"]), (&json!(200), &chat["model"]), "{chat}");
        }
        chats.filter(|it| it["model"] == key).count()
    }

    pub fn evict(&self, key: &str) {
        self.machine.control("evict", json!({ "identifier": key }));
    }
}

/// The place of the first event of this name and model.
pub fn place(record: &[Value], event: &str, member: &str, key: &str) -> usize {
    let found = record.iter().position(|it| it["event"] == event && it[member] == key);
    found.unwrap_or_else(|| panic!("no {event} of {key}"))
}
