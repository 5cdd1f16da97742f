//! The load itself: the exact key or nothing, by `lms` or by REST, then the proof that it
//! is addressable. Exit code 0 of `lms load` alone proves nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use super::look::Sight;
use super::room::Evictions;
use super::{Backoff, Lead, Want, Work, context_warning, drift_failure};
use crate::pure::config::{Device, Loader, OnMismatch};
use crate::pure::failure::{Category, Failure};
use crate::pure::lms_output::{LoadProblem, decode, load_problem, loaded_identifier};
use crate::pure::load::{Placement, load_args, matches_fuzzily};
use crate::pure::report::{Action, Ready};
use crate::pure::residency::{Downloaded, Location, Residency, Snapshot, drift, find_downloaded};
use crate::pure::rest::{Managed, read_managed};
use crate::pure::text::{duration, printable, similar};
use crate::sys::lms::{Lms, Problem, complaint};
use crate::sys::process::Exit;

/// How long an instance may take to appear in the lists after its load has ended.
const APPEARS: Duration = Duration::from_secs(3);
/// How often a download over REST is asked how far it is.
const DOWNLOAD_POLL: Duration = Duration::from_secs(1);

/// A downloaded model that is to be loaded.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Where to load it.
    pub(super) placement: Placement,
    /// The most context it can have.
    pub(super) max_context: Option<u64>,
    /// Its size on disk.
    pub(super) size_bytes: Option<u64>,
    /// `--local` was chosen without knowing that the model is here.
    placement_is_guess: bool,
}

/// What carries out a load.
enum By<'a> {
    Lms(&'a Lms),
    Rest,
}

/// How one attempt to load ended.
enum Attempt {
    /// It says it loaded.
    Loaded,
    /// The guardrail refused it; holds the server's words.
    OutOfMemory(String),
    /// `lms` did not find the key where it was told to look.
    NotFound(String),
}

impl Work<'_> {
    /// Chooses what loads: `lms`, or REST where `lms` is not at hand or cannot reach.
    fn loader(&self, want: &Want) -> Result<By<'_>, Failure> {
        let reaches = self.base().suits_lms() && (self.base().is_loopback() || !self.server.has_token());
        match (self.config.loader, &self.lms) {
            (Loader::Lms, Ok(lms)) => Ok(By::Lms(lms)),
            (Loader::Lms, Err(tried)) => Err(Failure::new(Category::LoadFailed, Self::no_lms(tried))
                .hinted("name it with --lms-path, or let --loader be `auto`")
                .cheap()),
            // `lms load` knows base keys alone; the REST API takes variants.
            (Loader::Auto, Ok(lms)) if reaches && !want.key.is_variant() => Ok(By::Lms(lms)),
            (Loader::Auto | Loader::Rest, _) => Ok(By::Rest),
        }
    }

    /// Finds exactly this key among the downloaded models, or downloads it if told to.
    /// `lms load` matches fuzzily and would take another model for an unknown key.
    pub(super) async fn require_downloaded(
        &self,
        want: &Want,
        snapshot: &Snapshot,
        lead: &Lead,
    ) -> Result<Target, Failure> {
        let models = self.downloaded(snapshot).await?;
        if let Some(found) = find_downloaded(&models, &want.key) {
            return self.target(want, found, &models).await;
        }
        if !self.config.auto_download {
            return Err(not_downloaded(want, &models));
        }
        self.download(want, lead).await?;
        let models = match self.look().await? {
            Sight::Seen(snapshot) => self.downloaded(&snapshot).await?,
            _ => return Err(self.unknown("the server went away after the download")),
        };
        match find_downloaded(&models, &want.key) {
            Some(found) => self.target(want, found, &models).await,
            None => Err(Failure {
                suggestions: similar(want.key.as_str(), models.iter().map(|it| it.key.as_str())),
                ..Failure::new(
                    Category::DownloadFailed,
                    format!("a download for `{}` ended well, but LM Studio has no model of that name", want.key),
                )
                .hinted("`lms ls` shows under which name it was put")
            }),
        }
    }

    async fn downloaded(&self, snapshot: &Snapshot) -> Result<Vec<Downloaded>, Failure> {
        if let Some(models) = &snapshot.downloaded {
            return Ok(models.clone());
        }
        let lms = self.lms.as_ref().map_err(|tried| {
            Failure::new(
                Category::LoadFailed,
                format!("{} does not tell what is downloaded, and {}", self.base(), Self::no_lms(tried)),
            )
            .hinted(
                "update LM Studio to 0.4 or later, set an API token if it requires one, or name `lms` with --lms-path",
            )
            .cheap()
        })?;
        lms.ls().await.map_err(|problem| match problem {
            Problem::Stopped(stop) => self.interrupted(stop),
            Problem::Failed(why) => self.unknown(&why),
        })
    }

    async fn target(&self, want: &Want, found: &Downloaded, models: &[Downloaded]) -> Result<Target, Failure> {
        let mut location = found.location;
        // `--local` leaves linked machines out. If the key is on one of those alone, `lms`
        // would take what is similar, so then, and only then, it is worth asking.
        let is_risky = || models.iter().any(|it| it.key != found.key && matches_fuzzily(&want.key, &it.key));
        if location == Location::Untold
            && self.config.device == Device::LocalFirst
            && let Ok(By::Lms(lms)) = self.loader(want)
            && is_risky()
        {
            let listed = lms.ls().await.map_err(|problem| match problem {
                Problem::Stopped(stop) => self.interrupted(stop),
                Problem::Failed(why) => self.unknown(&why),
            })?;
            location = find_downloaded(&listed, &want.key).map_or(Location::Linked, |it| it.location);
        }
        let placement = match (self.config.device, location) {
            (Device::Preferred, _) | (_, Location::Linked) => Placement::Any,
            (Device::LocalFirst, Location::Here | Location::Untold) => Placement::Local,
        };
        Ok(Target {
            placement,
            max_context: found.max_context_length,
            size_bytes: found.size_bytes,
            placement_is_guess: placement == Placement::Local && location == Location::Untold,
        })
    }

    /// Downloads the key. `lms get` takes a name without a publisher for a search term and
    /// fetches the first hit, so such a name is refused.
    async fn download(&self, want: &Want, _: &Lead) -> Result<(), Failure> {
        let key = &want.key;
        let failed =
            |why: String| Failure::new(Category::DownloadFailed, format!("`{key}` could not be downloaded: {why}"));
        if !key.as_str().contains('/') {
            return Err(failed("only a name of the form `publisher/model` says exactly what to fetch".to_owned())
                .hinted(format!("search for it yourself: `lms get {key}`")));
        }
        let activity = self.call.progress.begin(&format!("downloading `{key}`"), None);
        match self.loader(want)? {
            By::Lms(lms) => match lms.get(key.as_str(), |percent| activity.percent(percent)).await {
                Ok(()) => {}
                Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
                Err(Problem::Failed(why)) => return Err(failed(why)),
            },
            By::Rest => {
                self.download_by_rest(want, |percent| activity.percent(percent)).await.map_err(
                    |failure| match failure.category {
                        Category::DownloadFailed => failed(failure.reason),
                        _ => failure,
                    },
                )?;
            }
        }
        activity.done(&format!("`{key}` is downloaded"));
        Ok(())
    }

    async fn download_by_rest(&self, want: &Want, on_percent: impl Fn(u8)) -> Result<(), Failure> {
        let failed = |why: String| Failure::new(Category::DownloadFailed, why);
        let job = match self.manage("download", &json!({ "model": want.key.as_str() }), "status").await? {
            Managed::Done(job) => job,
            Managed::Unauthorized => return Err(self.token_refused()),
            Managed::Refused(_, why) | Managed::Unclear(why) => return Err(failed(why)),
        };
        let Some(id) = job["job_id"].as_str() else { return Ok(()) };
        // The id goes into a path.
        if !id.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-')) {
            return Err(failed(format!("the server named its job `{}`", printable(id))));
        }
        loop {
            let reply = self.stopper.or(self.server.get(&format!("api/v1/models/download/status/{id}"))).await;
            match read_managed(&reply.map_err(|stop| self.interrupted(stop))?, "status") {
                Managed::Done(status) => match status["status"].as_str() {
                    Some("completed") => return Ok(()),
                    Some("failed") => return Err(failed("the server says the download failed".to_owned())),
                    _ => {
                        let bytes = |name: &str| status[name].as_u64().unwrap_or(0);
                        if let Some(percent) = (bytes("downloaded_bytes") * 100).checked_div(bytes("total_size_bytes"))
                        {
                            on_percent(u8::try_from(percent).unwrap_or(100));
                        }
                    }
                },
                Managed::Unauthorized => return Err(self.token_refused()),
                Managed::Refused(_, why) => return Err(failed(why)),
                // The job goes on whether or not one answer got lost; `--timeout` bounds it.
                Managed::Unclear(why) => tracing::info!(why, "no word from the download"),
            }
            self.sleep(DOWNLOAD_POLL).await?;
        }
    }

    /// Sends a management request, bounded by the load's limit.
    async fn manage(&self, verb: &str, body: &serde_json::Value, wanted: &str) -> Result<Managed, Failure> {
        let path = format!("api/v1/models/{verb}");
        let reply = self.stopper.or(self.server.post(&path, body, self.config.load_timeout)).await;
        Ok(read_managed(&reply.map_err(|stop| self.interrupted(stop))?, wanted))
    }

    /// Loads, making room as far as allowed; returns how long it took, or `None` when
    /// somebody else's load made it ready.
    pub(super) async fn load(&self, want: &Want, target: &Target, lead: &Lead) -> Result<Option<Duration>, Failure> {
        let by = self.loader(want)?;
        if let Some(warning) = context_warning(want, target.max_context) {
            self.warn(warning);
        }
        if let Some(store) = &self.store {
            store.forget_verdicts();
        }
        let mut target = target.clone();
        let mut evictions = Evictions::default();
        self.make_room(want, &target, lead, &mut evictions).await?;
        loop {
            let activity = self.call.progress.begin(&format!("loading `{}`", want.key), self.usual_load(want));
            let started = Instant::now();
            let attempt = match &by {
                By::Lms(lms) => self.load_by_lms(lms, want, &target, |percent| activity.percent(percent)).await,
                By::Rest => self.load_by_rest(want, &target).await,
            };
            match attempt {
                Ok(Attempt::Loaded) => {
                    activity.done(&format!("`{}` is loaded", want.key));
                    return Ok(Some(started.elapsed()));
                }
                Ok(Attempt::OutOfMemory(words)) => {
                    drop(activity);
                    if let (Some(policy), Ok(lms)) = (&self.config.eviction, &self.lms)
                        && self.evict_one(lms, policy, lead, &mut evictions).await?
                    {
                        continue;
                    }
                    return Err(self.refused(want, &words));
                }
                Ok(Attempt::NotFound(_)) if target.placement_is_guess => {
                    // The model is on a linked machine alone.
                    target = Target { placement: Placement::Any, placement_is_guess: false, ..target };
                }
                Ok(Attempt::NotFound(words)) => {
                    return Err(Failure::new(
                        Category::LoadFailed,
                        format!("`{}` could not be loaded: {words}", want.key),
                    ));
                }
                Err(failure) if failure.category == Category::Interrupted || failure.category == Category::Deadline => {
                    return Err(failure);
                }
                // A load that "fails" while the model is there, or on its way, was beaten
                // by somebody else's.
                Err(failure) => {
                    drop(activity);
                    let sight = self.look().await?;
                    let sight = if failure.category == Category::LoadTimeout {
                        sight
                    } else {
                        self.wait_for_load_under_way(want, sight).await?.0
                    };
                    return if Self::is_ready(want, &sight) { Ok(None) } else { Err(failure) };
                }
            }
        }
    }

    fn refused(&self, want: &Want, words: &str) -> Failure {
        let hint = if self.config.eviction.is_some() {
            "nothing more may be unloaded: unload something by hand, or ask for less context"
        } else {
            "unload something (`lms ps`, `lms unload`), ask for less context, or let lmswarm make room with --evict-on-pressure"
        };
        Failure::new(Category::LoadRefused, format!("LM Studio refused to load `{}`: {words}", want.key)).hinted(hint)
    }

    async fn load_by_lms(
        &self,
        lms: &Lms,
        want: &Want,
        target: &Target,
        on_percent: impl FnMut(u8),
    ) -> Result<Attempt, Failure> {
        let args = load_args(&want.key, &want.options.within(target.max_context), target.placement);
        let limit = self.config.load_timeout;
        let finished = lms
            .load(args.clone(), limit, on_percent)
            .await
            .map_err(|problem| self.failed(Category::LoadFailed, problem))?;
        let words = decode(&finished.stderr);
        match (&finished.exit, load_problem(&words)) {
            (Exit::Code(0), _) => {
                if let Some(identifier) = loaded_identifier(&finished.stderr).filter(|it| it != want.key.as_str()) {
                    return Err(self.undo_misnamed(want, &identifier).await);
                }
                Ok(Attempt::Loaded)
            }
            (Exit::LimitExpired, _) => Err(self.load_timeout(want, "was not loaded")),
            (_, LoadProblem::Memory) => {
                Ok(Attempt::OutOfMemory(crate::pure::lms_output::error_sentence(&finished.stderr)))
            }
            (_, LoadProblem::NotFound) => Ok(Attempt::NotFound(complaint(&args, &finished, limit))),
            (_, LoadProblem::Other) => Err(Failure::new(
                Category::LoadFailed,
                format!("`{}` could not be loaded: {}", want.key, complaint(&args, &finished, limit)),
            )
            .hinted("LM Studio's log (`lms log stream`) tells more")),
        }
    }

    /// REST knows neither identifier nor TTL, and stacks copies.
    async fn load_by_rest(&self, want: &Want, target: &Target) -> Result<Attempt, Failure> {
        let options = want.options.within(target.max_context);
        let unused: Vec<&str> = [
            ("ttlSeconds", options.ttl_seconds.is_some()),
            ("parallel", options.parallel.is_some()),
            ("gpu", options.gpu.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_set)| is_set.then_some(name))
        .collect();
        if !unused.is_empty() {
            self.warn(format!("`{}` is loaded over REST, which cannot apply {}", want.key, unused.join(", ")));
        }
        let mut body = json!({ "model": want.key.as_str() });
        if let Some(tokens) = options.context_length {
            body["context_length"] = json!(tokens);
        }
        let failed = |why: String| {
            Failure::new(Category::LoadFailed, format!("`{}` could not be loaded over REST: {why}", want.key))
        };
        match self.manage("load", &body, "instance_id").await? {
            Managed::Done(loaded) => {
                let identifier = loaded["instance_id"].as_str().unwrap_or_default();
                if identifier != want.key.as_str() {
                    return Err(self.undo_misnamed(want, identifier).await);
                }
                Ok(Attempt::Loaded)
            }
            Managed::Unauthorized if self.server.has_token() => Err(self.token_refused()),
            Managed::Unauthorized => Err(Failure::new(
                Category::Unauthorized,
                format!("{} requires an API token to load a model", self.base()),
            )
            .hinted(format!("put one into the variable {}", self.config.api_token_env))),
            Managed::Refused(_, why) if load_problem(&why) == LoadProblem::Memory => Ok(Attempt::OutOfMemory(why)),
            Managed::Refused(_, why) => Err(if why.contains("Unexpected endpoint") {
                failed("this LM Studio is too old for it".to_owned())
                    .hinted("update LM Studio to 0.4 or later, or install its `lms` command here")
            } else {
                failed(why)
            }),
            Managed::Unclear(why) if why == "no answer in time" => Err(self.load_timeout(want, "was not loaded")),
            Managed::Unclear(why) => Err(failed(why)),
        }
    }

    /// Our own load ended up under another name: unload that again, and say so.
    async fn undo_misnamed(&self, want: &Want, identifier: &str) -> Failure {
        let undone = match (self.config.loader, &self.lms) {
            (Loader::Auto | Loader::Lms, Ok(lms)) if self.base().suits_lms() => lms.unload(identifier).await.is_ok(),
            _ => matches!(
                self.manage("unload", &json!({ "instance_id": identifier }), "instance_id").await,
                Ok(Managed::Done(_))
            ),
        };
        let name = printable(identifier);
        let end = if undone {
            "it was unloaded again".to_owned()
        } else {
            format!("unload it by hand (`lms unload {name}`)")
        };
        Failure::new(
            Category::NotAddressable,
            format!(
                "LM Studio loaded `{}` under the name `{name}`, which requests for it do not reach; {end}",
                want.key
            ),
        )
        .hinted("another client may be loading the same model; try again")
    }

    /// Proves that the model is addressable, and under the right name.
    pub(super) async fn verify(&self, want: &Want, target: &Target, before: &Snapshot) -> Result<Ready, Failure> {
        let started = Instant::now();
        let mut backoff = Backoff::new();
        let mut appears_until = started + APPEARS;
        loop {
            let sight = self.look().await?;
            if let Sight::Seen(snapshot) = &sight {
                match snapshot.residency(&want.key) {
                    Residency::Addressable(instance) => {
                        let ready = Ready {
                            action: Action::Loaded,
                            source: snapshot.source,
                            instance: instance.clone(),
                            load_time: None,
                        };
                        return self.check_granted(want, target, ready);
                    }
                    Residency::Loading(_) => {
                        if started.elapsed() >= self.config.load_timeout {
                            return Err(self.load_timeout(want, "is still loading"));
                        }
                        appears_until = Instant::now() + APPEARS;
                    }
                    _ => {}
                }
            }
            if Instant::now() >= appears_until {
                return Err(self.not_addressable(want, &sight, before).await);
            }
            self.sleep(backoff.next()).await?;
        }
    }

    async fn not_addressable(&self, want: &Want, sight: &Sight, before: &Snapshot) -> Failure {
        if let Sight::Blocked(failure) = sight {
            return failure.clone();
        }
        if let Sight::Seen(snapshot) = sight {
            let is_new = |name: &str| !before.instances.iter().any(|it| it.identifier == name);
            if let Some(copy) = snapshot.copies(&want.key).find(|it| is_new(&it.identifier)) {
                return self.undo_misnamed(want, &copy.identifier).await;
            }
        }
        let down = if sight.is_down() { ": the server went down" } else { "" };
        Failure::new(
            Category::NotAddressable,
            format!(
                "LM Studio said it loaded `{}`, but it is not resident {} later{down}",
                want.key,
                duration(APPEARS)
            ),
        )
        .hinted("something may have unloaded it at once (memory, another client); LM Studio's log tells")
    }

    /// LM Studio may quietly grant less context than asked for.
    fn check_granted(&self, want: &Want, target: &Target, ready: Ready) -> Result<Ready, Failure> {
        let Some(drift) = drift(&ready.instance, &want.options, target.max_context) else { return Ok(ready) };
        match self.config.on_mismatch {
            OnMismatch::Fail => Err(drift_failure(want, drift)),
            OnMismatch::Reload | OnMismatch::Ignore => {
                self.warn(format!(
                    "`{}` was loaded with a context of {} tokens, not {}: LM Studio granted no more",
                    want.key, drift.has, drift.wants
                ));
                Ok(ready)
            }
        }
    }
}

fn not_downloaded(want: &Want, models: &[Downloaded]) -> Failure {
    let key = &want.key;
    Failure {
        suggestions: similar(key.as_str(), models.iter().map(|it| it.key.as_str())),
        ..Failure::new(Category::NotDownloaded, format!("`{key}` is not downloaded"))
            .hinted("`lms ls` lists what is; --download fetches what is not")
    }
}
