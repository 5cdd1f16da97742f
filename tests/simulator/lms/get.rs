//! `lms get`: the plan and the progress on stdout, full of escape sequences, and two words on stderr.
//!
//! The real one redraws as often as it likes, so its bytes are the same only in kind.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Session;
use crate::client::Client;
use crate::lmstudio::{Model, size_1000};

/// Ends a line of the plan.
const END: &str = "\x1b[0K\n\r";

/// `lms get`
pub async fn get(session: &mut Session) -> Result<i32> {
    let client = Client::connect(session).await?;
    let Some(name) = session.args.first().map(str::to_owned) else {
        session.prompt("? Select a model to download |").await;
    };
    if !session.args.has("--yes") {
        session.prompt(&format!("? Download {name}? |")).await;
    }
    let shown = name.to_lowercase();
    session.write_now(format!("\x1b[?25l\r{END}   ⧗ {shown} - Pending...{END}{END}").as_bytes());
    session.write_now("⠦ Resolving download plan...\x1b[0K\n".as_bytes());
    let answer: Value = match client.call("resolve", &json!({ "name": name })).await {
        Ok(answer) => answer,
        Err(error) => {
            session.write_now(b"\x1b[?25h");
            return Err(error);
        }
    };
    let model: Model = serde_json::from_value(answer["model"].clone())?;
    let quantization = model.head.quantization.as_ref().map_or("", |quantization| quantization.name.as_str());
    let (key, size) = (model.key(), size_1000(model.head.size_bytes));
    let file = format!("{key} {quantization} [{}]", model.head.format.to_uppercase());
    session.write_now(
        format!(
            "\r{END}   ⠇ {key} - Resolving...{END}   └─ ⠏ Finding options based on your system... (0/1){END}{END}⠸ Resolving \
             download plan...{END}{END}"
        )
        .as_bytes(),
    );
    if answer["downloaded"] == true {
        let plan = format!("   ✓ Satisfied {key}{END}   └─ ✓ Satisfied {file}{END}\x1b[0K\n\x1b[?25h");
        session.write_now(plan.as_bytes());
        session.info(&format!("Model already downloaded. To use, run: lms load {key}"));
        return Ok(0);
    }
    let plan = format!(
        "   ↓ To download: model {key} - 0 B{END}   └─ ↓ To download: {file} - {size}{END}{END}Resolution completed. \
         Downloading {size}...\x1b[0K\n\x1b[?25h"
    );
    session.write_now(plan.as_bytes());
    session.write_now(b"\x1b[?25l\x1b[s\x1b[2K");
    download(session, &client, &name, model.head.size_bytes).await?;
    session.write_now(b"\x1b[2K\x1b[1G\x1b[?25h");
    session.info("Finalizing download...\nDownload completed.");
    Ok(0)
}

async fn download(session: &Session, client: &Client, name: &str, size: u64) -> Result<()> {
    let body = json!({ "name": name });
    let done = client.call::<Value>("download", &body);
    tokio::pin!(done);
    let mut ticks = interval(Duration::from_millis(80));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let total = session.config.download_ms.max(1);
    let began = Instant::now();
    let mut frame = 0;
    let mut draw = |part: f64| {
        const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
        frame += 1;
        let full = (part * 22.0) as usize;
        let (bar, rest) = ("█".repeat(full), " ".repeat(22 - full));
        let got = size_1000((size as f64 * part) as u64);
        let speed = size_1000(size.saturating_mul(1000) / total);
        let left = ((1.0 - part) * total as f64 / 1000.0).ceil();
        let line = format!(
            "\x1b[?25l\x1b[s\r{} [{bar}{rest}] {:.2}% | {got:>9} / {} | {speed}/s | ETA 00:{left:02}          \x1b[u",
            FRAMES[frame % 10],
            part * 100.0,
            size_1000(size),
        );
        session.write_now(line.as_bytes());
    };
    loop {
        tokio::select! {
            result = &mut done => {
                draw(1.0);
                return result.map(drop);
            }
            _ = ticks.tick() => draw((began.elapsed().as_millis() as f64 / total as f64).min(0.99)),
        }
    }
}
