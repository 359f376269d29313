//! `moltbotctl doctor`: what `moltbotd state check` finds in the files, and what
//! only shows from outside: the service and the running gateway.

use std::{path::Path, process::ExitCode, time::Duration};

use nu_ansi_term::Color;
use serde_json::{Value, json};

use super::{daemon, service};
use crate::{
    context::Context,
    host_gateway::{Meant, SystemGateway},
    output::{cell, clean},
    running::Running,
    service::{Host, Kind, Scope, Service, State, advice},
};

/// How often the gateway is looked at after something was fixed: it notices a
/// file within a second, and otherwise every ten.
const LOOKS: u32 = 120;
const LOOK: Duration = Duration::from_millis(100);

/// Reports what was found; the exit code is 0 when nothing has to be done.
///
/// # Errors
/// When the daemon's program cannot be started.
pub async fn run(cx: &Context, fix: bool) -> anyhow::Result<ExitCode> {
    if let Meant::Foreign(system) = &cx.meant {
        return Ok(of_another_user(cx, system));
    }
    let cx = cx.at_its_files()?;
    let mut report = files(cx, fix);
    let mut found = Found(Vec::new());
    services(cx, &mut found).await;
    let fixed = report["findings"].as_array().into_iter().flatten();
    let is_fixed = fixed.map(|it| &it["fixed"]).any(|fixed| *fixed == true);
    gateway(cx, is_fixed, &mut found).await;
    if let Some(list) = report["findings"].as_array_mut() {
        list.extend(found.0);
    }
    let list = report["findings"].as_array().cloned().unwrap_or_default();
    let ok = list.iter().all(|it| it["severity"] == "note" || it["fixed"] == true);
    report["ok"] = ok.into();
    if cx.output.json {
        cx.output.value(&report);
    } else {
        show(cx, &list);
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says whose gateway it is: everything else would be a guess about it, and
/// this user has none that could be looked at.
fn of_another_user(cx: &Context, system: &SystemGateway) -> ExitCode {
    let mut found = Found(Vec::new());
    let what = format!("this host's gateway belongs to the user {}; you have none", system.user);
    found.add("gateway", "note", system.text(), what, Some("sudo moltbotctl doctor".into()));
    if cx.output.json {
        cx.output.value(&json!({ "ok": true, "findings": found.0 }));
    } else {
        show(cx, &found.0);
    }
    ExitCode::SUCCESS
}

/// Asks the daemon's program.
fn files(cx: &Context, fix: bool) -> Value {
    let mut arguments = vec!["check".into()];
    arguments.extend(fix.then(|| "--fix".into()));
    let failed = |what: String| {
        let mut found = Found(Vec::new());
        found.add("program", "error", "moltbotd", what, Some("moltbotctl where".into()));
        json!({ "findings": found.0 })
    };
    match daemon::ask(cx, arguments) {
        Ok((_, report, _)) if report["findings"].is_array() => report,
        Ok((code, _, complaint)) => {
            let code = code.map_or_else(|| "a signal".to_owned(), |code| format!("code {code}"));
            failed(format!("it did not check the state and ended with {code}: {complaint}"))
        }
        Err(error) => failed(format!("{error:#}")),
    }
}

struct Found(Vec<Value>);

impl Found {
    fn add(
        &mut self,
        check: &str,
        severity: &str,
        place: impl ToString,
        what: impl ToString,
        command: Option<String>,
    ) {
        let mut finding = json!({
            "check": check, "severity": severity, "what": what.to_string(),
            "place": place.to_string(), "fixed": false,
        });
        if let Some(command) = command {
            finding["command"] = command.into();
        }
        self.0.push(finding);
    }
}

/// Looks at the services of this profile, where there are any.
async fn services(cx: &Context, found: &mut Found) {
    // Nothing is changed: this only reads, and a change would be written down.
    let Ok(host) = Host::this(&cx.environment, true) else { return };
    if host.kind == Kind::None {
        return;
    }
    let is_systemd = host.kind == Kind::Systemd;
    let of_the_system = matches!(cx.meant, Meant::System(_));
    let mut wanted = 0;
    for scope in [Scope::System, Scope::User] {
        let paths = service::places(cx, &host, scope);
        let Ok(service) = Service::of(&host, &paths, scope) else { continue };
        let state = service.state().await;
        if let (Service::Systemd(unit), Some(reason)) = (&service, &state.unreachable)
            && unit.is_wanted()
        {
            wanted += 1;
            unreachable(&host, &service, &state, reason, found);
            continue;
        }
        // The service of the system is another gateway, whose user is another, too.
        if !state.installed || (scope == Scope::System && is_systemd && !of_the_system) {
            continue;
        }
        // Unit files of a user that a package brought are no service yet.
        if scope == Scope::User && !state.is_wanted() && !state.is_of_this_host() {
            continue;
        }
        wanted += usize::from(state.is_wanted());
        judge(cx, &host, &service, &state, scope, found);
    }
    if wanted > 1 {
        let what = "a service of the system and one of root are in use for the same profile, and \
                    only one can have the port";
        let command = Some(format!("moltbotctl service uninstall --user{}", profile(cx)));
        found.add("service", "warning", "moltbotd", what, command);
    }
}

/// A user's manager that does not run cannot be asked, and starts nothing.
fn unreachable(host: &Host, service: &Service<'_>, state: &State, reason: &str, found: &mut Found) {
    if state.lingers == Some(false) {
        let what = format!("it runs only while {} is logged in", host.user);
        return found.add("linger", "warning", service.name(), what, Some(linger(host)));
    }
    found.add("service", "warning", service.name(), format!("its manager: {reason}"), None);
}

fn linger(host: &Host) -> String {
    format!("loginctl enable-linger {}", host.user)
}

fn judge(
    cx: &Context,
    host: &Host,
    service: &Service<'_>,
    state: &State,
    scope: Scope,
    found: &mut Found,
) {
    let (unit, flag) = (service.name(), format!("--{}{}", scope.name(), profile(cx)));
    if let Service::Systemd(unit) = service {
        for (file, command) in unit.outdated() {
            let what = "it is not the unit file of this version";
            found.add("unit", "warning", file.display(), what, Some(command));
        }
    }
    if let Some(program) = state.command.first().filter(|program| !Path::new(program).exists()) {
        let what = format!("it starts {program}, which is not there");
        let command = Some(format!("moltbotctl service install --no-start {flag}"));
        found.add("unit", "error", unit, what, command);
    }
    if state.needs_reload {
        let user = if scope == Scope::User { " --user" } else { "" };
        let command = Some(format!("systemctl{user} daemon-reload"));
        found.add("unit", "warning", unit, "files changed since systemd read them", command);
    }
    if state.start_limit_hit {
        let what = "it failed too often and is not started any more";
        let command = Some(format!("moltbotctl service start {flag}"));
        found.add("service", "error", unit, what, command);
    }
    if state.lingers == Some(false) && state.is_wanted() {
        let what = format!("it ends when {} logs out", host.user);
        found.add("linger", "warning", unit, what, Some(linger(host)));
    }
    if !state.enabled {
        let command = Some(format!("moltbotctl service enable {flag}"));
        found.add("service", "note", unit, "it does not start by itself", command);
    }
}

fn profile(cx: &Context) -> String {
    cx.paths.profile.as_ref().map_or_else(String::new, |name| format!(" --profile {name}"))
}

/// Asks for the health, again while the gateway takes up what was just fixed.
async fn health(cx: &Context, is_fixed: bool) -> anyhow::Result<Value> {
    let mut looks = if is_fixed { LOOKS } else { 1 };
    loop {
        let health = cx.call("health", json!({})).await;
        looks -= 1;
        let is_well =
            health.as_ref().is_ok_and(|it| it["degraded"].as_array().is_none_or(Vec::is_empty));
        if is_well || looks == 0 {
            return health;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks the running gateway how it is.
async fn gateway(cx: &Context, is_fixed: bool, found: &mut Found) {
    let Some(running) = Running::find(&cx.paths) else {
        let command = Some(cx.how_to_start());
        return found.add("gateway", "note", "gateway", "it does not run", command);
    };
    let place = format!("process {}", running.pid);
    let own = env!("CARGO_PKG_VERSION");
    if running.version != own {
        let what = format!("it runs version {}, installed is {own}", running.version);
        let profile = cx.paths.profile.as_deref();
        let command = Some(advice::restart(Kind::here(), profile, running.pid));
        found.add("gateway", "warning", &place, what, command);
    }
    match health(cx, is_fixed).await {
        Ok(health) => {
            for reason in health["degraded"].as_array().into_iter().flatten() {
                let reason = reason.as_str().unwrap_or_default();
                // The command that helps stands at the end, where there is one.
                let (reason, command) =
                    reason.rsplit_once("; run: ").unwrap_or((reason, "moltbotctl logs"));
                let what = format!("degraded: {reason}");
                found.add("gateway", "error", &place, what, Some(command.into()));
            }
        }
        Err(error) => {
            let what = format!("it does not answer: {error:#}");
            found.add("gateway", "error", &place, what, Some("moltbotctl gateway probe".into()));
        }
    }
}

fn show(cx: &Context, list: &[Value]) {
    let out = cx.output;
    for finding in list {
        let word = match (finding["fixed"] == true, finding["severity"].as_str()) {
            (true, _) => out.verdict(true, "fixed  "),
            (_, Some("error")) => out.verdict(false, "error  "),
            (_, Some("warning")) => out.colour(Color::Yellow, "warning"),
            _ => out.quiet("note   "),
        };
        let text = |pointer| clean(&cell(finding, pointer));
        out.line(format!("{word}  {}: {}: {}", text("/check"), text("/place"), text("/what")));
        if let (Some(command), false) = (finding["command"].as_str(), finding["fixed"] == true) {
            out.line(format!("         {}", out.quiet(&format!("→ {}", clean(command)))));
        }
    }
    let open = list.iter().filter(|it| it["severity"] != "note" && it["fixed"] != true).count();
    match open {
        0 => out.line(out.verdict(true, "nothing has to be done")),
        open => out.line(format!("{open} to be put right")),
    }
}
