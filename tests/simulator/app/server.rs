//! The two HTTP servers: the REST server of LM Studio, which can be switched on and off, and the application's own API
//! port. Who may ask, what is recorded and which fault strikes is decided here.
//!
//! The endpoints themselves are in `native`, `openai`, `rpc` and `control`.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::common::http::Call;
use crate::common::{Kind, replace_file};
use crate::engine::App;
use crate::lmstudio::VERSION;
use crate::{control, jobs, native, openai, reply, rpc};

/// The REST server's switch.
#[derive(Debug, Default)]
pub struct RestSwitch {
    running: Mutex<Option<(u16, oneshot::Sender<()>)>>,
}

impl RestSwitch {
    /// The port it listens on.
    pub fn port(&self) -> Option<u16> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(port, _)| *port)
    }

    /// Starts it, or moves it to another port. [open] what LM Studio does with a second `start` on another port.
    pub async fn start(self: &Arc<Self>, app: &Arc<App>, port: u16, interface: &str) -> Result<u16, String> {
        if let Some(running) = self.port() {
            if running == port {
                return Ok(port);
            }
            self.stop(app);
        }
        let listener = TcpListener::bind((interface, port)).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("listen EADDRINUSE: address already in use {interface}:{port}")
            }
            _ => format!("listen {error} {interface}:{port}"),
        })?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let settings = json!({
            "autoStartOnLaunch": false,
            "cors": false,
            "fileLoggingMode": "succinct",
            "justInTimeModelLoading": app.config().jit,
            "logIncomingTokens": false,
            "logLinesLimit": 500,
            "logSensitiveData": false,
            "networkInterface": interface,
            "port": port,
            "verbose": false,
        });
        replace_file(&app.home.rest_file(), settings.to_string().as_bytes()).map_err(|error| error.to_string())?;

        let stop = self.listen(app, listener);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((port, stop));
        app.record.write("rest-start", json!({ "port": port }));
        Ok(port)
    }

    fn listen(self: &Arc<Self>, app: &Arc<App>, listener: TcpListener) -> oneshot::Sender<()> {
        let (stop, stopped) = oneshot::channel();
        let (app, switch) = (Arc::clone(app), Arc::clone(self));
        let router = Router::new().fallback(move |request| rest(Arc::clone(&app), Arc::clone(&switch), request));
        tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
        });
        stop
    }

    /// Stops it: no new connection, and those that are idle are closed. False if it did not run.
    pub fn stop(&self, app: &App) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if running.is_some() {
            app.record.write("rest-stop", json!({}));
        }
        running.is_some()
    }
}

/// Serves the API port for ever.
pub async fn serve_api(app: Arc<App>, switch: Arc<RestSwitch>, listener: TcpListener) -> std::io::Result<()> {
    let router = Router::new().fallback(move |request| api(Arc::clone(&app), Arc::clone(&switch), request));
    axum::serve(listener, router).await
}

async fn api(app: Arc<App>, switch: Arc<RestSwitch>, request: Request) -> Response {
    let call = Call::of(request).await;
    if call.method == "GET" && call.path == "/lms-status" {
        return reply::json(&json!({ "package": "lm-studio", "version": VERSION }));
    }
    if let Some(method) = call.path.strip_prefix("/rpc/") {
        return rpc::answer(&app, &switch, method, &call.json()).await;
    }
    if let Some(what) = call.path.strip_prefix("/control/") {
        return control::answer(&app, &switch, &call.method, what, &call.body).await;
    }
    reply::unexpected(&call.method, &call.path)
}

/// Writes the request into the record when it is over, also if the client did not wait for the answer.
struct Recorded {
    app: Arc<App>,
    method: String,
    path: String,
    authorization: bool,
    user_agent: Option<String>,
    status: Option<u16>,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.app.record.write(
            "request",
            json!({
                "method": self.method,
                "path": self.path,
                "status": self.status,
                "authorization": self.authorization,
                "userAgent": self.user_agent,
            }),
        );
    }
}

async fn rest(app: Arc<App>, switch: Arc<RestSwitch>, request: Request) -> Response {
    let call = Call::of(request).await;
    if let Some(method) = call.path.strip_prefix("/rpc/") {
        // `lms --host` is a stranger to LM Studio, and has no token to show. The text is [open].
        if app.config().token.is_some() && call.headers.contains_key("x-lms-stranger") {
            let body = json!({ "error": "An LM Studio API token is required to connect to this server." });
            return reply::json_status(StatusCode::UNAUTHORIZED, &body);
        }
        return rpc::answer(&app, &switch, method, &call.json()).await;
    }
    let text = |name| call.headers.get(name).and_then(|value| value.to_str().ok());
    let mut recorded = Recorded {
        app: Arc::clone(&app),
        method: call.method.clone(),
        path: call.path.clone(),
        authorization: text(header::AUTHORIZATION).is_some(),
        user_agent: text(header::USER_AGENT).map(str::to_owned),
        status: None,
    };
    let target = format!("{} {}", call.method, call.path);
    let response = match app.store.faults.strike(&app.record, &["rest", &target], None) {
        Some(fault) => {
            app.store.faults.held(&app.record, &fault).await;
            match fault.kind {
                Kind::Unexpected => reply::unexpected(&call.method, &call.path),
                _ => reply::spoiled(&fault, route(&app, &call)).await,
            }
        }
        None => route(&app, &call).await,
    };
    recorded.status = Some(response.status().as_u16());
    response
}

async fn route(app: &Arc<App>, call: &Call) -> Response {
    let (method, path) = (call.method.as_str(), call.path.as_str());
    if (method, path) == ("GET", "/lmstudio-greeting") {
        return reply::json(&json!({ "lmstudio": true }));
    }
    let config = app.config();
    if let Some(answer) = unauthorized(config.token.as_deref(), &call.headers) {
        return answer;
    }
    let has_v1 = config.rest_version == "v1";
    let has_v0 = config.v0 && config.rest_version != "openai";
    match (method, path) {
        ("GET", "/v1/models") => openai::models(app, &config),
        ("POST", "/v1/chat/completions") => openai::chat(app, &call.json()).await,
        ("GET", "/api/v0/models") if has_v0 => native::v0_models(app, &config),
        ("GET", _) if has_v0 && path.starts_with("/api/v0/models/") => {
            native::v0_model(app, &config, &path["/api/v0/models/".len()..])
        }
        ("GET", "/api/v1/models") if has_v1 => native::v1_models(app, &config),
        ("POST", "/api/v1/models/load") if has_v1 => native::v1_load(app, &call.json()).await,
        ("POST", "/api/v1/models/unload") if has_v1 => native::v1_unload(app, &call.json()),
        ("POST", "/api/v1/models/download") if has_v1 => jobs::v1_download(app, &call.json()),
        ("GET", _) if has_v1 && path.starts_with("/api/v1/models/download/status/") => {
            jobs::v1_download_status(&path["/api/v1/models/download/status/".len()..])
        }
        _ => reply::unexpected(method, path),
    }
}

fn unauthorized(token: Option<&str>, headers: &HeaderMap) -> Option<Response> {
    const MISSING: &str = "An LM Studio API token is required to make requests to this server, but none was provided";
    const WRONG: &str = "Malformed LM Studio API token provided";
    const REST: &str = " using the Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer \
                        $LM_API_TOKEN'). Learn more at: https://lmstudio.ai/docs/developer/core/authentication.";
    let token = token?;
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given.and_then(|value| value.strip_prefix("Bearer ")) == Some(token) {
        return None;
    }
    let start = if given.is_some() { WRONG } else { MISSING };
    let body =
        format!(r#"{{"error":{{"type":"invalid_request","code":"invalid_api_key","message":"{start}{REST}"}}}}"#);
    Some(reply::typed(StatusCode::UNAUTHORIZED, "application/json; charset=utf-8", Body::from(body)))
}
