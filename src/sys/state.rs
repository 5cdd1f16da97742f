//! What is remembered between calls, per server: recent failures, how long loads took, what
//! context was granted, and verdicts of `lms ps`. Losing any of it costs time, never
//! correctness: a file that cannot be read is an empty one. (The locks and orders that stand in
//! the same directory are another matter: see `lock`, `leader` and `operation`.)

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::pure::backend::BackendKind;
use crate::pure::base_url::file_name;
use crate::pure::cooldown::{Moments, World, replayed_age};
use crate::pure::json::Object;
use crate::pure::outcome::failure::{Category, Failure, Replay};
use crate::sys::clock::{age, monotonic_age, monotonic_ms};
use crate::sys::files::read_all;
use crate::sys::leader::{LeaderLock, Leadership};
use crate::sys::lock::LockFile;
use crate::sys::operation::Operation;
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
    /// The lock of the one who may change what is resident on this server.
    pub lock: LeaderLock,
    /// The lock for starting a server on this machine, whatever its port: there is only one.
    pub start_lock: LockFile,
    /// Held together by the foreground callers that have work here.
    pub foreground: LockFile,
    /// An unload that one of us has ordered.
    pub unload: Operation,
    folder: PathBuf,
    slug: String,
    history: PathBuf,
    verdicts: PathBuf,
    generation: PathBuf,
}

impl Store {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// See `NoStore`.
    pub fn open(folder: &Path, slug: &str) -> Result<Self, NoStore> {
        make_private(folder)?;
        let [lock, start_lock] = [&format!("{slug}.lock"), "server-start.lock"].map(|name| folder.join(name));
        for path in [&lock, &start_lock] {
            private::check("the lock file", path)?;
        }
        Ok(Self {
            lock: LeaderLock::new(lock),
            start_lock: LockFile::new(start_lock),
            foreground: LockFile::new(folder.join(format!("{slug}.foreground"))),
            unload: Operation::new(folder.join(format!("{slug}.unload"))),
            history: folder.join(format!("{slug}.json")),
            verdicts: folder.join(format!("{slug}.verdicts.json")),
            generation: folder.join(format!("{slug}.generation")),
            folder: folder.to_owned(),
            slug: slug.to_owned(),
        })
    }

    /// The directory, if it is there and may be believed; nothing is made.
    pub fn peek(folder: &Path, slug: &str) -> Option<Self> {
        folder.symlink_metadata().ok()?;
        Self::open(folder, slug).ok()
    }

    /// Remembers which program this server turned out to be. LM Studio is what is expected where
    /// nothing is remembered.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember_backend(&self, kind: BackendKind) -> io::Result<()> {
        let path = backend_file(&self.folder, &self.slug);
        match kind {
            BackendKind::LmStudio => fs::remove_file(path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
            kind => private::replace(&path, kind.word().as_bytes()),
        }
    }

    /// Our own load of `key`, whatever becomes of the process that ordered it.
    pub fn load(&self, key: &str) -> Operation {
        Operation::new(self.folder.join(format!("{}.{}.load", self.slug, file_name(key))))
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

    /// The verdict of `lms ps` on `key`, if it is younger than `max_age` and nothing was loaded or
    /// unloaded by one of us since it was found.
    pub fn verdict(&self, key: &str, max_age: Duration) -> Option<CachedVerdict> {
        let verdicts: Verdicts = read(&self.verdicts);
        if verdicts.generation != self.generation() {
            return None;
        }
        verdicts.young(key, max_age).cloned()
    }

    /// Names the time between two changes of what is resident. A verdict belongs to the one that
    /// was named before its observation began.
    pub fn generation(&self) -> String {
        read::<Generation>(&self.generation).id
    }

    /// Remembers a verdict of this generation. Two writers at once may lose one of two, which
    /// costs one `lms ps`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember_verdict(
        &self,
        key: &str,
        verdict: CachedVerdict,
        max_age: Duration,
        generation: &str,
    ) -> io::Result<()> {
        let mut verdicts: Verdicts = read(&self.verdicts);
        if verdicts.generation != generation {
            verdicts = Verdicts { generation: generation.to_owned(), ..Verdicts::default() };
        }
        verdicts.verdicts.retain(|_, it| it.is_young(max_age));
        verdicts.verdicts.insert(key.to_owned(), verdict);
        write(&self.verdicts, &verdicts)
    }

    /// Forgets every verdict, those that other processes are about to write included: what is
    /// resident changes.
    pub fn forget_verdicts(&self) {
        let id = format!("{}.{}", monotonic_ms(), std::process::id());
        if let Err(error) = write(&self.generation, &Generation { id }) {
            tracing::info!(%error, "the verdicts cannot be marked as outdated");
        }
        // An error means that there are none, or that none could be written either.
        let _ = fs::remove_file(&self.verdicts);
    }
}

/// Which program an earlier call found at this server, unless that was LM Studio. Whoever else
/// could write the file could make a call ask in vain, and nothing more.
pub fn remembered_backend(folder: &Path, slug: &str) -> Option<BackendKind> {
    let file = private::open(OpenOptions::new().read(true), backend_file(folder, slug)).ok()?;
    let word = read_all(file, MOST).ok()?;
    BackendKind::of_word(std::str::from_utf8(&word).ok()?.trim())
}

fn backend_file(folder: &Path, slug: &str) -> PathBuf {
    folder.join(format!("{slug}.backend"))
}

/// An addressable model, as `lms ps` showed it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedVerdict {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// When, in milliseconds of the monotonic clock.
    #[serde(default)]
    pub monotonic_ms: u64,
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

impl CachedVerdict {
    /// Whether it is younger than `max_age` by both clocks: one may have been set, and the other
    /// begins anew with each boot.
    fn is_young(&self, max_age: Duration) -> bool {
        let is_young = |age: Option<Duration>| age.is_some_and(|age| age < max_age);
        is_young(age(self.at_ms)) && is_young(monotonic_age(self.monotonic_ms))
    }
}

/// Names the time between two changes of what is resident.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Generation {
    id: String,
}

/// The verdicts of `lms ps` on one server, by model key.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Verdicts {
    generation: String,
    verdicts: BTreeMap<String, CachedVerdict>,
}

impl Verdicts {
    /// The verdict on `key`, if it is younger than `max_age`.
    pub fn young(&self, key: &str, max_age: Duration) -> Option<&CachedVerdict> {
        self.verdicts.get(key).filter(|it| it.is_young(max_age))
    }
}

/// The caller that a failure may be replayed to.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// When it began, in milliseconds of the monotonic clock.
    pub began_ms: u64,
    /// `retryCooldownMs`.
    pub cooldown: Duration,
    /// `--fresh`: what was known before it began does not count.
    pub is_fresh: bool,
}

/// What is remembered of one server.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct History {
    failures: BTreeMap<String, PastFailure>,
    load_times_ms: BTreeMap<String, Vec<u64>>,
    granted: BTreeMap<String, Granted>,
    /// When a leader ensured a model last, in milliseconds of the monotonic clock.
    ensured_ms: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PastFailure {
    /// When it was found, in milliseconds of the monotonic clock.
    monotonic_ms: u64,
    /// How long it took to find out; `None` if only waiting callers are told.
    #[serde(default)]
    took_ms: Option<u64>,
    /// What it was found in.
    #[serde(default)]
    world: World,
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
    /// When, in milliseconds of the monotonic clock.
    monotonic_ms: u64,
    wanted: u64,
    has: u64,
}

impl History {
    /// A failure of `attempt` on `model` (`None`: to start the server) that is to be replayed to
    /// `caller`. `world` is asked for only if there is one.
    pub fn failure(
        &self,
        model: Option<&str>,
        attempt: &str,
        caller: &Caller,
        world: impl FnOnce() -> World,
    ) -> Option<Failure> {
        let past = self.failures.get(model.unwrap_or(SERVER)).filter(|past| past.attempt == attempt)?;
        let moments = Moments { found_ms: past.monotonic_ms, began_ms: caller.began_ms, now_ms: monotonic_ms() };
        let took = past.took_ms.map(Duration::from_millis);
        let age = replayed_age(moments, took, caller.cooldown, caller.is_fresh)?;
        if past.world.differs(&world()) {
            return None;
        }
        Some(Failure {
            category: past.category,
            reason: past.reason.clone(),
            hint: past.hint.clone(),
            suggestions: past.suggestions.clone(),
            age: Some(age),
            replay: Replay::Never,
            is_served: false,
            signal: None,
        })
    }

    /// Remembers a failure that took so long to find out, in this world.
    pub fn remember_failure(
        &mut self,
        model: Option<&str>,
        attempt: &str,
        failure: &Failure,
        took: Duration,
        world: World,
    ) {
        let past = PastFailure {
            monotonic_ms: monotonic_ms(),
            took_ms: (failure.replay == Replay::Cooldown).then(|| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            world,
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

    /// Remembers that a model was ensured just now.
    pub fn remember_ensured(&mut self, model: &str) {
        self.ensured_ms.insert(model.to_owned(), monotonic_ms());
    }

    /// How long ago models were ensured, by key. What the clock of another boot says lies in the
    /// future, or long ago.
    pub fn ensured(&self) -> BTreeMap<String, Duration> {
        let now = monotonic_ms();
        let age = |at_ms: u64| now.checked_sub(at_ms).map(Duration::from_millis);
        self.ensured_ms.iter().filter_map(|(model, at_ms)| Some((model.clone(), age(*at_ms)?))).collect()
    }

    /// Remembers that LM Studio granted less context than wanted.
    pub fn remember_granted(&mut self, model: &str, wanted: u64, has: u64, cooldown: Duration) {
        // A caller that asks for less is answered by the larger refusal as well.
        let is_young = |it: &&Granted| monotonic_age(it.monotonic_ms).is_some_and(|age| age < cooldown);
        let past = self.granted.get(model).filter(|it| it.has == has).filter(is_young);
        let wanted = past.map_or(wanted, |it| it.wanted.max(wanted));
        self.granted.insert(model.to_owned(), Granted { monotonic_ms: monotonic_ms(), wanted, has });
    }

    /// The context that was asked for and the one that the server granted, if that is younger
    /// than `cooldown`.
    pub fn granted(&self, model: &str, cooldown: Duration) -> Option<(u64, u64)> {
        let granted = self.granted.get(model)?;
        monotonic_age(granted.monotonic_ms).filter(|age| *age < cooldown).map(|_| (granted.wanted, granted.has))
    }
}

/// Reads the text of a state file.
///
/// # Errors
/// When it is none of its kind.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
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
    use crate::sys::clock::now_ms;

    fn store(folder: &Path) -> Store {
        Store::open(&folder.join("state"), "http-localhost-1234").unwrap()
    }

    #[test]
    fn a_failure_is_replayed_to_those_who_waited_if_the_attempt_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let leadership = store.lock.try_lead().unwrap().unwrap();
        let failure = Failure::new(Category::LoadRefused, "no room").hinted("buy some");
        let took = Duration::from_secs(1);
        let began_ms = monotonic_ms();
        store
            .change(&leadership, |history| history.remember_failure(Some("a"), "x", &failure, took, World::default()))
            .unwrap();
        let caller = Caller { began_ms, cooldown: Duration::from_secs(60), is_fresh: false };
        let history = store.history();
        let replay = |model, attempt, caller| history.failure(model, attempt, caller, World::default);
        let replayed = replay(Some("a"), "x", &caller).unwrap();
        assert_eq!((replayed.reason.as_str(), replayed.hint.as_deref()), ("no room", Some("buy some")));
        assert_eq!(replay(Some("a"), "y", &caller), None);
        assert_eq!(replay(Some("b"), "x", &caller), None);
        assert_eq!(replay(None, "x", &caller), None);
        let without = Caller { cooldown: Duration::ZERO, ..caller };
        assert_eq!(replay(Some("a"), "x", &without), None);
        let later = Caller { began_ms: monotonic_ms() + 1000, is_fresh: true, ..caller };
        assert_eq!(replay(Some("a"), "x", &later), None);
        store.change(&leadership, |history| history.forget_failures("a")).unwrap();
        assert_eq!(store.history().failure(Some("a"), "x", &caller, World::default), None);
    }

    fn verdict() -> CachedVerdict {
        CachedVerdict {
            at_ms: now_ms(),
            monotonic_ms: monotonic_ms(),
            context_length: None,
            max_context_length: None,
            parallel: None,
            device: None,
        }
    }

    #[test]
    fn a_verdict_that_was_found_before_a_change_is_worth_nothing_however_late_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let minute = Duration::from_secs(60);
        let before = store.generation();
        store.remember_verdict("a", verdict(), minute, &before).unwrap();
        assert!(store.verdict("a", minute).is_some());
        store.forget_verdicts();
        assert!(store.verdict("a", minute).is_none());
        store.remember_verdict("a", verdict(), minute, &before).unwrap();
        assert!(store.verdict("a", minute).is_none());
        store.remember_verdict("a", verdict(), minute, &store.generation()).unwrap();
        assert!(store.verdict("a", minute).is_some());
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
        store.remember_verdict("a", verdict(), Duration::from_secs(60), &store.generation()).unwrap();
        assert!(store.verdict("a", Duration::from_secs(60)).is_some());
        assert!(store.load(&"Long/Key ".repeat(200)).begin(Duration::ZERO).unwrap().is_some());
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
        assert_eq!(monotonic_age(monotonic_ms() + 60_000), None);
    }

    #[test]
    fn a_verdict_is_as_old_as_the_clock_says_that_says_more() {
        let minute = Duration::from_secs(60);
        assert!(verdict().is_young(minute));
        for (time_of_day, monotonic) in [(-60_000, 0), (0, -60_000), (60_000, 0), (0, 60_000)] {
            let CachedVerdict { at_ms, monotonic_ms, .. } = verdict();
            let moved = CachedVerdict {
                at_ms: at_ms.saturating_add_signed(time_of_day),
                monotonic_ms: monotonic_ms.saturating_add_signed(monotonic),
                ..verdict()
            };
            assert!(!moved.is_young(minute), "{time_of_day} {monotonic}");
        }
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
    fn what_the_clock_of_another_boot_says_of_the_future_is_not_believed() {
        let mut history = History::default();
        history.remember_ensured("a");
        history.ensured_ms.insert("b".to_owned(), monotonic_ms() + 60_000);
        assert_eq!(history.ensured().into_keys().collect::<Vec<_>>(), ["a"]);
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
        assert!(matches!(refused, NoStore::Refused(why) if why.reason.contains("mode 777")));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&state, &link).unwrap();
        let refused = Store::open(&link, "x").unwrap_err();
        assert!(matches!(refused, NoStore::Refused(why) if why.reason.contains("symlink")));
    }
}
