//! What is remembered between calls, per server: recent failures, how long loads took, what
//! context was granted, and verdicts of `lms ps`. Losing any of it costs time, never
//! correctness: a file that cannot be read is an empty one.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::pure::base_url::file_name;
use crate::pure::json::Object;
use crate::pure::outcome::failure::{Category, Failure};
use crate::sys::files::read_all;
use crate::sys::lock::{Leadership, LockFile};
use crate::sys::private::{self, NoStore, make_private};

/// How many load times are kept of each model.
const KEPT_LOADS: usize = 5;
/// Most that is read of a file, in MiB: what we write is far smaller.
const MOST: u64 = 4;
/// The entry of failures to start the server, which concern no model.
const SERVER: &str = "";

/// The state directory as far as one server is concerned.
#[derive(Debug)]
pub struct Store {
    /// The lock of this server.
    pub lock: LockFile,
    /// The lock for starting a server on this machine, whatever its port: there is only one.
    pub start_lock: LockFile,
    folder: PathBuf,
    slug: String,
    history: PathBuf,
    verdicts: PathBuf,
}

impl Store {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// See [`NoStore`].
    pub fn open(folder: &Path, slug: &str) -> Result<Self, NoStore> {
        make_private(folder)?;
        let [lock, start_lock] = [&format!("{slug}.lock"), "server-start.lock"].map(|name| folder.join(name));
        for path in [&lock, &start_lock] {
            private::check("the lock file", path)?;
        }
        Ok(Self {
            lock: LockFile::new(lock),
            start_lock: LockFile::new(start_lock),
            history: folder.join(format!("{slug}.json")),
            verdicts: folder.join(format!("{slug}.verdicts.json")),
            folder: folder.to_owned(),
            slug: slug.to_owned(),
        })
    }

    /// The directory, if it is there and may be believed; nothing is made.
    pub fn peek(folder: &Path, slug: &str) -> Option<Self> {
        folder.symlink_metadata().ok()?;
        Self::open(folder, slug).ok()
    }

    /// The lock that our own load of `key` has while it is under way, whatever becomes of
    /// the process that ordered it.
    pub fn load_lock(&self, key: &str) -> LockFile {
        LockFile::new(self.folder.join(format!("{}.{}.load", self.slug, file_name(key))))
    }

    /// What is remembered.
    pub fn history(&self) -> History {
        read(&self.history)
    }

    /// Changes what is remembered; only the leader may, so that nothing is lost between
    /// reading and writing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn change(&self, _: &Leadership, change: impl FnOnce(&mut History)) -> io::Result<()> {
        let mut history = self.history();
        change(&mut history);
        write(&self.history, &history)
    }

    /// The verdict of `lms ps` on `key`, if it is younger than `max_age`.
    pub fn verdict(&self, key: &str, max_age: Duration) -> Option<CachedVerdict> {
        read::<Verdicts>(&self.verdicts).young(key, max_age).cloned()
    }

    /// Remembers a verdict. Two writers at once may lose one of two, which costs one `lms ps`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember_verdict(&self, key: &str, verdict: CachedVerdict, max_age: Duration) -> io::Result<()> {
        let mut verdicts: Verdicts = read(&self.verdicts);
        verdicts.0.retain(|_, it| age(it.at_ms).is_some_and(|age| age < max_age));
        verdicts.0.insert(key.to_owned(), verdict);
        write(&self.verdicts, &verdicts)
    }

    /// Forgets every verdict: something was just loaded or unloaded.
    pub fn forget_verdicts(&self) {
        // An error means that there are none, or that none could be written either.
        let _ = fs::remove_file(&self.verdicts);
    }
}

/// An addressable model, as `lms ps` showed it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedVerdict {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// The instance's context, in tokens.
    pub context_length: Option<u64>,
    /// The most context its model can have.
    #[serde(default)]
    pub max_context_length: Option<u64>,
    /// Requests it serves at once.
    pub parallel: Option<u64>,
    /// The linked machine it is on.
    pub device: Option<String>,
}

/// The verdicts of `lms ps` on one server, by model key.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Verdicts(BTreeMap<String, CachedVerdict>);

impl Verdicts {
    /// Reads a file of verdicts.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        parse(text)
    }

    /// The verdict on `key`, if it is younger than `max_age`.
    pub fn young(&self, key: &str, max_age: Duration) -> Option<&CachedVerdict> {
        self.0.get(key).filter(|it| age(it.at_ms).is_some_and(|age| age < max_age))
    }
}

/// What is remembered of one server.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct History {
    failures: BTreeMap<String, PastFailure>,
    load_times_ms: BTreeMap<String, Vec<u64>>,
    granted: BTreeMap<String, Granted>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PastFailure {
    at_ms: u64,
    /// What was tried: other options deserve another try.
    attempt: String,
    category: Category,
    reason: String,
    hint: Option<String>,
    suggestions: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Granted {
    at_ms: u64,
    wanted: u64,
    has: u64,
}

impl History {
    /// Reads a file of history.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        parse(text)
    }

    /// A failure of `attempt` on `model` (`None`: to start the server) that is younger than
    /// `cooldown` and, if given, not older than `since`.
    pub fn failure(
        &self,
        model: Option<&str>,
        attempt: &str,
        cooldown: Duration,
        since_ms: Option<u64>,
    ) -> Option<Failure> {
        let past = self.failures.get(model.unwrap_or(SERVER))?;
        let age = age(past.at_ms).filter(|age| *age < cooldown)?;
        if past.attempt != attempt || since_ms.is_some_and(|since| past.at_ms < since) {
            return None;
        }
        Some(Failure {
            category: past.category,
            reason: past.reason.clone(),
            hint: past.hint.clone(),
            suggestions: past.suggestions.clone(),
            age: Some(age),
            is_expensive: true,
            signal: None,
        })
    }

    /// Remembers a failure.
    pub fn remember_failure(&mut self, model: Option<&str>, attempt: &str, failure: &Failure) {
        let past = PastFailure {
            at_ms: now_ms(),
            attempt: attempt.to_owned(),
            category: failure.category,
            reason: failure.reason.clone(),
            hint: failure.hint.clone(),
            suggestions: failure.suggestions.clone(),
        };
        self.failures.insert(model.unwrap_or(SERVER).to_owned(), past);
    }

    /// Forgets the failures that a success disproves.
    pub fn forget_failures(&mut self, model: &str) {
        self.failures.remove(model);
        self.failures.remove(SERVER);
    }

    /// Remembers how long a load took.
    pub fn remember_load(&mut self, model: &str, time: Duration) {
        let times = self.load_times_ms.entry(model.to_owned()).or_default();
        times.push(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let surplus = times.len().saturating_sub(KEPT_LOADS);
        times.drain(..surplus);
    }

    /// How long a load of `model` usually takes: the median of the last few.
    pub fn usual_load(&self, model: &str) -> Option<Duration> {
        let mut times = self.load_times_ms.get(model)?.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().map(Duration::from_millis)
    }

    /// Remembers that LM Studio granted less context than wanted.
    pub fn remember_granted(&mut self, model: &str, wanted: u64, has: u64, cooldown: Duration) {
        // Whoever asks for less is answered by the larger refusal as well.
        let past =
            self.granted.get(model).filter(|it| it.has == has && age(it.at_ms).is_some_and(|age| age < cooldown));
        let wanted = past.map_or(wanted, |it| it.wanted.max(wanted));
        self.granted.insert(model.to_owned(), Granted { at_ms: now_ms(), wanted, has });
    }

    /// The context that was asked for and the one that the server granted, if that is younger
    /// than `cooldown`.
    pub fn granted(&self, model: &str, cooldown: Duration) -> Option<(u64, u64)> {
        let granted = self.granted.get(model)?;
        age(granted.at_ms).filter(|age| *age < cooldown).map(|_| (granted.wanted, granted.has))
    }
}

/// The time now, in Unix milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|time| u64::try_from(time.as_millis()).ok()).unwrap_or(0)
}

/// How long ago that was; `None` if it lies in the future (the clock was set back), which
/// must not keep anything alive for ever.
pub fn age(at_ms: u64) -> Option<Duration> {
    now_ms().checked_sub(at_ms).map(Duration::from_millis)
}

/// The content of a state file.
///
/// # Errors
/// When it is not what [`write()`] wrote.
fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(text).map(|Object(content)| content)
}

fn read<T: DeserializeOwned + Default>(path: &Path) -> T {
    let file = private::open(OpenOptions::new().read(true), path);
    let content = file.and_then(|file| Ok(parse(&read_all(file, MOST)?)?));
    content.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::info!("the state file {} cannot be read and is taken for empty: {error}", path.display());
        }
        T::default()
    })
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    private::replace(path, &serde_json::to_vec(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path) -> Store {
        Store::open(&folder.join("state"), "http-localhost-1234").unwrap()
    }

    #[test]
    fn a_failure_is_replayed_while_it_is_young_and_the_attempt_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let leadership = store.lock.try_lead().unwrap().unwrap();
        let failure = Failure::new(Category::LoadRefused, "no room").hinted("buy some");
        store.change(&leadership, |history| history.remember_failure(Some("a"), "x", &failure)).unwrap();
        let minute = Duration::from_secs(60);
        let history = store.history();
        let replayed = history.failure(Some("a"), "x", minute, None).unwrap();
        assert_eq!((replayed.reason.as_str(), replayed.hint.as_deref()), ("no room", Some("buy some")));
        assert!(replayed.age.unwrap() < minute);
        assert_eq!(history.failure(Some("a"), "y", minute, None), None);
        assert_eq!(history.failure(Some("b"), "x", minute, None), None);
        assert_eq!(history.failure(None, "x", minute, None), None);
        assert_eq!(history.failure(Some("a"), "x", Duration::ZERO, None), None);
        assert_eq!(history.failure(Some("a"), "x", minute, Some(now_ms() + 1000)), None);
        store.change(&leadership, |history| history.forget_failures("a")).unwrap();
        assert_eq!(store.history().failure(Some("a"), "x", minute, None), None);
    }

    #[test]
    fn a_server_and_a_model_with_endless_names_are_remembered_as_well() {
        use crate::pure::base_url::BaseUrl;
        let folder = tempfile::tempdir().unwrap();
        let path = "Long%20Path/".repeat(200);
        let slug = BaseUrl::parse(&format!("https://llm.example/{path}v1")).unwrap().slug();
        let store = Store::open(&folder.path().join("state"), &slug).unwrap();
        let leadership = store.lock.try_lead().unwrap().unwrap();
        store.change(&leadership, |history| history.remember_load("a", Duration::from_secs(7))).unwrap();
        assert_eq!(store.history().usual_load("a"), Some(Duration::from_secs(7)));
        let verdict = CachedVerdict {
            at_ms: now_ms(),
            context_length: None,
            max_context_length: None,
            parallel: None,
            device: None,
        };
        store.remember_verdict("a", verdict, Duration::from_secs(60)).unwrap();
        assert!(store.verdict("a", Duration::from_secs(60)).is_some());
        assert!(store.load_lock(&"Long/Key ".repeat(200)).lock_for_child().unwrap().is_some());
    }

    #[test]
    fn to_peek_makes_nothing_and_believes_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert!(Store::peek(&state, "x").is_none());
        assert!(!state.exists());
        store(folder.path());
        assert!(Store::peek(&state, "x").is_some());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
            assert!(Store::peek(&state, "x").is_none());
        }
    }

    #[test]
    fn what_lies_in_the_future_is_not_believed() {
        assert_eq!(age(now_ms() + 60_000), None);
    }

    #[test]
    fn the_usual_load_is_the_median_of_the_last_five() {
        let mut history = History::default();
        assert_eq!(history.usual_load("a"), None);
        for seconds in [900, 10, 20, 30, 40, 50] {
            history.remember_load("a", Duration::from_secs(seconds));
        }
        assert_eq!(history.usual_load("a"), Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_state_file_full_of_garbage_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        for garbage in ["", "{", "[]", "{\"failures\": 3}", "\u{0}\u{0}"] {
            fs::write(folder.path().join("state/http-localhost-1234.json"), garbage).unwrap();
            assert_eq!(store.history().usual_load("a"), None);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_others_could_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        store(folder.path());
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Store::open(&state, "x").unwrap_err();
        assert!(matches!(refused, NoStore::Refused(why) if why.contains("mode 777")));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&state, &link).unwrap();
        let refused = Store::open(&link, "x").unwrap_err();
        assert!(matches!(refused, NoStore::Refused(why) if why.contains("symlink")));
    }
}
