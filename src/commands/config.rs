//! `lmswarm config`: shows what was made of the configuration. It asks no server.

use serde::Serialize;

use super::call::{self, CommandError};
use crate::cli::{ConfigArgs, ConfigRequest, Deferred, RolesArgs};
use crate::pure::opencode::roles::{Role, Roles};
use crate::pure::outcome::exit::ExitCode;
use crate::pure::outcome::report::Report;
use crate::pure::text::printable;
use crate::resolve::Resolver;
use crate::sys::opencode::{self, Catalogue, Extent};
use crate::sys::output::{self, Console};
use crate::sys::settings;

/// Runs the command.
pub(super) fn run(args: ConfigArgs) -> ExitCode {
    let ConfigRequest::Roles(Deferred(args)) = args.command;
    let console = Console::new(args.settings.output.quiet, args.settings.output.color);
    let printed = match roles(&args, console) {
        Ok(report) if args.json => output::print_json(&report),
        Ok(report) => output::print(&report.roles.iter().map(RoleReport::text).collect::<Vec<_>>().join("\n")),
        Err(trouble) => return fail(trouble, console, args.json),
    };
    match printed {
        Ok(()) => ExitCode::Success,
        Err(error) => fail(CommandError::Unexpected(error.into()), console, false),
    }
}

fn fail(trouble: CommandError, console: Console, json: bool) -> ExitCode {
    let (exit, reason, hint) = trouble.into_message();
    console.error(&reason, hint);
    if json {
        // Whoever cannot be told was told on stderr.
        let _ = output::print_json(&Report::of_error(&reason, hint, exit.number()));
    }
    exit
}

/// What `config roles --json` prints.
#[derive(Debug, Serialize)]
struct RolesReport {
    schema: u8,
    roles: Vec<RoleReport>,
}

/// One role. What does not apply is null.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct RoleReport {
    role: String,
    /// `provider/model`, as the configuration has it.
    model: Option<String>,
    /// Where that stands.
    from: Option<String>,
    gated: bool,
    /// What goes over the wire.
    key: Option<String>,
    key_from: Option<String>,
    #[serde(rename = "baseURL")]
    base_url: Option<String>,
    #[serde(rename = "baseURLFrom")]
    base_url_from: Option<String>,
    /// Where the token comes from; never the token.
    token_from: Option<String>,
    /// Why it is this model, or none.
    note: Option<String>,
}

fn roles(args: &RolesArgs, console: Console) -> Result<RolesReport, CommandError> {
    let config = call::gather(&args.settings, console)?;
    let sources = opencode::sources(Extent::WithMarkdown, &config.api_token_env)
        .map_err(|reason| CommandError::Config(reason, None))?;
    let catalogue = Catalogue::default();
    let is_known = |model: &str| catalogue.has(model);
    let roles = Roles { sources: &sources, gated: &config.providers, is_known: &is_known };
    let resolver = Resolver { config: &config, sources: &sources, roles };
    let roles = resolver.roles.roles().iter().map(|role| report(&resolver, role)).collect::<Result<_, _>>()?;
    Ok(RolesReport { schema: 1, roles })
}

fn report(resolver: &Resolver<'_>, role: &Role) -> Result<RoleReport, CommandError> {
    let shown = RoleReport { role: role.to_string(), ..RoleReport::default() };
    let pin = match resolver.roles.pin(role) {
        Ok(pin) => pin,
        Err(unset) => return Ok(RoleReport { note: Some(unset.reason), ..shown }),
    };
    let shown =
        RoleReport { model: Some(pin.reference()), from: Some(pin.place.clone()), note: pin.note.clone(), ..shown };
    if !resolver.roles.is_gated(&pin.provider) {
        return Ok(shown);
    }
    let (key, address, settings::Credential { token, origin }) = resolver.target(&pin)?;
    let is_missing = !resolver.roles.exists(&pin);
    Ok(RoleReport {
        gated: true,
        key: Some(key.to_string()),
        key_from: pin.wire.map(|(_, place)| place),
        base_url: Some(address.base.to_string()),
        base_url_from: Some(address.origin),
        token_from: token.is_some().then_some(origin),
        note: shown.note.or_else(|| {
            is_missing.then(|| "not among the `models` of that provider: opencode will not find it".to_owned())
        }),
        ..shown
    })
}

impl RoleReport {
    /// A few lines for people.
    fn text(&self) -> String {
        let Some(model) = &self.model else {
            return printable(&format!("{}: {}", self.role, self.note.as_deref().unwrap_or("not set")));
        };
        let mut lines = vec![format!("{}: {model}", self.role)];
        let mut line = |label: &str, value: Option<&String>, from: Option<&String>| match (value, from) {
            (Some(value), Some(from)) => lines.push(format!("  {label}: {value} (from {from})")),
            (None, Some(from)) => lines.push(format!("  {label}: {from}")),
            _ => {}
        };
        line("from", None, self.from.as_ref());
        if self.gated {
            line("key", self.key.as_ref(), self.key_from.as_ref().or(self.from.as_ref()));
            line("server", self.base_url.as_ref(), self.base_url_from.as_ref());
            line("token from", None, self.token_from.as_ref());
        } else {
            lines.push("  not an LM Studio model, nothing to warm".to_owned());
        }
        lines.extend(self.note.iter().map(|note| format!("  note: {note}")));
        lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
    }
}
