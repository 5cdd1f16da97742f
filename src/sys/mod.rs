//! Effects: each file has one job and is the only one to name its crate or OS facility.
//! They report what happened; what to make of it is decided in `gate` and `pure`.

pub mod clock;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod http;
pub mod leader;
pub(crate) mod listener;
pub(crate) mod lmstudio;
pub(crate) mod lock;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod opencode;
pub(crate) mod operation;
pub(crate) mod output;
pub(crate) mod paths;
pub(crate) mod private;
pub(crate) mod process;
pub(crate) mod progress;
mod proxy;
pub(crate) mod repository;
pub(crate) mod runtime;
pub(crate) mod search_path;
pub(crate) mod settings;
pub(crate) mod shutdown;
pub mod state;
pub(crate) mod tls;
