//! What can be typed: commands, flags and their help. Defaults that a config file could
//! override are not given here, and nothing is looked up.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, Str, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};

use crate::pure::exit;
use crate::pure::options::{Kind, Layer, OPTIONS, Origin, Spec, Value};
use crate::sys::paths;
use crate::sys::term::ColorChoice;

/// The gate before every request to a local model.
#[derive(Debug, Parser)]
#[command(name = "lmswarm", version, about, max_term_width = 100, after_help = exit::HELP, subcommand_required = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Request,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Request {
    /// Make sure that models are addressable in LM Studio, loading each at most once
    #[command(after_help = exit::HELP, long_about = ENSURE_ABOUT)]
    Ensure(EnsureArgs),
    /// Show what was made of the configuration
    Config(ConfigArgs),
}

const ENSURE_ABOUT: &str = "\
Make sure that models are addressable in LM Studio, loading each at most once

Exits 0 only when a request for each MODEL would be answered now. If a model is there
already, this takes about as long as one HTTP request. If not, one caller loads it, however
many ask at once, and all others wait for that load.

A MODEL is a key, a PROVIDER/KEY, or a role: what opencode's configuration makes of it here.
  main         the model that a turn of opencode begins with
  small        the model that it asks for titles
  agent:NAME   the own model of an agent
  all          every model that the configuration pins on a gated provider
Without any MODEL it is `main small`.

Examples:
  lmswarm ensure
  lmswarm ensure main
  lmswarm ensure qwen/qwen3-coder-30b
  lmswarm ensure qwen/qwen3-coder-30b gemma-3-4b-it --context-length 32768
  lmswarm ensure lmstudio/gemma-3-4b-it --timeout 2m --json";

/// The arguments of `ensure`.
#[derive(Debug, Args)]
pub struct EnsureArgs {
    /// Model keys as `lms ls` shows them, PROVIDER/KEY of a gated opencode provider, or roles:
    /// main, small, agent:NAME, all [default: main small]
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,

    /// Print one JSON object about the outcome on stdout
    #[arg(long)]
    pub json: bool,

    /// The gate.
    #[command(flatten)]
    pub gate: GateArgs,
}

/// The arguments of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to show.
    #[command(subcommand)]
    pub command: ConfigRequest,
}

/// What `config` can show.
#[derive(Debug, Subcommand)]
pub enum ConfigRequest {
    /// Show which model each role of opencode is here, and which file says so
    #[command(long_about = ROLES_ABOUT)]
    Roles(RolesArgs),
}

const ROLES_ABOUT: &str = "\
Show which model each role of opencode is here, and which file says so

Reads opencode's configuration as opencode would in this directory, and asks no server.
Shown for each role: the model, what is sent for it, the server, and where each of them is
written (FILE:LINE). Of a token only the place is shown.";

/// The arguments of `config roles`.
#[derive(Debug, Args)]
pub struct RolesArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// How to speak.
    #[command(flatten)]
    pub voice: VoiceArgs,

    /// Read this config file [default: ~/.config/lmswarm/config.json]
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// The options of the configuration.
    #[command(flatten)]
    pub options: OptionFlags,
}

/// The arguments of every command that gates something.
#[derive(Debug, Args)]
pub struct GateArgs {
    /// A model key that is never taken for a role or a PROVIDER/KEY; can be repeated
    #[arg(long, value_name = "KEY")]
    pub key: Vec<String>,

    /// Try again now what failed within the last --retry-cooldown-ms
    #[arg(long)]
    pub fresh: bool,

    /// Upper bound for the whole call, such as 90s or 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,

    /// How to speak.
    #[command(flatten)]
    pub voice: VoiceArgs,

    /// Read this config file [default: ~/.config/lmswarm/config.json]
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// The options of the configuration.
    #[command(flatten)]
    pub options: OptionFlags,
}

/// How to speak.
#[derive(Debug, Args)]
pub struct VoiceArgs {
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Log what is asked and answered (-vv for more)
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,

    /// When to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: ColorChoice,

    /// Do not show progress
    #[arg(long)]
    pub no_progress: bool,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("it must be a time with a unit, such as 90s, 10m or 1h30m".to_owned()),
    }
}

/// The options of `pure::options` as flags. Made from the table, so that a flag, a variable
/// and a config key are always the same option.
#[derive(Debug, Default, Clone)]
pub struct OptionFlags(pub Layer);

impl Args for OptionFlags {
    fn augment_args(command: Command) -> Command {
        OPTIONS.iter().filter(|spec| !spec.is_for_file_alone()).fold(command, |command, spec| command.arg(flag(spec)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(spec: &'static Spec) -> Arg {
    let arg = Arg::new(spec.key)
        .long(spec.flag)
        .help(format!("{} [default: {}]", spec.help, spec.default))
        .help_heading("Configuration")
        .value_name(value_name(spec.kind))
        .value_parser(NonEmptyStringValueParser::new().try_map(|text| {
            match spec.kind.read(&text, paths::home().as_deref()) {
                Ok(value) => Ok(value),
                Err(why) => Err(format!("it {why}")),
            }
        }));
    let arg = match spec.kind {
        Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::List => arg.action(ArgAction::Append),
        _ => arg,
    };
    if spec.key == "autoDownload" { arg.alias(Str::from("download")) } else { arg }
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::VariableName => "NAME",
        Kind::Path => "PATH",
        Kind::Url => "URL",
        Kind::Switch => "BOOL",
        Kind::Whole(..) => "N",
        Kind::AutoOrWhole(..) => "auto|N",
        Kind::Choice(words) => match words {
            ["closed", ..] => "closed|hybrid|open",
            ["reload", ..] => "reload|fail|ignore",
            ["auto", ..] => "auto|lms|rest",
            _ => "local-first|preferred",
        },
        Kind::List => "NAME,...",
        Kind::Gpu => "off|max|SHARE",
        Kind::PerModel => "OBJECT",
    }
}

impl FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut layer = Layer::default();
        for spec in OPTIONS.iter().filter(|spec| !spec.is_for_file_alone()) {
            let Some(values) = matches.get_many::<Value>(spec.key) else { continue };
            // A list may be given in pieces; of anything else clap allows one.
            let value = values.cloned().reduce(|left, right| match (left, right) {
                (Value::List(mut items), Value::List(more)) => {
                    items.extend(more);
                    Value::List(items)
                }
                (_, last) => last,
            });
            if let Some(value) = value {
                layer.put(spec.key, value, Origin::Flag(spec.flag));
            }
        }
        Ok(Self(layer))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    fn options(args: &[&str]) -> Layer {
        let cli = Cli::try_parse_from(["lmswarm", "ensure", "a"].iter().chain(args)).unwrap();
        let Request::Ensure(args) = cli.command else { unreachable!("it was asked for") };
        args.gate.options.0
    }

    #[test]
    fn a_switch_takes_an_optional_value_and_a_list_may_come_in_pieces() {
        let value = |args: &[&str], key| options(args).get(key).map(|(value, _)| value.clone());
        assert_eq!(value(&["--evict-on-pressure"], "evictOnPressure"), Some(Value::Switch(true)));
        assert_eq!(value(&["--reconcile-duplicates=false"], "reconcileDuplicates"), Some(Value::Switch(false)));
        assert_eq!(value(&["--download"], "autoDownload"), Some(Value::Switch(true)));
        assert_eq!(value(&[], "autoDownload"), None);
        assert_eq!(
            value(&["--evict-protect", "a,b", "--evict-protect", "c"], "evictProtect"),
            Some(Value::List(vec!["a".into(), "b".into(), "c".into()]))
        );
    }
}
