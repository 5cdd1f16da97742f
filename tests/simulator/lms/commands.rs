//! Which command runs, and the small ones: `unload`, `server`, `daemon` and `status`.
//!
//! It must not decide what the application does; it asks, and says what a real `lms` would say.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::client::{Client, greets, rest_port};
use crate::common::Kind;
use crate::lmstudio::{PsRow, size_1000};
use crate::{Session, get, list, load};

/// Runs the command of the command line.
pub async fn run(session: &mut Session) -> Result<i32> {
    match session.args.command {
        "load" => load::load(session).await,
        "ls" => list::ls(session).await,
        "ps" => list::ps(session).await,
        "unload" => unload(session).await,
        "get" => get::get(session).await,
        "status" => status(session).await,
        "server start" => server_start(session).await,
        "server stop" => server_stop(session).await,
        "server status" => server_status(session).await,
        "daemon up" => daemon_up(session).await,
        "daemon status" => daemon_status(session).await,
        "daemon down" => daemon_down(session).await,
        other => bail!("unknown command {other}"),
    }
}

async fn unload(session: &mut Session) -> Result<i32> {
    let client = Client::connect(session).await?;
    let all = session.args.has("--all");
    let wanted = session.args.first().map(str::to_owned);
    if all && wanted.is_some() {
        session.info("Invalid Usage\n\nYou cannot provide [path] when the flag --all is set.\n");
        return Ok(0);
    }
    let loaded = client.loaded().await?;
    let rows = loaded.instances;
    let label = |row: &PsRow| match &row.head.device_identifier {
        Some(device) => format!("\"{}\" on {}", row.identifier, loaded.devices.get(device).unwrap_or(device)),
        None => format!("\"{}\"", row.identifier),
    };
    let ghost = session.struck_by(Kind::Ghost);
    let take = async |row: &PsRow| -> Result<()> {
        if ghost {
            return Ok(());
        }
        let body = json!({ "identifier": row.identifier, "device": row.head.device_identifier });
        client.call::<Value>("unload", &body).await.map(drop)
    };
    let single = async |row: &PsRow| -> Result<i32> {
        take(row).await?;
        session.info(&format!("Model {} unloaded.", label(row)));
        Ok(0)
    };

    if all {
        for row in &rows {
            session.info(&format!("Unloading {}...", label(row)));
            take(row).await?;
        }
        session.info(&match rows.len() {
            0 => "No models to unload.".to_owned(),
            1 => "Unloaded 1 model.".to_owned(),
            count => format!("Unloaded {count} models."),
        });
        return Ok(0);
    }
    let Some(wanted) = wanted else {
        match rows.as_slice() {
            [] => {
                session.info("You don't have any models loaded. Use \"lms load\" to load a model.");
                return Ok(1);
            }
            [row] => return single(row).await,
            _ => {}
        }
        session.print("! To unload all models, use the --all flag.\n");
        session.prompt("? Select a model to unload |").await;
    };
    let matching: Vec<&PsRow> = rows.iter().filter(|row| row.identifier == wanted).collect();
    match matching.as_slice() {
        [] => {
            session.info(&format!(
                "Model Not Found\n\nCannot find a model with the identifier \"{wanted}\".\n\nTo see a list of loaded models, \
                 run:\n\n    lms ps"
            ));
            // As the real one does: an error in words only.
            Ok(0)
        }
        [row] => single(row).await,
        _ => session.prompt("? Multiple models found. Select one to unload |").await,
    }
}

async fn server_start(session: &mut Session) -> Result<i32> {
    let given = session.args.whole("--port").and_then(|port| u16::try_from(port).ok());
    let port = given.or_else(|| rest_port(&session.home)).unwrap_or(1234);
    if session.struck_by(Kind::Ghost) {
        session.info(&format!("Success! Server is now running on port {port}"));
        return Ok(0);
    }
    let bind = std::env::var("LMS_SERVER_HOST").ok();
    let interface = session.args.value("--bind").map(str::to_owned).or(bind).unwrap_or_else(|| "127.0.0.1".into());
    let taken = format!("listen EADDRINUSE: address already in use {interface}:{port}");
    if session.struck_by(Kind::PortTaken) {
        bail!(taken);
    }
    let client = Client::connect(session).await?;
    client.call::<Value>("server-start", &json!({ "port": port, "interface": interface })).await?;
    let host = if interface == "0.0.0.0" { Ipv4Addr::LOCALHOST.to_string() } else { interface };
    for attempt in 0..5 {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if greets(&host, port).await {
            session.info(&format!("Success! Server is now running on port {port}"));
            return Ok(0);
        }
    }
    bail!("Failed to verify the server is running. Please try to use another port.")
}

async fn running_port(session: &Session) -> (Option<u16>, bool) {
    let port = rest_port(&session.home);
    let running = match port {
        Some(port) => greets("127.0.0.1", port).await,
        None => false,
    };
    (port, running)
}

async fn server_stop(session: &mut Session) -> Result<i32> {
    let (Some(port), true) = running_port(session).await else { bail!("The server is not running.") };
    let client = Client::connect(session).await?;
    client.call::<Value>("server-stop", &json!({})).await?;
    session.info(&format!("Stopped the server on port {port}."));
    Ok(0)
}

async fn server_status(session: &mut Session) -> Result<i32> {
    let (port, running) = running_port(session).await;
    if session.args.has("--json") {
        session.print(&match port {
            Some(port) => format!(r#"{{"running":{running},"port":{port}}}"#),
            None => format!(r#"{{"running":{running}}}"#),
        });
        return Ok(0);
    }
    session.info(&match port {
        Some(port) if running => format!("The server is running on port {port}."),
        _ => "The server is not running.".to_owned(),
    });
    Ok(0)
}

async fn pid_and_version(client: &Client) -> Result<(u64, String)> {
    let info: Value = client.call("info", &json!({})).await?;
    Ok((info["pid"].as_u64().unwrap_or_default(), info["version"].as_str().unwrap_or_default().to_owned()))
}

async fn daemon_up(session: &mut Session) -> Result<i32> {
    let before = Client::running(session).await.is_some();
    let client = Client::connect(session).await?;
    let (pid, version) = pid_and_version(&client).await?;
    // The simulated application is the desktop application, never llmster.
    session.print(&if session.args.has("--json") {
        format!(r#"{{"status":"running","pid":{pid},"isDaemon":false,"version":"{version}"}}"#)
    } else if before {
        format!("LM Studio is already running (PID: {pid}); not starting a second daemon.")
    } else {
        format!("LM Studio started (PID: {pid}).")
    });
    Ok(0)
}

async fn daemon_status(session: &mut Session) -> Result<i32> {
    let json = session.args.has("--json");
    let Some(client) = Client::running(session).await else {
        session.print(if json { r#"{"status":"not-running"}"# } else { "The daemon is not running." });
        return Ok(0);
    };
    let (pid, _) = pid_and_version(&client).await?;
    session.print(&if json {
        format!(r#"{{"status":"running","pid":{pid},"isDaemon":false}}"#)
    } else {
        format!("LM Studio is running (PID: {pid}).")
    });
    Ok(0)
}

async fn daemon_down(session: &mut Session) -> Result<i32> {
    session.info(if Client::running(session).await.is_none() {
        "Daemon is not running."
    } else {
        "The daemon is currently running as part of LM Studio. Please exit LM Studio to stop it."
    });
    Ok(1)
}

async fn status(session: &mut Session) -> Result<i32> {
    let (port, running) = running_port(session).await;
    let Some(port) = port.filter(|_| running) else {
        session.print("Server:  OFF \n\n(i) To start the server, run the following command:\n\n    lms server start");
        return Ok(0);
    };
    let client = Client::connect(session).await?;
    let loaded = client.loaded().await?;
    let mut text = format!("Server: ON (port: {port})\n\n");
    text += if loaded.instances.is_empty() { "No Models Loaded" } else { "Loaded Models" };
    for row in &loaded.instances {
        let _ = write!(text, "\n  · {} - {}", row.identifier, size_1000(row.head.size_bytes));
    }
    session.print(&text);
    Ok(0)
}
