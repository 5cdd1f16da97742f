//! What can be typed: commands, flags and their help. Defaults that a config file could
//! override are not given here, and nothing is looked up.

mod mistakes;

use std::ffi::{OsStr, OsString};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::pure::config::options::{Kind, Layer, OPTIONS, Origin, Scope, Spec, Value};
use crate::pure::outcome::exit;
use crate::pure::shell::wrapper;
use crate::pure::text::printable;
use crate::pure::units::parse_duration;
use crate::sys::output::ColorChoice;
use crate::sys::paths;

/// The gate before every request to a local model.
#[derive(Debug, Parser)]
#[command(name = "lmswarm", version, about, max_term_width = 100, after_help = exit::HELP, subcommand_required = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Request,
}

/// Reads the command line. What clap says about a wrong one shows it, so it is made safe to
/// show; and it shows the one that was meant.
///
/// # Errors
/// The help, the version, or what is wrong.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    // What stands before every request is one of these two, and right.
    if let Some(command) = typed("ensure", Request::Ensure).or_else(|| typed("run", Request::Run)) {
        return Ok(Cli { command });
    }
    Cli::try_parse().map_err(|mut error| {
        let commands: Vec<String> = Cli::command().get_subcommands().map(|it| it.get_name().to_owned()).collect();
        let tip = mistakes::tip(&error, &argv(), &commands);
        let wild = |(kind, value): (ContextKind, &ContextValue)| match value {
            ContextValue::String(text) => Some((kind, printable(text))).filter(|(_, safe)| safe != text),
            _ => None,
        };
        let said: Vec<(ContextKind, String)> = error.context().filter_map(wild).collect();
        for (kind, safe) in said {
            error.insert(kind, ContextValue::String(safe));
            // clap's own tip would repeat it.
            error.remove(ContextKind::Suggested);
        }
        if let Some(tip) = tip {
            mistakes::put(&mut error, &tip);
        }
        error
    })
}

/// Reads the command line as one of this command, and builds neither the other commands nor the
/// options that were not typed: with all of them, one instruction in six of a warm call was for
/// clap. `None` if it is of another command, or if clap has something to say: help, and what is
/// wrong, must know all of them.
fn typed<T: Args>(name: &'static str, request: fn(T) -> Request) -> Option<Request> {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.peek()? != name {
        return None;
    }
    ONLY_TYPED.store(true, Ordering::Relaxed);
    // To take these apart costs more than to read the command line, and the process ends soon.
    let mut command = ManuallyDrop::new(T::augment_args(Command::new(name)));
    ONLY_TYPED.store(false, Ordering::Relaxed);
    let mut matches = ManuallyDrop::new(command.try_get_matches_from_mut(words).ok()?);
    T::from_arg_matches_mut(&mut matches).ok().map(request)
}

/// Whether options that are not on the command line are left out while a command is built.
static ONLY_TYPED: AtomicBool = AtomicBool::new(false);

/// The command line as it was typed, program included. What is no text in it is only shown.
pub(crate) fn argv() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Request {
    /// Make sure that models are addressable in LM Studio, loading each at most once
    #[command(after_help = exit::HELP, long_about = ENSURE_ABOUT)]
    Ensure(EnsureArgs),

    /// Make sure that models are addressable, then become COMMAND
    #[command(long_about = RUN_ABOUT, after_help = RUN_EXIT_CODES, override_usage = RUN_USAGE)]
    Run(RunArgs),

    /// Print what puts the gate before opencode, or before another command
    #[command(long_about = HOOK_ABOUT)]
    Hook(HookArgs),

    /// Print completions for a shell
    #[command(long_about = COMPLETIONS_ABOUT)]
    Completions(CompletionsArgs),

    /// Show what was made of the configuration
    Config(ConfigArgs),
}

impl Request {
    /// How to speak, for the commands that let the user choose.
    pub(crate) fn output(&self) -> Option<&OutputArgs> {
        match self {
            Self::Ensure(args) => Some(&args.gate.settings.output),
            Self::Run(args) => Some(&args.gate.settings.output),
            Self::Config(ConfigArgs { command: ConfigRequest::Roles(args) }) => Some(&args.settings.output),
            Self::Hook(_) | Self::Completions(_) => None,
        }
    }

    /// Whether a report for a program is to be printed.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Ensure(args) => args.json,
            Self::Config(ConfigArgs { command: ConfigRequest::Roles(args) }) => args.json,
            Self::Run(_) | Self::Hook(_) | Self::Completions(_) => false,
        }
    }
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

`servers` in the config file names several servers:
  \"servers\": { \"NAME\": { \"baseURL\": \"URL\", \"providers\": [\"ID\"], ... }, ... }
Each entry may have `backend`, `apiTokenEnv`, `perModel` and every option of models and servers.
A PROVIDER/KEY and a role are asked of the server that names the provider, a key of one that has
the model, and best of one where it is addressable.

Examples:
  lmswarm ensure
  lmswarm ensure main
  lmswarm ensure qwen/qwen3-coder-30b
  lmswarm ensure qwen/qwen3-coder-30b gemma-3-4b-it --context-length 32768
  lmswarm ensure lmstudio/gemma-3-4b-it --timeout 2m --json";

/// The arguments of `ensure`.
#[derive(Debug, Args)]
pub(crate) struct EnsureArgs {
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
pub(crate) struct ConfigArgs {
    /// What to show.
    #[command(subcommand)]
    pub command: ConfigRequest,
}

/// What `config` can show.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigRequest {
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
pub(crate) struct RolesArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// What is configured.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// The arguments of every command that gates something.
#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    /// A model key that is never taken for a role or a PROVIDER/KEY; can be repeated
    #[arg(long, value_name = "KEY")]
    pub key: Vec<String>,

    /// Try again now what failed a moment ago, and would be repeated otherwise
    #[arg(long)]
    pub fresh: bool,

    /// No person waits for this call: calls that a person waits for go first
    #[arg(long)]
    pub background: bool,

    /// Upper bound for the whole call, such as 90s or 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,

    /// What is configured.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// The arguments of every command that reads the configuration.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// How to speak.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Read this config file [default: ~/.config/lmswarm/config.json]
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// The options of the configuration.
    #[command(flatten)]
    pub options: OptionFlags,
}

/// How to speak.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what is read, asked, seen and decided, and why (-vv: with every detail and its time)
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,

    /// When to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: ColorChoice,

    /// Do not show progress
    #[arg(long)]
    pub no_progress: bool,

    /// How often to say how far it is where there is no terminal [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub progress_every: Option<Duration>,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(time) if !time.is_zero() => Ok(time),
        _ => Err("it must be a time with a unit, such as 90s, 10m or 1h30m".to_owned()),
    }
}

/// The options of `pure::options` as flags. Made from the table, so that a flag, a variable
/// and a config key are always the same option.
#[derive(Debug, Default, Clone)]
pub(crate) struct OptionFlags(pub Layer);

impl Args for OptionFlags {
    fn augment_args(command: Command) -> Command {
        let typed: Option<Vec<OsString>> = ONLY_TYPED.load(Ordering::Relaxed).then(|| std::env::args_os().collect());
        let is_typed = |spec: &Spec| match &typed {
            Some(words) => words.iter().any(|word| may_be(word, spec)),
            None => true,
        };
        let specs = OPTIONS.iter().filter(|spec| !spec.is_for_file_alone() && is_typed(spec));
        specs.fold(command, |command, spec| command.arg(flag(spec)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Whether a word of the command line may be the flag of an option.
fn may_be(word: &OsStr, spec: &Spec) -> bool {
    let Some(name) = word.as_encoded_bytes().strip_prefix(b"--") else { return false };
    [Some(spec.flag), spec.alias].into_iter().flatten().any(|flag| name.starts_with(flag.as_bytes()))
}

fn flag(spec: &'static Spec) -> Arg {
    let arg = Arg::new(spec.key)
        .long(spec.flag)
        .help(format!("{} [default: {}]", spec.help, spec.default_text()))
        .help_heading(match spec.scope {
            Scope::Model => "Configuration of models",
            Scope::Server => "Configuration of servers",
            Scope::Call => "Configuration of the call",
        })
        .value_name(spec.placeholder)
        .value_parser(OptionParser(spec.kind));
    let arg = match spec.alias {
        Some(alias) => arg.visible_alias(alias),
        None => arg,
    };
    match spec.kind {
        Kind::Boolean => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::List => arg.action(ArgAction::Append),
        _ => arg,
    }
}

/// Reads the value of an option, and tells the words of a choice.
#[derive(Clone)]
struct OptionParser(Kind);

impl TypedValueParser for OptionParser {
    type Value = Value;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Value, clap::Error> {
        let kind = self.0;
        let read = move |text: String| {
            kind.read(&text, paths::home().as_deref()).map_err(|why| format!("it {}", printable(&why)))
        };
        NonEmptyStringValueParser::new().try_map(read).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        match self.0 {
            Kind::Choice(words) => Some(Box::new(words.iter().copied().map(PossibleValue::new))),
            _ => None,
        }
    }
}

impl FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut layer = Layer::default();
        for spec in OPTIONS.iter().filter(|spec| !spec.is_for_file_alone()) {
            // One that was not typed may not be known.
            let Ok(Some(values)) = matches.try_get_many::<Value>(spec.key) else { continue };
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

const RUN_USAGE: &str = "\
lmswarm run [OPTIONS] COMMAND [ARGS]...
       lmswarm run [OPTIONS] [MODEL]... -- COMMAND [ARGS]...";

const RUN_ABOUT: &str = "\
Make sure that models are addressable, then become COMMAND

With `--`, everything before it is a MODEL and everything behind it is the command. Without
`--`, the first word is the command, and opencode's `main` and `small` are the models. An
argument of the command that is itself `--` therefore needs one before the command too.
Options of lmswarm come first.

The command takes the place of lmswarm: same process, so its exit code and its signals are
its own. (On Windows lmswarm stays and passes the exit code through.) It is not started when
--fail-mode says that the failure blocks; a warning is printed when it does not.

With --keep-warm lmswarm stays as the parent and makes sure of the models again at every
interval, so that an eviction heals while the command runs. A failure then is a warning that
never stops the command; on a terminal it is told when the command has ended, so that it does
not write into a full-screen program.

Examples:
  lmswarm run opencode
  lmswarm run qwen/qwen3-coder-30b -- opencode --continue
  lmswarm run --keep-warm 5m main -- opencode";

const RUN_EXIT_CODES: &str = "\
Exit codes:
  those of COMMAND; with --keep-warm 128+n if signal n ended it
  126  COMMAND cannot be executed
  127  COMMAND is not found
  those of `lmswarm ensure` if the gate blocks and COMMAND is not started";

/// The arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Stay as the parent and ensure the models again at every interval, such as 5m
    #[arg(long, value_name = "INTERVAL", value_parser = parse_interval)]
    pub keep_warm: Option<Duration>,

    /// MODEL... and `--`, if it is not to be `main` and `small`; then COMMAND and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub words: Vec<OsString>,

    /// The gate.
    #[command(flatten)]
    pub gate: GateArgs,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        // Shorter would be load on the server for nothing.
        Some(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("it must be a time of a second or more with a unit, such as 30s, 5m or 1h".to_owned()),
    }
}

const HOOK_ABOUT: &str = "\
Print what puts the gate before opencode, or before another command

For a shell it is a function of the command's name that starts the command with `lmswarm run`.
Exit codes and completions stay as they are, and `command opencode` bypasses the gate.

Examples:
  eval \"$(lmswarm hook bash)\"                 in ~/.bashrc
  eval \"$(lmswarm hook zsh)\"                  in ~/.zshrc
  lmswarm hook fish | source                  in ~/.config/fish/config.fish
  lmswarm hook powershell | Out-String | Invoke-Expression   in $PROFILE
  eval \"$(lmswarm hook zsh --wrap opencode --wrap crush)\"
  eval \"$(lmswarm hook zsh --remove)\"         away again, in this shell";

/// The arguments of `hook`.
#[derive(Debug, Args)]
pub(crate) struct HookArgs {
    /// Where it goes.
    #[command(subcommand)]
    pub place: HookPlace,
}

/// Where a hook goes.
#[derive(Debug, Subcommand)]
pub(crate) enum HookPlace {
    /// A function for bash
    Bash(WrapArgs),
    /// A function for zsh
    Zsh(WrapArgs),
    /// A function for fish
    Fish(WrapArgs),
    /// A function for PowerShell
    Powershell(WrapArgs),
    /// The plugin that gates every request of opencode; installed, not printed
    #[command(long_about = HOOK_OPENCODE_ABOUT)]
    Opencode(HookOpencodeArgs),
}

const HOOK_OPENCODE_ABOUT: &str = "\
Install the plugin that gates every request of opencode

The plugin is one file, `plugin/lmswarm.js` in opencode's own folder. A copy that an other
version of lmswarm wrote is brought up to date; a file that was changed, or that lmswarm did
not write, is left alone (exit code 78). Then it says which models are gated here, and whether
their server is up. `--remove` takes it away again.";

/// The arguments of `hook opencode`.
#[derive(Debug, Args)]
pub(crate) struct HookOpencodeArgs {
    /// Install it into `.opencode/` of this project, for all who work on it
    #[arg(long)]
    pub project: bool,

    /// Print the plugin on stdout, and install nothing
    #[arg(long)]
    pub print: bool,

    /// Remove it again
    #[arg(long, conflicts_with = "print")]
    pub remove: bool,
}

/// The arguments of `hook` for a shell.
#[derive(Debug, Args)]
pub(crate) struct WrapArgs {
    /// Put the gate before this command; can be repeated
    #[arg(long = "wrap", value_name = "NAME", default_value = "opencode", value_parser = parse_command_name)]
    pub names: Vec<String>,

    /// Print what takes the function away again
    #[arg(long)]
    pub remove: bool,
}

fn parse_command_name(text: &str) -> Result<String, String> {
    wrapper::check_name(text).map(|()| text.to_owned())
}

const COMPLETIONS_ABOUT: &str = "\
Print completions for a shell

In bash, zsh and fish a MODEL is completed too: with the roles, those of opencode's agents
included, and with the keys that the servers have at that moment; and so is a --server.

Examples:
  eval \"$(lmswarm completions bash)\"          in ~/.bashrc
  eval \"$(lmswarm completions zsh)\"           in ~/.zshrc, after compinit
  lmswarm completions fish | source           in ~/.config/fish/config.fish
  lmswarm completions powershell | Out-String | Invoke-Expression   in $PROFILE
  eval (lmswarm completions elvish | slurp)   in ~/.config/elvish/rc.elv";

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum, required = true)]
    pub shell: Option<Shell>,

    /// Print what can stand for MODEL, one a line
    #[arg(long, hide = true, exclusive = true)]
    pub models: bool,

    /// Print the names of the servers, one a line
    #[arg(long, hide = true, exclusive = true)]
    pub servers: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_readme_names_every_flag() {
        fn check(command: &Command, readme: &str) {
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let Some(flag) = arg.get_long().filter(|flag| !["help", "version"].contains(flag)) else { continue };
                let is_named = [format!("--{flag}`"), format!("--{flag} "), format!("--{flag})")];
                assert!(is_named.iter().any(|it| readme.contains(it)), "{}: --{flag}", command.get_name());
            }
            command.get_subcommands().for_each(|command| check(command, readme));
        }
        let mut command = Cli::command();
        command.build();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        check(&command, &std::fs::read_to_string(path).unwrap());
    }

    fn options(args: &[&str]) -> Layer {
        let cli = Cli::try_parse_from(["lmswarm", "ensure", "a"].iter().chain(args)).unwrap();
        let Request::Ensure(args) = cli.command else { panic!("not `ensure`") };
        args.gate.settings.options.0
    }

    #[test]
    fn a_switch_takes_an_optional_value_and_a_list_may_come_in_pieces() {
        let value = |args: &[&str], key| options(args).get(key).map(|(value, _)| value.clone());
        assert_eq!(value(&["--evict-on-pressure"], "evictOnPressure"), Some(Value::Boolean(true)));
        assert_eq!(value(&["--reconcile-duplicates=false"], "reconcileDuplicates"), Some(Value::Boolean(false)));
        assert_eq!(value(&["--download"], "autoDownload"), Some(Value::Boolean(true)));
        assert_eq!(value(&[], "autoDownload"), None);
        assert_eq!(
            value(&["--evict-protect", "a,b", "--evict-protect", "c"], "evictProtect"),
            Some(Value::List(vec!["a".into(), "b".into(), "c".into()]))
        );
    }

    fn words(args: &[&str]) -> Vec<String> {
        let cli = Cli::try_parse_from(["lmswarm", "run"].iter().chain(args)).unwrap();
        let Request::Run(args) = cli.command else { panic!("not `run`") };
        args.words.into_iter().map(|it| it.into_string().unwrap()).collect()
    }

    #[test]
    fn from_the_first_word_on_everything_is_kept_as_it_is() {
        assert_eq!(words(&["npm", "test", "--", "--watch"]), ["npm", "test", "--", "--watch"]);
        assert_eq!(words(&["--", "npm", "--", "-x"]), ["npm", "--", "-x"]);
        assert_eq!(words(&["--quiet", "a", "b", "--", "c", "--quiet"]), ["a", "b", "--", "c", "--quiet"]);
        assert_eq!(words(&["--keep-warm", "5m", "a", "--keep-warm"]), ["a", "--keep-warm"]);
    }
}
