//! The command line of `lms`, taken apart as its own parser does it, with its words for every mistake.
//!
//! It must not act on anything. Written by hand because the words are the point: scripts read them.

use std::collections::BTreeMap;

/// One option of a command.
#[derive(Debug)]
struct Opt {
    /// As the parser quotes it: `-c, --context-length <length>`.
    flags: &'static str,
    check: fn(&str) -> Result<(), String>,
}

impl Opt {
    const fn new(flags: &'static str) -> Self {
        Self { flags, check: |_| Ok(()) }
    }

    const fn checked(flags: &'static str, check: fn(&str) -> Result<(), String>) -> Self {
        Self { flags, check }
    }

    fn long(&self) -> &'static str {
        let start = self.flags.find("--").unwrap_or(0);
        self.flags[start..].split(' ').next().unwrap_or_default()
    }

    fn short(&self) -> Option<&'static str> {
        self.flags.split_once(", ").map(|(short, _)| short)
    }

    fn takes_value(&self) -> bool {
        self.flags.ends_with('>')
    }
}

/// A number as JavaScript reads it.
fn number(text: &str) -> Result<f64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(0.0);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(number) if !number.is_nan() => Err("Not a finite number".into()),
        _ => Err("Not a number".into()),
    }
}

fn whole(text: &str, least: f64, most: Option<f64>) -> Result<(), String> {
    let number = number(text)?;
    if number.fract() != 0.0 {
        return Err("Not an integer".into());
    }
    if number < least {
        return Err(format!("Number out of range, must be at least {least}"));
    }
    match most {
        Some(most) if number > most => Err(format!("Number out of range, must be at most {most}")),
        _ => Ok(()),
    }
}

fn at_least_one(text: &str) -> Result<(), String> {
    whole(text, 1.0, None)
}

fn port(text: &str) -> Result<(), String> {
    whole(text, 0.0, Some(65535.0))
}

fn ratio(text: &str) -> Result<(), String> {
    gpu_ratio(text).map(|_| ())
}

/// `--gpu`: `off`, `max` or a number from 0 to 1.
pub fn gpu_ratio(text: &str) -> Result<f64, String> {
    match text.trim().to_lowercase().as_str() {
        "off" => Ok(0.0),
        "max" => Ok(1.0),
        other => match number(other) {
            Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
            Ok(_) => Err("Number out of range, must be between 0 and 1".into()),
            Err(_) => Err("Not a number".into()),
        },
    }
}

static SHARED: [Opt; 5] = [
    Opt::new("--host <host>"),
    Opt::checked("--port <port>", port),
    Opt::new("--log-level <level>"),
    Opt::new("--verbose"),
    Opt::new("--quiet"),
];

static LOAD: [Opt; 9] = [
    Opt::checked("--gpu <offload-ratio>", ratio),
    Opt::checked("-c, --context-length <length>", at_least_one),
    Opt::checked("--parallel <count>", at_least_one),
    Opt::checked("--ttl <seconds>", at_least_one),
    Opt::new("--exact"),
    Opt::new("--local"),
    Opt::new("--identifier <identifier>"),
    Opt::new("--estimate-only"),
    Opt::new("-y, --yes"),
];
static LS: [Opt; 4] = [Opt::new("--json"), Opt::new("--llm"), Opt::new("--embedding"), Opt::new("--variants")];
static JSON: [Opt; 1] = [Opt::new("--json")];
static UNLOAD: [Opt; 1] = [Opt::new("-a, --all")];
static GET: [Opt; 6] = [
    Opt::new("-y, --yes"),
    Opt::new("--always-show-all-results"),
    Opt::new("-a, --always-show-download-options"),
    Opt::new("-n, --limit <value>"),
    Opt::new("--gguf"),
    Opt::new("--mlx"),
];
static SERVER_START: [Opt; 3] =
    [Opt::checked("-p, --port <port>", port), Opt::new("--bind <address>"), Opt::new("--cors")];

/// Name, number of arguments, options.
type Spec = (&'static str, usize, &'static [Opt]);

static COMMANDS: [Spec; 12] = [
    ("load", 1, &LOAD),
    ("ls", 1, &LS),
    ("ps", 0, &JSON),
    ("unload", 1, &UNLOAD),
    ("get", 1, &GET),
    ("status", 0, &[]),
    ("server start", 0, &SERVER_START),
    ("server stop", 0, &[]),
    ("server status", 0, &JSON),
    ("daemon up", 0, &JSON),
    ("daemon status", 0, &JSON),
    ("daemon down", 0, &[]),
];

/// A command line that made sense.
#[derive(Debug, Default)]
pub struct Args {
    /// `load`, `server start`, ...
    pub command: &'static str,
    /// The arguments that are no options.
    pub positional: Vec<String>,
    options: BTreeMap<&'static str, String>,
}

impl Args {
    /// Whether an option was given: `--json`.
    pub fn has(&self, long: &str) -> bool {
        self.options.contains_key(long)
    }

    /// An option's value.
    pub fn value(&self, long: &str) -> Option<&str> {
        self.options.get(long).map(String::as_str)
    }

    /// An option's value, as a number that was checked.
    pub fn whole(&self, long: &str) -> Option<u64> {
        self.value(long).and_then(|text| number(text).ok()).map(|number| number as u64)
    }

    /// The first argument.
    pub fn first(&self) -> Option<&str> {
        self.positional.first().map(String::as_str)
    }
}

/// Takes a command line apart. The error is the whole text for stderr.
pub fn parse(words: &[String]) -> Result<Args, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (spec, rest) = match words.as_slice() {
        [group @ ("server" | "daemon"), rest @ ..] => {
            let sub = rest.first().copied().unwrap_or_default();
            let spec = COMMANDS.iter().find(|(name, ..)| name.split_once(' ') == Some((group, sub)));
            let spec = spec.ok_or_else(|| format!("error: unknown command '{sub}'"))?;
            (spec, &rest[1..])
        }
        [name, rest @ ..] => {
            let spec = COMMANDS.iter().find(|(known, ..)| known == name);
            (spec.ok_or_else(|| format!("error: unknown command '{name}'"))?, rest)
        }
        [] => return Err("Usage: lms [options] [command]".into()),
    };
    let (command, most, options) = *spec;
    let mut args = Args { command, ..Args::default() };
    let mut rest = rest.iter().copied();
    let mut only_positional = false;
    while let Some(word) = rest.next() {
        if only_positional || !word.starts_with('-') || word == "-" {
            args.positional.push(word.to_owned());
            continue;
        }
        if word == "--" {
            only_positional = true;
            continue;
        }
        let (option, inline) = find(options, word).ok_or_else(|| format!("error: unknown option '{word}'"))?;
        let value = match inline {
            Some(value) => value,
            None if option.takes_value() => {
                rest.next().ok_or_else(|| format!("error: option '{}' argument missing", option.flags))?
            }
            None => "",
        };
        (option.check)(value)
            .map_err(|text| format!("error: option '{}' argument '{value}' is invalid. {text}", option.flags))?;
        args.options.insert(option.long(), value.to_owned());
    }
    let count = args.positional.len();
    if count > most {
        let plural = if most == 1 { "" } else { "s" };
        let name = command.split(' ').next_back().unwrap_or(command);
        return Err(format!(
            "error: too many arguments for '{name}'. Expected {most} argument{plural} but got {count}."
        ));
    }
    if ["--quiet", "--verbose", "--log-level"].iter().filter(|name| args.has(name)).count() > 1 {
        return Err("Only one of --verbose, --quiet and --log-level can be given.".into());
    }
    Ok(args)
}

/// The option a word means, with the value that is part of the word: `--ttl=60`, `-c8192`.
fn find<'a>(options: &'static [Opt], word: &'a str) -> Option<(&'static Opt, Option<&'a str>)> {
    let all = || options.iter().chain(&SHARED);
    if let Some(option) = all().find(|option| option.long() == word || option.short() == Some(word)) {
        return Some((option, None));
    }
    if let Some((name, value)) = word.split_once('=').filter(|_| word.starts_with("--")) {
        return all().find(|option| option.takes_value() && option.long() == name).map(|option| (option, Some(value)));
    }
    let short = word.get(..2)?;
    let option = all().find(|option| option.takes_value() && option.short() == Some(short))?;
    Some((option, Some(&word[2..])))
}
