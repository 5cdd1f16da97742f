//! The base URL: its spellings.

use crate::support::{LLAMA, Machine};

#[test]
fn every_spelling_of_the_base_url_works() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let port = machine.rest_port;
    for url in [
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/v1/"),
    ] {
        machine.ensure(&[LLAMA, "--base-url", &url]).expect(0).json();
    }
    machine
        .run(&["ensure", LLAMA, "--base-url", "127.0.0.1:1234"])
        .expect(2)
        .says("did you mean `http://127.0.0.1:1234`?");
}

#[test]
fn a_path_too_many_in_the_base_url_is_pointed_out() {
    let machine = Machine::new();
    let url = format!("http://127.0.0.1:{}/api/v1", machine.rest_port);
    machine.ensure(&[LLAMA, "--base-url", &url]).expect(3).says("drop the rest of the path").json();
}
