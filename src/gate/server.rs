//! Starting the server, on this machine alone and on the port of the base URL alone.

use std::time::{Duration, Instant};

use super::look::{Sight, greets};
use super::{Backoff, Lead, Work};
use crate::pure::failure::{Category, Failure};
use crate::pure::rest::Reply;
use crate::pure::text::duration;
use crate::sys::lms::{Lms, Problem};
use crate::sys::lmstudio;

/// How long a server that says it was started may take to answer before LM Studio itself
/// is woken.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

impl Work<'_> {
    /// Starts the server and waits until it answers.
    pub(super) async fn start_server(&self, _: &Lead) -> Result<(), Failure> {
        let base = self.base();
        let port = base.port();
        if let Some((last, file)) = lmstudio::last_port()
            && greets(last, self.server).await
        {
            let reason = format!(
                "LM Studio's server runs on port {last} (from {}), but the base URL says {port} (from {})",
                file.display(),
                self.call.origin
            );
            return Err(Failure::new(Category::ServerUnreachable, reason)
                .hinted(format!("use --base-url http://127.0.0.1:{last}/v1, or move the server in LM Studio"))
                .cheap());
        }
        let lms = self.lms.as_ref().map_err(|tried| {
            Failure::new(
                Category::ServerUnreachable,
                format!("no server answers at {base}, and {}", Self::no_lms(tried)),
            )
            .hinted("install LM Studio from https://lmstudio.ai and start it once, or name its `lms` with --lms-path")
            .cheap()
        })?;
        let activity = self.call.progress.begin(&format!("starting LM Studio's server on port {port}"), None);
        let deadline = Instant::now() + self.config.server_start_timeout;
        let Some(mut why) = self.try_start(lms, port, deadline).await? else { return Ok(()) };
        if self.config.launch_app_fallback && Instant::now() < deadline {
            tracing::info!(why, "waking LM Studio");
            let remaining = deadline.saturating_duration_since(Instant::now());
            match self.wake(lms, remaining).await {
                Ok(()) => match self.try_start(lms, port, deadline).await? {
                    None => return Ok(()),
                    Some(again) => why = again,
                },
                Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
                Err(Problem::Failed(woken)) => why = format!("{why}; then {woken}"),
            }
        }
        drop(activity);
        Err(Failure::new(
            Category::ServerUnreachable,
            format!("no server answers at {base}, and it could not be started: {why}"),
        )
        .hinted(format!("start LM Studio and its server by hand (`lms server start --port {port}`)")))
    }

    /// Starts the server; `None` when it answers, else why not.
    async fn try_start(&self, lms: &Lms, port: u16, deadline: Instant) -> Result<Option<String>, Failure> {
        match lms.start_server(port).await {
            Ok(()) => {}
            Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
            // Somebody else may have started it at the same moment.
            Err(Problem::Failed(why)) => return Ok(if self.answers().await? { None } else { Some(why) }),
        }
        let until = deadline.min(Instant::now() + ANSWER_LIMIT);
        let waited = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            if self.answers().await? {
                return Ok(None);
            }
            if Instant::now() >= until {
                return Ok(Some(format!(
                    "`lms server start` said it did, but nothing answered within {}",
                    duration(waited.elapsed())
                )));
            }
            self.sleep(backoff.next()).await?;
        }
    }

    async fn answers(&self) -> Result<bool, Failure> {
        let reply = self.stopper.or(self.server.get("lmstudio-greeting")).await;
        let reply = reply.map_err(|stop| self.interrupted(stop))?;
        Ok(matches!(reply, Reply::Answer(_)))
    }

    /// Wakes LM Studio itself, once.
    async fn wake(&self, lms: &Lms, remaining: Duration) -> Result<(), Problem> {
        let woken = lms.wake(remaining).await;
        if cfg!(target_os = "macos") && matches!(woken, Err(Problem::Failed(_))) {
            // The desktop application, in the background.
            let args = ["-ga", "LM Studio"].map(str::to_owned);
            let finished =
                crate::sys::process::run("/usr/bin/open".as_ref(), &args, remaining, &self.stopper, |_| {}).await;
            if finished.succeeded() {
                return Ok(());
            }
        }
        woken
    }

    /// Nothing is ever started on another machine.
    pub(super) fn down_elsewhere(&self) -> Failure {
        let base = self.base();
        Failure::new(Category::ServerUnreachable, format!("nothing listens at {base} (from {})", self.call.origin))
            .hinted("start LM Studio's server on that machine; lmswarm starts it only on this one")
    }
}

impl Sight {
    /// Whether nothing listens.
    pub(super) fn is_down(&self) -> bool {
        matches!(self, Self::Down)
    }
}
