//! The ways a run of `lms` goes wrong on purpose, before the command and on its output.
//!
//! Faults that belong to one command are with that command.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Fault, Kind};
use crate::lmstudio::Store;
use crate::{Session, detach};

/// The argument that makes `lms` nothing but a holder of its stdout and stderr.
pub const GRANDCHILD: &str = "--simulator-grandchild";

const HTML: &str = "<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head>\n<body>The proxy says \
                    no.</body></html>\n";

/// Carries out what happens before the command, or instead of it.
pub async fn before(session: &mut Session) {
    let Some(fault) = session.fault.clone() else {
        return;
    };
    match fault.kind {
        Kind::Fail => {
            let text = fault.stderr.unwrap_or_else(|| "Error: Injected error.".to_owned());
            session.info(&text);
            session.exit(fault.code.unwrap_or(1));
        }
        Kind::Race => {
            session.info("Error: This model has already been unloaded");
            session.exit(1);
        }
        Kind::Hang => std::future::pending().await,
        Kind::Hold => Store::new(&session.home).faults.held(&session.record, &fault).await,
        Kind::Empty => session.exit(0),
        Kind::Garbage => {
            let bytes: Vec<u8> =
                (1_u32..258).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
            session.write_now(&bytes);
            session.exit(0);
        }
        Kind::Html => {
            session.write_now(HTML.as_bytes());
            session.exit(0);
        }
        Kind::Slow => tokio::time::sleep(Duration::from_millis(fault.ms.unwrap_or(1000))).await,
        Kind::Flood => flood(session, fault.bytes.unwrap_or(1 << 20)),
        Kind::Grandchild => {
            // It keeps both streams open after we are gone: who reads them to their end waits for it.
            let ms = fault.ms.unwrap_or(30_000);
            if let Ok(program) = std::env::current_exe() {
                let mut command = Command::new(program);
                command.arg(GRANDCHILD).arg(ms.to_string()).stdin(Stdio::null());
                detach(&mut command);
                let _ = command.spawn();
            }
        }
        _ => {}
    }
}

/// Fills both pipes in turn, so that a caller who reads only one of them never sees our end.
fn flood(session: &Session, bytes: u64) {
    let line = [[b'#'; 63].as_slice(), b"\n"].concat();
    for _ in 0..bytes.div_ceil(line.len() as u64) {
        if !session.write_now(&line) {
            return;
        }
        let _ = std::io::stderr().write_all(&line);
    }
}

/// Spoils what a command printed.
pub fn spoiled(fault: &Fault, stdout: Vec<u8>) -> Vec<u8> {
    match fault.kind {
        Kind::Truncated => stdout[..stdout.len() / 2].to_vec(),
        Kind::Bom => [b"\xef\xbb\xbf", &stdout[..]].concat(),
        Kind::Utf16 => {
            let text = String::from_utf8_lossy(&stdout).into_owned();
            std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
        }
        Kind::Wrapper => [b"{\"result\":", stdout.trim_ascii_end(), b"}\n"].concat(),
        Kind::Notice => [
            b"\x1b[33mA new version of lms is available.\x1b[39m\n\x1b[2mRun [lms update] to get it.\x1b[22m\n"
                .as_slice(),
            &stdout[..],
            b"\x1b[32mThank you for using LM Studio!\x1b[39m\n",
        ]
        .concat(),
        _ => stdout,
    }
}
