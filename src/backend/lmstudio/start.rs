//! Starting the server, on this machine alone and on the port of the base URL alone.

use std::time::{Duration, Instant};

use super::{LmStudio, remember_unless_local};
use crate::backend::Backoff;
use crate::pure::base_url::BaseUrl;
use crate::pure::http::Reply;
use crate::pure::lmstudio::lms_output::is_port_taken;
use crate::pure::lmstudio::rest::is_greeting;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::text::duration;
use crate::sys::http::Server;
use crate::sys::lmstudio;
use crate::sys::lmstudio::lms::{Lms, LmsError, Problem};
use crate::sys::progress::Progress;

/// How long a server that says it was started may take to answer before LM Studio itself
/// is woken.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

impl LmStudio<'_> {
    /// Whether a server may be started for this address: on this machine, where LM Studio
    /// itself would answer. A proxy's port is not LM Studio's to take.
    pub(crate) fn may_start(&self) -> bool {
        let base = self.context.base();
        base.is_loopback() && base.is_plain() && !base.is_ipv6()
    }

    pub(crate) async fn start(&self, progress: Progress) -> Result<(), Failure> {
        let base = self.context.base();
        let port = base.port();
        let deadline = Instant::now() + self.context.config.server_start_timeout;
        if self.answers().await? {
            return Ok(());
        }
        self.refuse_to_move().await?;
        let lms = self.lms().map_err(|why| {
            Failure::new(Category::ServerUnreachable, format!("no server answers at {base}, and {why}"))
                .hinted(self.lms_hint(
                    "install LM Studio from https://lmstudio.ai and start it once, or name its `lms` with --lms-path",
                ))
                .cheap()
        })?;
        let activity = progress.begin(&format!("starting LM Studio's server on port {port}"), None);
        let mut error = self.try_start(lms, port, deadline).await?;
        if let Some(first) = &mut error
            && self.context.config.launch_app_fallback
            && Instant::now() < deadline
        {
            tracing::info!(%first, "waking LM Studio");
            let remaining = deadline.saturating_duration_since(Instant::now());
            match self.wake(lms, remaining).await {
                Ok(()) => {
                    self.refuse_to_move().await?;
                    error = self.try_start(lms, port, deadline).await?;
                }
                Err(Problem::Stopped(stop)) => return Err(self.context.interrupted(stop)),
                Err(Problem::Failed(woken)) => {
                    first.reason = format!("{first}; then {woken}");
                    first.is_local |= woken.is_local;
                }
            }
        }
        match error {
            None => {
                activity.done(&format!("LM Studio's server answers on port {port}"));
                Ok(())
            }
            Some(error) => {
                let reason = format!("no server answers at {base}, and it could not be started: {error}");
                let hint = if error.is_local {
                    "`lms` did not run as it should: look at this machine, or start the server in LM Studio's window"
                        .to_owned()
                } else if is_port_taken(&error.reason) {
                    format!("another program has port {port}: stop it, or choose another port with --base-url")
                } else {
                    format!(
                        "open LM Studio and switch its server on there (Developer, port {port}); its log says why it \
                         does not start"
                    )
                };
                let failure = Failure::new(Category::ServerUnreachable, reason).hinted(hint);
                Err(remember_unless_local(failure, error.is_local))
            }
        }
    }

    /// A server that runs on another port is never moved: others use it.
    async fn refuse_to_move(&self) -> Result<(), Failure> {
        let port = self.context.base().port();
        let Some((last, file)) = lmstudio::last_port() else { return Ok(()) };
        if last == port {
            return Ok(());
        }
        let other = Server::new(BaseUrl::loopback(last), None, self.context.config.probe_timeout);
        let Ok(other) = other else { return Ok(()) };
        let reply = other.get("lmstudio-greeting");
        match self.context.unless_stopped(reply).await? {
            Reply::Answer(answer) if is_greeting(&answer.body) => {}
            // Nothing is there, or another program.
            Reply::Refused | Reply::Answer(_) | Reply::NotHttp(_) => return Ok(()),
            Reply::Unreachable(_) | Reply::TimedOut | Reply::Broken(_) => {
                let why =
                    format!("whether LM Studio's server still runs on its last port, {last}, is not to be found out");
                return Err(self.context.unknown(&why));
            }
        }
        let reason = format!(
            "LM Studio's server runs on port {last} (from {}), but the base URL says {port} (from {})",
            file.display(),
            self.context.origin
        );
        Err(Failure::new(Category::ServerUnreachable, reason)
            .hinted(format!("use --base-url http://127.0.0.1:{last}/v1, or move the server in LM Studio"))
            .cheap())
    }

    /// Starts the server; `None` when it answers, else why not.
    async fn try_start(&self, lms: &Lms, port: u16, deadline: Instant) -> Result<Option<LmsError>, Failure> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        match lms.start_server(port, remaining).await {
            Ok(()) => {}
            Err(Problem::Stopped(stop)) => return Err(self.context.interrupted(stop)),
            // Somebody else may have started it at the same moment.
            Err(Problem::Failed(error)) => return Ok(if self.answers().await? { None } else { Some(error) }),
        }
        let started = Instant::now();
        let until = deadline.min(started + ANSWER_LIMIT);
        let mut backoff = Backoff::default();
        loop {
            if self.answers().await? {
                return Ok(None);
            }
            if Instant::now() >= until {
                let waited = duration(started.elapsed());
                let reason = format!("`lms server start` said it did, but nothing answered within {waited}");
                return Ok(Some(reason.into()));
            }
            self.context.sleep(backoff.interval()).await?;
        }
    }

    async fn answers(&self) -> Result<bool, Failure> {
        let reply = self.context.unless_stopped(self.context.server.get("lmstudio-greeting")).await?;
        Ok(matches!(reply, Reply::Answer(_)))
    }

    /// Wakes LM Studio itself, once.
    async fn wake(&self, lms: &Lms, remaining: Duration) -> Result<(), Problem> {
        let woken = lms.wake(remaining).await;
        if cfg!(target_os = "macos") && matches!(woken, Err(Problem::Failed(_))) {
            // The desktop application, in the background.
            let args = ["-ga", "LM Studio"].map(str::to_owned);
            let open = "/usr/bin/open".as_ref();
            let secrets = std::slice::from_ref(&self.context.config.api_token_env);
            let run = crate::sys::process::run;
            if run(open, &args, secrets, remaining, self.context.shutdown(), None, |_| {}).await.succeeded() {
                return Ok(());
            }
        }
        woken
    }

    /// Nothing listens, and nothing may be started there.
    pub(crate) fn down(&self) -> Failure {
        let base = self.context.base();
        let hint = match (base.is_loopback(), base.is_ipv6()) {
            (false, _) => "start LM Studio's server on that machine; lmswarm starts it only on this one",
            (true, true) => "LM Studio listens on IPv4: write 127.0.0.1 instead of the IPv6 address",
            (true, false) => "start the proxy; lmswarm starts LM Studio's server only at an address of its own",
        };
        let reason = format!("nothing listens at {base} (from {})", self.context.origin);
        Failure::new(Category::ServerUnreachable, reason).hinted(hint).cheap()
    }
}
