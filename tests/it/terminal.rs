//! A terminal, and a command on it.

use std::fs::File;
use std::io::Read;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A command that is running on a terminal of its own.
pub struct Terminal {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    pub fn start(mut command: Command) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a terminal of ours");
        let name = ptsname(&terminal, Vec::new()).expect("its name").into_string().expect("UTF-8");
        let line = File::options().read(true).write(true).open(name).expect("the other end");
        command.env("TERM", "xterm").stdout(line.try_clone().expect("a handle")).stderr(line);
        let child = command.spawn().expect("it starts");
        // It holds the other end open, too.
        drop(command);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&shown);
        let reader = std::thread::spawn(move || {
            let mut terminal = File::from(terminal);
            let mut piece = [0; 4096];
            // The end of a terminal that no process holds any more reads as an error.
            while let Ok(count @ 1..) = terminal.read(&mut piece) {
                kept.lock().expect("no panic").extend_from_slice(&piece[..count]);
            }
        });
        Self { child, shown, reader }
    }

    /// What was written to the terminal so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()
    }

    /// Sends a signal to the command.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it is alive");
    }

    /// The exit code, and all that was written.
    pub fn end(mut self) -> (i32, String) {
        let code = self.child.wait().expect("it ends").code().expect("a code");
        self.reader.join().expect("no panic");
        let shown = std::mem::take(&mut *self.shown.lock().expect("no panic"));
        (code, String::from_utf8(shown).expect("UTF-8"))
    }
}
