//! `lms ps` and `lms ls`, as JSON and as tables.
//!
//! It must not sort or change what the application lists, but where the real one does, in the tables.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::Session;
use crate::client::Client;
use crate::common::now_ms;
use crate::lmstudio::{Model, PsRow, size_1000};

/// A table as the real one prints it: four spaces between columns, every column as wide as its widest cell, and the
/// last one, too, filled with spaces.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("    ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn device_name(devices: &BTreeMap<String, String>, device: Option<&String>) -> String {
    device.map_or_else(|| "Local".into(), |device| devices.get(device).unwrap_or(device).clone())
}

fn headings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// `1h`, `5m`, `30s`
fn lean(ms: u64) -> String {
    let ms = ms as f64;
    let (amount, unit) = if ms >= 3.6e6 {
        (ms / 3.6e6, 'h')
    } else if ms >= 6e4 {
        (ms / 6e4, 'm')
    } else {
        (ms / 1e3, 's')
    };
    format!("{}{unit}", amount.round())
}

/// `lms ps`
pub async fn ps(session: &mut Session) -> Result<i32> {
    let client = Client::connect(session).await?;
    let loaded = client.loaded().await?;
    if session.args.has("--json") {
        session.print(&serde_json::to_string(&loaded.instances)?);
        return Ok(0);
    }
    let mut instances = loaded.instances;
    if instances.is_empty() {
        session.info("No models are currently loaded.\n\nTo load a model, run:\n\n    lms load <model path>");
        return Ok(0);
    }
    instances.sort_by_key(|row| row.identifier.to_lowercase());
    let ttl = |row: &PsRow| {
        row.ttl_ms.map_or_else(String::new, |ttl| {
            let used = row.last_used_time.map_or(0, |used| now_ms().saturating_sub(used));
            format!("{} / {}", lean(ttl.saturating_sub(used)), lean(ttl))
        })
    };
    let mut rows = vec![headings(&["IDENTIFIER", "MODEL", "STATUS", "SIZE", "CONTEXT", "PARALLEL", "DEVICE", "TTL"])];
    rows.extend(instances.iter().map(|row| {
        vec![
            row.identifier.clone(),
            row.head.model_key.clone(),
            row.status.to_uppercase(),
            size_1000(row.head.size_bytes),
            row.context_length.to_string(),
            row.parallel.map_or_else(|| "-".into(), |parallel| parallel.to_string()),
            device_name(&loaded.devices, row.head.device_identifier.as_ref()),
            ttl(row),
        ]
    }));
    session.print(&format!("\n{}\n", table(&rows)));
    Ok(0)
}

/// The variants of a model, as models of their own.
fn variants(model: &Model) -> Vec<Model> {
    let variant = |name: &String| {
        let mut variant = model.clone();
        variant.head.model_key.clone_from(name);
        variant.head.variants = None;
        variant.head.selected_variant = None;
        variant
    };
    model.head.variants.iter().flatten().map(variant).collect()
}

/// `lms ls`
pub async fn ls(session: &mut Session) -> Result<i32> {
    #[derive(Serialize)]
    struct WithVariants {
        model: Model,
        variants: Vec<Model>,
    }
    let client = Client::connect(session).await?;
    let downloaded = client.downloaded().await?;
    let mut models = downloaded.models;
    if let Some(wanted) = session.args.first().map(str::to_owned) {
        let Some(model) = models.iter().find(|model| model.key() == wanted) else {
            session.info(&format!(
                "Error: Cannot find a model with path \"{wanted}\"\n\nHere are your available models:\n\n    You don't have \
                 any LLMs downloaded.\n\nRun\n\n    lms ls\n\nto see a full list of loadable models"
            ));
            return Ok(1);
        };
        // [open] what a model without variants shows: itself.
        let listed = Some(variants(model)).filter(|variants| !variants.is_empty());
        models = listed.unwrap_or_else(|| vec![model.clone()]);
    }
    let (llm, embedding) = (session.args.has("--llm"), session.args.has("--embedding"));
    let count = models.len();
    if llm || embedding {
        models.retain(|model| if model.is_embedding() { embedding } else { llm });
    }
    if session.args.has("--json") {
        let text = if session.args.has("--variants") {
            let with = models.into_iter().map(|model| WithVariants { variants: variants(&model), model });
            serde_json::to_string(&with.filter(|entry| !entry.variants.is_empty()).collect::<Vec<_>>())?
        } else {
            serde_json::to_string(&models)?
        };
        session.print(&text);
        return Ok(0);
    }
    if models.is_empty() {
        session.print(&match count {
            0 => "You have not downloaded any models yet.".to_owned(),
            _ => format!("You have {count} models, but none of them match the filter."),
        });
        return Ok(0);
    }
    let total = models.iter().map(|model| model.head.size_bytes).sum();
    let loaded = client.loaded().await?.instances;
    let mut text = format!("\nYou have {} models, taking up {} of disk space.\n\n", models.len(), size_1000(total));
    models.sort_by_key(|model| model.key().to_lowercase());
    for (title, embedding) in [("LLM", false), ("EMBEDDING", true)] {
        let mut rows = vec![headings(&[title, "PARAMS", "ARCH", "SIZE", "DEVICE", ""])];
        rows.extend(models.iter().filter(|model| model.is_embedding() == embedding).map(|model| {
            let name = match model.head.variants.as_ref().map_or(0, Vec::len) {
                0 => model.key().to_owned(),
                1 => format!("{} (1 variant)", model.key()),
                count => format!("{} ({count} variants)", model.key()),
            };
            let mine = loaded.iter().filter(|row| {
                row.head.model_key == model.key() && row.head.device_identifier == model.head.device_identifier
            });
            vec![
                name,
                model.head.params_string.clone().unwrap_or_default(),
                architecture(model.head.architecture.as_deref().unwrap_or_default()),
                size_1000(model.head.size_bytes),
                device_name(&downloaded.devices, model.head.device_identifier.as_ref()),
                match mine.count() {
                    0 => String::new(),
                    1 => "✓ LOADED".to_owned(),
                    count => format!("✓ LOADED ({count})"),
                },
            ]
        }));
        if rows.len() > 1 {
            text += &table(&rows);
            text += "\n\n";
        }
    }
    text.pop();
    session.print(&text);
    Ok(0)
}

fn architecture(name: &str) -> String {
    match name {
        "llama" => "Llama",
        "nomic-bert" => "Nomic BERT",
        other => other,
    }
    .to_owned()
}
