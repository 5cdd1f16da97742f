//! LM Studio: its REST lists, its `lms` command, and its words. Facts about both are those of
//! LM Studio 0.4 and the `lms` of that time.

mod download;
mod load;
mod observe;
mod start;

use std::cell::{Cell, OnceCell};

use super::{Context, LoadTarget};
use crate::pure::config::Loader;
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::Downloaded;
use crate::pure::text::{printable, similar};
use crate::sys::lmstudio;
use crate::sys::lmstudio::lms::Lms;

/// One LM Studio server.
#[derive(Debug)]
pub(crate) struct LmStudio<'a> {
    context: &'a Context<'a>,
    /// Looked for when it is first needed: a warm call does without.
    lms: OnceCell<Result<Lms, String>>,
    /// The server wants a token, and this call has none: `lms` told, which needs none.
    lacks_token: Cell<bool>,
}

/// What carries out a load or a download.
pub(super) enum LoadMethod<'a> {
    Lms(&'a Lms),
    Rest,
}

impl<'a> LmStudio<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context, lms: OnceCell::new(), lacks_token: Cell::new(false) }
    }

    /// The `lms` program, or why it cannot be used for this server.
    fn lms(&self) -> Result<&Lms, &str> {
        self.lms.get_or_init(|| find_lms(self.context)).as_ref().map_err(String::as_str)
    }

    /// Chooses what loads: `lms`, or REST where `lms` is not at hand or cannot reach.
    pub(super) fn load_method(&self, request: &ModelRequest) -> Result<LoadMethod<'_>, Failure> {
        match (self.context.config.loader, self.lms()) {
            (Loader::Lms, Ok(lms)) => Ok(LoadMethod::Lms(lms)),
            (Loader::Lms, Err(why)) => {
                Err(Failure::new(Category::LoadFailed, format!("`{}` cannot be loaded: {why}", request.key))
                    .hinted(self.lms_hint("name it with --lms-path, or let --loader be `auto`"))
                    .cheap())
            }
            // `lms load` knows base keys alone; the REST API takes variants.
            (Loader::Auto, Ok(lms)) if !request.key.is_variant() => Ok(LoadMethod::Lms(lms)),
            (Loader::Auto | Loader::Rest, _) => Ok(LoadMethod::Rest),
        }
    }

    /// What to do about a missing `lms`.
    fn lms_hint(&self, otherwise: &str) -> String {
        match &self.context.config.lms_path {
            Some(_) => "correct --lms-path, or leave it out so that lmswarm looks for `lms` itself".to_owned(),
            None => otherwise.to_owned(),
        }
    }

    pub(super) fn caveat(&self) -> Option<String> {
        let (base, name) = (self.context.base(), &self.context.config.api_token_env);
        self.lacks_token.get().then(|| {
            format!("{base} requires an API token, and {name} holds none: a client without a token will be refused")
        })
    }

    pub(super) fn contradicted(&self) -> Failure {
        self.context.unknown("its two lists (/api/v1/models and /api/v0/models) do not agree")
    }

    fn token_missing(&self) -> Failure {
        let name = &self.context.config.api_token_env;
        let reason = format!("{} requires an API token, and the variable {name} holds none", self.context.base());
        Failure::new(Category::Unauthorized, reason)
            .hinted(format!("create a token in LM Studio's developer settings and put it into {name}"))
    }

    /// The client's request would be refused as well, so no other source is asked.
    fn token_refused(&self) -> Failure {
        let reason = format!("{} refuses the API token in {}", self.context.base(), self.context.token_origin);
        Failure::new(Category::Unauthorized, reason).hinted("check the token in LM Studio's developer settings")
    }
}

/// A failure that is remembered for other callers, unless its reason lies with this one.
fn remember_unless_local(failure: Failure, is_local: bool) -> Failure {
    if is_local { failure.cheap() } else { failure }
}

/// Finds `lms`, and decides whether it reaches this server. On this machine it finds LM Studio by
/// itself, so it must not speak for a proxy; elsewhere it needs a plain address, and is refused
/// where a token is required.
fn find_lms(context: &Context<'_>) -> Result<Lms, String> {
    let base = context.base();
    match lmstudio::find_lms(context.config.lms_path.as_deref()) {
        Err(tried) => Err(format!("the `lms` command was not found (looked in {})", tried.join(", "))),
        Ok(_) if !base.is_plain() => Err(format!("`lms` cannot reach {base}, which is behind a proxy")),
        Ok(_) if !base.is_loopback() && base.is_ipv6() => Err(format!("`lms` cannot reach {base}, an IPv6 address")),
        Ok(_) if !base.is_loopback() && context.server.has_token() => Err(format!("`lms` cannot show {base} a token")),
        Ok(program) => Ok(Lms::new(program, base, &context.config.api_token_env, context.shutdown().clone())),
    }
}

/// The key is not there, and nothing similar is taken for it.
pub(super) fn not_downloaded(request: &ModelRequest, models: &[Downloaded]) -> Failure {
    let key = request.key.as_str();
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

/// LM Studio filed a download under another key.
pub(super) fn misfiled(request: &ModelRequest, models: &[Downloaded]) -> Failure {
    let key = request.key.as_str();
    let reason = format!("a download for `{key}` ended well, but LM Studio has no model of that name");
    Failure {
        suggestions: similar(key, models.iter().map(|it| it.key.as_str())),
        ..Failure::new(Category::DownloadFailed, reason).hinted("`lms ls` shows under which name it was put")
    }
}

/// Where LM Studio tells what it did.
pub(super) const LOG: &str = "LM Studio's log (`lms log stream`)";

/// How a user unloads an instance by hand.
pub(super) fn unload_command(identifier: &str) -> String {
    format!("lms unload {}", printable(identifier))
}
