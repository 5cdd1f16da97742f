//! An address where something else than LM Studio answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

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

/// A server that says this before it is asked anything, and hangs up.
fn speaks_first(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.write_all(words);
            // What has come in and was not read would take the words back.
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    port
}

#[test]
fn a_program_that_speaks_no_http_is_no_lm_studio() {
    let machine = Machine::new();
    for (port, said) in [
        (stranger(b"220 mail.example ESMTP\r\n"), "220 mail.example ESMTP"),
        (stranger(b"-ERR unknown command\r\n"), "-ERR unknown command"),
        (speaks_first(b"SSH-2.0-OpenSSH_9.6\x1b[2J\r\n"), "SSH-2.0-OpenSSH_9.6\\u{1b}[2J"),
    ] {
        for scheme in ["http", "https"] {
            let run = machine.ensure(&[LLAMA, "--base-url", &format!("{scheme}://127.0.0.1:{port}")]).expect(3);
            let run = run.says(&format!("is not LM Studio: it speaks no HTTP, but says \"{said}\""));
            assert_eq!(run.model()["category"], "not-lm-studio");
        }
    }
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_program_that_hangs_up_without_a_word_is_not_known() {
    let machine = Machine::new();
    let run = machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{}", speaks_first(b""))]).expect(75);
    assert_eq!(run.says("cannot tell what").model()["category"], "unknown-state");
}

#[test]
fn a_redirect_is_not_followed() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let port = stranger(b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    machine.ensure(&[LLAMA, "--base-url", &format!("http://127.0.0.1:{port}")]).expect(3).says("status 302");
}
