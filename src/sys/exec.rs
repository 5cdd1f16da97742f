//! Becomes another command, or stays as its parent. The terminal stays the command's: it
//! runs in our process group with our streams, and only what the terminal did not deliver
//! itself is passed on.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sys::search_path::{self, NoProgram};

/// A command that can be started.
#[derive(Debug)]
pub(crate) struct Program {
    typed: OsString,
    path: PathBuf,
}

impl Program {
    /// Looks a command up as a shell does, so that nothing is loaded for one that is not there.
    ///
    /// # Errors
    /// What a shell would answer with 127 or 126.
    pub(crate) fn find(typed: &OsStr) -> Result<Self, NoProgram> {
        let found = |path| Self { typed: typed.to_owned(), path };
        if Path::new(typed).components().count() > 1 || Path::new(typed).has_root() || ends_with_separator(typed) {
            return search_path::executable(Path::new(typed)).map(found);
        }
        search_path::find_in(search_path::folders(), typed).map(found)
    }

    fn command(&self, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(args);
        // Some programs look at the name they were called by.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::arg0(&mut command, &self.typed);
        #[cfg(not(unix))]
        let _ = &self.typed;
        command
    }

    /// Becomes the command. Returns only when that fails.
    #[cfg(unix)]
    pub(crate) fn replace_us(&self, args: &[OsString]) -> io::Error {
        std::os::unix::process::CommandExt::exec(&mut self.command(args))
    }
}

fn ends_with_separator(typed: &OsStr) -> bool {
    typed.as_encoded_bytes().last().is_some_and(|byte| std::path::is_separator(char::from(*byte)))
}

#[cfg(unix)]
pub(crate) use unix::Running;
#[cfg(not(unix))]
pub use windows::Running;

#[cfg(unix)]
mod unix {
    use super::{Command, OsString, Program, io};
    use crate::pure::outcome::exit::ExitCode;
    use crate::sys::shutdown::Signals;
    use rustix::process::{Pid, Signal, WaitOptions, getpgrp, getpid, kill_process, waitpid};
    use tokio::signal::unix::{SignalKind, signal};

    /// What `execvp` does itself and a spawn does not: a script without `#!` is for the shell.
    const ENOEXEC: i32 = 8;

    /// A command whose parent we are.
    #[derive(Debug)]
    pub(crate) struct Running {
        pid: Pid,
        signals: Signals,
        changes: tokio::signal::unix::Signal,
    }

    impl Running {
        /// Starts it. From here on no signal ends us: the command decides what they mean.
        ///
        /// # Errors
        /// When the system cannot start it.
        pub(crate) fn start(program: &Program, args: &[OsString]) -> io::Result<Self> {
            let continued = SignalKind::from_raw(Signal::CONT.as_raw());
            // Watched before the command is there, so that none is missed.
            let changes = signal(SignalKind::child())?;
            let signals = Signals::watch(&[
                SignalKind::hangup(),
                SignalKind::interrupt(),
                SignalKind::quit(),
                SignalKind::terminate(),
                SignalKind::user_defined1(),
                SignalKind::user_defined2(),
                continued,
            ]);
            let child = match program.command(args).spawn() {
                Err(error) if error.raw_os_error() == Some(ENOEXEC) => {
                    Command::new("/bin/sh").arg(&program.path).args(args).spawn()
                }
                done => done,
            }?;
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| io::Error::other("the system gave the command no usable pid"))?;
            Ok(Self { pid, signals, changes })
        }

        /// Waits for its end, and passes signals on until then.
        ///
        /// # Errors
        /// When the system cannot tell how it ended.
        pub(crate) async fn end(&mut self) -> io::Result<ExitCode> {
            loop {
                if let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG | WaitOptions::UNTRACED)? {
                    let number = |it: i32| u8::try_from(it).unwrap_or(u8::MAX);
                    if let Some(code) = status.exit_status() {
                        return Ok(ExitCode::Command(number(code)));
                    }
                    if let Some(signal) = status.terminating_signal() {
                        return Ok(ExitCode::Signal(number(signal)));
                    }
                    if status.stopped() {
                        // A program that suspends only itself would leave the shell waiting
                        // for us. Where no shell could wake us again, the kernel drops this.
                        let _ = kill_process(getpid(), Signal::TSTP);
                    }
                }
                tokio::select! {
                    _ = self.changes.recv() => {}
                    number = self.signals.next() => self.pass_on(number),
                }
            }
        }

        fn pass_on(&self, number: u8) {
            let signal = Signal::from_named_raw(i32::from(number));
            // The terminal sends these two to its whole foreground group, so the command has
            // it already.
            let from_keyboard = matches!(signal, Some(Signal::INT | Signal::QUIT)) && is_foreground();
            if let Some(signal) = signal.filter(|_| !from_keyboard) {
                // An error means that it is gone already.
                let _ = kill_process(self.pid, signal);
            }
        }
    }

    /// Whether what is typed at the terminal reaches this process group.
    fn is_foreground() -> bool {
        let Ok(terminal) = std::fs::File::open("/dev/tty") else { return false };
        rustix::termios::tcgetpgrp(&terminal).is_ok_and(|group| group == getpgrp())
    }
}

#[cfg(not(unix))]
mod windows {
    use super::{OsString, Program, io};
    use crate::pure::outcome::exit::ExitCode;

    /// A command whose parent we are.
    #[derive(Debug)]
    pub struct Running(tokio::process::Child);

    impl Running {
        /// Starts it. From here on Ctrl-C does not end us: the console sends it to the
        /// command as well, which decides what it means.
        ///
        /// # Errors
        /// When the system cannot start it.
        pub fn start(program: &Program, args: &[OsString]) -> io::Result<Self> {
            tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
            tokio::process::Command::from(program.command(args)).spawn().map(Self)
        }

        /// Waits for its end, and ends us with its code.
        ///
        /// # Errors
        /// When the system cannot tell how it ended.
        pub async fn end(&mut self) -> io::Result<ExitCode> {
            let status = self.0.wait().await?;
            match status.code().map(|code| (code, u8::try_from(code))) {
                Some((_, Ok(code))) => Ok(ExitCode::Command(code)),
                // Codes have 32 bits here; what `main` can return has 8.
                #[expect(clippy::exit, reason = "there is no other way to end with such a code")]
                Some((code, Err(_))) => std::process::exit(code),
                None => Ok(ExitCode::Unexpected),
            }
        }
    }
}
