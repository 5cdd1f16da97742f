//! A tour of `lmswarm` against a simulated LM Studio: `cargo run --example demo [-- --keep]`.
//!
//! It makes a temporary home, starts the simulator there, and runs the real binary through
//! six scenes. What each must come to is checked against what the simulator recorded; the
//! exit code is not 0 if one came out otherwise. Nothing outside the temporary home is
//! touched.
//!
//! `demo.svg` is the first four scenes of a run in a pseudo-terminal of 100 columns, drawn with
//! Python's `rich` (`Text.from_ansi`, `export_svg`, the web fonts taken out).

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lmswarm::pure::text::duration;
use serde_json::Value;

const QWEN: &str = "qwen/qwen3-coder-30b";
const GEMMA: &str = "google/gemma-3-12b";
const SMALL: &str = "gemma-3-4b-it";
const EXE: &str = std::env::consts::EXE_SUFFIX;

/// One scene: what is done, and what it must come to.
struct Scene<'a> {
    title: &'a str,
    /// What happens to LM Studio before, as a call of `lms`.
    before: Option<&'a str>,
    /// The arguments of `lmswarm`.
    args: &'a str,
    /// How many run it at once.
    callers: usize,
    exit: i32,
    /// What its messages must say.
    says: &'a str,
    loads: usize,
    /// The `lms` commands that `lmswarm` may use, in order.
    lms: &'a [&'a str],
    /// What is loaded afterwards, sorted.
    resident: &'a [&'a str],
}

/// What most scenes have in common.
const COLD: Scene = Scene {
    title: "",
    before: None,
    args: "ensure qwen/qwen3-coder-30b",
    callers: 1,
    exit: 0,
    says: "is loaded",
    loads: 1,
    lms: &["load"],
    resident: &[QWEN],
};

/// What `--keep` proposes, one after the other.
const TO_TRY: [&str; 3] = [
    "lmswarm ensure google/gemma-3-12b --context-length 32768",
    "lms unload qwen/qwen3-coder-30b",
    "lmswarm run qwen/qwen3-coder-30b -- echo 'it is loaded, so this may start'",
];

const SCENES: [Scene; 6] = [
    Scene { title: "The model is not loaded: it is loaded now, and exit 0 says that it is ready", ..COLD },
    Scene {
        title: "The same again: it is there, so there is nothing to do and nothing to say",
        says: "",
        loads: 0,
        lms: &[],
        ..COLD
    },
    Scene {
        title: "Eight callers at once: one loads, seven wait",
        args: "ensure google/gemma-3-12b",
        callers: 8,
        says: "waiting for",
        resident: &[GEMMA, QWEN],
        ..COLD
    },
    Scene {
        title: "A misspelt key: a plain no, and no other model in its place",
        args: "ensure qwen/qwen3-codr-30b",
        exit: 4,
        says: "did you mean `qwen/qwen3-coder-30b`?",
        loads: 0,
        lms: &[],
        resident: &[GEMMA, QWEN],
        ..COLD
    },
    Scene {
        title: "Somebody unloads it: the next call heals that",
        before: Some("unload qwen/qwen3-coder-30b"),
        resident: &[GEMMA, QWEN],
        ..COLD
    },
    Scene {
        title: "A stray copy: requests for `gemma-3-4b-it` do not reach `gemma-3-4b-it:2`",
        before: Some("load gemma-3-4b-it -y --identifier gemma-3-4b-it:2"),
        args: "ensure gemma-3-4b-it",
        says: "unloading `gemma-3-4b-it:2`",
        lms: &["ps", "unload", "load"],
        resident: &[SMALL, GEMMA, QWEN],
        ..COLD
    },
];

fn main() -> Result<ExitCode> {
    let keep = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--keep" => true,
        _ => bail!("usage: cargo run --example demo [-- --keep]"),
    };
    let signals = signals()?;
    let programs = build()?;
    let machine = Machine::start(&programs)?;
    let started = Instant::now();
    let mut broken = 0;
    for (number, scene) in SCENES.iter().enumerate() {
        println!("\n{}", paint("1", &format!("{}. {}", number + 1, scene.title)));
        let played = machine.play(scene);
        // Ctrl-C reaches the callers as well, which end otherwise than promised.
        if let Ok(signal) = signals.try_recv() {
            return Ok(ExitCode::from(128 + signal));
        }
        if let Err(error) = played {
            broken += 1;
            println!("{} {error:#}", paint("1;31", "not as promised:"));
        }
    }
    let seconds = started.elapsed().as_secs_f32();
    println!("\n{} of {} scenes came out as promised, in {seconds:.1} s.", SCENES.len() - broken, SCENES.len());
    if keep {
        println!("\nThe simulator goes on until Ctrl-C. Paste this into a second terminal:\n");
        for line in machine.aliases() {
            println!("  {line}");
        }
        println!("\nand try:\n");
        for line in TO_TRY {
            println!("  {line}");
        }
        // Ctrl-C is how it is meant to end.
        if let Ok(signal) = signals.recv()
            && signal != 2
        {
            return Ok(ExitCode::from(128 + signal));
        }
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes signals events instead of the end, so that the temporary home is removed.
fn signals() -> Result<mpsc::Receiver<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || while sender.send(runtime.block_on(next_signal())).is_ok() {});
    Ok(receiver)
}

/// The number of the next one. What cannot be watched ends the process, as ever.
#[cfg(unix)]
async fn next_signal() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let next = async |kind, number| match signal(kind) {
        Ok(mut signals) => signals.recv().await.map_or(number, |()| number),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        number = next(SignalKind::interrupt(), 2) => number,
        number = next(SignalKind::terminate(), 15) => number,
        number = next(SignalKind::hangup(), 1) => number,
    }
}

#[cfg(not(unix))]
async fn next_signal() -> u8 {
    match tokio::signal::ctrl_c().await {
        Ok(()) => 2,
        Err(_) => std::future::pending().await,
    }
}

/// Where the programs are.
struct Programs {
    lmswarm: PathBuf,
    lms: PathBuf,
    simulator: PathBuf,
}

/// Builds the programs that this one needs, where it stands itself: `TARGET/PROFILE/examples`.
fn build() -> Result<Programs> {
    let own = std::env::current_exe()?;
    let examples = own.parent().context("no folder")?;
    let profile = examples.parent().context("no folder above the examples")?;
    let target = profile.parent().context("no target folder")?;
    println!("{}", paint("2", "# Building lmswarm and the simulated LM Studio (the first time takes a minute)"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    // `cargo run` tells us about our own package. Build scripts that look at these variables (that
    // of `ring`) would run again, and again behind the next cargo without them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_us(name)) {
        cargo.env_remove(name);
    }
    let status = cargo
        .args(["build", "--quiet", "--bin", "lmswarm", "--example", "simulator", "--example", "lms"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        // The folder of the profile `dev` has another name.
        .arg("--profile")
        .arg(profile.file_name().filter(|name| *name != "debug").unwrap_or("dev".as_ref()))
        .arg("--target-dir")
        .arg(target)
        .status()?;
    ensure!(status.success(), "the build failed");
    let program = |folder: &Path, name: &str| folder.join(format!("{name}{EXE}"));
    Ok(Programs {
        lmswarm: program(profile, "lmswarm"),
        lms: program(examples, "lms"),
        simulator: program(examples, "simulator"),
    })
}

/// Whether a variable is one that cargo sets for the package it runs, not one of the user's.
fn is_about_us(name: &std::ffi::OsStr) -> bool {
    const STARTS: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    name.to_str().is_some_and(|name| name == "OUT_DIR" || STARTS.iter().any(|start| name.starts_with(start)))
}

/// A temporary home with a simulated LM Studio.
struct Machine {
    home: tempfile::TempDir,
    simulator: Child,
    base_url: String,
}

impl Machine {
    fn start(programs: &Programs) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("lmswarm-demo-").tempdir()?;
        let steering = home.path().join(".lmstudio/.simulator");
        fs::create_dir_all(&steering)?;
        fs::write(steering.join("config.json"), r#"{ "loadMs": 1500 }"#)?;
        fs::create_dir(home.path().join("bin"))?;
        for (program, name) in [(&programs.lmswarm, "lmswarm"), (&programs.lms, "lms")] {
            let place = home.path().join("bin").join(format!("{name}{EXE}"));
            #[cfg(unix)]
            std::os::unix::fs::symlink(program, place)?;
            #[cfg(not(unix))]
            fs::copy(program, place)?;
        }
        let mut simulator = Command::new(&programs.simulator)
            .arg("--home")
            .arg(home.path())
            .args(["--rest-port", "0", "--exit-with-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the simulator does not start")?;
        let mut ready = String::new();
        BufReader::new(simulator.stdout.take().context("no pipe")?).read_line(&mut ready)?;
        let ready: Value = serde_json::from_str(&ready).context("the simulator did not say it is ready")?;
        let base_url = format!("http://127.0.0.1:{}/v1", ready["restPort"]);
        Ok(Self { home, simulator, base_url })
    }

    fn environment(&self) -> [(&'static str, String); 3] {
        let home = self.home.path();
        let path = home.join("bin");
        [
            ("HOME", home.display().to_string()),
            ("PATH", path.display().to_string()),
            ("LMSWARM_BASE_URL", self.base_url.clone()),
        ]
    }

    /// Lines for a shell that make `lms` and `lmswarm` those of this home, and change nothing else
    /// in its terminal.
    #[cfg(unix)]
    fn aliases(&self) -> Vec<String> {
        let (home, url) = (self.home.path().display(), &self.base_url);
        let clean = format!("env -i HOME={home} TERM=\"$TERM\" PATH=\"{home}/bin:$PATH\"");
        vec![
            format!("alias lms='{clean} {home}/bin/lms'"),
            format!("alias lmswarm='{clean} LMSWARM_BASE_URL={url} {home}/bin/lmswarm'"),
        ]
    }

    /// PowerShell has no such thing as a variable for one command.
    #[cfg(not(unix))]
    fn aliases(&self) -> Vec<String> {
        let line = |(name, value): (&str, String)| match name {
            "PATH" => format!("$env:PATH = \"{value};$env:PATH\""),
            "HOME" => format!("$env:USERPROFILE = '{value}'"),
            _ => format!("$env:{name} = '{value}'"),
        };
        self.environment().into_iter().map(line).collect()
    }

    /// A program of the home's `bin`, with nothing else in its environment.
    fn command(&self, name: &str, args: &str) -> Command {
        let mut command = Command::new(self.home.path().join("bin").join(format!("{name}{EXE}")));
        command.env_clear().envs(self.environment()).args(args.split(' ')).stdin(Stdio::null());
        command
    }

    fn play(&self, scene: &Scene) -> Result<()> {
        if let Some(args) = scene.before {
            println!("{} lms {args}", paint("32", "$"));
            let output = self.command("lms", args).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let line = format!("lmswarm {}", scene.args);
        let line = match scene.callers {
            1 => line,
            count => {
                let numbers: Vec<String> = (1..=count).map(|it| it.to_string()).collect();
                format!("for i in {}; do {line} & done; wait", numbers.join(" "))
            }
        };
        println!("{} {line}", paint("32", "$"));

        let seen = self.record()?.len();
        let (exits, said, time) = self.run(scene)?;
        let record = self.record()?.split_off(seen);
        let of = |event: &'static str| record.iter().filter(move |it| it["event"] == event);
        let lms: Vec<&str> = of("lms").filter_map(|it| it["argv"][0].as_str()).collect();
        let (loads, requests) = (of("load-begin").count(), of("request").count());
        let resident = self.resident()?;

        let exit = if scene.callers == 1 { "exit" } else { "each exits" };
        let counts = format!("loads: {loads}, lms processes: {}, requests: {requests}", lms.len());
        println!("{}", paint("36", &format!("  {exit} {} after {} | {counts}", scene.exit, duration(time))));

        ensure!(exits.iter().all(|it| *it == Some(scene.exit)), "exit codes {exits:?}, not {}", scene.exit);
        ensure!(said.contains(scene.says), "its messages do not say {:?}", scene.says);
        ensure!(loads == scene.loads, "{loads} loads, not {}", scene.loads);
        ensure!(lms == scene.lms, "lms was called for {lms:?}, not {:?}", scene.lms);
        ensure!(resident == scene.resident, "not resident as expected: {:?}", scene.resident);
        Ok(())
    }

    /// Runs all callers of a scene and shows what they say: one as it says it.
    fn run(&self, scene: &Scene) -> Result<(Vec<Option<i32>>, String, Duration)> {
        // On a terminal of their own they would use colour too.
        let color = if is_colored() { "--color=always" } else { "--color=never" };
        let started = Instant::now();
        let mut callers = Vec::new();
        let (sender, lines) = mpsc::channel();
        for _ in 0..scene.callers {
            let mut caller = self.command("lmswarm", scene.args).arg(color).stderr(Stdio::piped()).spawn()?;
            let stderr = BufReader::new(caller.stderr.take().context("no pipe")?);
            let sender = sender.clone();
            std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
            callers.push(caller);
        }
        drop(sender);
        // What several say is shown once, when all have said it.
        let mut said: Vec<(String, usize)> = Vec::new();
        for line in lines {
            if scene.callers == 1 {
                println!("{line}");
            }
            match said.iter_mut().find(|(known, _)| *known == line) {
                Some((_, count)) => *count += 1,
                None => said.push((line, 1)),
            }
        }
        for (line, count) in said.iter().filter(|_| scene.callers > 1) {
            let times = if *count > 1 { paint("2", &format!(" ({count} of them)")) } else { String::new() };
            println!("{line}{times}");
        }
        let exits = callers.iter_mut().map(|it| Ok(it.wait()?.code())).collect::<Result<_>>()?;
        Ok((exits, said.into_iter().map(|(line, _)| line).collect(), started.elapsed()))
    }

    /// What the simulator recorded so far.
    fn record(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.home.path().join(".lmstudio/.simulator/record.jsonl"))?;
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    /// The identifiers that `lms ps` lists, sorted.
    fn resident(&self) -> Result<Vec<String>> {
        let output = self.command("lms", "ps --json").output()?;
        let listed: Vec<Value> = serde_json::from_slice(&output.stdout).context("`lms ps` lists nothing")?;
        let mut names: Vec<String> =
            listed.iter().filter_map(|it| it["identifier"].as_str().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It ends with its stdin; waiting for it lets the home be removed after its last write.
        drop(self.simulator.stdin.take());
        let _ = self.simulator.wait();
    }
}

fn is_colored() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty())
}

fn paint(color: &str, text: &str) -> String {
    if is_colored() { format!("\u{1b}[{color}m{text}\u{1b}[0m") } else { text.to_owned() }
}
