//! What a call comes to: failures, exit codes and the report.

pub(crate) mod exit;
pub(crate) mod failure;
pub(crate) mod hint;
pub(crate) mod report;
