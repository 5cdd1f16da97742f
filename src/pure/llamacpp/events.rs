//! `GET /models/sse`: what a router says while it loads. Only how far a load is is read of it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Most of one line that is kept: the longest hold the entry of a model.
const MOST_AT_ONCE: usize = 1024 * 1024;

/// The events, as they come in.
#[derive(Debug)]
pub(crate) struct LoadEvents {
    model: String,
    line: Vec<u8>,
}

#[derive(Deserialize)]
struct Event {
    model: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    progress: Option<Progress>,
}

/// Stages come one after the other.
#[derive(Deserialize)]
#[serde(untagged)]
enum Progress {
    Load { stages: Vec<String>, current: String, value: f64 },
    Download(BTreeMap<String, Fetched>),
}

#[derive(Deserialize)]
struct Fetched {
    done: u64,
    total: u64,
}

impl LoadEvents {
    /// Listens for this model.
    pub(crate) fn of(model: &str) -> Self {
        Self { model: model.to_owned(), line: Vec::new() }
    }

    /// Takes the next piece; how far the model is then, if it says so.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Option<u8> {
        let mut percent = None;
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.ends_with(b"\n") {
                percent = self.read().or(percent);
                self.line.clear();
            } else if self.line.len() > MOST_AT_ONCE {
                self.line.clear();
            }
        }
        percent
    }

    fn read(&self) -> Option<u8> {
        let event: Event = serde_json::from_slice(self.line.strip_prefix(b"data:")?).ok()?;
        if event.model != self.model {
            return None;
        }
        let share = match event.data?.progress? {
            Progress::Load { stages, current, value } => {
                let before = stages.iter().position(|stage| *stage == current)?;
                (number(before) + value) / number(stages.len())
            }
            Progress::Download(files) => {
                let sum = |count: fn(&Fetched) -> u64| files.values().map(count).fold(0, u64::saturating_add);
                let (done, total) = (sum(|it| it.done), sum(|it| it.total));
                return u8::try_from(done.saturating_mul(100).checked_div(total)?).ok().filter(|it| *it <= 100);
            }
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 100")]
        (0.0..=1.0).contains(&share).then_some((share * 100.0) as u8)
    }
}

/// There are few stages.
fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_load_is_is_read_wherever_the_text_is_cut() {
        let text = b"data: {\"model\":\"a\",\"event\":\"model_status\",\"data\":{\"status\":\"loading\"}}\n\n\
            data: {\"model\":\"a\",\"event\":\"status_change\",\"data\":{\"status\":\"loading\",\"progress\":\
            {\"stages\":[\"text_model\",\"mmproj_model\"],\"current\":\"mmproj_model\",\"value\":0.5}}}\n\n\
            data: {\"model\":\"b\",\"event\":\"status_change\",\"data\":{\"status\":\"loading\",\"progress\":\
            {\"stages\":[\"text_model\"],\"current\":\"text_model\",\"value\":0.1}}}\n\n: a comment\n\ndata: nonsense\n\n\
            data: {\"model\":\"*\",\"event\":\"models_reload\"}\n\n";
        for size in 1..=text.len() {
            let mut events = LoadEvents::of("a");
            let seen: Vec<u8> = text.chunks(size).filter_map(|piece| events.feed(piece)).collect();
            assert_eq!(seen, [75], "{size}");
        }
    }

    #[test]
    fn how_far_a_download_is_counts_all_files() {
        let mut events = LoadEvents::of("a");
        let text = b"data: {\"model\":\"a\",\"event\":\"download_progress\",\"data\":{\"progress\":\
            {\"http://x/1\":{\"done\":10,\"total\":100},\"http://x/2\":{\"done\":40,\"total\":100}}}}\n";
        assert_eq!(events.feed(text), Some(25));
        let nothing = b"data: {\"model\":\"a\",\"data\":{\"progress\":{\"http://x/1\":{\"done\":0,\"total\":0}}}}\n";
        assert_eq!(events.feed(nothing), None);
    }
}
