//! Finds and reads opencode's configuration: every source that needs no network, in
//! opencode's own order. `opencode debug config` would tell the same, in two seconds.

use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use crate::pure::opencode::front_matter;
use crate::pure::opencode::schema as opencode_schema;
use crate::pure::opencode::source::{self, ConfigSource, Lines, Substitutions, Trust, project_folders};
use crate::sys::{files, paths, repository};

/// Most that is read of a file, in MiB; and of the list of all models, which is large.
const MOST: u64 = 1;
const MOST_OF_CATALOGUE: u64 = 64;

/// Most bytes of YAML in the heads of Markdown files: it takes longer than reading them.
const MOST_OF_HEADS: usize = 2 * 1024 * 1024;

/// Most Markdown files that are read in one folder, most entries that are looked at to find
/// them (links may lead round in circles), and how deep.
const MOST_AGENTS: usize = 1000;
const MOST_ENTRIES: usize = 10_000;
const DEEPEST: usize = 16;

/// What of the configuration is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The configuration files: they name the servers.
    Files,
    /// The agents and commands in Markdown, too: they name models.
    WithMarkdown,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// The sources, lowest first.
    pub sources: Vec<ConfigSource>,
    /// The configuration files that were looked for and are not there.
    pub absent: Vec<PathBuf>,
}

/// Reads every source. `token_variable` is what holds the user's API token: not every file may
/// read it.
///
/// # Errors
/// A sentence with file, line and column for a text that opencode would refuse as well.
pub(crate) fn read_configuration(extent: Extent, token_variable: &str) -> Result<Configuration, String> {
    let mut sources = Vec::new();
    let absent = RefCell::new(Vec::new());
    let read = |path: PathBuf, trust| {
        let source = read(&path, trust, token_variable)?;
        if source.is_none() {
            absent.borrow_mut().push(path);
        }
        Ok::<_, String>(source)
    };
    let global = paths::opencode_config();
    if let Some(folder) = &global {
        for name in ["config.json", "opencode.json", "opencode.jsonc"] {
            sources.extend(read(folder.join(name), Trust::User)?);
        }
    }
    if let Some(path) = variable("OPENCODE_CONFIG") {
        sources.extend(read(PathBuf::from(path), Trust::User)?);
    }
    let mut folders: Vec<(PathBuf, Trust)> = global.into_iter().map(|folder| (folder, Trust::User)).collect();
    let own = paths::home().map(|home| home.join(".opencode"));
    if !is_true("OPENCODE_DISABLE_PROJECT_CONFIG")
        && let Ok(working) = std::env::current_dir()
    {
        let root = repository::root(&working);
        let project = project_folders(&working, root.as_deref());
        for folder in &project {
            for name in ["opencode.json", "opencode.jsonc"] {
                sources.extend(read(folder.join(name), Trust::Project)?);
            }
        }
        // Among these the outer folder wins over the inner one.
        for folder in project.iter().rev().map(|folder| folder.join(".opencode")) {
            let trust = if Some(&folder) == own.as_ref() { Trust::User } else { Trust::Project };
            folders.push((folder, trust));
        }
    }
    let named = variable("OPENCODE_CONFIG_DIR").map(PathBuf::from);
    folders.extend(own.into_iter().chain(named.clone()).map(|folder| (folder, Trust::User)));
    let mut bytes_left = MOST_OF_HEADS;
    for (index, (folder, trust)) in folders.iter().enumerate() {
        // A folder that is named twice counts at its first place.
        if folders[..index].iter().any(|(earlier, _)| earlier == folder) {
            continue;
        }
        if folder.to_string_lossy().ends_with(".opencode") || Some(folder) == named.as_ref() {
            for name in ["opencode.json", "opencode.jsonc"] {
                sources.extend(read(folder.join(name), *trust)?);
            }
        }
        if extent == Extent::WithMarkdown {
            read_markdown(folder, *trust, &mut bytes_left, &mut sources)?;
        }
    }
    if let Some(text) = variable("OPENCODE_CONFIG_CONTENT") {
        let name = "OPENCODE_CONFIG_CONTENT".to_owned();
        let folder = std::env::current_dir().unwrap_or_default();
        sources.push(source::read(&text, name, Trust::User, &Around { folder: &folder, token_variable })?);
    }
    for name in ["opencode.json", "opencode.jsonc"] {
        sources.extend(read(managed_folder().join(name), Trust::User)?);
    }
    Ok(Configuration { sources, absent: absent.into_inner() })
}

/// The agents, modes and commands of one folder, in opencode's order.
fn read_markdown(
    folder: &Path,
    trust: Trust,
    bytes_left: &mut usize,
    sources: &mut Vec<ConfigSource>,
) -> Result<(), String> {
    for (kind, names, deepest) in [
        ("command", ["command", "commands"], DEEPEST),
        ("agent", ["agent", "agents"], DEEPEST),
        ("mode", ["mode", "modes"], 0),
    ] {
        for name in names {
            let root = folder.join(name);
            let mut files = find_markdown(&root, deepest);
            files.sort();
            for file in files {
                sources.extend(read_head(&root, &file, kind, trust, bytes_left)?);
            }
        }
    }
    Ok(())
}

/// The Markdown files below a folder; those further out first, in case there are too many.
fn find_markdown(root: &Path, deepest: usize) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries_left = MOST_ENTRIES;
    let mut folders = VecDeque::from([(root.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop_front() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if files.len() >= MOST_AGENTS || entries_left == 0 {
                return files;
            }
            entries_left -= 1;
            if path.is_dir() {
                if depth < deepest {
                    folders.push_back((path, depth + 1));
                }
            } else if path.extension().is_some_and(|it| it == "md") {
                files.push(path);
            }
        }
    }
    files
}

/// One agent or command in Markdown as a source of its own.
fn read_head(
    root: &Path,
    file: &Path,
    kind: &str,
    trust: Trust,
    bytes_left: &mut usize,
) -> Result<Option<ConfigSource>, String> {
    // opencode passes over a file that it cannot read or whose head is broken.
    let Ok(text) = read_text(file) else { return Ok(None) };
    let shown = file.display().to_string();
    let head = front_matter::parse(&text, bytes_left);
    if *bytes_left == 0 {
        return Err(format!("{shown}: with it, the heads of agents and commands are more than 2 MiB of YAML to read"));
    }
    let Some(mut head) = head else { return Ok(None) };
    let below = file.strip_prefix(root).unwrap_or(file).with_extension("");
    let name = head.take_name().unwrap_or_else(|| below.to_string_lossy().replace('\\', "/"));
    let mut entry = Json::Object(head.values);
    let check = if kind == "command" { opencode_schema::check_command } else { opencode_schema::check_agent };
    if let Err((path, why)) = check(&entry) {
        // A broken mode is passed over as well; a broken agent or command stops opencode.
        return match kind {
            "mode" => Ok(None),
            _ => Err(format!("{shown}:{}: {}: {why}", head.line, path.join("."))),
        };
    }
    if kind == "mode" {
        entry["mode"] = Json::String("primary".to_owned());
    }
    let member = if kind == "command" { "command" } else { "agent" };
    let named = Json::Object(Map::from_iter([(name, entry)]));
    let value = Json::Object(Map::from_iter([(member.to_owned(), named)]));
    Ok(Some(ConfigSource { name: shown, trust, value, literal: None, lines: Lines::At(head.line) }))
}

/// The key that opencode was given for a provider by `opencode auth login`, and where it is.
pub(crate) fn stored_key(provider: &str) -> Option<(String, String)> {
    let key = |json: &Json| {
        let entry = json.get(provider)?;
        (entry.get("type")? == "api").then(|| entry.get("key")?.as_str().map(str::to_owned)).flatten()
    };
    // Only a text that is no JSON is passed over for the file.
    if let Some(json) = variable("OPENCODE_AUTH_CONTENT").and_then(|text| serde_json::from_str::<Json>(&text).ok()) {
        return Some((key(&json)?, "OPENCODE_AUTH_CONTENT".to_owned()));
    }
    let path = paths::opencode_data()?.join("auth.json");
    let json: Json = serde_json::from_str(&read_text(&path).ok()?).ok()?;
    Some((key(&json)?, path.display().to_string()))
}

/// The models of `lmstudio` in the list that opencode fetched last. It is large, and read
/// only if the user asks for a model that is nowhere else.
#[derive(Debug, Default)]
pub(crate) struct Catalogue(OnceCell<Vec<String>>);

impl Catalogue {
    /// Whether the list has the model.
    pub(crate) fn has(&self, model: &str) -> bool {
        let models = self.0.get_or_init(|| {
            let path = variable("OPENCODE_MODELS_PATH")
                .map(PathBuf::from)
                .or_else(|| Some(paths::opencode_cache()?.join("models.json")));
            let read = |path: PathBuf| {
                let json: Json = serde_json::from_slice(&files::read(&path, MOST_OF_CATALOGUE).ok()?).ok()?;
                Some(json.get("lmstudio")?.get("models")?.as_object()?.keys().cloned().collect())
            };
            path.and_then(read).unwrap_or_default()
        });
        models.iter().any(|it| it == model)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn is_true(name: &str) -> bool {
    variable(name).is_some_and(|text| matches!(text.to_lowercase().as_str(), "1" | "true"))
}

fn managed_folder() -> PathBuf {
    if cfg!(target_os = "macos") {
        PathBuf::from("/Library/Application Support/opencode")
    } else if cfg!(windows) {
        PathBuf::from(variable("ProgramData").unwrap_or_else(|| "C:\\ProgramData".to_owned())).join("opencode")
    } else {
        PathBuf::from("/etc/opencode")
    }
}

fn read(path: &Path, trust: Trust, token_variable: &str) -> Result<Option<ConfigSource>, String> {
    let name = path.display().to_string();
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(format!("{name}: cannot be read: {error}")),
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    source::read(&text, name, trust, &Around { folder, token_variable }).map(Some)
}

/// Reads a file that a project may have chosen.
fn read_text(path: &Path) -> std::io::Result<String> {
    files::read(path, MOST).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Not there, or no folder to look in: `.opencode` may be a file, or another user's.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// What stands around a source: the environment, and the files beside it.
struct Around<'a> {
    folder: &'a Path,
    token_variable: &'a str,
}

impl Substitutions for Around<'_> {
    fn variable(&self, name: &str) -> String {
        std::env::var(name).unwrap_or_default()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        let path = match (path.strip_prefix("~/"), paths::home()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.folder.join(path),
        };
        read_text(&path).map_err(|error| error.to_string())
    }

    fn token_variable(&self) -> &str {
        self.token_variable
    }
}
