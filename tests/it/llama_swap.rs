//! A simulated llama-swap in a folder of its own, and what it records.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Machine, example, http, read_record, until, write_into_place};

/// A llama-swap that runs.
pub struct LlamaSwap {
    folder: TempDir,
    program: Option<Child>,
    pub port: u16,
    control_port: u16,
}

impl LlamaSwap {
    /// With this configuration of llama-swap's own, and models that behave.
    pub fn new(config: Value) -> Self {
        Self::with(config, json!({}))
    }

    /// The same, and these settings of the simulator.
    pub fn with(config: Value, settings: Value) -> Self {
        Self::at(0, config, settings)
    }

    /// The same, at this port.
    pub fn at(port: u16, config: Value, settings: Value) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut swap = Self { folder, program: None, port, control_port: 0 };
        swap.write_config(config);
        swap.configure(settings);
        swap.start();
        swap
    }

    /// Starts it, on the port it had before if there was one.
    pub fn start(&mut self) {
        let mut command = Command::new(example("llama-swap"));
        command.arg("--folder").arg(self.folder()).args(["--port", &self.port.to_string(), "--exit-with-stdin"]);
        let mut program = command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = program.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("it says that it is ready");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let port = |member: &str| u16::try_from(ready[member].as_u64().expect("a port")).expect("a port");
        (self.port, self.control_port) = (port("port"), port("controlPort"));
        self.program = Some(program);
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Changes llama-swap's configuration, for the next start or reload.
    pub fn write_config(&self, config: Value) {
        write_into_place(&self.path("llama-swap.json"), &config.to_string());
    }

    /// Changes the simulator's settings while it runs.
    pub fn configure(&self, settings: Value) {
        write_into_place(&self.path("config.json"), &settings.to_string());
    }

    /// Puts these faults in force, and no others.
    pub fn faults(&self, faults: Value) {
        write_into_place(&self.path("faults.json"), &faults.to_string());
    }

    /// Has the next loads of this model stop half-way, until `unhold`.
    pub fn hold(&self, model: &str) {
        self.faults(json!([{ "on": "load", "kind": "hold", "key": model }]));
    }

    /// Lets everything go on that a fault of the kind `hold` keeps.
    pub fn unhold(&self) {
        self.faults(json!([]));
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// A user's machine without LM Studio, whose configuration says that this is the server.
    pub fn machine(&self) -> Machine {
        let machine = self.unconfigured_machine();
        machine.write(".config/lmswarm/config.json", r#"{ "backend": "llama-swap" }"#);
        machine
    }

    /// The same, where nothing says what program the server is.
    pub fn unconfigured_machine(&self) -> Machine {
        let mut machine = Machine::bare();
        machine.rest_port = self.port;
        machine
    }

    /// It dies at once, with all its models, as by `kill -9`.
    pub fn crash(&mut self) {
        let mut program = self.program.take().expect("it runs");
        program.kill().expect("it is alive");
        program.wait().expect("its end");
    }

    /// What was asked, in the order of arrival: `GET /running`.
    pub fn requests(&self) -> Vec<String> {
        let arrived = self.events("arrived");
        let text = |it: &Value, member: &str| it[member].as_str().expect("a text").to_owned();
        arrived.iter().map(|it| format!("{} {}", text(it, "method"), text(it, "path"))).collect()
    }

    /// Those requests that are passed on to a model, and so load it.
    pub fn load_requests(&self) -> Vec<String> {
        let passed_on = |it: &String| (it.contains(" /upstream/") && it.ends_with("/health")) || it.contains(" /props");
        self.requests().into_iter().filter(passed_on).collect()
    }

    /// Does by hand what neither llama-swap nor a file can.
    pub fn control(&self, verb: &str, body: Value) -> Value {
        let (status, answer) = http("POST", self.control_port, &format!("/control/{verb}"), &[], &body.to_string());
        assert_eq!(status, 200, "{verb} {body}: {answer}");
        answer
    }

    /// A model that is ready already, for somebody else.
    pub fn preload(&self, model: &str) -> &Self {
        self.control("load", json!({ "model": model }));
        self
    }

    /// The ids of what is not stopped, in their order.
    pub fn running(&self) -> Vec<String> {
        let state = self.control("state", json!({}));
        let models = state["models"].as_object().expect("models");
        models.iter().filter(|(_, it)| it["state"] != "stopped").map(|(id, _)| id.clone()).collect()
    }

    pub fn record(&self) -> Vec<Value> {
        read_record(&self.path("record.jsonl"))
    }

    /// The events of this name, in order.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.record().into_iter().filter(|it| it["event"] == name).collect()
    }

    /// How many loads of this model began, not counting those that a test did by hand.
    pub fn loads(&self, model: &str) -> usize {
        self.events("load-begin").iter().filter(|it| it["model"] == model && it["by"] == "request").count()
    }

    /// Waits for something in the record, however long it takes (up to a cap), never for a time.
    pub fn wait_for(&self, what: &str, seen: impl Fn(&[Value]) -> bool) {
        until(what, || seen(&self.record()));
    }

    /// Waits until so many events of this name are recorded.
    pub fn wait_for_events(&self, name: &str, count: usize) {
        self.wait_for(name, |record| record.iter().filter(|it| it["event"] == name).count() >= count);
    }
}

impl Drop for LlamaSwap {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for event in self.record() {
                eprintln!("{event}");
            }
        }
        if let Some(mut program) = self.program.take() {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}
