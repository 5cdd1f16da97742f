//! The programs that can serve the models, by name.

use serde::Serialize;

/// A program that serves models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum BackendKind {
    /// LM Studio.
    #[serde(rename = "lmstudio")]
    LmStudio,
    /// llama-swap.
    #[serde(rename = "llama-swap")]
    LlamaSwap,
    /// llama.cpp's `llama-server`, as a router or with a single model.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl BackendKind {
    /// All of them, in the order in which an unknown server is asked.
    pub const ALL: [Self; 3] = [Self::LmStudio, Self::LlamaSwap, Self::LlamaCpp];

    /// The word for it in the configuration, in `--json` and on disk.
    pub fn word(self) -> &'static str {
        match self {
            Self::LmStudio => "lmstudio",
            Self::LlamaSwap => "llama-swap",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::LmStudio => "LM Studio",
            Self::LlamaSwap | Self::LlamaCpp => self.word(),
        }
    }

    /// The one of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }
}
