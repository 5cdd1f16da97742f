//! What can be downloaded, and the downloading of it.
//!
//! It must not know whether `lms get` or REST asks.

use std::time::Duration;

use serde_json::json;

use crate::common::now_ms;
use crate::engine::{App, By};
use crate::lmstudio::Model;

/// Finds what a download's name means: the model, and whether it is here already. The error is the text to show.
pub fn resolve(app: &App, name: &str) -> Result<(Model, bool), String> {
    let (name, quantization) = name.split_once('@').map_or((name, None), |(name, rest)| (name, Some(rest)));
    let repository = name.strip_prefix("https://huggingface.co/");
    let missing = || Err(format!("Artifact {} does not exist. ", name.to_lowercase()));

    let mut catalogue = app.config().catalogue.clone();
    catalogue.iter_mut().for_each(Model::complete);
    let here = app.store.models(&app.record);
    let all = || here.iter().map(|model| (model, true)).chain(catalogue.iter().map(|model| (model, false)));
    let found = match repository {
        Some(repository) => all().find(|(model, _)| {
            let path = &model.head.path;
            path.strip_prefix(repository).is_some_and(|rest| rest.starts_with('/')) || model.key() == repository
        }),
        None if name.contains('/') => all().find(|(model, _)| model.key().eq_ignore_ascii_case(name)),
        // A search term: the first hit is taken, whatever it is. An equal name comes first, as in any search.
        None => {
            let term = name.to_lowercase();
            all()
                .find(|(model, _)| model.key().eq_ignore_ascii_case(name))
                .or_else(|| all().find(|(model, _)| model.key().to_lowercase().contains(&term)))
        }
    };
    let Some((model, downloaded)) = found else {
        return missing();
    };
    if let Some(wanted) = quantization {
        let own = model.head.quantization.as_ref().is_some_and(|own| own.name.eq_ignore_ascii_case(wanted));
        let full = format!("{}@{}", model.key(), wanted.to_lowercase());
        if !own && !model.head.variants.iter().flatten().any(|variant| *variant == full) {
            return Err(format!("Cannot find a download option for quantization {wanted}."));
        }
    }
    Ok((model.clone(), downloaded))
}

/// Downloads a model for as long as the configuration says.
pub async fn download(app: &App, model: &Model, name: &str, by: By) {
    app.record.write("download", json!({ "name": name, "by": by.name() }));
    let fault = app.store.faults.strike(&app.record, &["download"], Some(model.key()));
    let end = now_ms() + app.config().download_ms;
    tokio::time::sleep(Duration::from_millis(end.saturating_sub(now_ms()))).await;
    if let Some(fault) = fault {
        app.store.faults.held(&app.record, &fault).await;
    }
    if let Err(error) = app.store.add_model(&app.record, model) {
        app.record.write("problem", json!({ "file": "models.json", "error": error.to_string() }));
    }
}
