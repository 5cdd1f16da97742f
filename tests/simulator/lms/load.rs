//! `lms load`: the load, the spinner and what is said about it.
//!
//! Its oddities are the real ones: it never looks at what is loaded, and everything it has to say is on stderr.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::Session;
use crate::args::gpu_ratio;
use crate::choose::{choose, history, remember};
use crate::client::{Client, closed};
use crate::common::{Kind, now_ms};
use crate::lmstudio::Model;

/// `lms load`
pub async fn load(session: &mut Session) -> Result<i32> {
    let mut interrupt = Interrupt::new()?;
    let client = Client::connect(session).await?;
    let downloaded = client.downloaded().await?;
    let history = history(session);
    let Some(choice) = choose(session, &downloaded, &history).await else {
        return Ok(1);
    };
    let device = if choice.any_device { None } else { Some(choice.model.head.device_identifier.clone()) };
    let mut body = json!({
        "key": choice.model.key(),
        "contextLength": session.args.whole("--context-length"),
        "gpu": session.args.value("--gpu").and_then(|text| gpu_ratio(text).ok()),
    });
    if let Some(device) = &device {
        body["device"] = device.clone().into();
    }
    if session.args.has("--estimate-only") {
        return estimate(session, &client, &choice.model, &body).await;
    }
    if !session.args.has("--exact") {
        remember(session, history, choice.model.key());
    }

    body["identifier"] = session.args.value("--identifier").into();
    body["ttlMs"] = session.args.whole("--ttl").map(|seconds| seconds.saturating_mul(1000)).into();
    body["parallel"] = session.args.whole("--parallel").into();
    body["localOnly"] = session.args.has("--local").into();
    let token = format!("{}-{}", std::process::id(), now_ms());
    body["token"] = token.clone().into();

    let name = |device: &String| downloaded.devices.get(device).unwrap_or(device).clone();
    let place = device.flatten().map_or_else(String::new, |device| format!(" on {}", name(&device)));
    let mut spinner = Spinner { text: format!("Loading {}{place}", choice.model.key()), percent: 0, frame: None };
    let began = Instant::now();
    let outcome = follow(session, &client, &body, &token, &mut spinner, &mut interrupt).await;
    if !session.write_now(b"\r\x1b[K\x1b[?25h") {
        cancel(&client, &token).await;
        return Ok(1);
    }
    let Some(info) = outcome? else {
        session.info("W Load cancelled.");
        return Ok(1);
    };
    let elapsed = elapsed(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let Some(identifier) = info["identifier"].as_str() else { bail!("This model has already been unloaded") };
    let device = info["device"].as_str().map(str::to_owned);
    let place = device.map_or_else(String::new, |device| format!(" on {}", name(&device)));
    let size = size_1024(info["sizeBytes"].as_u64().unwrap_or_default());
    session.info(&format!("Model loaded successfully{place} in {elapsed}.\n({size})"));
    let (green, plain) = if std::env::var_os("FORCE_COLOR").is_some() { ("\x1b[32m", "\x1b[39m") } else { ("", "") };
    session.info(&format!("To use the model in the API/SDK, use the identifier \"{green}{identifier}{plain}\"."));
    Ok(0)
}

/// Waits for the load, with the spinner. None: cancelled by SIGINT.
async fn follow(
    session: &Session,
    client: &Client,
    body: &Value,
    token: &str,
    spinner: &mut Spinner,
    interrupt: &mut Interrupt,
) -> Result<Option<Value>> {
    let tick = Duration::from_millis(80);
    let mut ticks = interval_at(Instant::now() + tick, tick);
    let mut answer = client.begin("load", body).await?;
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let deaf = session.struck_by(Kind::IgnoreSigint);
    let mut news = Vec::new();
    loop {
        let drawn = tokio::select! {
            // In this order, so that the same load gives the same bytes.
            biased;
            _ = ticks.tick() => spinner.tick(session),
            () = interrupt.wait() => {
                if deaf {
                    continue;
                }
                cancel(client, token).await;
                return Ok(None);
            }
            piece = answer.piece() => {
                let piece = piece.map_err(|_| closed())?;
                if piece.is_empty() {
                    return Err(closed());
                }
                news.extend_from_slice(&piece);
                let mut drawn = true;
                while let Some(end) = news.iter().position(|byte| *byte == b'\n') {
                    let line: Value = serde_json::from_slice(&news.drain(..=end).collect::<Vec<_>>())?;
                    if let Some(error) = line["error"].as_str() {
                        bail!("{error}");
                    }
                    if let Some(percent) = line["percent"].as_u64() {
                        drawn &= spinner.report(session, percent);
                    }
                    if line["ready"] == true {
                        return Ok(Some(line["info"].clone()));
                    }
                }
                drawn
            }
        };
        if !drawn {
            // A Node build dies of a closed stdout, and takes the load with it.
            cancel(client, token).await;
            return Err(anyhow!("write EPIPE"));
        }
    }
}

/// Sends the cancel and sees it arrive; not for ever, as the user wants to be gone.
async fn cancel(client: &Client, token: &str) {
    let body = json!({ "token": token });
    let call = client.call::<Value>("cancel", &body);
    let _ = tokio::time::timeout(Duration::from_secs(2), call).await;
}

/// The turning sign on stdout. It is written whether or not stdout is a terminal, and when nobody reads the pipe it
/// blocks, and we with it, as the real one does.
struct Spinner {
    text: String,
    percent: u64,
    frame: Option<usize>,
}

impl Spinner {
    fn tick(&mut self, session: &Session) -> bool {
        self.frame = Some(self.frame.map_or(0, |frame| (frame + 1) % 10));
        self.draw(session)
    }

    fn report(&mut self, session: &Session, percent: u64) -> bool {
        if self.frame.is_some() && self.percent == percent {
            return true;
        }
        self.percent = percent;
        self.draw(session)
    }

    fn draw(&mut self, session: &Session) -> bool {
        const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
        let frame = FRAMES[*self.frame.get_or_insert(0)];
        session.write_now(format!("\x1b[?25l\r{} {}% {frame}", self.text, self.percent).as_bytes())
    }
}

/// SIGINT, from the moment `lms load` starts.
struct Interrupt {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
    #[cfg(windows)]
    signal: tokio::signal::windows::CtrlC,
}

impl Interrupt {
    fn new() -> Result<Self> {
        #[cfg(unix)]
        let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        #[cfg(windows)]
        let signal = tokio::signal::windows::ctrl_c()?;
        Ok(Self { signal })
    }

    async fn wait(&mut self) {
        self.signal.recv().await;
    }
}

async fn estimate(session: &Session, client: &Client, model: &Model, body: &Value) -> Result<i32> {
    let answer: Value = client.call("estimate", body).await?;
    session.info(&format!("Model: {}", model.key()));
    if let Some(length) = body["contextLength"].as_u64() {
        session.info(&format!("Context Length: {}", with_commas(length)));
    }
    if let Some(ratio) = body["gpu"].as_f64() {
        session.info(&format!("GPU Offload: {}%", ratio * 100.0));
    }
    let size = |name: &str| size_1024(answer[name].as_f64().unwrap_or_default() as u64);
    session.info(&format!("Estimated GPU Memory:   {}", size("gpuBytes")));
    session.info(&format!("Estimated Total Memory: {}", size("totalBytes")));
    let verdict = if answer["passes"] == true { "may be loaded" } else { "will fail to load" };
    session.info(&format!("\nEstimate: This model {verdict} based on your resource guardrails settings."));
    Ok(0)
}

/// `615.00ms`, `1.52s`, `2m 3.10s`
fn elapsed(ms: u64) -> String {
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    let seconds = |ms: u64| format!("{:.2}s", ms as f64 / 1000.0);
    match ms {
        0..1000 => format!("{ms}.00ms"),
        1000..MINUTE => seconds(ms),
        MINUTE..HOUR => format!("{}m {}", ms / MINUTE, seconds(ms % MINUTE)),
        _ => format!("{}h {}m {}", ms / HOUR, ms % HOUR / MINUTE, seconds(ms % MINUTE)),
    }
}

/// `1.23 GiB`: memory, by powers of two.
fn size_1024(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit < 4 {
        size /= 1024.0;
        unit += 1;
    }
    let name = ["Bytes", "KiB", "MiB", "GiB", "TiB"][unit];
    if unit == 0 { format!("{bytes} {name}") } else { format!("{size:.2} {name}") }
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
