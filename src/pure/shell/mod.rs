//! Scripts for shells: hooks and completions. Nothing is installed here.

pub(crate) mod completion;
pub(crate) mod wrapper;
