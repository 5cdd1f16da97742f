//! llama-swap: it starts a model's server when a request for the model comes, and stops what does
//! not fit beside it. There is no request that only loads. Supported from v186 on, before and
//! since it was written anew (v218).

mod load;
mod observe;

use std::cell::RefCell;

use super::Context;
use crate::pure::base_url::escaped;
use crate::pure::config::{Config, Device};
use crate::pure::llamaswap::lists::{Lists, Route};
use crate::pure::llamaswap::reply::in_path;
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::Downloaded;
use crate::pure::text::{shell_word, similar};

/// One llama-swap server.
#[derive(Debug)]
pub(crate) struct LlamaSwap<'a> {
    pub(super) context: &'a Context<'a>,
    /// What the latest look has shown.
    lists: RefCell<Lists>,
}

impl<'a> LlamaSwap<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, lists: RefCell::default() }
    }

    /// Nothing similar is taken for a name that is not configured.
    pub(super) fn not_configured(&self, request: &ModelRequest, models: &[Downloaded]) -> Failure {
        let key = request.key.as_str();
        if let Route::SwitchedOff(profile) = self.lists.borrow().route(key) {
            let reason = format!("llama-swap answers no request for `{key}` while its profile `{profile}` is active");
            return Failure::new(Category::NotDownloaded, reason).hinted("choose another profile in llama-swap");
        }
        Failure {
            suggestions: similar(key, models.iter().map(|it| it.key.as_str())),
            ..Failure::new(Category::NotDownloaded, format!("llama-swap has no model `{key}`"))
                .hinted("it has those that stand under `models` in its configuration; lmswarm downloads none for it")
        }
    }

    /// How a user unloads a model by hand.
    pub(super) fn unload_command(&self, name: &str) -> String {
        let url = self.context.base().endpoint(&format!("api/models/unload/{}", in_path(name).unwrap_or_default()));
        format!("curl -X POST {}", shell_word(url.as_str()))
    }
}

/// Names the configured options that a load here cannot apply, and where llama-swap has them.
pub(super) fn unsupported(config: &Config, request: &ModelRequest) -> Option<String> {
    let options = &request.options;
    let unused: Vec<&str> = [
        ("contextLength (`--ctx-size` in `cmd`)", options.context_length.is_some()),
        ("ttlSeconds (`ttl`)", options.ttl_seconds.is_some()),
        ("parallel (`--parallel` in `cmd`)", options.parallel.is_some()),
        ("gpu (`--n-gpu-layers` in `cmd`)", options.gpu.is_some()),
        ("device (the machine that `cmd` runs on)", config.device == Device::Preferred),
        ("evictOnPressure (`groups` or `matrix`)", config.eviction.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is_set)| is_set.then_some(name))
    .collect();
    (!unused.is_empty()).then(|| {
        format!(
            "llama-swap starts `{}` as its own configuration says, and a load cannot apply {}",
            request.key,
            unused.join(", ")
        )
    })
}

/// The request that loads a model, or reaches it if it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `GET /upstream/NAME/health`: no tokens, and nothing in its list of activities.
    Upstream,
    /// `GET /props?model=NAME` (v234), which selectors need, and names that a path does not reach.
    Props,
}

impl Way {
    /// The way to this name. `a` has no path of its own where there is a model `a/health`, nor has
    /// `a/b` before v228 where there is an `a`.
    fn to(name: &str, lists: &Lists) -> Self {
        let is_shadowed =
            lists.has(&format!("{name}/health")) || name.match_indices('/').any(|(place, _)| lists.has(&name[..place]));
        if lists.is_selector(name) || is_shadowed || in_path(name).is_none() { Self::Props } else { Self::Upstream }
    }

    fn path(self, name: &str) -> String {
        match self {
            Self::Upstream => format!("upstream/{}/health", in_path(name).unwrap_or_default()),
            Self::Props => format!("props?model={}", escaped(name)),
        }
    }
}
