//! A user's machine with a real `llama-server` on it: a router or a single model, with models that it loads in
//! milliseconds, or exactly when a test lets it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use crate::gguf::TinyModel;
use crate::needs;
use crate::support::{Machine, free_port, http, until};

/// A machine whose server is a `llama-server`.
pub struct Llama {
    pub machine: Machine,
    program: PathBuf,
    /// What each model's section of the presets says.
    presets: BTreeMap<String, String>,
    server: Option<Child>,
    args: Vec<String>,
    token: Option<String>,
    /// Port of the hub that models are downloaded from.
    pub hub: u16,
}

impl Llama {
    /// No server yet, and no models. `None`, and noted, where no `llama-server` is built.
    pub fn new() -> Option<Self> {
        let program = needs::llama_server()?;
        let machine = Machine::bare();
        fs::create_dir(machine.path("models")).expect("a folder for models");
        Some(Self { machine, program, presets: BTreeMap::new(), server: None, args: Vec::new(), token: None, hub: 1 })
    }

    /// A router with nothing loaded that knows these models, all of one kind.
    pub fn router_with(models: &[&str], args: &[&str]) -> Option<Self> {
        let mut llama = Self::new()?;
        for model in models {
            llama.add(model, &TinyModel::default(), "");
        }
        llama.start_router(args);
        Some(llama)
    }

    /// Writes a model and its section of the presets, for a router that is started later.
    pub fn add(&mut self, name: &str, model: &TinyModel, settings: &str) {
        let path = self.file(name, "gguf");
        model.write(&path);
        fs::write(self.file(name, "gate"), "").expect("an empty file");
        self.presets.insert(name.to_owned(), format!("model = {}\n{settings}\n", path.display()));
    }

    /// The same, and its loads can be held.
    pub fn add_holdable(&mut self, name: &str, model: &TinyModel, settings: &str) {
        // Settings that make the server read one more file, behind the model's.
        let gate = self.file(name, "gate");
        let settings = format!("{settings}\nspec-type = ngram-cache\nlookup-cache-static = {}", gate.display());
        self.add(name, model, &settings);
    }

    /// Keeps every load of this model from its end, from now on.
    pub fn hold(&self, name: &str) -> Hold {
        let [pipe, gate] = ["pipe", "gate"].map(|it| self.file(name, it));
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).expect("a pipe");
        fs::remove_file(&gate).expect("the file that it reads");
        fs::hard_link(&pipe, &gate).expect("the pipe in its place");
        Hold { pipe, gate, writer: None }
    }

    fn file(&self, name: &str, extension: &str) -> PathBuf {
        self.machine.path(&format!("models/{}.{extension}", name.replace('/', "_")))
    }

    /// Starts a router with the models that were added.
    pub fn start_router(&mut self, args: &[&str]) {
        self.write_presets();
        let presets = self.machine.path("models.ini").display().to_string();
        self.start(&[&["--models-preset", &presets], args].concat());
        self.wait_for("/health", |status, _| status == 200);
    }

    /// Writes down the models that were added, which a router that runs does not notice by itself.
    pub fn write_presets(&self) {
        let sections = self.presets.iter().map(|(name, settings)| format!("[{name}]\n{settings}\n"));
        self.machine.write("models.ini", &sections.collect::<String>());
    }

    /// Starts a server of this one model, which may still be loading; its load can be held.
    pub fn start_single(&mut self, name: &str, args: &[&str]) {
        let [model, gate] = ["gguf", "gate"].map(|it| self.file(name, it).display().to_string());
        let common = ["--model", &model, "--spec-type", "ngram-cache", "--lookup-cache-static", &gate];
        self.start(&[&common, args].concat());
        self.wait_for("/health", |_, _| true);
    }

    /// Starts it again, with the same arguments on the same port.
    pub fn restart(&mut self) {
        let args = std::mem::take(&mut self.args);
        self.spawn(args);
        self.wait_for("/health", |_, _| true);
    }

    fn start(&mut self, args: &[&str]) {
        let port = free_port();
        self.machine.rest_port = port;
        let port = port.to_string();
        // One thread: idle ones of a pool would turn in circles. Nothing is fitted to the memory of this machine.
        let common = ["--host", "127.0.0.1", "--port", &port, "--threads", "1", "--fit", "off"];
        let key = args.iter().position(|it| *it == "--api-key").map(|at| args[at + 1].to_owned());
        self.token = key.map(|keys| keys.split(',').next().unwrap_or_default().to_owned());
        self.spawn([&common, args].concat().into_iter().map(str::to_owned).collect());
    }

    fn spawn(&mut self, args: Vec<String>) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log");
        let mut command = Command::new(&self.program);
        command.args(&args).env_clear().env("HOME", self.machine.home()).env("PATH", "/usr/bin:/bin");
        // Downloads come from a hub of the test, or from nowhere.
        command.env("MODEL_ENDPOINT", format!("http://127.0.0.1:{}/", self.hub));
        // Its children belong to its group.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        self.server = Some(command.spawn().expect("llama-server starts"));
        self.args = args;
    }

    fn log_file(&self) -> PathBuf {
        self.machine.path("llama-server.log")
    }

    /// What the server said, and the processes of its models with it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// One request, with the server's key if it wants one.
    pub fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let authorization = format!("Authorization: Bearer {}", self.token.as_deref().unwrap_or_default());
        let headers: &[&str] = if self.token.is_some() { &[&authorization] } else { &[] };
        http(method, self.machine.rest_port, path, headers, &body.to_string())
    }

    /// Waits for an answer.
    fn wait_for(&mut self, path: &str, is_it: impl Fn(u16, &Value) -> bool) {
        until(path, || {
            let ended = self.server.as_mut().expect("it was started").try_wait().expect("a state");
            assert!(ended.is_none(), "llama-server ended ({ended:?}):\n{}", self.log());
            TcpStream::connect(("127.0.0.1", self.machine.rest_port)).is_ok() && {
                let (status, answer) = self.ask("GET", path, json!({}));
                is_it(status, &answer)
            }
        });
    }

    /// The `status` of a model in the router's list; null where it is not in the list.
    pub fn status(&self, model: &str) -> Value {
        let (status, list) = self.ask("GET", "/models", json!({}));
        assert_eq!(status, 200, "{list}");
        let all = list["data"].as_array().expect("a list");
        all.iter().find(|it| it["id"] == model).map_or(Value::Null, |it| it["status"].clone())
    }

    /// Waits until the router lists the model in this state.
    pub fn wait_until(&self, model: &str, state: &str) {
        until(&format!("{model} {state}"), || self.status(model)["value"] == state);
    }

    /// A model that is loaded already, by somebody else.
    pub fn preload(&self, model: &str) -> &Self {
        let (status, answer) = self.ask("POST", "/models/load", json!({ "model": model }));
        assert_eq!(status, 200, "{model}: {answer}");
        self.wait_until(model, "loaded");
        self
    }

    /// What is loaded, sleeping included.
    pub fn resident(&self) -> Vec<String> {
        let (_, list) = self.ask("GET", "/models", json!({}));
        let all = list["data"].as_array().expect("a list").iter();
        let resident = all.filter(|it| it["status"]["value"] == "loaded" || it["status"]["value"] == "sleeping");
        resident.map(|it| it["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// How many times a process was started for this model.
    pub fn loads(&self, model: &str) -> usize {
        self.log().matches(&format!("spawning server instance with name={model} on port")).count()
    }

    /// What the model answers to anything.
    pub fn chat(&self, model: &str) -> (u16, Value) {
        let messages = json!([{ "role": "user", "content": "count" }]);
        let body = json!({ "model": model, "messages": messages, "max_tokens": 32 });
        self.ask("POST", "/v1/chat/completions", body)
    }

    /// Keeps the model, an endless one, busy until this is dropped.
    pub fn occupy(&self, model: &str) -> TcpStream {
        let messages = json!([{ "role": "user", "content": "count" }]);
        let body = json!({ "model": model, "messages": messages, "max_tokens": -1, "stream": true }).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.machine.rest_port)).expect("it listens");
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("a request");
        let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
        let word = lines.find(|line| line.as_ref().is_ok_and(|it| it.contains("\"content\":\"")));
        word.expect("an answer that begins").expect("a line");
        stream
    }

    /// The process of a model.
    pub fn process_of(&self, model: &str) -> Pid {
        let router = self.server.as_ref().expect("it runs").id();
        let children = fs::read_to_string(format!("/proc/{router}/task/{router}/children")).unwrap_or_default();
        // A process is a child of the thread that started it.
        let threads = fs::read_dir(format!("/proc/{router}/task")).expect("its threads");
        let of_thread = |task: PathBuf| fs::read_to_string(task.join("children")).unwrap_or_default();
        let all = threads.flatten().map(|it| of_thread(it.path())).fold(children, |all, some| all + " " + &some);
        let is_it = |pid: &&str| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.contains(&format!("--alias\0{model}\0"))
        };
        let pid = all.split_whitespace().find(is_it).unwrap_or_else(|| panic!("no process of {model}"));
        pid.parse().ok().and_then(Pid::from_raw).expect("a pid")
    }

    /// Sends a signal to the process of a model.
    pub fn signal(&self, model: &str, signal: Signal) {
        kill_process(self.process_of(model), signal).expect("it is alive");
    }

    /// The server dies at once, and its models with it; a load that is under way too.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let group = i32::try_from(server.id()).ok().and_then(Pid::from_raw).expect("a pid");
            let _ = kill_process_group(group, Signal::KILL);
            let _ = server.wait();
        }
    }

    /// From now on callers go through this.
    pub fn record(&mut self) -> Recorder {
        let recorder = Recorder::before(self.machine.rest_port);
        self.machine.rest_port = recorder.port;
        recorder
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        self.kill();
    }
}

/// Loads of a model that wait for one more file.
pub struct Hold {
    pipe: PathBuf,
    gate: PathBuf,
    writer: Option<File>,
}

impl Hold {
    /// Waits until a load has come as far as that.
    pub fn reached(&mut self) -> &mut Self {
        let mut open = OpenOptions::new();
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
        open.write(true).custom_flags(nonblocking);
        // There is no opening it for writing alone before it is read.
        until("a load that holds", || {
            self.writer = self.writer.take().or_else(|| open.open(&self.pipe).ok());
            self.writer.is_some()
        });
        self
    }

    /// Lets the load that holds, and all later ones, go on.
    pub fn release(mut self) {
        self.reached();
        self.lift();
    }

    /// Lets later loads go on.
    pub fn lift(self) {
        let empty = self.gate.with_extension("empty");
        fs::write(&empty, "").expect("an empty file");
        fs::rename(empty, &self.gate).expect("a file in the place of the pipe");
        fs::remove_file(&self.pipe).expect("the pipe");
    }
}

/// A proxy that notes each request.
pub struct Recorder {
    pub port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let noted = Arc::clone(&noted);
                // Either side may go away at any time.
                std::thread::spawn(move || pass_on(client, server, &noted).unwrap_or_default());
            }
        });
        Self { port, requests }
    }

    /// Methods and paths, in the order in which they came; forgets them.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().expect("no panic"))
    }

    /// Waits until this has been asked so many times.
    pub fn wait_for(&self, request: &str, count: usize) {
        let asked = || self.requests.lock().expect("no panic").iter().filter(|it| *it == request).count();
        until(request, || asked() >= count);
    }
}

/// One request and its answer, whose end is the end of the connection.
fn pass_on(client: TcpStream, server: u16, noted: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let Some((request, _)) = first.rsplit_once(' ') else { return Ok(()) };
    noted.lock().expect("no panic").push(request.to_owned());
    let mut head = first.clone() + "Connection: close\r\n";
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
        if !name.eq_ignore_ascii_case("connection") {
            head += &line;
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut upstream = TcpStream::connect(("127.0.0.1", server))?;
    upstream.write_all(head.as_bytes())?;
    upstream.write_all(&body)?;
    std::io::copy(&mut upstream, &mut &client)?;
    client.shutdown(Shutdown::Both)
}
