//! Shows what a slow call is doing: a moving line on a terminal, one line now and then
//! elsewhere, nothing where it is not wanted. The only file that names terminal_size.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::pure::text::{duration, printable};
use crate::sys::output::Console;

/// How often a line is printed where there is no terminal, unless configured.
const REMINDER: Duration = Duration::from_secs(30);

/// How often the moving line is drawn, and what moves in it.
const FRAME: Duration = Duration::from_millis(120);
const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// Back to the start of the line, which is emptied.
const CLEAR: &str = "\r\u{1b}[2K";

/// How progress is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
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
    pub(crate) fn new(console: Console, wanted: bool, every: Option<Duration>) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|it| it == "dumb");
        // A console of Windows may show the codes that move the line instead of obeying them.
        let can_move = stderr().is_terminal() && !dumb && cfg!(unix);
        let style = match (wanted && !console.is_quiet(), can_move) {
            (false, _) => Style::Nothing,
            (true, true) => Style::Moving,
            (true, false) => Style::Lines,
        };
        Self { console, style, reminder: every.unwrap_or(REMINDER) }
    }

    /// Shows that something slow begins; `text` reads on its own, such as "loading `a`".
    pub(crate) fn begin(self, text: &str, usual: Option<Duration>) -> Activity {
        let text = match usual {
            Some(usual) => format!("{text} (usually {})", duration(usual)),
            None => text.to_owned(),
        };
        let text = printable(&text);
        let shown = watch::Sender::new(Shown { text, percent: None, started: Instant::now() });
        let ticker = match self.style {
            Style::Nothing => None,
            Style::Lines => {
                self.console.note(&shown.borrow().text);
                Some(tokio::spawn(remind(self, shown.subscribe())))
            }
            Style::Moving => {
                draw(&shown.borrow(), FRAMES[0]);
                Some(tokio::spawn(turn(shown.subscribe())))
            }
        };
        Activity { progress: self, shown, ticker }
    }
}

/// What is shown: what goes on, how far it is, and since when.
#[derive(Debug)]
struct Shown {
    text: String,
    percent: Option<u8>,
    started: Instant,
}

async fn turn(shown: watch::Receiver<Shown>) {
    for frame in FRAMES.into_iter().cycle().skip(1) {
        tokio::time::sleep(FRAME).await;
        draw(&shown.borrow(), frame);
    }
}

fn draw(Shown { text, percent, started }: &Shown, frame: char) {
    let percent = percent.map_or(String::new(), |percent| format!("{percent} % "));
    let seconds = Duration::from_secs(started.elapsed().as_secs());
    let line = format!("{frame} {text} {percent}{}", duration(seconds));
    let columns = terminal_size::terminal_size_of(stderr()).map_or(80, |(width, _)| usize::from(width.0));
    // In one piece, or it flickers. Where stderr is closed nothing is left to tell it to.
    let _ = stderr().write_all(format!("{CLEAR}{}", fitting(&line, columns)).as_bytes());
}

/// As much of a line as fits: what wraps to the next one would stay there.
fn fitting(line: &str, columns: usize) -> &str {
    let mut width = 0;
    // Of other letters some take two columns.
    let end = line.char_indices().find(|(_, char)| {
        width += if char.is_ascii() { 1 } else { 2 };
        width >= columns
    });
    end.map_or(line, |(end, _)| &line[..end])
}

async fn remind(progress: Progress, shown: watch::Receiver<Shown>) {
    loop {
        tokio::time::sleep(progress.reminder).await;
        let Shown { text, percent, started } = &*shown.borrow();
        let done = percent.map_or(String::new(), |percent| format!(", {percent} %"));
        progress.console.note(&format!("still {text}{done}, {} so far", duration(started.elapsed())));
    }
}

/// Something slow that is going on; ends when dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Activity {
    progress: Progress,
    shown: watch::Sender<Shown>,
    /// Draws or prints from time to time.
    ticker: Option<JoinHandle<()>>,
}

impl Activity {
    /// Shows what it is now.
    pub(crate) fn text(&self, text: &str) {
        self.shown.send_modify(|shown| shown.text = printable(text));
    }

    /// Shows how far it is.
    pub(crate) fn percent(&self, percent: u8) {
        self.shown.send_modify(|shown| shown.percent = Some(percent));
    }

    /// Ends it with a line that stays.
    pub(crate) fn done(self, text: &str) {
        let (progress, time) = (self.progress, self.shown.borrow().started.elapsed());
        drop(self);
        if progress.style != Style::Nothing {
            progress.console.note(&format!("{text} after {}", duration(time)));
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some(ticker) = self.ticker.take() {
            ticker.abort();
        }
        if self.progress.style == Style::Moving {
            // As for drawing.
            let _ = write!(stderr(), "{CLEAR}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moving_line_never_reaches_the_edge() {
        for (line, columns, wanted) in
            [("abc", 80, "abc"), ("abc", 4, "abc"), ("abc", 3, "ab"), ("a模型", 5, "a模"), ("abc", 0, "")]
        {
            assert_eq!(fitting(line, columns), wanted, "{line} {columns}");
        }
    }
}
