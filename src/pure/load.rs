//! What a caller asks for: a model, and what it is to be loaded with.

use std::fmt;

use crate::pure::model::ModelKey;

/// How much of a model goes to the GPU, as LM Studio takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu(String);

impl Gpu {
    /// Reads `off`, `max`, or a number from 0 to 1. (`auto` is an error to LM Studio.)
    pub fn parse(text: &str) -> Option<Self> {
        let is_share =
            || text.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share)) && !text.starts_with(['-', '+']);
        (matches!(text, "off" | "max") || is_share()).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a model is loaded with; what is `None` is left to the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Unload after this many idle seconds.
    pub ttl_seconds: Option<u64>,
    /// Requests served at once.
    pub parallel: Option<u64>,
    /// Context in tokens. A minimum: more is never drift.
    pub context_length: Option<u64>,
    /// Share on the GPU.
    pub gpu: Option<Gpu>,
}

impl LoadOptions {
    /// The context to ask for and to expect of a model whose limit is `max`, if that is known.
    pub fn wanted_context(&self, max: Option<u64>) -> Option<u64> {
        self.context_length.map(|wanted| max.map_or(wanted, |max| wanted.min(max)))
    }

    /// The same options for a model whose limit is `max`.
    #[must_use]
    pub fn within(&self, max: Option<u64>) -> Self {
        Self { context_length: self.wanted_context(max), ..self.clone() }
    }
}

/// One model of a call.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    /// As it was typed, or the role that was asked for.
    pub requested: String,
    /// Its key.
    pub key: ModelKey,
    /// What it is to be loaded with.
    pub options: LoadOptions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_context_than_the_model_has_means_all_it_has() {
        let options = LoadOptions { context_length: Some(200_000), ..LoadOptions::default() };
        assert_eq!(options.wanted_context(Some(131_072)), Some(131_072));
        assert_eq!(options.wanted_context(Some(262_144)), Some(200_000));
        assert_eq!(options.wanted_context(None), Some(200_000));
        assert_eq!(LoadOptions::default().wanted_context(Some(1)), None);
    }
}
