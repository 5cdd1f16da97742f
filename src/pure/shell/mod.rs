//! Scripts for shells: hooks and completions. Nothing is installed here.

pub mod completion;
pub mod wrapper;
