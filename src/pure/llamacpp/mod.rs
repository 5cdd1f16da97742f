//! What llama.cpp's `llama-server` answers, as a router and with a single model: its list, the
//! proof that a model answers, its errors and events. Facts are those of build b11434; the router
//! is young and changes, so statuses and shapes decide, and words only where nothing else does.

pub(crate) mod events;
pub(crate) mod list;
pub(crate) mod replies;
