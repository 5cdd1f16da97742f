//! Runs one child: nothing on its stdin, output always drained and capped, a limit, and an end the way
//! its user would end it. The exit of the child ends the call, not the end of its pipes:
//! `lms` may leave a daemon behind that holds them open.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::sys::shutdown::{Shutdown, Stop};

/// How long a child that was asked to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// What is kept of each stream; `lms ls` of a thousand models is about 1 MiB.
const KEPT_BYTES: usize = 4 * 1024 * 1024;
/// How long the rest of the output is looked for once the child is gone. It is in the pipe
/// already, so this is only spent when another process holds the pipe open.
const DRAIN: Duration = Duration::from_millis(50);

/// How a child ended.
#[derive(Debug)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// Its limit was over; it was ended.
    LimitExpired,
    /// The whole call must end; it was ended.
    Stopped(Stop),
    /// It could not be started.
    NotStarted(std::io::Error),
}

/// A child that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub exit: Exit,
    /// What it wrote to stdout, at most 4 MiB from the start.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, at most 4 MiB from the start.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Whether it ended by itself with code 0.
    pub fn succeeded(&self) -> bool {
        matches!(self.exit, Exit::Code(0))
    }
}

/// Runs `program` with `args`, without the variables `secrets`, and waits for its end.
/// `on_output` sees each piece of stdout; `lent` is an empty file that the child keeps open
/// as long as it lives.
pub async fn run(
    program: &Path,
    args: &[String],
    secrets: &[String],
    limit: Duration,
    shutdown: &Shutdown,
    lent: Option<File>,
    mut on_output: impl FnMut(&[u8]),
) -> Finished {
    tracing::debug!(program = %program.display(), ?args, ?limit, "starting a child");
    // The lock stays with this process there: a locked file cannot be lent, and not be read.
    #[cfg(not(unix))]
    let (_kept, lent) = (lent, None);
    let mut spawned = match spawn(program, args, secrets, lent) {
        Ok(spawned) => spawned,
        Err(error) => return Finished { exit: Exit::NotStarted(error), stdout: vec![], stderr: vec![] },
    };
    let mut stdout = Stream::new(spawned.stdout.take());
    let mut stderr = Stream::new(spawned.stderr.take());
    let mut child = Dismissed(spawned);
    let mut ending: Option<Exit> = None;
    let timer = sleep_until(Instant::now() + limit);
    tokio::pin!(timer);
    let status = loop {
        tokio::select! {
            status = child.0.wait() => break status,
            Some(piece) = stdout.read() => on_output(piece),
            Some(_) = stderr.read() => {}
            () = &mut timer => {
                if ending.is_none() {
                    ending = Some(Exit::LimitExpired);
                    ask_to_stop(&mut child.0);
                } else {
                    // An error means that it is gone already.
                    let _ = child.0.start_kill();
                }
                timer.as_mut().reset(Instant::now() + GRACE);
            }
            stop = shutdown.stopped(), if ending.is_none() => {
                ending = Some(Exit::Stopped(stop));
                ask_to_stop(&mut child.0);
                timer.as_mut().reset(Instant::now() + GRACE);
            }
            () = shutdown.forced(), if ending.is_some() => timer.as_mut().reset(Instant::now()),
        }
    };
    // One deadline for all of it: a grandchild that holds the pipe may write for ever.
    let until = Instant::now() + DRAIN;
    while let Ok(Some(piece)) = timeout_at(until, stdout.read()).await {
        on_output(piece);
    }
    while let Ok(Some(_)) = timeout_at(until, stderr.read()).await {}
    let exit = ending.unwrap_or_else(|| match status {
        Ok(status) => exit_of(status),
        Err(error) => Exit::NotStarted(error),
    });
    tracing::debug!(?exit, "the child ended");
    Finished { exit, stdout: stdout.kept, stderr: stderr.kept }
}

/// A child that is asked to stop when the call is dropped, as `run` does when its command
/// ends: a killed `lms load` would leave its load to chance.
struct Dismissed(Child);

impl Drop for Dismissed {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        ask_to_stop(&mut self.0);
        let until = Instant::now() + GRACE;
        // What is left then is killed on drop.
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(program: &Path, args: &[String], secrets: &[String], lent: Option<File>) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(lent.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for name in secrets {
        command.env_remove(name);
    }
    // Its own process group: Ctrl-C in a terminal then reaches only us, and the child is
    // asked to stop exactly once.
    #[cfg(unix)]
    command.process_group(0);
    command.spawn()
}

#[cfg(unix)]
fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

#[cfg(not(unix))]
fn exit_of(status: ExitStatus) -> Exit {
    Exit::Code(status.code().unwrap_or(1))
}

/// SIGINT is what `lms load` cancels on; SIGTERM would leave the load running.
#[cfg(unix)]
fn ask_to_stop(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // An error means that it is gone already.
        let _ = kill_process(pid, Signal::INT);
    }
}

#[cfg(not(unix))]
fn ask_to_stop(child: &mut Child) {
    let _ = child.start_kill();
}

/// One end of a pipe, and what is kept of what came out of it.
struct Stream<R> {
    reader: Option<R>,
    buffer: Box<[u8; 8192]>,
    kept: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Stream<R> {
    fn new(reader: Option<R>) -> Self {
        Self { reader, buffer: Box::new([0; 8192]), kept: Vec::new() }
    }

    /// The next piece, or `None` at the end. Dropping the future loses nothing.
    async fn read(&mut self) -> Option<&[u8]> {
        let count = match self.reader.as_mut()?.read(&mut self.buffer[..]).await {
            Ok(count) if count > 0 => count,
            _ => {
                self.reader = None;
                return None;
            }
        };
        let piece = &self.buffer[..count];
        let room = KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&piece[..count.min(room)]);
        Some(piece)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn shell(script: &str, limit: Duration) -> (Finished, Duration) {
        let started = Instant::now();
        let shutdown = Shutdown::listen(None);
        let args = ["-c".to_owned(), script.to_owned()];
        let finished = run(Path::new("/bin/sh"), &args, &[], limit, &shutdown, None, |_| {}).await;
        (finished, started.elapsed())
    }

    #[tokio::test]
    async fn both_streams_and_the_code_are_kept() {
        let (finished, _) = shell("echo out; echo err >&2; exit 7", Duration::from_secs(30)).await;
        assert!(matches!(finished.exit, Exit::Code(7)));
        assert_eq!((finished.stdout.as_slice(), finished.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[tokio::test]
    async fn a_grandchild_that_holds_the_pipes_does_not_hold_the_call() {
        let (finished, took) = shell("echo out; sleep 60 & exit 0", Duration::from_secs(30)).await;
        assert!(finished.succeeded());
        assert_eq!(finished.stdout, b"out\n");
        assert!(took < Duration::from_secs(30), "{took:?}");
    }

    #[tokio::test]
    async fn a_grandchild_that_never_stops_talking_does_not_hold_the_call() {
        let (finished, took) =
            shell("(while :; do echo x; sleep 0.01; done) & sleep 0.1", Duration::from_secs(30)).await;
        assert!(finished.succeeded());
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[tokio::test]
    async fn a_flood_is_drained_and_capped() {
        let (finished, _) = shell("head -c 40000000 /dev/zero; echo end >&2", Duration::from_secs(60)).await;
        assert!(finished.succeeded());
        assert_eq!(finished.stdout.len(), KEPT_BYTES);
        assert_eq!(finished.stderr, b"end\n");
    }

    #[tokio::test]
    async fn a_child_over_its_limit_is_asked_the_way_its_user_would() {
        let script = "trap 'echo cancelled; exit 1' INT; while :; do sleep 0.01; done";
        let (finished, _) = shell(script, Duration::from_millis(200)).await;
        assert!(matches!(finished.exit, Exit::LimitExpired));
        assert_eq!(finished.stdout, b"cancelled\n");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_no_panic() {
        let shutdown = Shutdown::listen(None);
        let finished = run(Path::new("/nowhere/lms"), &[], &[], Duration::from_secs(1), &shutdown, None, |_| {}).await;
        assert!(matches!(finished.exit, Exit::NotStarted(_)));
    }
}
