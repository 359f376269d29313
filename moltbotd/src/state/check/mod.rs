//! Looks for what keeps a gateway from working, or will: `moltbotd state
//! check`. Nothing is changed unless asked for, and then only what is safe:
//! modes are narrowed, folders are made. Nothing is deleted or rewritten.

mod database;
mod files;
mod host;

use std::path::Path;

pub(super) use self::files::shown;

use serde::Serialize;

use super::{Place, report::Report};
use crate::{
    boot::Failure,
    config::{AuthSecrets, GivenToken, Loaded},
    private,
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// Good to know; nothing has to be done.
    Note,
    /// It works, but not well or not for long.
    Warning,
    /// The gateway does not start or loses something.
    Error,
}

/// Something that was found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    /// Which look found it.
    check: &'static str,
    severity: Severity,
    /// What is wrong.
    what: String,
    /// Which file, port or key.
    place: String,
    /// The command that helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    /// Whether it was put right just now.
    fixed: bool,
}

/// Everything that was found.
#[derive(Debug, Default)]
struct Findings {
    fix: bool,
    list: Vec<Finding>,
}

impl Findings {
    fn add(
        &mut self,
        check: &'static str,
        severity: Severity,
        place: impl ToString,
        what: impl ToString,
        command: Option<String>,
    ) {
        let (place, what) = (place.to_string(), what.to_string());
        self.list.push(Finding { check, severity, what, place, command, fixed: false });
    }

    /// Adds something that `repair` can put right without a risk.
    fn repairable(
        &mut self,
        check: &'static str,
        severity: Severity,
        place: &Path,
        what: impl ToString,
        command: String,
        repair: impl FnOnce() -> Result<(), private::Error>,
    ) {
        self.add(check, severity, place.display(), what, Some(command));
        if !self.fix {
            return;
        }
        let Some(finding) = self.list.last_mut() else { return };
        match repair() {
            Ok(()) => finding.fixed = true,
            Err(error) => finding.what = format!("{}; it stays so: {error}", finding.what),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked<'a> {
    /// Whether nothing has to be done.
    ok: bool,
    profile: &'a str,
    state_dir: &'a Path,
    config_file: &'a Path,
    port: u16,
    /// The process that holds the locks of the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<u32>,
    findings: &'a [Finding],
}

pub(super) fn run(place: &Place, fix: bool) -> Result<Report, Failure> {
    let paths = &place.paths;
    let mut findings = Findings { fix, list: Vec::new() };
    files::configuration_access(paths, &mut findings);
    let loaded = place.source(&paths.config_file).inspect();
    files::look(paths, &loaded.files, &mut findings);
    configuration(place, &loaded, &mut findings);
    let holder = host::holder(paths, &mut findings);
    let port = port(place, &loaded);
    host::port(port, holder.as_ref(), &mut findings);
    host::disk(&paths.state_dir, &mut findings);
    host::clock(&paths.database(), &mut findings);
    database::look(paths, &mut findings);

    let ok = !findings.list.iter().any(|it| it.severity != Severity::Note && !it.fixed);
    let checked = Checked {
        ok,
        profile: paths.profile_name(),
        state_dir: &paths.state_dir,
        config_file: &paths.config_file,
        port,
        holder: holder.map(|holder| holder.pid),
        findings: &findings.list,
    };
    let mut lines: Vec<_> = findings.list.iter().flat_map(lines).collect();
    if lines.is_empty() {
        lines.push("nothing found".into());
    }
    Ok(Report::new(&checked, lines).with_exit_code(u8::from(!ok)))
}

fn port(place: &Place, loaded: &Loaded) -> u16 {
    let named = place.environment.first(&["MOLTBOT_GATEWAY_PORT", "CLAWDBOT_GATEWAY_PORT"]);
    let named = named.and_then(|(_, text)| text.trim().parse().ok());
    named.unwrap_or(loaded.config.gateway.port)
}

fn configuration(place: &Place, loaded: &Loaded, findings: &mut Findings) {
    // That has been found, with what helps.
    if loaded.unreadable {
        return;
    }
    let file = loaded.file.display().to_string();
    for (issues, severity) in
        [(&loaded.issues, Severity::Error), (&loaded.warnings, Severity::Warning)]
    {
        for issue in issues {
            let at = issue.place.clone().unwrap_or_else(|| file.clone());
            let what = match &*issue.path {
                "" => issue.message.clone(),
                path => format!("{path}: {}", issue.message),
            };
            let command = Some(format!("moltbotctl config check {file}"));
            findings.add("configuration", severity, at, what, command);
        }
    }
    // Looking for a token makes one where there is none.
    let has_token =
        loaded.config.gateway.auth.token.is_some() || place.paths.generated_token().exists();
    if !loaded.is_valid() || !has_token {
        return;
    }
    let config = &loaded.config;
    let secrets =
        AuthSecrets::resolve(&GivenToken::default(), config, &config.variables, &place.paths);
    let checked = secrets.and_then(|secrets| secrets.check(config.gateway.bind, config));
    if let Err(error) = checked {
        findings.add("configuration", Severity::Error, file, error, None);
    }
}

fn lines(finding: &Finding) -> Vec<String> {
    let Finding { check, severity, what, place, command, fixed } = finding;
    let word = match (severity, fixed) {
        (_, true) => "fixed  ",
        (Severity::Note, _) => "note   ",
        (Severity::Warning, _) => "warning",
        (Severity::Error, _) => "error  ",
    };
    let mut lines = vec![format!("{word}  {check}: {place}: {what}")];
    if let (Some(command), false) = (command, fixed) {
        lines.push(format!("         run: {command}"));
    }
    lines
}
