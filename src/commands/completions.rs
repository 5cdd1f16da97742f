//! `lmswarm completions`: prints completions for a shell, and for these what can stand for
//! MODEL and behind `--server`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::error::CommandError;
use super::look::downloaded_keys;
use super::print;
use crate::cli::{Cli, CompletionsArgs};
use crate::pure::config::Config;
use crate::pure::config::options::Layer;
use crate::pure::opencode::roles::Role;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::shell::completion::{candidates, for_bash, for_fish, for_zsh};
use crate::resolve::{Resolver, servers_of_plain_keys};
use crate::sys::settings::{self, Settings};

/// Runs the command.
pub(super) async fn run(args: CompletionsArgs) -> Result<ExitCode, CommandError> {
    let Some(shell) = args.shell else {
        // Files that are broken or a server that is mute leave the roles: a message would land
        // in the middle of what is being typed.
        let settings = settings::gather(None, Layer::default());
        if args.servers {
            return print(&settings.as_ref().map(Settings::server_names).unwrap_or_default().join("\n"));
        }
        let config = settings.map(|settings| settings.config);
        let (agents, keys) = match &config {
            Ok(config) => (agents(config).unwrap_or_default(), keys(config).await.unwrap_or_default()),
            Err(_) => Default::default(),
        };
        return print(&candidates(agents, keys).join("\n"));
    };
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lmswarm", &mut bytes);
    let script = String::from_utf8_lossy(&bytes);
    print(&match shell {
        Shell::Bash => for_bash(&script, &flags_with_value()),
        Shell::Zsh => for_zsh(&script),
        Shell::Fish => for_fish(&script),
        _ => script.into_owned(),
    })
}

/// The agents of opencode that have a model of their own.
fn agents(config: &Config) -> Option<Vec<String>> {
    let resolver = Resolver::with_roles(config).ok()?;
    let name = |role| if let Role::Agent(name) = role { Some(name) } else { None };
    Some(resolver.roles().roles().into_iter().filter_map(name).collect())
}

/// The keys of the downloaded models.
async fn keys(config: &Config) -> Option<Vec<String>> {
    Some(downloaded_keys(servers_of_plain_keys(config).ok()?).await)
}

/// The flags of `ensure` and `run` that are followed by a value of their own.
fn flags_with_value() -> Vec<String> {
    let mut cli = Cli::command();
    cli.build();
    let gates = cli.get_subcommands().filter(|it| ["ensure", "run"].contains(&it.get_name()));
    let flags = gates
        .flat_map(clap::Command::get_arguments)
        .filter(|arg| !arg.is_positional() && arg.get_action().takes_values() && !arg.is_require_equals_set());
    let mut names: Vec<String> = flags.filter_map(|arg| arg.get_long()).map(|name| format!("--{name}")).collect();
    names.sort();
    names.dedup();
    names
}
