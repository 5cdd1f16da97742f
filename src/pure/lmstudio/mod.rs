//! What LM Studio says and is told: its REST lists, the output of `lms`, and the arguments of
//! `lms load`.

pub mod lms_output;
pub mod load_args;
pub mod rest;
