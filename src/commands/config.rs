//! `lmswarm config`: shows what was made of the configuration. It asks no server.

use serde::Serialize;

use super::error::CommandError;
use super::{gather, print, printed};
use crate::cli::{ConfigArgs, ConfigRequest, RolesArgs};
use crate::pure::opencode::roles::Role;
use crate::pure::outcome::exit::ExitCode;
use crate::pure::text::{listed, printable};
use crate::resolve::{Endpoint, Resolver};
use crate::sys::output::{self, Console};

/// Runs the command.
pub(super) fn run(args: ConfigArgs, console: Console) -> Result<ExitCode, CommandError> {
    let ConfigRequest::Roles(args) = args.command;
    let report = roles(&args, console)?;
    if args.json { printed(output::print_json(&report)) } else { print(&report.text()) }
}

/// What `config roles --json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RolesReport {
    schema: u8,
    roles: Vec<RoleReport>,
    /// The servers of our own configuration that a call may use.
    servers: Vec<ServerReport>,
    /// The sources of opencode's configuration that were read.
    files: Vec<String>,
    /// The files that were looked for and are not there.
    absent_files: Vec<String>,
}

/// One server of our own configuration.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerReport {
    name: String,
    #[serde(rename = "baseURL")]
    base_url: String,
    /// Where that is written.
    from: String,
    providers: Vec<String>,
    api_token_env: String,
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
    /// The name of the server in our own configuration.
    server: Option<String>,
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
    let config = gather(&args.settings, console)?;
    let resolver = Resolver::with_roles(&config)?;
    let roles = resolver.roles().roles().iter().map(|role| report(&resolver, role)).collect::<Result<_, _>>()?;
    let (files, absent_files) = resolver.files();
    let servers = config.servers.iter().map(|server| ServerReport {
        name: server.name.clone(),
        base_url: server.base.to_string(),
        from: server.origin.to_string(),
        providers: server.providers.clone(),
        api_token_env: server.config.api_token_env.clone(),
    });
    Ok(RolesReport { schema: 1, roles, servers: servers.collect(), files, absent_files })
}

fn report(resolver: &Resolver<'_>, role: &Role) -> Result<RoleReport, CommandError> {
    let roles = resolver.roles();
    let shown = RoleReport { role: role.to_string(), ..RoleReport::default() };
    let model = match roles.model_of(role) {
        Ok(model) => model,
        Err(unset) => return Ok(RoleReport { note: Some(unset.reason), ..shown }),
    };
    let shown = RoleReport {
        model: Some(model.reference()),
        from: Some(model.place.clone()),
        note: model.note.clone(),
        ..shown
    };
    if !roles.is_gated(&model.provider) {
        return Ok(shown);
    }
    let (key, endpoints) = resolver.locate(&model)?;
    let is_missing = !roles.exists(&model);
    let flaw = model.flaw();
    let shown = RoleReport {
        gated: true,
        key: Some(key.to_string()),
        key_from: model.wire.filter(|_| flaw.is_none()).map(|(_, place)| place),
        note: shown.note.or(flaw).or_else(|| {
            is_missing.then(|| "not among the `models` of that provider: opencode will not find it".to_owned())
        }),
        ..shown
    };
    Ok(match <[Endpoint<'_>; 1]>::try_from(endpoints) {
        Ok([Endpoint { name, base, origin, token, token_origin, .. }]) => RoleReport {
            server: name.map(str::to_owned),
            base_url: Some(base.to_string()),
            base_url_from: Some(origin),
            token_from: token.is_some().then_some(token_origin),
            ..shown
        },
        Err(several) => {
            let names = listed(several.iter().filter_map(|it| it.name), "or");
            let note = format!("which of the servers {names} is chosen at each call");
            RoleReport {
                note: Some([shown.note, Some(note)].into_iter().flatten().collect::<Vec<_>>().join("; ")),
                ..shown
            }
        }
    })
}

/// Most files that are listed to people.
const MOST_FILES: usize = 8;

impl RolesReport {
    /// A few lines for people. Without any model it matters where one was looked for.
    fn text(&self) -> String {
        if self.roles.iter().any(|role| role.model.is_some()) {
            return self.roles.iter().map(RoleReport::text).collect::<Vec<_>>().join("\n");
        }
        let mut lines: Vec<String> = Vec::new();
        for role in &self.roles {
            let note = role.note.as_deref().unwrap_or("not set");
            // Roles that share their reason share their line.
            match lines.iter_mut().find(|line| line.ends_with(&format!(": {note}"))) {
                Some(line) => line.insert_str(line.len() - note.len() - 2, &format!(", {}", role.role)),
                None => lines.push(format!("{}: {note}", role.role)),
            }
        }
        let mut list = |label: &str, files: &[String]| {
            lines.extend(files.iter().take(MOST_FILES).map(|file| format!("  {label}: {file}")));
            if files.len() > MOST_FILES {
                lines.push(format!("  {label}: {} more", files.len() - MOST_FILES));
            }
        };
        list("read", &self.files);
        list("not there", &self.absent_files);
        lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
    }
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
            let server = self.base_url.as_ref().map(|base| match &self.server {
                Some(name) => format!("{name} at {base}"),
                None => base.clone(),
            });
            line("server", server.as_ref(), self.base_url_from.as_ref());
            line("token from", None, self.token_from.as_ref());
        } else {
            lines.push("  not an LM Studio model, nothing to warm".to_owned());
        }
        lines.extend(self.note.iter().map(|note| format!("  note: {note}")));
        lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
    }
}
