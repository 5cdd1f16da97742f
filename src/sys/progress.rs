//! Shows what a slow call is doing: a moving line on a terminal, one line now and then
//! elsewhere, nothing where it is not wanted. The only file that names indicatif.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use crate::pure::text::{duration, printable};
use crate::sys::output::Console;

/// How often a line is printed where there is no terminal, unless configured.
const REMINDER: Duration = Duration::from_secs(30);

/// No percentage is known yet.
const UNKNOWN: u8 = u8::MAX;

/// How progress is shown.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    console: Console,
    style: Style,
    reminder: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Nothing,
    Lines,
    Moving,
}

impl Progress {
    /// Settles how to show progress; `every` is how often where there is no terminal.
    pub fn new(console: Console, wanted: bool, every: Option<Duration>) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|it| it == "dumb");
        let style = match (wanted && !console.is_quiet(), stderr().is_terminal() && !dumb) {
            (false, _) => Style::Nothing,
            (true, true) => Style::Moving,
            (true, false) => Style::Lines,
        };
        Self { console, style, reminder: every.unwrap_or(REMINDER) }
    }

    /// Shows that something slow begins; `text` reads on its own, such as "loading `a`".
    pub fn begin(self, text: &str, usual: Option<Duration>) -> Activity {
        let text = match usual {
            Some(usual) => format!("{text} (usually {})", duration(usual)),
            None => text.to_owned(),
        };
        let text = printable(&text);
        let mut activity = Activity {
            progress: self,
            started: Instant::now(),
            bar: None,
            text: Arc::new(Mutex::new(text.clone())),
            percent: Arc::new(AtomicU8::new(UNKNOWN)),
            ticker: None,
        };
        match self.style {
            Style::Nothing => {}
            Style::Lines => {
                self.console.note(&text);
                let text = Arc::clone(&activity.text);
                let reminder = remind(self, text, activity.started, Arc::clone(&activity.percent));
                activity.ticker = Some(tokio::spawn(reminder));
            }
            Style::Moving => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                // `{elapsed}` is drawn anew by the ticker; the template is a constant, so it parses.
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {prefix}{elapsed}") {
                    bar.set_style(style);
                }
                bar.set_message(text);
                bar.tick();
                // Its own ticker would be a thread, which the system may refuse.
                activity.ticker = Some(tokio::spawn(turn(bar.clone())));
                activity.bar = Some(bar);
            }
        }
        activity
    }
}

async fn turn(bar: ProgressBar) {
    loop {
        tokio::time::sleep(Duration::from_millis(120)).await;
        bar.tick();
    }
}

async fn remind(progress: Progress, text: Arc<Mutex<String>>, started: Instant, percent: Arc<AtomicU8>) {
    loop {
        tokio::time::sleep(progress.reminder).await;
        let done = match percent.load(Ordering::Relaxed) {
            UNKNOWN => String::new(),
            percent => format!(", {percent} %"),
        };
        // A thread that panicked here would have left a whole text.
        let text = text.lock().unwrap_or_else(PoisonError::into_inner).clone();
        progress.console.note(&format!("still {text}{done}, {} so far", duration(started.elapsed())));
    }
}

/// Something slow that is going on; ends when dropped.
#[derive(Debug)]
#[must_use]
pub struct Activity {
    progress: Progress,
    started: Instant,
    bar: Option<ProgressBar>,
    text: Arc<Mutex<String>>,
    percent: Arc<AtomicU8>,
    /// Draws or prints from time to time.
    ticker: Option<JoinHandle<()>>,
}

impl Activity {
    /// Shows what it is now.
    pub fn text(&self, text: &str) {
        let text = printable(text);
        if let Some(bar) = &self.bar {
            bar.set_message(text.clone());
        }
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Shows how far it is.
    pub fn percent(&self, percent: u8) {
        self.percent.store(percent, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("{percent} % "));
        }
    }

    /// Ends it with a line that stays.
    pub fn done(self, text: &str) {
        let Self { progress, started, .. } = &self;
        let (progress, time) = (*progress, started.elapsed());
        drop(self);
        if progress.style != Style::Nothing {
            progress.console.note(&format!("{text} after {}", duration(time)));
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if let Some(ticker) = self.ticker.take() {
            ticker.abort();
        }
    }
}
