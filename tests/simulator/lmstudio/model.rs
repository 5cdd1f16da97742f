//! What a downloaded model and an instance look like in the lists, in LM Studio's names and in its order.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One downloaded model, in the order `lms ls --json` prints it. All but the key have defaults, so a test may write
/// `{"modelKey": "acme/chat"}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// What comes before an instance's own members.
    #[serde(flatten)]
    pub head: Head,
    /// What comes after them.
    #[serde(flatten)]
    pub tail: Tail,
}

/// The first members of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    #[serde(rename = "type", default = "llm")]
    pub kind: String,
    pub model_key: String,
    #[serde(default = "gguf")]
    pub format: String,
    #[serde(default)]
    pub display_name: String,
    #[serde(default)]
    pub publisher: String,
    #[serde(default)]
    pub path: String,
    #[serde(default = "some_size")]
    pub size_bytes: u64,
    #[serde(default)]
    pub indexed_model_identifier: String,
    #[serde(default)]
    pub device_identifier: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params_string: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variants: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected_variant: Option<String>,
}

/// The last members of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tail {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_for_tool_use: Option<bool>,
    #[serde(default = "some_context")]
    pub max_context_length: u64,
}

/// How a model is quantized.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Quantization {
    pub name: String,
    pub bits: u32,
}

fn llm() -> String {
    "llm".into()
}

fn gguf() -> String {
    "gguf".into()
}

fn some_size() -> u64 {
    1_200_000_000
}

fn some_context() -> u64 {
    131_072
}

impl Model {
    /// The key that `lms load` and `lms ls` use.
    pub fn key(&self) -> &str {
        &self.head.model_key
    }

    /// Whether it makes embeddings rather than text.
    pub fn is_embedding(&self) -> bool {
        self.head.kind == "embedding"
    }

    /// A model of which nothing but the key is known.
    pub fn named(key: &str) -> Result<Self> {
        let mut model: Self = serde_json::from_value(serde_json::json!({ "modelKey": key }))?;
        model.complete();
        Ok(model)
    }

    /// Fills in what a test left out.
    pub fn complete(&mut self) {
        let embedding = self.is_embedding();
        let head = &mut self.head;
        let (owner, name) = head.model_key.split_once('/').unwrap_or(("lmstudio-community", &head.model_key));
        if head.publisher.is_empty() {
            head.publisher = owner.to_owned();
        }
        if head.path.is_empty() {
            head.path = format!("{}/{name}-GGUF/{name}-Q4_K_M.gguf", head.publisher);
        }
        if head.display_name.is_empty() {
            head.display_name = name.to_owned();
        }
        if head.indexed_model_identifier.is_empty() {
            head.indexed_model_identifier.clone_from(&head.path);
        }
        if head.quantization.is_none() {
            head.quantization = Some(Quantization { name: "Q4_K_M".into(), bits: 4 });
        }
        if !embedding {
            self.tail.vision.get_or_insert(false);
            self.tail.trained_for_tool_use.get_or_insert(true);
        }
    }

    /// The same model on a linked machine.
    pub fn on_device(&self, device: &str) -> Self {
        let mut model = self.clone();
        model.head.indexed_model_identifier = format!("{device}:{}", model.head.path);
        model.head.device_identifier = Some(device.to_owned());
        model
    }
}

/// One line of `lms ps --json`, in its order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PsRow {
    #[serde(flatten)]
    pub head: Head,
    pub identifier: String,
    pub ttl_ms: Option<u64>,
    pub last_used_time: Option<u64>,
    #[serde(flatten)]
    pub tail: Tail,
    pub context_length: u64,
    pub status: String,
    pub queued: u32,
    pub parallel: Option<u32>,
}
