//! Runs one child: nothing on its stdin, output always drained and capped, a limit, and an end the way
//! its user would end it. The exit of the child ends the call, not the end of its pipes:
//! `lms` may leave a daemon behind that holds them open.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::pure::text::duration;
use crate::sys::shutdown::{Shutdown, Stop};

/// How long a child that was asked to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether a child that was asked to stop is gone.
const POLL: Duration = Duration::from_millis(5);
/// What is kept of each stream from its start; `lms ls` of a thousand models is about 1 MiB.
const KEPT_BYTES: usize = 4 * 1024 * 1024;
/// What is kept of the end of stderr beyond that: the reason of a failure stands behind a flood.
const KEPT_END_BYTES: usize = 64 * 1024;
/// How long the rest of the output is looked for once the child is gone. It is in the pipe
/// already, so this is only spent when another process holds the pipe open.
const DRAIN: Duration = Duration::from_millis(50);

/// How a child ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal that was not ours: it crashed, or a limit of memory or time was over.
    Signal(i32),
    /// Its limit was over; it was ended.
    LimitExpired,
    /// The whole call must end; it was ended.
    Stopped(Stop),
    /// It could not be started.
    NotStarted(std::io::Error),
}

/// Reads on from the name of the child.
impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::LimitExpired => f.write_str("was ended: its time was over"),
            Self::Stopped(_) => f.write_str("was ended: this call must end"),
            Self::NotStarted(error) => write!(f, "could not be started: {error}"),
        }
    }
}

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How.
    pub exit: Exit,
    /// What it wrote to stdout, at most 4 MiB from the start.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, at most 4 MiB from the start and 64 KiB from the end.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Whether it ended by itself with code 0.
    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.exit, Exit::Code(0))
    }

    /// Whether it failed for a reason that lies with this process or its environment: it could
    /// not be started, was ended from outside, or had no file to open. Another caller need not
    /// meet the same, so this is nothing to remember as the answer of what was called.
    pub(crate) fn is_local_failure(&self) -> bool {
        match self.exit {
            // The codes are those of a shell, for what cannot be started and what a signal ended.
            Exit::NotStarted(_) | Exit::Signal(_) | Exit::Stopped(_) | Exit::Code(126..=192) => true,
            Exit::Code(0) | Exit::LimitExpired => false,
            Exit::Code(_) => {
                let said = String::from_utf8_lossy(&self.stderr);
                ["EMFILE", "ENFILE", "oo many open files"].iter().any(|it| said.contains(it))
            }
        }
    }
}

/// Runs `program` with `args`, without the variables `secrets`, and waits for its end.
/// `on_output` sees each piece of stdout; `lent` is an empty file that the child keeps open
/// as long as it lives.
pub(crate) async fn run(
    program: &Path,
    args: &[String],
    secrets: &[String],
    limit: Duration,
    shutdown: &Shutdown,
    lent: Option<File>,
    mut on_output: impl FnMut(&[u8]),
) -> Finished {
    tracing::debug!("running `{} {}`, for {} at most", program.display(), args.join(" "), duration(limit));
    // The lock stays with this process there: a locked file cannot be lent, and not be read.
    #[cfg(not(unix))]
    let (_kept, lent) = (lent, None);
    let mut spawned = match spawn(program, args, secrets, lent) {
        Ok(spawned) => spawned,
        Err(error) => return Finished { exit: Exit::NotStarted(error), stdout: vec![], stderr: vec![] },
    };
    let mut stdout = Stream::new(spawned.stdout.take(), 0);
    let mut stderr = Stream::new(spawned.stderr.take(), KEPT_END_BYTES);
    let mut child = Guarded::new(spawned);
    let ended = {
        let expired = sleep(limit);
        tokio::pin!(expired);
        loop {
            tokio::select! {
                biased;
                status = child.process.wait() => break Ok(status),
                stop = shutdown.stopped() => break Err(Exit::Stopped(stop)),
                () = &mut expired => break Err(Exit::LimitExpired),
                Some(piece) = stdout.read() => on_output(piece),
                Some(_) = stderr.read() => {}
            }
        }
    };
    let exit = match (ended, child.process.try_wait()) {
        (Ok(status), _) => status.map_or_else(Exit::NotStarted, exit_of),
        // It ended by itself at the same moment.
        (Err(_), Ok(Some(status))) => exit_of(status),
        (Err(reason), _) => {
            child.ask_to_stop();
            let grace = sleep(GRACE);
            tokio::pin!(grace);
            loop {
                tokio::select! {
                    biased;
                    () = child.gone() => break,
                    () = shutdown.forced() => {
                        tracing::debug!("told to stop again: the child is killed at once");
                        break child.kill().await;
                    }
                    () = &mut grace => {
                        tracing::debug!("the child did not stop when it was asked to: it is killed");
                        break child.kill().await;
                    }
                    Some(piece) = stdout.read() => on_output(piece),
                    Some(_) = stderr.read() => {}
                }
            }
            reason
        }
    };
    // One deadline for all of it: a grandchild that holds the pipe may write for ever.
    let until = Instant::now() + DRAIN;
    while let Ok(Some(piece)) = timeout_at(until, stdout.read()).await {
        on_output(piece);
    }
    while let Ok(Some(_)) = timeout_at(until, stderr.read()).await {}
    tracing::debug!("`{}` {exit}", program.display());
    Finished { exit, stdout: stdout.kept(), stderr: stderr.kept() }
}

/// A child with the processes that it has started itself: an `lms` that is a shell's script
/// leaves the work to another one. All of them are asked to stop when the call is dropped, as
/// `run` does when its command ends: a killed `lms load` would leave its load to chance.
///
/// A child that has ended by itself has left behind what it meant to (`lms server start` and
/// `lms daemon up` start LM Studio): that is not touched.
struct Guarded {
    process: Child,
    group: Group,
}

impl Guarded {
    fn new(process: Child) -> Self {
        Self { group: Group::led_by(&process), process }
    }

    /// Asks the way its user would, with Ctrl-C, where that is possible.
    fn ask_to_stop(&mut self) {
        if !self.group.interrupt() {
            // An error means that it is gone already.
            let _ = self.process.start_kill();
        }
    }

    /// Waits until all of it has ended. Dropping the future loses nothing.
    async fn gone(&mut self) {
        // An error means that it is gone already.
        let _ = self.process.wait().await;
        while self.group.is_there() {
            sleep(POLL).await;
        }
    }

    async fn kill(&mut self) {
        self.group.kill();
        // An error means that it is gone already.
        let _ = self.process.start_kill();
        // A process that waits for a disk does not even end then.
        let _ = timeout(GRACE, self.process.wait()).await;
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        self.ask_to_stop();
        let until = Instant::now() + GRACE;
        while matches!(self.process.try_wait(), Ok(None)) || self.group.is_there() {
            if Instant::now() >= until {
                self.group.kill();
                break;
            }
            std::thread::sleep(POLL);
        }
        // What is left of the child itself is killed as it is dropped.
    }
}

/// The process group of a child. Its number is not given to another one while a member lives.
#[cfg(unix)]
struct Group(Option<rustix::process::Pid>);

#[cfg(unix)]
impl Group {
    fn led_by(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw))
    }

    /// SIGINT is what `lms load` cancels on; SIGTERM would leave the load running.
    fn interrupt(&self) -> bool {
        self.signal(rustix::process::Signal::INT)
    }

    fn kill(&self) {
        self.signal(rustix::process::Signal::KILL);
    }

    fn signal(&self, signal: rustix::process::Signal) -> bool {
        self.0.is_some_and(|group| rustix::process::kill_process_group(group, signal).is_ok())
    }

    fn is_there(&self) -> bool {
        self.0.is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
    }
}

/// There are none.
#[cfg(not(unix))]
struct Group;

#[cfg(not(unix))]
#[expect(clippy::unused_self, reason = "the signatures are those of the Unix one")]
impl Group {
    fn led_by(_: &Child) -> Self {
        Self
    }

    fn interrupt(&self) -> bool {
        false
    }

    fn kill(&self) {}

    fn is_there(&self) -> bool {
        false
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
    // Its own process group: Ctrl-C in a terminal then reaches only us, the child is asked to
    // stop exactly once, and with all that it has started.
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

/// One end of a pipe, and what is kept of what came out of it.
struct Stream<R> {
    reader: Option<R>,
    buffer: Box<[u8; 8192]>,
    start: Vec<u8>,
    /// The last of what came behind the start, up to twice `most_at_end`.
    end: Vec<u8>,
    most_at_end: usize,
    is_cut: bool,
}

impl<R: AsyncRead + Unpin> Stream<R> {
    fn new(reader: Option<R>, most_at_end: usize) -> Self {
        Self { reader, buffer: Box::new([0; 8192]), start: Vec::new(), end: Vec::new(), most_at_end, is_cut: false }
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
        let (of_start, of_end) = piece.split_at(count.min(KEPT_BYTES - self.start.len()));
        self.start.extend_from_slice(of_start);
        if self.most_at_end > 0 {
            self.end.extend_from_slice(of_end);
        }
        if self.end.len() > 2 * self.most_at_end {
            self.is_cut = true;
            self.end.drain(..self.end.len() - self.most_at_end);
        }
        Some(piece)
    }

    /// What is kept. Where something is left out, the rest begins with a whole line.
    fn kept(mut self) -> Vec<u8> {
        if self.is_cut {
            let rest = self.end.iter().position(|byte| *byte == b'\n').unwrap_or(0);
            self.start.push(b'\n');
            self.start.extend_from_slice(&self.end[rest..]);
        } else {
            self.start.append(&mut self.end);
        }
        self.start
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn shell(script: &str, limit: Duration) -> (Finished, Duration) {
        // A script's `cargo test &` ignores SIGINT, which children inherit; what is caught is
        // back at its default in them.
        let interrupt = tokio::signal::unix::SignalKind::interrupt();
        let _caught = tokio::signal::unix::signal(interrupt).expect("a handler");
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
        let (finished, _) = shell("yes | head -c 40000000 >&2; echo end >&2", Duration::from_secs(60)).await;
        assert!(finished.stderr.ends_with(b"y\nend\n") && finished.stderr.len() < 2 * KEPT_BYTES);
    }

    #[tokio::test]
    async fn a_child_over_its_limit_is_asked_the_way_its_user_would() {
        let script = "trap 'echo cancelled; exit 1' INT; while :; do sleep 0.01; done";
        let (finished, _) = shell(script, Duration::from_millis(200)).await;
        assert!(matches!(finished.exit, Exit::LimitExpired));
        assert_eq!(finished.stdout, b"cancelled\n");
    }

    /// The process with the number in this file.
    fn named_in(file: &Path) -> rustix::process::Pid {
        let number = std::fs::read_to_string(file).expect("a file").trim().parse().expect("a number");
        rustix::process::Pid::from_raw(number).expect("a pid")
    }

    fn lives(pid: rustix::process::Pid) -> bool {
        // One that has ended is listed until its parent, the system's first process, asks.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        rustix::process::test_kill_process(pid).is_ok() && !state.contains(") Z ")
    }

    #[tokio::test]
    async fn a_child_behind_a_wrapper_is_asked_as_well_and_seen_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let worker = "trap 'sleep 0.3; echo cancelled; exit 0' INT; while :; do sleep 0.01; done";
        let script = format!("sh -c \"echo \\$\\$ >{}; {worker}\"; exit 7", pid.display());
        let (finished, _) = shell(&script, Duration::from_millis(300)).await;
        assert!(matches!(finished.exit, Exit::LimitExpired));
        assert_eq!(finished.stdout, b"cancelled\n");
        assert!(!lives(named_in(&pid)));
    }

    #[tokio::test]
    async fn what_goes_on_behind_a_wrapper_that_was_asked_to_stop_is_killed_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sh -c \"trap '' INT; echo \\$\\$ >{}; sleep 60; sleep 60\"; exit 7", pid.display());
        let (finished, _) = shell(&script, Duration::from_millis(300)).await;
        assert!(matches!(finished.exit, Exit::LimitExpired));
        assert!(!lives(named_in(&pid)));
    }

    #[tokio::test]
    async fn what_a_child_that_ends_by_itself_leaves_behind_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let (finished, _) = shell(&format!("sleep 60 & echo $! >{}", pid.display()), Duration::from_secs(30)).await;
        assert!(finished.succeeded());
        assert!(lives(named_in(&pid)));
        rustix::process::kill_process(named_in(&pid), rustix::process::Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn what_only_this_caller_may_meet_is_told_apart() {
        for (script, local) in [
            ("exit 0", false),
            ("echo no >&2; exit 1", false),
            ("echo 'Error: EMFILE: too many open files' >&2; exit 1", true),
            ("exec /nowhere/node", true),
            ("exec /dev/null", true),
            ("kill -KILL $$", true),
            ("sh -c 'kill -KILL $$'; exit $?", true),
        ] {
            let (finished, _) = shell(script, Duration::from_secs(30)).await;
            assert_eq!(finished.is_local_failure(), local, "{script}: {:?}", finished.exit);
        }
        let (late, _) = shell("sleep 60", Duration::from_millis(50)).await;
        assert!(!late.is_local_failure());
    }

    #[tokio::test]
    async fn a_script_without_its_interpreter_is_told_apart() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("lms");
        for text in ["#!/nowhere/node\n", "neither a script nor a program\n", "\u{7f}ELF\n"] {
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let shutdown = Shutdown::listen(None);
            let finished = run(&program, &[], &[], Duration::from_secs(30), &shutdown, None, |_| {}).await;
            assert!(matches!(finished.exit, Exit::NotStarted(_)), "{text}: {finished:?}");
            assert!(finished.is_local_failure());
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_no_panic() {
        let shutdown = Shutdown::listen(None);
        let finished = run(Path::new("/nowhere/lms"), &[], &[], Duration::from_secs(1), &shutdown, None, |_| {}).await;
        assert!(matches!(finished.exit, Exit::NotStarted(_)));
    }
}
