//! What one call leaves for the next: failures that were expensive to find out, how long a
//! load took, what context was granted.

use super::{Lead, ModelTask};
use crate::pure::config::Config;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::Ready;
use crate::sys::state::{History, now_ms};

impl ModelTask<'_> {
    /// A failure of an earlier call to start the server, while it is young enough to be replayed.
    pub(super) fn server_failure(&self) -> Option<Failure> {
        self.young(&self.gate.store()?.history(), None, &self.server_attempt())
    }

    /// A failure of an earlier call on this model, while it is young enough to be replayed.
    pub(super) fn past_failure(&self, history: &History) -> Option<Failure> {
        self.young(history, Some(self.request.key.as_str()), &self.attempt())
    }

    fn young(&self, history: &History, model: Option<&str>, attempt: &str) -> Option<Failure> {
        let call = self.gate.call;
        // `--fresh` forgets what was known before this call, not what others find out while it
        // waits for them.
        let began_ms = || now_ms().saturating_sub(u64::try_from(call.started.elapsed().as_millis()).unwrap_or(0));
        history.failure(model, attempt, call.config.retry_cooldown, call.fresh.then(began_ms))
    }

    /// What would be tried: a failure says nothing about an attempt with other options.
    fn attempt(&self) -> String {
        let Config { loader, device, eviction, auto_download, load_timeout, lms_path, .. } = self.gate.call.config;
        let options = &self.request.options;
        format!("{options:?} {loader:?} {device:?} {eviction:?} {auto_download} {load_timeout:?} {lms_path:?}")
    }

    fn server_attempt(&self) -> String {
        let Config { lms_path, launch_app_fallback, server_start_timeout, .. } = self.gate.call.config;
        format!("{} {lms_path:?} {launch_app_fallback} {server_start_timeout:?}", self.gate.context.base())
    }

    /// Remembers what the next call should know.
    pub(super) fn record(&self, lead: &Lead, result: &Result<Ready, Failure>) {
        let (Some(store), Lead(Some(leadership))) = (self.gate.store(), lead) else { return };
        let key = self.request.key.as_str();
        if let Ok(ready) = result {
            self.gate.remember_verdict(store, key, ready);
        }
        let written = match result {
            Ok(ready) => store.change(leadership, |history| {
                history.forget_failures(key);
                let Some(time) = ready.load_time else { return };
                history.remember_load(key, time);
                if let (Some(asked), Some(has)) = (self.request.options.context_length, ready.instance.context_length)
                    && has < asked
                {
                    history.remember_granted(key, asked, has, self.gate.call.config.retry_cooldown);
                }
            }),
            Err(failure) if failure.is_expensive && failure.age.is_none() => {
                let is_server = failure.category == Category::ServerUnreachable;
                let (model, attempt) =
                    if is_server { (None, self.server_attempt()) } else { (Some(key), self.attempt()) };
                store.change(leadership, |history| history.remember_failure(model, &attempt, failure))
            }
            Err(_) => return,
        };
        if let Err(error) = written {
            self.warn(format!("the state directory cannot be written ({error}); this outcome will not be remembered"));
        }
    }
}
