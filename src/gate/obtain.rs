//! What to load, and with what: exactly the model that was asked for, found among the
//! downloaded ones or downloaded if told to. `lms load` matches fuzzily and would take another model for an unknown key.

use std::time::{Duration, Instant};

use serde_json::json;

use super::look::Observation;
use super::{Lead, ModelRequest, Work};
use crate::pure::config::{Device, Loader};
use crate::pure::lmstudio::rest::{ManagementReply, read_management_reply};
use crate::pure::load::{Placement, matches_fuzzily};
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::{Downloaded, Location, Snapshot, find_downloaded};
use crate::pure::text::{duration, printable, similar};
use crate::sys::lmstudio::lms::{Lms, Problem};

/// How often a download over REST is asked how far it is.
const DOWNLOAD_POLL: Duration = Duration::from_secs(1);
/// How long a download over REST may stand still, or go unheard of, before it is given up.
const STALLED: Duration = Duration::from_secs(600);
const UNHEARD: Duration = Duration::from_secs(30);

/// A downloaded model that is to be loaded.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Where to load it.
    pub(super) placement: Placement,
    /// Its base key: that of a variant is another one.
    pub(super) base_key: String,
    /// The most context it can have.
    pub(super) max_context: Option<u64>,
    /// Its size on disk.
    pub(super) size_bytes: Option<u64>,
}

/// What carries out a load.
pub(super) enum LoadMethod<'a> {
    Lms(&'a Lms),
    Rest,
}

impl Work<'_> {
    /// Chooses what loads: `lms`, or REST where `lms` is not at hand or cannot reach.
    pub(super) fn loader(&self, want: &ModelRequest) -> Result<LoadMethod<'_>, Failure> {
        match (self.config.loader, &self.lms) {
            (Loader::Lms, Ok(lms)) => Ok(LoadMethod::Lms(lms)),
            (Loader::Lms, Err(why)) => {
                Err(Failure::new(Category::LoadFailed, format!("`{}` cannot be loaded: {why}", want.key))
                    .hinted(self.lms_hint("name it with --lms-path, or let --loader be `auto`"))
                    .cheap())
            }
            // `lms load` knows base keys alone; the REST API takes variants.
            (Loader::Auto, Ok(lms)) if !want.key.is_variant() => Ok(LoadMethod::Lms(lms)),
            (Loader::Auto | Loader::Rest, _) => Ok(LoadMethod::Rest),
        }
    }

    /// Finds the model, or downloads it; returns it with what is resident by then.
    pub(super) async fn obtain(
        &self,
        want: &ModelRequest,
        snapshot: Snapshot,
        lead: &Lead,
    ) -> Result<(Target, Snapshot), Failure> {
        let models = self.downloaded(&snapshot).await?;
        if let Some(found) = find_downloaded(&models, &want.key) {
            return Ok((self.target(want, found, &models), snapshot));
        }
        if !self.config.auto_download {
            return Err(not_downloaded(want, &models));
        }
        self.download(want, lead).await?;
        let Observation::Seen(snapshot) = self.look().await? else {
            return Err(self.unknown("the server went away after the download"));
        };
        let models = self.downloaded(&snapshot).await?;
        if let Some(found) = find_downloaded(&models, &want.key) {
            return Ok((self.target(want, found, &models), snapshot));
        }
        let reason = format!("a download for `{}` ended well, but LM Studio has no model of that name", want.key);
        Err(Failure {
            suggestions: similar(want.key.as_str(), models.iter().map(|it| it.key.as_str())),
            ..Failure::new(Category::DownloadFailed, reason).hinted("`lms ls` shows under which name it was put")
        })
    }

    async fn downloaded(&self, snapshot: &Snapshot) -> Result<Vec<Downloaded>, Failure> {
        if let Some(models) = &snapshot.downloaded {
            return Ok(models.clone());
        }
        let lms = self.lms.as_ref().map_err(|why| {
            let hint =
                "update LM Studio to 0.4 or later, set an API token if it requires one, or name `lms` with --lms-path";
            Failure::new(Category::LoadFailed, format!("{} does not tell what is downloaded, and {why}", self.base()))
                .hinted(self.lms_hint(hint))
                .cheap()
        })?;
        lms.ls().await.map_err(|problem| match problem {
            Problem::Stopped(stop) => self.interrupted(stop),
            Problem::Failed(why) => self.unknown(&why),
        })
    }

    fn target(&self, want: &ModelRequest, found: &Downloaded, models: &[Downloaded]) -> Target {
        // `--local` leaves linked machines out. If nobody told where the model is, it may be
        // on one of those alone, and `lms` would then take what is similar here. Without
        // `--local` the equal key always wins.
        let is_risky = || models.iter().any(|it| it.key != found.key && matches_fuzzily(&want.key, &it.key));
        let placement = match (self.config.device, found.location) {
            (Device::LocalFirst, Location::Here) => Placement::Local,
            (Device::LocalFirst, Location::Unreported) if !is_risky() => Placement::Local,
            _ => Placement::Any,
        };
        Target {
            placement,
            base_key: found.key.clone(),
            max_context: found.max_context_length,
            size_bytes: found.size_bytes,
        }
    }

    /// Downloads the key. `lms get` takes a name without a publisher for a search term and
    /// fetches the first hit, so such a name is refused.
    async fn download(&self, want: &ModelRequest, _: &Lead) -> Result<(), Failure> {
        let key = &want.key;
        let failed =
            |why: &str| Failure::new(Category::DownloadFailed, format!("`{key}` could not be downloaded: {why}"));
        if !key.as_str().contains('/') {
            return Err(failed("only a name of the form `publisher/model` says exactly what to fetch")
                .hinted(format!("search for it yourself: `lms get {key}`"))
                .cheap());
        }
        let activity = self.call.progress.begin(&format!("downloading `{key}`"), None);
        let done = match self.loader(want)? {
            LoadMethod::Lms(lms) => match lms.get(key.as_str(), |percent| activity.percent(percent)).await {
                Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
                Err(Problem::Failed(why)) => Err(why),
                Ok(()) => Ok(()),
            },
            LoadMethod::Rest => self.download_by_rest(want, |percent| activity.percent(percent)).await?,
        };
        done.map_err(|why| failed(&why).hinted("look the name up on https://lmstudio.ai/models"))?;
        activity.done(&format!("`{key}` is downloaded"));
        Ok(())
    }

    /// The inner error says why the download failed.
    async fn download_by_rest(
        &self,
        want: &ModelRequest,
        on_percent: impl Fn(u8),
    ) -> Result<Result<(), String>, Failure> {
        let body = match want.key.as_str().split_once('@') {
            Some((model, quantization)) => json!({ "model": model, "quantization": quantization }),
            None => json!({ "model": want.key.as_str() }),
        };
        let job = match self.manage("download", &body, "status").await? {
            ManagementReply::Done(job) => job,
            ManagementReply::Unauthorized => return Err(self.token_refused()),
            ManagementReply::Gone | ManagementReply::TimedOut => {
                return Ok(Err("the server does not answer".to_owned()));
            }
            ManagementReply::Refused(_, why) | ManagementReply::Unclear(why) => return Ok(Err(why)),
        };
        let Some(id) = job["job_id"].as_str() else { return Ok(Ok(())) };
        // The id goes into a path.
        if !id.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-')) {
            return Ok(Err(format!("the server named its job `{}`", printable(id))));
        }
        let (mut progress, mut moved, mut heard) = (0, Instant::now(), Instant::now());
        loop {
            let reply = self.shutdown.or(self.server.get(&format!("api/v1/models/download/status/{id}"))).await;
            match read_management_reply(&reply.map_err(|stop| self.interrupted(stop))?, "status") {
                ManagementReply::Done(status) => {
                    heard = Instant::now();
                    match status["status"].as_str() {
                        Some("completed") => return Ok(Ok(())),
                        Some("failed") => return Ok(Err("the server says that it failed".to_owned())),
                        _ => {}
                    }
                    let bytes = |name: &str| u128::from(status[name].as_u64().unwrap_or(0));
                    let (done, total) = (bytes("downloaded_bytes"), bytes("total_size_bytes"));
                    if let Some(percent) = (done * 100).checked_div(total) {
                        on_percent(u8::try_from(percent).unwrap_or(100).min(100));
                    }
                    if done > progress {
                        (progress, moved) = (done, Instant::now());
                    }
                }
                ManagementReply::Unauthorized => return Err(self.token_refused()),
                // The job may well go on while one answer gets lost.
                ManagementReply::TimedOut | ManagementReply::Unclear(_) if heard.elapsed() < UNHEARD => {}
                ManagementReply::Gone | ManagementReply::TimedOut => {
                    return Ok(Err("the server stopped answering".to_owned()));
                }
                ManagementReply::Refused(_, why) | ManagementReply::Unclear(why) => return Ok(Err(why)),
            }
            if moved.elapsed() > STALLED {
                return Ok(Err(format!("it stood still for {}", duration(STALLED))));
            }
            self.sleep(DOWNLOAD_POLL).await?;
        }
    }

    /// Sends a management request, bounded by the load's limit.
    pub(super) async fn manage(
        &self,
        verb: &str,
        body: &serde_json::Value,
        wanted: &str,
    ) -> Result<ManagementReply, Failure> {
        let path = format!("api/v1/models/{verb}");
        let reply = self.shutdown.or(self.server.post(&path, body, self.config.load_timeout)).await;
        Ok(read_management_reply(&reply.map_err(|stop| self.interrupted(stop))?, wanted))
    }
}

/// The key is not there, and nothing similar is taken for it.
pub(super) fn not_downloaded(want: &ModelRequest, models: &[Downloaded]) -> Failure {
    let key = want.key.as_str();
    let hint = if matches!(key, "true" | "false") {
        format!("if this was meant for a flag, write it with `=`, such as --evict-on-pressure={key}")
    } else {
        "`lms ls` lists what is; --download fetches what is not".to_owned()
    };
    Failure {
        suggestions: similar(key, models.iter().map(|it| it.key.as_str())),
        ..Failure::new(Category::NotDownloaded, format!("`{key}` is not downloaded")).hinted(hint)
    }
}
