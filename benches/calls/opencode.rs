//! What the plugin costs a turn of the real opencode, beside other things that a turn could wait
//! for: nothing, a timer, `/bin/true`. Whole turns, each kind in turn.
//!
//! What is awaited in there takes as long as it takes, and then opencode's own garbage collector
//! may stand in the way. It pauses several times in a turn, whatever is awaited, and the longer
//! the wait, the more likely one falls into it. So the whole turn tells what a wait costs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::desk::Desk;
use crate::support::{LLAMA, free_port, http};
use crate::table::{median, ms};

/// In the order of the probe.
const WAITS: [&str; 4] = ["nothing", "a timer of 3 ms", "/bin/true", "the plugin"];
/// The place of what is compared with.
const PROGRAM: usize = 2;
/// A session does not grow beyond this: what opencode sends, and throws away, grows with it.
const TURNS_OF_A_SESSION: usize = 20;
/// The first turns also compile what they run.
const WARM_UP: usize = 3;

/// One turn of opencode.
#[derive(Debug, Default, Clone, Copy)]
struct Turn {
    awaited: Duration,
    whole: Duration,
    /// The collector paused opencode while it waited.
    was_paused: bool,
}

/// Runs and prints the table, if there is an opencode.
pub(crate) fn measure(rounds: usize) {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.preload(LLAMA);
    let plugin = desk.machine.path(".config/opencode/plugin/lmswarm.js");
    std::fs::rename(plugin, desk.machine.path("lmswarm.mjs")).expect("the plugin is installed");
    desk.machine.write(".config/opencode/plugin/probe.js", include_str!("probe.js"));

    let mut turns = turns(&desk, (rounds + WARM_UP) * WAITS.len());
    turns.drain(..WARM_UP * WAITS.len());
    let of = |place: usize, wanted: &dyn Fn(&Turn) -> bool, time: fn(&Turn) -> Duration| {
        let turns = turns.iter().skip(place).step_by(WAITS.len());
        turns.filter(|turn| wanted(turn)).map(time).collect::<Vec<Duration>>()
    };
    let title = format!("inside opencode, {rounds} turns");
    println!("\n{title:26}  awaited  /bin/true  not paused  /bin/true  paused  whole turn");
    for (place, name) in WAITS.iter().enumerate() {
        let awaited = |place| of(place, &|_| true, |turn| turn.awaited);
        let unpaused = |place| of(place, &|turn| !turn.was_paused, |turn| turn.awaited);
        let times = |of: &dyn Fn(usize) -> Vec<Duration>| ms(median(&of(place))) / ms(median(&of(PROGRAM)));
        println!(
            "{name:26} {:>5.2} ms {:>9.2}x {:>8.2} ms {:>9.2}x {:>5} % {:>8.1} ms",
            ms(median(&awaited(place))),
            times(&awaited),
            ms(median(&unpaused(place))),
            times(&unpaused),
            100 - 100 * unpaused(place).len() / rounds,
            ms(median(&of(place, &|_| true, |turn| turn.whole))),
        );
    }
    println!("(paused: how many of these waits have a pause of opencode's own garbage collector in them.)");
}

/// An `opencode serve` that ends with the measurement.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks opencode that many times, in one session.
fn turns(desk: &Desk, count: usize) -> Vec<Turn> {
    let port = free_port();
    let log = desk.machine.path("stderr");
    let mut command = desk.command(&["serve", "--port", &port.to_string()]);
    command.env("BUN_JSC_logGC", "1").stdout(Stdio::piped()).stderr(std::fs::File::create(&log).expect("a file"));
    let mut server = Server(command.spawn().expect("opencode starts"));
    let said = BufReader::new(server.0.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line.contains("listening on")), "opencode does not listen");

    let post = |path: &str, body: Value| http("POST", port, path, &["Connection: close"], &body.to_string());
    // With a title of its own there is one request a turn.
    let session = || post("/session", json!({ "title": "t" })).1["id"].as_str().expect("a session").to_owned();
    let mut path = String::new();
    let ask = |number: usize| {
        if number.is_multiple_of(TURNS_OF_A_SESSION) {
            path = format!("/session/{}/message", session());
        }
        let started = Instant::now();
        let (status, answer) = post(&path, json!({ "parts": [{ "type": "text", "text": "hello" }] }));
        assert!(status == 200 && answer["info"]["error"].is_null(), "{answer}");
        started.elapsed()
    };
    let wholes: Vec<Duration> = (0..count).map(ask).collect();
    drop(server);
    let waits = waits(&std::fs::read_to_string(log).expect("what it said"));
    assert_eq!(waits.len(), count, "one request a turn");
    wholes.into_iter().zip(waits).map(|(whole, wait)| Turn { whole, ..wait }).collect()
}

/// The waits in what opencode, its collector and the probe wrote, in this order.
fn waits(text: &str) -> Vec<Turn> {
    let mut waits = Vec::new();
    let mut was_paused = false;
    for line in text.lines() {
        if line == "probe begins" {
            was_paused = false;
        } else if let Some(took) = line.strip_prefix("probe ends ").and_then(|it| it.parse::<f64>().ok()) {
            waits.push(Turn { awaited: Duration::from_secs_f64(took / 1000.0), was_paused, ..Turn::default() });
        } else if line.contains("GC END") {
            was_paused = true;
        }
    }
    waits
}
