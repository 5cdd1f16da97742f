//! `GET /models`: the models that a router knows, or the one that there is.

use crate::pure::json_list::{Cursor, End, JsonList, Stop, Value};
use crate::pure::residency::{Downloaded, Location};

/// Most models that are kept besides those that are asked for, or have a process: only
/// suggestions come from the others.
const MOST_MODELS: usize = 10_000;

/// The list, as it comes in.
#[derive(Debug)]
pub(crate) struct ModelList {
    list: JsonList,
    requested: Vec<String>,
    /// An entry is of another program.
    is_foreign: bool,
    /// The models that are kept.
    pub models: Vec<Model>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    /// Its name.
    pub id: String,
    /// Names that requests reach it by as well.
    pub aliases: Vec<String>,
    /// What a router says of it; `None` for the one model of a server that is no router.
    pub state: Option<State>,
    /// What one request can use, in tokens; only of one that is loaded.
    pub context_length: Option<u64>,
    /// What it was trained for, in tokens; only of one that is loaded.
    pub max_context_length: Option<u64>,
    /// Its weights, in bytes; only of one that is loaded.
    pub size_bytes: Option<u64>,
}

/// What a router says of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It has no process.
    Unloaded {
        /// How its last process ended, if not well: it failed, or was killed.
        failed: Option<Exit>,
    },
    /// Its process has been started, or wakes up.
    Loading,
    /// It has been loaded; its process may be on its way out, or gone.
    Loaded,
    /// Its process has freed it, and loads it again for a request.
    Sleeping,
    /// Its files are being fetched.
    Downloading,
    /// Anything that later builds may say.
    Other,
}

/// The exit code of a process, if it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub Option<u64>);

impl ModelList {
    /// Expects the list; the models that are `requested` are found in it however long it is.
    pub(crate) fn new<'a>(requested: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            list: JsonList::new("data"),
            requested: requested.into_iter().map(str::to_owned).collect(),
            is_foreign: false,
            models: Vec::new(),
        }
    }

    /// Takes the next piece of the body; whether more of it is wanted.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> bool {
        let Self { list, requested, is_foreign, models } = self;
        list.feed(piece, &mut |cursor| {
            let (model, is_own) = Model::read(cursor)?;
            *is_foreign |= !is_own;
            let is_idle = matches!(model.state, Some(State::Unloaded { .. }));
            if models.len() < MOST_MODELS || !is_idle || requested.iter().any(|name| model.is_called(name)) {
                models.push(model);
            }
            Ok(())
        });
        !list.is_given_up()
    }

    /// What it came to, once there is no further piece.
    pub(crate) fn end(&self) -> End {
        if self.is_foreign { End::Broken } else { self.list.end() }
    }

    /// The model that requests for this name reach.
    pub(crate) fn find(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|it| it.is_called(name))
    }

    /// All of them, as what can be loaded.
    pub(crate) fn downloaded(&self) -> Vec<Downloaded> {
        let downloaded = |it: &Model| Downloaded {
            key: it.id.clone(),
            variants: it.aliases.clone(),
            max_context_length: it.max_context_length,
            size_bytes: it.size_bytes,
            location: Location::Unreported,
        };
        self.models.iter().map(downloaded).collect()
    }
}

impl Model {
    /// Reads an entry, and whether it is llama.cpp's own.
    fn read(cursor: &mut Cursor<'_>) -> Result<(Self, bool), Stop> {
        let (mut id, mut aliases, mut status, mut meta) = (None, None, None, None);
        let mut is_own = false;
        cursor.object(|name, value| match name {
            b"id" => id = Some(value),
            b"aliases" => aliases = Some(value),
            b"owned_by" => is_own = value.is_plainly("llamacpp"),
            b"status" => status = Some(value),
            b"meta" => meta = Some(value),
            _ => {}
        })?;
        let (mut context_length, mut max_context_length, mut size_bytes) = (None, None, None);
        // There is none of a model that is not loaded.
        let _ = meta.map(|meta: Value<'_>| {
            meta.object(|name, value| match name {
                b"n_ctx" => context_length = value.number(),
                b"n_ctx_train" => max_context_length = value.number(),
                b"size" => size_bytes = value.number(),
                _ => {}
            })
        });
        let aliases = aliases.filter(|it: &Value<'_>| !it.is_empty_list());
        let model = Self {
            id: id.ok_or(Stop::Malformed)?.text()?,
            aliases: aliases.map(Value::decode).transpose()?.unwrap_or_default(),
            state: status.map(State::read).transpose()?,
            context_length,
            max_context_length,
            size_bytes,
        };
        Ok((model, is_own))
    }

    /// Whether requests for this name reach it.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

impl State {
    fn read(status: Value<'_>) -> Result<Self, Stop> {
        let (mut value, mut has_failed, mut exit_code) = (None, false, None);
        status.object(|name, member| match name {
            b"value" => value = Some(member),
            b"failed" => has_failed = member.decode() == Ok(true),
            b"exit_code" => exit_code = member.number(),
            _ => {}
        })?;
        Ok(match &*value.ok_or(Stop::Malformed)?.text()? {
            "unloaded" => Self::Unloaded { failed: has_failed.then_some(Exit(exit_code)) },
            "loading" => Self::Loading,
            "loaded" => Self::Loaded,
            "sleeping" => Self::Sleeping,
            "downloading" | "downloaded" => Self::Downloading,
            _ => Self::Other,
        })
    }
}
