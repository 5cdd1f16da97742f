//! The log, on stderr and in `logFile`. Users never need it to know what to do; messages for
//! them go through `output`. Nothing in it is coloured, so that everything that could drive a
//! terminal came from outside and is escaped.
//!
//! There are two kinds of events. One that has a sentence and no fields is for people who want
//! to know what lmswarm sees and why it decides as it does: `-v` shows these. One with fields is
//! for people who look into lmswarm itself: `-vv` shows both kinds, with spans and their times.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::{FmtSpan, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{self as subscriber, FmtContext};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::pure::text::printable;
use crate::sys::private::{make_folder, no_follow};

/// Starts logging: `verbose` counts the `-v`s. Without either nothing is set up at all.
pub(crate) fn start(verbose: u8, file: Option<PathBuf>) {
    if verbose == 0 && file.is_none() {
        return;
    }
    let for_people = (verbose == 1).then(|| {
        subscriber::layer()
            .event_format(Sentence { began: Instant::now() })
            .with_writer(|| Escaped(io::stderr()))
            .with_filter(Sentences)
    });
    let everything = (verbose > 1).then(|| {
        subscriber::layer()
            .with_ansi(false)
            .with_writer(|| Escaped(io::stderr()))
            // How long each step took.
            .with_span_events(FmtSpan::CLOSE)
            .with_filter(OwnEvents(LevelFilter::TRACE))
    });
    let to_file = file.map(|path| {
        // Warm calls log at debug, so that they write nothing here.
        let level = match verbose {
            0 => LevelFilter::INFO,
            1 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        let file = LazyFile::new(path);
        subscriber::layer().with_ansi(false).with_writer(move || Escaped(file.clone())).with_filter(OwnEvents(level))
    });
    // Fails only if logging was started before: `run --keep-warm` calls the gate many times.
    let _ = tracing_subscriber::registry().with(for_people).with(everything).with(to_file).try_init();
}

/// Whether the sentences for people go anywhere, where making one takes some work.
pub(crate) fn explains() -> bool {
    tracing::event_enabled!(tracing::Level::DEBUG)
}

/// Writes an event as people read it: since when the log is kept, and the sentence.
struct Sentence {
    began: Instant,
}

impl<S, N> FormatEvent<S, N> for Sentence
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "lmswarm: [{:.3} s] ", self.began.elapsed().as_secs_f64())?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Lets through what is for people.
struct Sentences;

impl<S> Filter<S> for Sentences {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        let is_sentence = metadata.is_event() && metadata.fields().iter().all(|field| field.name() == "message");
        is_sentence && *metadata.level() <= LevelFilter::DEBUG && is_own(metadata)
    }
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

impl<S> Filter<S> for OwnEvents {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        *metadata.level() <= self.0 && is_own(metadata)
    }
}

fn is_own(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("lmswarm")
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
