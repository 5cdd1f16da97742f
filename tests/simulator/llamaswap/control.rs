//! What a test does by hand, on a port of its own: `/control/...`.
//!
//! llama-swap has nothing like it. It must not offer what a test can have through llama-swap's port or the files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::common::http::{Call, typed};
use crate::engine::App;
use crate::process::Work;

/// Requests that a test pretends to have under way, by model.
type Busy = Mutex<BTreeMap<String, Work>>;

/// Serves the port for ever.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> std::io::Result<()> {
    let busy = Arc::new(Busy::default());
    let router = Router::new().fallback(move |request| answer(Arc::clone(&app), Arc::clone(&busy), request));
    axum::serve(listener, router).await
}

async fn answer(app: Arc<App>, busy: Arc<Busy>, request: Request) -> Response {
    let call = Call::of(request).await;
    let body = call.json();
    let model = body["model"].as_str().unwrap_or_default();
    let result = match call.path.as_str() {
        "/control/state" => Ok(state(&app)),
        // Somebody who asked for a model before, on some other machine.
        "/control/load" => app.load(model, "control").await.map(|()| json!({})),
        // A request that takes as long as the test wants.
        "/control/busy" => work(&app, &busy, model, body["busy"] == true),
        // The model's server ends by itself.
        "/control/die" => match app.engine().processes.get(model) {
            Some(process) if process.die() => Ok(json!({})),
            _ => Err(format!("{model:?} is not ready")),
        },
        // As by SIGHUP, but answered when it is done.
        "/control/reload" => {
            app.reload().await;
            Ok(json!({}))
        }
        path => Err(format!("unknown order: {path}")),
    };
    match result {
        Ok(value) => typed(StatusCode::OK, "application/json", value.to_string()),
        Err(error) => typed(StatusCode::BAD_REQUEST, "application/json", json!({ "error": error }).to_string()),
    }
}

fn work(app: &App, busy: &Busy, model: &str, begins: bool) -> Result<Value, String> {
    let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
    if begins {
        let engine = app.engine();
        let process = engine.processes.get(model).ok_or_else(|| format!("no model {model:?}"))?;
        busy.insert(model.to_owned(), engine.work(process));
    } else {
        busy.remove(model);
    }
    Ok(json!({}))
}

fn state(app: &App) -> Value {
    let engine = app.engine();
    let models = engine
        .processes
        .iter()
        .map(|(id, it)| (id.clone(), json!({ "state": it.state().name(), "inFlight": it.in_flight() })));
    let models: serde_json::Map<String, Value> = models.collect();
    json!({ "models": models, "places": engine.places(), "profile": app.active_profile(), "version": engine.version })
}
