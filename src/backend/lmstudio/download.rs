//! Downloads, by `lms get` or by REST.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{LmStudio, LoadMethod, remember_unless_local};
use crate::pure::lmstudio::rest::{ManagementReply, read_management_reply};
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::text::{duration, printable};
use crate::sys::lmstudio::lms::{LmsError, Problem};
use crate::sys::progress::Progress;

/// How often a download over REST is asked how far it is.
const DOWNLOAD_POLL: Duration = Duration::from_secs(1);
/// How long a download over REST may stand still, or go unheard of, before it is given up.
const STALLED: Duration = Duration::from_secs(600);
const UNHEARD: Duration = Duration::from_secs(30);

impl LmStudio<'_> {
    /// Downloads the key. `lms get` takes a name without a publisher for a search term and
    /// fetches the first hit, so such a name is refused.
    pub(crate) async fn download(&self, request: &ModelRequest, progress: Progress) -> Result<(), Failure> {
        let key = &request.key;
        let failed =
            |why: &str| Failure::new(Category::DownloadFailed, format!("`{key}` could not be downloaded: {why}"));
        if !key.as_str().contains('/') {
            return Err(failed("only a name of the form `publisher/model` says exactly what to fetch")
                .hinted(format!("search for it yourself: `lms get {key}`"))
                .cheap());
        }
        let activity = progress.begin(&format!("downloading `{key}`"), None);
        let done = match self.load_method(request)? {
            LoadMethod::Lms(lms) => match lms.get(key.as_str(), |percent| activity.percent(percent)).await {
                Err(Problem::Stopped(stop)) => return Err(self.context.interrupted(stop)),
                Err(Problem::Failed(error)) => Err(error),
                Ok(()) => Ok(()),
            },
            LoadMethod::Rest => {
                let done = self.download_by_rest(request, |percent| activity.percent(percent)).await;
                done.map_err(|failure| match failure.category {
                    Category::Interrupted | Category::Deadline => {
                        failure.and(&format!("the download of `{key}` goes on in LM Studio"))
                    }
                    _ => failure,
                })?
                .map_err(LmsError::from)
            }
        };
        done.map_err(|error| {
            let failure = failed(&error.reason).hinted("look the name up on https://lmstudio.ai/models");
            remember_unless_local(failure, error.is_local)
        })?;
        activity.done(&format!("`{key}` is downloaded"));
        Ok(())
    }

    /// The inner error says why the download failed.
    async fn download_by_rest(
        &self,
        request: &ModelRequest,
        on_percent: impl Fn(u8),
    ) -> Result<Result<(), String>, Failure> {
        let body = match request.key.as_str().split_once('@') {
            Some((model, quantization)) => json!({ "model": model, "quantization": quantization }),
            None => json!({ "model": request.key.as_str() }),
        };
        let answer = self.context.server.post("api/v1/models/download", &body, self.context.config.load_timeout);
        let job = match read_management_reply(&self.context.unless_stopped(answer).await?, "status") {
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
            let path = format!("api/v1/models/download/status/{id}");
            let reply = self.context.unless_stopped(self.context.server.get(&path)).await?;
            match read_management_reply(&reply, "status") {
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
            self.context.sleep(DOWNLOAD_POLL).await?;
        }
    }
}
