//! An address where something else than LM Studio answers.

use crate::support::{LLAMA, Machine, stranger};

#[test]
fn another_program_on_the_port_is_named() {
    let machine = Machine::new();
    let port = stranger(
        b"HTTP/1.0 200 OK\r\nServer: nginx\r\nContent-Type: text/html\r\n\r\n<html>Welcome to\x1b[2J nginx</html>",
    );
    let run = machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(3);
    let run = run.says("is not LM Studio: status 200, nginx, text/html: \"<html>Welcome to\\u{1b}[2J nginx</html>\"");
    assert_eq!(run.model()["category"], "not-lm-studio");
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_program_that_speaks_no_http_is_no_lm_studio() {
    let machine = Machine::new();
    let port = stranger(b"220 mail.example ESMTP\r\n");
    machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(75).says("cannot tell what");
}

#[test]
fn a_redirect_is_not_followed() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let port = stranger(b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(3).says("status 302");
}

#[test]
fn a_401_of_another_program_is_not_lm_studios() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let port = stranger(b"HTTP/1.0 401 No\r\nServer: Jenkins\r\nContent-Length: 2\r\n\r\nno");
    let run = machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(3);
    assert_eq!(run.says("Jenkins").model()["category"], "not-lm-studio");
    assert_eq!(machine.lms_calls().len(), 0);
}
