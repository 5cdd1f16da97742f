//! What a call comes to: failures, exit codes and the report.

pub mod exit;
pub mod failure;
pub mod hint;
pub mod report;
