//! llama.cpp.
#![allow(clippy::unused_async, clippy::unused_self)]

use super::{Context, LoadResult, LoadTarget, Observation};
use crate::pure::backend::BackendKind;
use crate::pure::base_url::BaseUrl;
use crate::pure::config::Config;
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::residency::{Downloaded, Instance, Reading};
use crate::pure::text::similar;

/// One llama.cpp server.
#[derive(Debug)]
pub(crate) struct LlamaCpp<'a> {
    pub(super) context: &'a Context<'a>,
}

impl<'a> LlamaCpp<'a> {
    pub(super) fn new(context: &'a Context<'a>) -> Self {
        Self { context }
    }

    pub(super) async fn read(&self) -> Reading {
        Reading::Unclear("reading llama.cpp is not written yet".to_owned())
    }

    pub(super) async fn observe(&self, first: Option<Reading>) -> Result<Observation, Failure> {
        let reading = match first {
            Some(reading) => reading,
            None => self.context.unless_stopped(self.read()).await?,
        };
        Ok(self.context.observation(reading, BackendKind::LlamaCpp))
    }

    pub(super) async fn unload(&self, _: &str) -> Result<Result<(), String>, Failure> {
        Ok(Err("not written yet".to_owned()))
    }

    pub(super) async fn load(
        &self,
        _: &ModelRequest,
        _: &LoadTarget,
        _: impl FnMut(u8),
    ) -> Result<LoadResult, Failure> {
        Ok(LoadResult::Failed(self.context.unknown("not written yet")))
    }

    pub(super) async fn activity(&self) -> Result<Result<Vec<Instance>, String>, Failure> {
        Ok(Err("not written yet".to_owned()))
    }

    pub(super) async fn capacity(&self) -> Result<Option<usize>, Failure> {
        Ok(None)
    }

    pub(super) async fn loads_on_request(&self) -> Result<bool, Failure> {
        Ok(false)
    }
}

/// The server has no model of that name, and nothing similar is taken for it.
pub(super) fn not_known(request: &ModelRequest, models: &[Downloaded]) -> Failure {
    let key = request.key.as_str();
    Failure {
        suggestions: similar(key, models.iter().map(|it| it.key.as_str())),
        ..Failure::new(Category::NotDownloaded, format!("llama.cpp has no model `{key}`"))
    }
}

/// Names the configured options that a load here cannot apply.
pub(super) fn unsupported(_: &Config, _: &ModelRequest) -> Option<String> {
    None
}

/// How a user unloads a model by hand.
pub(super) fn unload_command(base: &BaseUrl, identifier: &str) -> String {
    format!("curl -X POST {base} {identifier}")
}
