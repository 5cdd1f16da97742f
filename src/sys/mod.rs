//! Effects: each file has one job and is the only one to name its crate or OS facility.
//! They report what happened; what to make of it is decided in `gate` and `pure`.

pub mod clock;
pub mod exec;
pub mod files;
pub mod http;
pub mod leader;
pub mod listener;
pub mod lmstudio;
pub mod lock;
pub mod log;
pub mod machine;
pub mod opencode;
pub mod operation;
pub mod output;
pub mod paths;
pub mod private;
pub mod process;
pub mod progress;
pub mod repository;
pub mod runtime;
pub mod search_path;
pub mod settings;
pub mod shutdown;
pub mod state;
