//! opencode's configuration as far as the gate needs it. The facts are those of opencode 1.18.
//! Which files there are is found in `sys::opencode`.
//!
//! A [`source`] is read and checked ([`schema`]), a Markdown file's head by [`front_matter`], in
//! [`yaml`] of these [`yaml_types`]. Of several sources together, [`provider`] tells an address and a
//! key, [`address`] whether the user's token may go there, and [`roles`] which model is asked.
//! [`plugin`] is the text that is installed into opencode, [`no_model`] knows what opencode does
//! without any, and [`ungated`] what should perhaps be gated and is not.

pub mod address;
pub mod front_matter;
pub mod no_model;
pub mod plugin;
pub mod provider;
pub mod roles;
pub mod schema;
pub mod source;
pub mod ungated;
pub mod yaml;
pub mod yaml_types;
