//! llama.cpp's `llama-server`: a router that loads and unloads models, or a server with a single
//! model. Everything is HTTP. Each request that names a model says `autoload=false`, so that none
//! loads a model by the way.

mod load;
mod observe;

use std::cell::{Cell, OnceCell};

use super::Context;
use crate::pure::base_url::escaped;
use crate::pure::config::{Config, Device};
use crate::pure::llamacpp::replies::Router;
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::Downloaded;
use crate::pure::text::{listed, printable, shell_word, similar};
pub(super) use load::load_failed;

/// One `llama-server`.
#[derive(Debug)]
pub(crate) struct LlamaCpp<'a> {
    pub(super) context: &'a Context<'a>,
    /// The server has one model and is no router, as its list told.
    is_single: Cell<bool>,
    /// Its models have been read from the disk again: that is done once.
    has_reloaded: Cell<bool>,
    /// Room has been made for a load that failed: that is done once.
    has_made_room: Cell<bool>,
    /// What the router says of itself; `None` in it where there is none, or it cannot be told.
    router: OnceCell<Option<Router>>,
}

impl<'a> LlamaCpp<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self {
            context,
            is_single: Cell::new(false),
            has_reloaded: Cell::new(false),
            has_made_room: Cell::new(false),
            router: OnceCell::new(),
        }
    }

    async fn router(&self) -> Result<Option<Router>, Failure> {
        if let Some(known) = self.router.get() {
            return Ok(*known);
        }
        let reply = self.context.unless_stopped(self.context.server.get("props")).await?;
        Ok(*self.router.get_or_init(|| Router::of(&reply)))
    }

    /// How many models a router holds at most. It counts processes; memory plays no part.
    pub(super) async fn capacity(&self) -> Result<Option<usize>, Failure> {
        Ok(self.router().await?.and_then(|it| it.max_instances))
    }

    pub(super) async fn loads_on_request(&self) -> Result<bool, Failure> {
        Ok(self.router().await?.is_some_and(|it| it.loads_on_request))
    }

    /// The server has no model of that name, and nothing similar is taken for it.
    pub(super) fn not_known(&self, request: &ModelRequest, models: &[Downloaded]) -> Failure {
        let (key, base) = (request.key.as_str(), self.context.base());
        let names = || models.iter().flat_map(|it| std::iter::once(&it.key).chain(&it.variants)).map(String::as_str);
        let (reason, hint) = if self.is_single.get() {
            let own = listed(models.iter().map(|it| it.key.as_str()), "and");
            let alias = shell_word(key);
            (
                format!("llama.cpp at {base} serves {own} alone, not `{key}`"),
                format!("start it with `--alias {alias}`, or ask for the model that it has"),
            )
        } else {
            (
                format!("llama.cpp at {base} has no model `{key}`"),
                "add it to the folder or the presets of llama-server; --fresh makes it read those again".to_owned(),
            )
        };
        Failure { suggestions: similar(key, names()), ..Failure::new(Category::NotDownloaded, reason).hinted(hint) }
    }

    /// How a user unloads a model by hand.
    pub(super) fn unload_command(&self, identifier: &str) -> String {
        let context = self.context;
        let body = shell_word(&serde_json::json!({ "model": printable(identifier) }).to_string());
        let key = if context.server.has_token() {
            format!(" -H \"Authorization: Bearer ${}\"", context.config.api_token_env)
        } else {
            String::new()
        };
        format!("curl{key} -d {body} {}", context.base().endpoint("models/unload"))
    }
}

/// The path of what is asked of one model.
fn of_model(path: &str, model: &str) -> String {
    format!("{path}?model={}&autoload=false", escaped(model))
}

/// Names the configured options that a load cannot apply here, with what does.
pub(super) fn unsupported(config: &Config, request: &ModelRequest) -> Option<String> {
    let options = &request.options;
    let unused: Vec<&str> = [
        ("ttlSeconds (`sleep-idle-seconds` there)", options.ttl_seconds.is_some()),
        ("parallel (`parallel`)", options.parallel.is_some()),
        ("gpu (`n-gpu-layers`)", options.gpu.is_some()),
        ("device", config.device == Device::Preferred),
    ]
    .into_iter()
    .filter_map(|(name, is_set)| is_set.then_some(name))
    .collect();
    let (key, unused) = (&request.key, (!unused.is_empty()).then(|| unused.join(", "))?);
    Some(format!("`{key}` is loaded as its preset or the command line of llama-server says, and not with {unused}"))
}
