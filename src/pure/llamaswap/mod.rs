//! llama-swap: what it answers, and what its names mean. Seen with its releases v150 to v250; v218
//! was written anew.

pub mod lists;
pub mod reply;
