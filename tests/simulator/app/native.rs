//! LM Studio's own REST endpoints, `/api/v0` and `/api/v1`; those for downloads are in `jobs`.
//!
//! It must not keep state: what is loaded is the engine's.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use crate::common::now_ms;
use crate::engine::{App, By, Instance, Phase, Refusal};
use crate::lmstudio::{Config, Model};
use crate::load::{LoadRequest, find};
use crate::openai::{List, ids};
use crate::reply;

#[derive(Serialize)]
struct V0Model<'a> {
    id: &'a str,
    object: &'static str,
    r#type: &'static str,
    publisher: &'a str,
    arch: &'a str,
    compatibility_type: &'static str,
    quantization: &'a str,
    state: &'static str,
    max_context_length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded_context_length: Option<u64>,
}

fn format_name(model: &Model) -> &'static str {
    if model.head.format == "gguf" { "gguf" } else { "mlx" }
}

/// The v0 view of an id, if it is one.
fn v0<'a>(instances: &'a [Instance], downloaded: &'a [Model], config: &Config, id: &'a str) -> Option<V0Model<'a>> {
    let instance = instances.iter().find(|instance| instance.identifier == id && instance.listed(config));
    let model = match instance {
        Some(instance) => &instance.model,
        None => find(downloaded, id, None)?.0,
    };
    let state = match instance {
        None => "not-loaded",
        Some(instance) if instance.loading() => "loading",
        Some(_) => "loaded",
    };
    Some(V0Model {
        id,
        object: "model",
        r#type: match (model.is_embedding(), model.tail.vision) {
            (true, _) => "embeddings",
            (false, Some(true)) => "vlm",
            (false, _) => "llm",
        },
        publisher: &model.head.publisher,
        arch: model.head.architecture.as_deref().unwrap_or_default(),
        compatibility_type: format_name(model),
        quantization: model.head.quantization.as_ref().map_or("", |quantization| &quantization.name),
        state,
        max_context_length: model.tail.max_context_length,
        loaded_context_length: instance.filter(|_| state == "loaded").map(|instance| instance.context_length),
    })
}

/// `GET /api/v0/models`
pub fn v0_models(app: &App, config: &Config) -> Response {
    let ids = ids(app, config);
    let (instances, downloaded) = (app.instances(), app.downloaded());
    let data: Vec<V0Model<'_>> = ids.iter().filter_map(|id| v0(&instances, &downloaded, config, id)).collect();
    reply::json(&List { data, object: "list" })
}

/// `GET /api/v0/models/{id}`. [open] what an unknown id gets.
pub fn v0_model(app: &App, config: &Config, id: &str) -> Response {
    if let Some(model) = v0(&app.instances(), &app.downloaded(), config, id) {
        return reply::json(&model);
    }
    reply::json_status(StatusCode::NOT_FOUND, &json!({ "error": format!("Model \"{id}\" not found") }))
}

#[derive(Serialize)]
struct V1Model<'a> {
    r#type: &'a str,
    publisher: &'a str,
    key: &'a str,
    display_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<Option<&'a str>>,
    quantization: Option<V1Quantization<'a>>,
    size_bytes: u64,
    params_string: Option<&'a str>,
    loaded_instances: Vec<V1Instance>,
    max_context_length: u64,
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<V1Capabilities>,
    // Present and null for an LLM, absent for an embedding model.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variants: Option<&'a Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selected_variant: Option<&'a str>,
}

#[derive(Serialize)]
struct V1Quantization<'a> {
    name: &'a str,
    bits_per_weight: u32,
}

#[derive(Serialize)]
struct V1Capabilities {
    vision: bool,
    trained_for_tool_use: bool,
}

#[derive(Serialize)]
struct V1Instance {
    id: String,
    config: V1Config,
}

#[derive(Serialize)]
struct V1Config {
    context_length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_batch_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flash_attention: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offload_kv_cache_to_gpu: Option<bool>,
}

impl V1Config {
    fn new(context_length: u64, embedding: bool, parallel: Option<u32>) -> Self {
        Self {
            context_length,
            eval_batch_size: (!embedding).then_some(512),
            parallel,
            flash_attention: (!embedding).then_some(true),
            offload_kv_cache_to_gpu: (!embedding).then_some(true),
        }
    }
}

fn v1_entry<'a>(config: &Config, instances: &[Instance], model: &'a Model) -> V1Model<'a> {
    let embedding = model.is_embedding();
    let head = &model.head;
    let mine = |instance: &&Instance| {
        instance.model.key() == model.key()
            && instance.device() == head.device_identifier.as_deref()
            && instance.listed(config)
    };
    let view = |instance: &Instance| V1Instance {
        id: instance.identifier.clone(),
        config: V1Config::new(instance.context_length, embedding, instance.parallel),
    };
    V1Model {
        r#type: &head.kind,
        publisher: &head.publisher,
        key: &head.model_key,
        display_name: &head.display_name,
        architecture: (!embedding).then_some(head.architecture.as_deref()),
        quantization: head
            .quantization
            .as_ref()
            .map(|quantization| V1Quantization { name: &quantization.name, bits_per_weight: quantization.bits }),
        size_bytes: head.size_bytes,
        params_string: head.params_string.as_deref(),
        loaded_instances: instances.iter().filter(mine).map(view).collect(),
        max_context_length: model.tail.max_context_length,
        format: format_name(model),
        capabilities: (!embedding).then(|| V1Capabilities {
            vision: model.tail.vision.unwrap_or_default(),
            trained_for_tool_use: model.tail.trained_for_tool_use.unwrap_or_default(),
        }),
        description: (!embedding).then_some(()),
        variants: head.variants.as_ref(),
        selected_variant: head.selected_variant.as_deref(),
    }
}

/// `GET /api/v1/models`. A linked machine's models are entries of their own; [open], they may be merged with ours.
pub fn v1_models(app: &App, config: &Config) -> Response {
    #[derive(Serialize)]
    struct List<'a> {
        models: Vec<V1Model<'a>>,
    }
    let downloaded = app.downloaded();
    let instances = app.instances();
    let models = downloaded.iter().map(|model| v1_entry(config, &instances, model)).collect();
    reply::json(&List { models })
}

/// An error in the shape of `/api/v1`.
pub fn v1_error(status: StatusCode, kind: &'static str, message: &str) -> Response {
    #[derive(Serialize)]
    struct Outer<'a> {
        error: Inner<'a>,
    }
    #[derive(Serialize)]
    struct Inner<'a> {
        r#type: &'static str,
        message: &'a str,
    }
    reply::json_status(status, &Outer { error: Inner { r#type: kind, message } })
}

/// The error for a field that is not there.
pub fn missing_field(field: &str) -> Response {
    v1_error(StatusCode::BAD_REQUEST, "invalid_request", &format!("Missing required field '{field}'"))
}

/// `POST /api/v1/models/load`. [open] whether hanging up cancels it: it does not.
pub async fn v1_load(app: &Arc<App>, body: &Value) -> Response {
    #[derive(Serialize)]
    struct Loaded {
        r#type: String,
        instance_id: String,
        load_time_seconds: f64,
        status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        load_config: Option<V1Config>,
    }
    let Some(name) = body["model"].as_str() else {
        return missing_field("model");
    };
    let mut request = LoadRequest::new(name, By::Rest);
    request.context_length = body["context_length"].as_u64();
    request.ttl_ms = body["ttl"].as_u64().map(|seconds| seconds.saturating_mul(1000));
    let began = now_ms();
    let parallel = request.parallel;
    let mut ticket = match app.begin(request) {
        Ok(ticket) => ticket,
        Err(Refusal::Unknown) => {
            return v1_error(StatusCode::NOT_FOUND, "model_not_found", &format!("Model \"{name}\" not found"));
        }
        Err(Refusal::Text(text)) => {
            return v1_error(StatusCode::INTERNAL_SERVER_ERROR, "model_load_failed", &text);
        }
    };
    let failed = |text: &str| v1_error(StatusCode::INTERNAL_SERVER_ERROR, "model_load_failed", text);
    match ticket.finished().await {
        Phase::Ready(info) => {
            let downloaded = app.downloaded();
            let model = find(&downloaded, name, None).map(|(model, _)| model);
            let embedding = model.is_some_and(Model::is_embedding);
            let context = info.as_ref().map_or(0, |info| info.context_length);
            let echo = body["echo_load_config"] == true;
            let parallel = (!embedding).then_some(parallel.unwrap_or(4));
            reply::json(&Loaded {
                r#type: if embedding { "embedding" } else { "llm" }.to_owned(),
                instance_id: ticket.identifier,
                load_time_seconds: (now_ms() - began) as f64 / 1000.0,
                status: "loaded",
                load_config: echo.then(|| V1Config::new(context, embedding, parallel)),
            })
        }
        Phase::Failed(text) => failed(&text),
        // The text is [open].
        Phase::Cancelled | Phase::Loading(_) => failed("Model load was cancelled."),
    }
}

/// `POST /api/v1/models/unload`
pub fn v1_unload(app: &App, body: &Value) -> Response {
    let Some(id) = body["instance_id"].as_str() else {
        return missing_field("instance_id");
    };
    if app.unload(id, None, By::Rest) {
        reply::json(&json!({ "instance_id": id }))
    } else {
        let message = format!("Cannot find a model with identifier \"{id}\"");
        v1_error(StatusCode::NOT_FOUND, "model_not_found", &message)
    }
}
