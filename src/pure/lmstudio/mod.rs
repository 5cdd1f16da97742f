//! What LM Studio says: its REST lists and the output of `lms`, read into our own types.

pub mod lms_output;
pub mod rest;
