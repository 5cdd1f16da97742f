//! A user's machine in a folder: a home, a simulated LM Studio with its `lms`, and the real
//! binary. Nothing of the environment of whoever runs the tests leaks in.

#[cfg(unix)]
#[path = "signals.rs"]
mod signals;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Model keys of the simulator's catalogue. None matches another one fuzzily.
pub const LLAMA: &str = "llama-3.2-1b-instruct";
pub const GEMMA: &str = "google/gemma-3-12b";
pub const QWEN: &str = "qwen/qwen3-coder-30b";

/// An API token as LM Studio makes them.
pub const TOKEN: &str = "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt";

/// Longest that any single wait of a test may take: a hang is a failure, not a wait.
const CAP: Duration = Duration::from_secs(60);

/// A user's machine.
pub struct Machine {
    home: TempDir,
    app: Option<Child>,
    pub api_port: u16,
    pub rest_port: u16,
}

/// What a run of `lmswarm` came to.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    fn of(output: &Output) -> Self {
        Self {
            code: exit_number(output),
            stdout: String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8"),
        }
    }

    /// The one JSON object on stdout, checked against the schema.
    pub fn json(&self) -> Value {
        let report: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let errors: Vec<String> =
            schema().iter_errors(&report).map(|error| format!("{error} at {}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}\n{report:#}");
        assert_eq!(report["exitCode"], self.code, "{report:#}");
        report
    }

    /// The entry of the only model.
    pub fn model(&self) -> Value {
        let report = self.json();
        assert_eq!(report["models"].as_array().map(Vec::len), Some(1), "{report:#}");
        report["models"][0].clone()
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in\n{}\n{}", self.stderr, self.stdout);
        self
    }
}

/// 128 + n for a signal, as a shell would tell it.
fn exit_number(output: &Output) -> i32 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&output.status) {
        return 128 + signal;
    }
    output.status.code().expect("an exit code")
}

fn schema() -> &'static jsonschema::Validator {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let schema =
            serde_json::from_str(include_str!("../../examples/report.schema.json")).expect("the schema is JSON");
        jsonschema::validator_for(&schema).expect("the schema is one")
    })
}

/// The example programs stand beside the test's own.
pub fn example(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_lmswarm"))
        .parent()
        .expect("the binary is in a folder")
        .join("examples")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    // `cargo test --test it` builds no examples.
    let built = path.metadata().and_then(|it| it.modified()).ok();
    let sources: &[&str] = match name {
        "simulator" => &["tests/simulator/app", "tests/simulator/lmstudio", "tests/simulator/common"],
        "lms" => &["tests/simulator/lms", "tests/simulator/lmstudio", "tests/simulator/common"],
        "llama-swap" => &["tests/simulator/llamaswap", "tests/simulator/common"],
        _ => &["examples/demo/main.rs"],
    };
    let changed = sources.iter().map(|it| newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join(it))).max();
    assert!(built >= changed, "{} is missing or older than its source; run `cargo build --examples`", path.display());
    path
}

/// When a file, or one in this folder, was changed last.
fn newest(path: &Path) -> SystemTime {
    if path.is_dir() {
        let entries = path.read_dir().expect("a folder").map(|entry| newest(&entry.expect("an entry").path()));
        return entries.max().expect("not empty");
    }
    path.metadata().and_then(|it| it.modified()).expect("a source file")
}

impl Machine {
    /// LM Studio runs and its server is on.
    pub fn new() -> Self {
        Self::with(json!({}))
    }

    /// The same, with this configuration of the simulator.
    pub fn with(config: Value) -> Self {
        let mut machine = Self::bare();
        machine.install_lms();
        machine.configure(config);
        machine.start_app(&["--rest-port", "0"]);
        machine
    }

    /// LM Studio runs, but its server was never on.
    pub fn with_server_off() -> Self {
        let mut machine = Self::bare();
        machine.install_lms();
        machine.start_app(&[]);
        machine.rest_port = free_port();
        machine
    }

    /// A home, and nothing else.
    pub fn bare() -> Self {
        #[cfg(unix)]
        signals::restore();
        let home = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(home.path().join("bin")).expect("a bin folder");
        fs::create_dir_all(home.path().join(".lmstudio/.simulator")).expect("a folder for the simulator");
        Self { home, app: None, api_port: 0, rest_port: free_port() }
    }

    pub fn install_lms(&self) {
        self.install_lms_at("bin/lms");
    }

    /// Puts `lms` at this place below the home.
    pub fn install_lms_at(&self, place: &str) {
        let path = self.path(&format!("{place}{}", std::env::consts::EXE_SUFFIX));
        fs::create_dir_all(path.parent().expect("a place in a folder")).expect("a folder for lms");
        #[cfg(unix)]
        std::os::unix::fs::symlink(example("lms"), path).expect("a link to lms");
        #[cfg(not(unix))]
        fs::copy(example("lms"), path).map(drop).expect("a copy of lms");
    }

    /// Lets `lms` find an application that it can start.
    pub fn install_app(&self) {
        let simulator = example("simulator");
        let home = self.home().display().to_string();
        let location = json!({
            "path": simulator,
            "argv": ["--home", home],
            "cwd": home,
        });
        self.write(".lmstudio/.internal/app-install-location.json", &location.to_string());
    }

    pub fn start_app(&mut self, args: &[&str]) {
        let mut command = Command::new(example("simulator"));
        command.arg("--home").arg(self.home()).arg("--exit-with-stdin").args(args);
        command.env_clear().env("HOME", self.home()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut app = command.spawn().expect("the simulator starts");
        let mut line = String::new();
        BufReader::new(app.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("the simulator says it is ready");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        self.api_port = port(&ready["apiPort"]).expect("an API port");
        if let Some(rest_port) = port(&ready["restPort"]) {
            self.rest_port = rest_port;
        }
        self.app = Some(app);
    }

    /// LM Studio ends and is started again, with its server on the same port.
    pub fn restart(&mut self) {
        self.crash();
        if let Some(mut app) = self.app.take() {
            app.wait().expect("its end");
        }
        let port = self.rest_port.to_string();
        self.start_app(&["--rest-port", &port]);
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn path(&self, place: &str) -> PathBuf {
        self.home().join(place)
    }

    pub fn write(&self, place: &str, text: &str) {
        write_into_place(&self.path(place), text);
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.rest_port)
    }

    /// Changes the simulator's configuration while it runs.
    pub fn configure(&self, config: Value) {
        self.write(".lmstudio/.simulator/config.json", &config.to_string());
    }

    /// Puts these faults in force, and no others.
    pub fn faults(&self, faults: Value) {
        self.write(".lmstudio/.simulator/faults.json", &faults.to_string());
    }

    /// `lmswarm` with these arguments, on this machine alone.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lmswarm"));
        command.args(args).env_clear().envs(self.environment()).stdin(Stdio::null());
        command
    }

    pub fn environment(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        vec![
            ("HOME", self.home().into()),
            ("PATH", self.path("bin").into()),
            ("LMSWARM_BASE_URL", self.base_url().into()),
        ]
    }

    /// Runs `lmswarm` to its end.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Run {
        run(&mut self.command(args))
    }

    /// Runs `lmswarm ensure ... --json`.
    #[must_use]
    pub fn ensure(&self, args: &[&str]) -> Run {
        self.run(&[&["ensure", "--json"], args].concat())
    }

    /// Starts `lmswarm ensure ... --json` and returns at once.
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(&mut self.command(&[&["ensure", "--json"], args].concat()))
    }

    /// Starts `count` of them.
    pub fn start_many(&self, count: usize, args: &[&str]) -> Vec<Running> {
        (0..count).map(|_| self.start(args)).collect()
    }

    /// Lets everything go on that a fault of the kind `hold` keeps.
    pub fn unhold(&self) {
        self.faults(json!([]));
    }

    /// Drives the simulator as a person at its window would.
    pub fn control(&self, verb: &str, body: Value) -> Value {
        let (status, answer) = http("POST", self.api_port, &format!("/control/{verb}"), &[], &body.to_string());
        assert_eq!(status, 200, "{verb} {body}: {answer}");
        answer
    }

    pub fn state(&self) -> Value {
        http("GET", self.api_port, "/control/state", &[], "").1
    }

    /// The identifiers of what is resident, sorted.
    pub fn resident(&self) -> Vec<String> {
        let state = self.state();
        let instances = state["instances"].as_array().expect("instances");
        let mut names: Vec<String> =
            instances.iter().map(|it| it["identifier"].as_str().expect("an identifier").to_owned()).collect();
        names.sort();
        names
    }

    /// A model that is resident already, loaded by somebody else.
    pub fn preload(&self, key: &str) -> &Self {
        self.control("load", json!({ "key": key }));
        self
    }

    pub fn record(&self) -> Vec<Value> {
        read_record(&self.path(".lmstudio/.simulator/record.jsonl"))
    }

    /// The events of this name, in order.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.record().into_iter().filter(|it| it["event"] == name).collect()
    }

    /// The `lms` processes that were started, by their arguments.
    pub fn lms_calls(&self) -> Vec<String> {
        self.events("lms")
            .iter()
            .map(|it| {
                let argv = it["argv"].as_array().expect("argv");
                argv.iter().map(|arg| arg.as_str().expect("a text")).collect::<Vec<_>>().join(" ")
            })
            .collect()
    }

    /// How many loads of this key began, not counting those of a person at the window.
    pub fn loads(&self, key: &str) -> usize {
        self.events("load-begin").iter().filter(|it| it["key"] == key && it["by"] != "gui").count()
    }

    pub fn requests(&self) -> Vec<String> {
        self.events("request")
            .iter()
            .map(|it| format!("{} {}", it["method"].as_str().unwrap_or("?"), it["path"].as_str().unwrap_or("?")))
            .collect()
    }

    /// Waits for an event, however long it takes (up to a cap), never for a time.
    pub fn wait_for(&self, what: &str, seen: impl Fn(&[Value]) -> bool) {
        until(what, || seen(&self.record()));
    }

    /// Waits until so many loads have begun.
    pub fn wait_for_loads(&self, count: usize) {
        until("a load", || self.events("load-begin").len() == count);
    }

    /// Waits until so many more requests have come than there were, which is how a caller that
    /// looks shows itself. A look is two requests.
    pub fn wait_for_requests(&self, before: usize, more: usize) {
        until("a look", || self.requests().len() >= before + more);
    }

    /// Waits for a load that holds half-way.
    pub fn wait_until_held(&self) {
        until("a load that holds", || {
            let loads = self.state()["loads"].clone();
            loads.as_array().is_some_and(|loads| loads.iter().any(|it| it["held"] == true))
        });
    }

    /// Waits for a load that holds half-way, and lets it go on.
    pub fn release(&self) {
        self.wait_until_held();
        self.control("release", json!({}));
    }

    /// LM Studio dies at once, as by `kill -9`.
    pub fn crash(&self) {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.api_port)).expect("the simulator listens");
        write!(stream, "POST /control/crash HTTP/1.0\r\nContent-Length: 2\r\n\r\n{{}}").expect("a request");
        let _ = stream.read_to_string(&mut String::new());
    }

    pub fn wait_for_event(&self, name: &str) {
        self.wait_for(name, |record| record.iter().any(|it| it["event"] == name));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for event in self.record() {
                eprintln!("{event}");
            }
        }
        if let Some(mut app) = self.app.take() {
            drop(app.stdin.take());
            let _ = app.kill();
            let _ = app.wait();
        }
        // Applications that `lms` woke up are nobody's children.
        #[cfg(unix)]
        for event in self.events("app-start") {
            let pid = event["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Writes a file that a simulator may be reading: in one step.
pub fn write_into_place(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a place in a folder")).expect("a folder");
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).expect("a file");
    fs::rename(temporary, path).expect("a file in its place");
}

/// What a simulator has recorded.
pub fn read_record(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The last line may be half written while others append.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let record: Vec<Value> = whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    // A fault or setting that the simulator does not know would make a test prove nothing.
    let problem = record.iter().find(|it| it["event"] == "problem");
    assert!(problem.is_none() || std::thread::panicking(), "the simulator complains: {problem:?}");
    record
}

/// A `lmswarm` that is running.
pub struct Running {
    child: Option<Child>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self { child: Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lmswarm starts")) }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it is alive");
    }

    /// Waits for its end.
    #[must_use]
    pub fn end(self) -> Run {
        self.end_within(CAP)
    }

    /// The same, for what takes its time.
    #[must_use]
    pub fn end_within(mut self, cap: Duration) -> Run {
        let mut child = self.child.take().expect("it runs");
        let drain = |pipe: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                pipe.expect("a pipe").read_to_end(&mut bytes).expect("output");
                bytes
            })
        };
        let stdout = drain(child.stdout.take().map(|it| Box::new(it) as Box<dyn Read + Send>));
        let stderr = drain(child.stderr.take().map(|it| Box::new(it) as Box<dyn Read + Send>));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a state") {
                break status;
            }
            if started.elapsed() > cap {
                let _ = child.kill();
                panic!("it hangs: {:?}", String::from_utf8_lossy(&stderr.join().expect("stderr")));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Run::of(&Output { status, stdout: stdout.join().expect("stdout"), stderr: stderr.join().expect("stderr") })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command to its end, within the cap.
#[must_use]
pub fn run(command: &mut Command) -> Run {
    Running::start(command).end()
}

/// Waits until something is so, up to a cap.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < CAP, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tries with a limit in ms that grows, until what it limits had begun before it was over: how
/// long the start of a program takes is up to the machine.
#[track_caller]
pub fn with_growing_limit(attempt: impl FnMut(&str) -> bool) {
    assert!(["500", "2000", "8000", "30000"].into_iter().any(attempt), "no limit is long enough");
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A server that answers everything with these bytes.
pub fn stranger(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(answer);
        }
    });
    port
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| u16::try_from(port).ok())
}

/// One request, and the JSON that comes back. HTTP/1.0, so that the end of the connection is
/// the end of the answer.
pub fn http(method: &str, port: u16, path: &str, headers: &[&str], body: &str) -> (u16, Value) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("the simulator listens");
    let headers = [headers, &["", ""]].concat().join("\r\n");
    let length = body.len();
    let json = "Content-Type: application/json";
    write!(stream, "{method} {path} HTTP/1.0\r\n{json}\r\nContent-Length: {length}\r\n{headers}{body}")
        .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status");
    // llama-server does so even for HTTP/1.0.
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunked(body) } else { body.to_owned() };
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// The pieces of an answer, put together.
fn unchunked(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = text.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        whole += &rest[..length];
        text = rest[length..].trim_start_matches("\r\n");
    }
    whole
}
