//! Mistakes on the command line, and what is said of them.

use crate::support::{LLAMA, Machine};

#[test]
fn a_value_that_was_meant_for_a_flag_is_pointed_out() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.ensure(&[LLAMA, "--evict-on-pressure", "false"]).expect(4).says("--evict-on-pressure=false").json();
}
