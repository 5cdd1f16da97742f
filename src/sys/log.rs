//! The log: for people who look into lmswarm itself, on stderr with `-v` and in `logFile`.
//! Users never need it to know what to do; messages for them go through `output`. Nothing in it
//! is coloured, so that everything that could drive a terminal came from outside and is escaped.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::pure::text::printable;
use crate::sys::private::{make_folder, no_follow};

/// Starts logging: `verbose` counts the `-v`s. Without either nothing is set up at all.
pub fn start(verbose: u8, file: Option<PathBuf>) {
    let level = match verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    if verbose == 0 && file.is_none() {
        return;
    }
    let to_stderr = (verbose > 0).then(|| {
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(|| Escaped(io::stderr()))
            // How long each step took.
            .with_span_events(FmtSpan::CLOSE)
            .with_filter(OwnEvents(level))
    });
    let to_file = file.map(|path| {
        // Warm calls log at debug, so that they write nothing here.
        let level = LevelFilter::INFO.max(level);
        let file = LazyFile::new(path);
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || Escaped(file.clone()))
            .with_filter(OwnEvents(level))
    });
    // Fails only if logging was started before: `run --keep-warm` calls the gate many times.
    let _ = tracing_subscriber::registry().with(to_stderr).with(to_file).try_init();
}

/// Takes one line at a time, and escapes what stands before its end.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = printable(text.strip_suffix('\n').unwrap_or(&text));
        self.0.write_all(format!("{text}\n").as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Lets our own events through, up to a level; libraries log headers, and with them tokens.
struct OwnEvents(LevelFilter);

impl<S> tracing_subscriber::layer::Filter<S> for OwnEvents {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: &tracing_subscriber::layer::Context<'_, S>) -> bool {
        *metadata.level() <= self.0 && metadata.target().starts_with("lmswarm")
    }
}

/// Opens the file when the first line is written, so that a call with nothing to say
/// touches nothing.
#[derive(Clone)]
struct LazyFile {
    path: Arc<PathBuf>,
    file: Arc<OnceLock<Option<Mutex<File>>>>,
}

impl LazyFile {
    fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), file: Arc::new(OnceLock::new()) }
    }

    fn open(&self) -> Option<&Mutex<File>> {
        let open = || match open(&self.path) {
            Ok(file) => Some(Mutex::new(file)),
            Err(error) => {
                let shown = self.path.display();
                crate::sys::output::warn_early(&format!("cannot write the log file {shown}: {error}"));
                None
            }
        };
        self.file.get_or_init(open).as_ref()
    }
}

/// Opens a log file to add to it. It and the folders that are missing are made for this user
/// alone.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    no_follow(&mut options);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), make_folder)?;
            options.open(path)
        }
        opened => opened,
    }
}

impl Write for LazyFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if let Some(file) = self.open()
            && let Ok(mut file) = file.lock()
        {
            file.write_all(buffer)?;
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
