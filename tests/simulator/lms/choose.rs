//! Which model a key on the command line of `lms load` means, and the history that breaks ties.
//!
//! It must not look at what is loaded: the real one does not.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::Session;
use crate::client::Downloaded;
use crate::common::replace_file;
use crate::lmstudio::Model;

/// The model to load, and whether the choice of the machine is left to LM Studio.
pub struct Choice {
    /// The model.
    pub model: Model,
    /// No machine was chosen.
    pub any_device: bool,
}

/// The score of `key` for `pattern`, as the `fuzzy` package counts it: all characters in this order, ignoring case;
/// neighbours count double and double again; equal is without limit. None: no match.
fn score(pattern: &str, key: &str) -> Option<f64> {
    let (pattern, key) = (pattern.to_lowercase(), key.to_lowercase());
    let mut left = pattern.chars().peekable();
    let (mut total, mut run) = (0.0, 0.0);
    for character in key.chars() {
        if left.next_if_eq(&character).is_some() {
            run = 2.0 * run + 1.0;
        } else {
            run = 0.0;
        }
        total += run;
    }
    left.peek().is_none().then(|| if pattern == key { f64::INFINITY } else { total })
}

/// The model a key means. None: said why not.
pub async fn choose(session: &mut Session, downloaded: &Downloaded, history: &[String]) -> Option<Choice> {
    let places: HashMap<&str, usize> = history.iter().enumerate().map(|(place, key)| (key.as_str(), place)).collect();
    let clip = |model: &Model| {
        model.head.architecture.as_deref().is_some_and(|architecture| architecture.to_lowercase().contains("clip"))
    };
    let local = session.args.has("--local");
    let mut models: Vec<&Model> = downloaded
        .models
        .iter()
        .filter(|model| !(clip(model) || local && model.head.device_identifier.is_some()))
        .collect();
    models.sort_by_key(|model| places.get(model.key()).copied().unwrap_or(usize::MAX));

    let key = session.args.first().map(str::to_owned);
    if session.args.has("--exact") {
        return exact(session, &models, key.as_deref());
    }
    let pattern = key.clone().unwrap_or_default();
    let mut matches: Vec<(f64, &Model)> =
        models.iter().filter_map(|model| score(&pattern, model.key()).map(|score| (score, *model))).collect();
    // Stable: ties stay in the order of the history.
    matches.sort_by(|a, b| b.0.total_cmp(&a.0));
    let first = matches.first().map(|(_, model)| Model::clone(model));
    let devices: HashSet<_> = matches.iter().map(|(_, model)| &model.head.device_identifier).collect();
    let same_device = devices.len() < matches.len();
    let keys: HashSet<_> = matches.iter().map(|(_, model)| model.key()).collect();
    let (count, one_key) = (matches.len(), keys.len() == 1);

    if session.args.has("--yes") {
        let Some(model) = first else {
            session.info(&format!(
                "Model not found\n\nNo model found that matches model key \"{pattern}\".\n\nTo see a list of all downloaded \
                 models, run:\n\n    lms ls\n\nTo select a model interactively, remove the --yes flag:\n\n    lms load"
            ));
            return None;
        };
        if same_device {
            session.info(&format!(
                "W {count} models match the provided model key on the same device. Loading the first one."
            ));
        }
        return Some(Choice { model, any_device: count > 1 && !same_device });
    }
    session.write_now(b"\n");
    match first {
        Some(model) if key.is_some() && count == 1 => Some(Choice { model, any_device: false }),
        Some(model) if key.is_some() && one_key && !same_device => Some(Choice { model, any_device: true }),
        _ => {
            let verb = if session.args.has("--estimate-only") { "estimate" } else { "load" };
            session.prompt(&format!("? Select a model to {verb} |")).await
        }
    }
}

fn exact(session: &Session, models: &[&Model], path: Option<&str>) -> Option<Choice> {
    let Some(path) = path else {
        session.info("Path not provided\n\nThe parameter [model-key] is required when using the --exact flag.");
        return None;
    };
    if let Some(model) = models.iter().find(|model| model.head.path == path) {
        return Some(Choice { model: Model::clone(model), any_device: false });
    }
    let shortest = models.iter().map(|model| model.head.path.as_str()).min_by_key(|path| path.len());
    let example = shortest.map_or_else(String::new, |path| {
        format!("\n\nNote, you need to provide the full model path. For example:\n\n  lms load --exact {path}")
    });
    session.info(&format!(
        "Model not found\n\nNo model found with path being exactly \"{path}\".\n\nTo disable exact matching, remove the \
         --exact flag.\n\nTo see a list of all downloaded models, run:\n\n    lms ls{example}"
    ));
    None
}

/// The keys loaded before, the last one first.
pub fn history(session: &Session) -> Vec<String> {
    let read = || -> Option<Value> {
        serde_json::from_slice(&std::fs::read(session.home.internal().join("cli-pref.json")).ok()?).ok()
    };
    let keys = read().and_then(|value| serde_json::from_value(value["lastLoadedModels"].clone()).ok());
    keys.unwrap_or_default()
}

/// Writes down that a key is loaded.
pub fn remember(session: &Session, mut history: Vec<String>, key: &str) {
    history.retain(|known| known != key);
    history.insert(0, key.to_owned());
    history.truncate(20);
    let content = json!({ "lastLoadedModels": history }).to_string();
    let _ = replace_file(&session.home.internal().join("cli-pref.json"), content.as_bytes());
}
