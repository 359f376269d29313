//! `moltbotctl service …`, and the same words under `gateway`.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::logs;
use crate::{
    client::now_ms,
    context::{Context, helped},
    output::{clean, duration},
    paths::Paths,
    running::Running,
    service::{Done, Exit, Host, Install, Kind, Scope, Service, State, owner::Owner},
};

/// How often it is looked whether a process came or went.
const LOOK: Duration = Duration::from_millis(100);
/// How long a gateway may take to end or to come back: more than its own
/// limits.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Install the service, enable and start it
    Install(InstallArgs),
    /// Stop the service and remove it; the state stays
    Uninstall(Which),
    /// Start the service
    Start(Which),
    /// Stop the service
    Stop(Which),
    /// Start the service anew
    Restart(RestartArgs),
    /// Show the service and who looks after the running gateway
    Status(Which),
    /// Show what the service manager logged
    Logs(ServiceLogsArgs),
    /// Start the service at every boot or login
    Enable(Which),
    /// Do not start the service at boot or login
    Disable(Which),
}

/// Whose service, and whether in earnest.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Which {
    /// The service of the system [default: whichever is there; else root's choice]
    #[arg(long, conflicts_with = "user")]
    pub system: bool,
    /// The service of this user [default: whichever is there; else a user's choice]
    #[arg(long)]
    pub user: bool,
    /// Print the files and commands and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How to install.
#[derive(Clone, Debug, Args)]
pub struct InstallArgs {
    /// Whose service.
    #[command(flatten)]
    pub which: Which,
    /// Replace a file that somebody else wrote, or one that is the same
    #[arg(long)]
    pub force: bool,
    /// Do not start it now
    #[arg(long)]
    pub no_start: bool,
    /// Let systemd hold the port, from boot on
    #[arg(long)]
    pub socket: bool,
    /// Where moltbotd is [default: beside this program]
    #[arg(long, value_name = "FILE")]
    pub daemon: Option<PathBuf>,
}

/// How to restart.
#[derive(Clone, Debug, Args)]
pub struct RestartArgs {
    /// Whose service.
    #[command(flatten)]
    pub which: Which,
    /// Conversation that is told when the new process serves; for a restart from inside a run
    /// [env: MOLTBOT_SESSION_KEY]
    #[arg(long, value_name = "KEY")]
    pub session_key: Option<String>,
    /// What it is told
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}

/// Which part of the log.
#[derive(Clone, Debug, Args)]
pub struct ServiceLogsArgs {
    /// Whose service.
    #[command(flatten)]
    pub which: Which,
    /// Keep showing what is added
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub lines: u32,
}

/// Runs a command.
///
/// # Errors
/// When it fails.
pub async fn run(cx: &Context, command: ServiceCommand) -> anyhow::Result<ExitCode> {
    match command {
        ServiceCommand::Status(which) => status(cx, which).await,
        ServiceCommand::Logs(args) => show_log(cx, args).await,
        ServiceCommand::Install(args) => {
            let mut host = Host::this(&cx.environment, args.which.dry_run)?;
            if let Some(daemon) = &args.daemon {
                host.daemon = std::path::absolute(daemon).context("--daemon")?;
            }
            let how = Install { force: args.force, no_start: args.no_start, socket: args.socket };
            let mut which = args.which;
            if chosen(which).is_none() {
                let scope = Found::look(cx, &host).await.scope_of_new(&host)?;
                (which.system, which.user) = (scope == Scope::System, scope == Scope::User);
            }
            act(cx, &host, "install", which, async |it| it.install(how).await).await
        }
        ServiceCommand::Uninstall(which) => {
            let host = Host::this(&cx.environment, which.dry_run)?;
            act(cx, &host, "uninstall", which, async |it| it.uninstall().await).await
        }
        ServiceCommand::Start(which) => {
            let host = Host::this(&cx.environment, which.dry_run)?;
            act(cx, &host, "start", which, async |it| it.start().await).await
        }
        ServiceCommand::Enable(which) => {
            let host = Host::this(&cx.environment, which.dry_run)?;
            act(cx, &host, "enable", which, async |it| it.enable(true).await).await
        }
        ServiceCommand::Disable(which) => {
            let host = Host::this(&cx.environment, which.dry_run)?;
            act(cx, &host, "disable", which, async |it| it.enable(false).await).await
        }
        ServiceCommand::Stop(which) => stop(cx, which).await,
        ServiceCommand::Restart(args) => restart(cx, args).await,
    }
}

/// What is known about the gateway of the profile before anything is done.
#[derive(Debug)]
pub(super) struct Found {
    /// Its process.
    pub(super) pid: Option<u32>,
    /// Who looks after that.
    pub(super) owner: Option<Owner>,
    /// The service in either manager, the one that is meant first.
    pub(super) states: Vec<State>,
}

impl Found {
    /// Looks at the process and asks both managers.
    pub(super) async fn look(cx: &Context, host: &Host) -> Self {
        let pid = Running::holder(&cx.paths);
        let mut states = Vec::new();
        for scope in [Scope::User, Scope::System] {
            let paths = places(cx, host, scope);
            if let Ok(service) = Service::of(host, &paths, scope) {
                states.push(service.state().await);
            }
        }
        // A gateway that this user cannot connect to is known to its manager.
        let pid = pid.or_else(|| states.iter().find_map(|state| state.pid));
        let owner = pid.map(|pid| owner(host, pid, &states));
        Self { pid, owner, states }
    }

    /// Returns the manager that is meant where nobody said which.
    fn scope(&self, host: &Host) -> anyhow::Result<Scope> {
        match &self.owner {
            Some(Owner::System { unit }) if self.is_ours(unit) => return Ok(Scope::System),
            Some(Owner::User { uid, unit }) if *uid == host.uid && self.is_ours(unit) => {
                return Ok(Scope::User);
            }
            _ => {}
        }
        let of = |fits: fn(&State) -> bool| -> Vec<Scope> {
            self.states.iter().filter(|state| fits(state)).filter_map(|state| state.scope).collect()
        };
        for fits in
            [(|it| it.running) as fn(&State) -> bool, |it| it.enabled, State::is_of_this_host]
        {
            match of(fits)[..] {
                [] => {}
                [scope] => return Ok(scope),
                _ => {
                    return Err(helped(
                        "the service is installed for the system and for the user",
                        "say which with --system or --user; only one of them can have the port",
                    ));
                }
            }
        }
        // Those of a package are there for both: nobody has chosen yet.
        Ok(if host.uid == 0 { Scope::System } else { Scope::User })
    }

    /// Returns the manager that gets a service where nobody said which.
    fn scope_of_new(&self, host: &Host) -> anyhow::Result<Scope> {
        if host.uid == 0 && host.kind == Kind::Systemd {
            return Ok(Scope::System);
        }
        let system = self.state(Scope::System).filter(|state| state.is_wanted());
        match system {
            Some(system) if host.kind == Kind::Systemd => Err(helped(
                format!("this host's gateway is the system service {}", system.unit),
                "to manage that: sudo moltbotctl service …; to install one of your own, with a \
                 gateway.port of its own: moltbotctl service install --user",
            )),
            _ => self.scope(host),
        }
    }

    /// Returns whether a unit is the one this program would write.
    fn is_ours(&self, unit: &str) -> bool {
        self.states.iter().any(|state| state.unit == unit)
    }

    /// Returns the command that tells the manager of a unit of another name.
    fn of_another(&self, word: &str) -> Option<String> {
        match self.owner.as_ref()? {
            Owner::System { unit } if !self.is_ours(unit) => {
                Some(format!("sudo systemctl {word} {unit}"))
            }
            Owner::User { unit, .. } if !self.is_ours(unit) => {
                Some(format!("systemctl --user {word} {unit}"))
            }
            _ => None,
        }
    }

    /// Returns the service that is meant where nobody said which.
    pub(super) fn meant(&self, host: &Host) -> Option<&State> {
        self.state(self.scope(host).unwrap_or(Scope::User))
    }

    fn state(&self, scope: Scope) -> Option<&State> {
        self.states.iter().find(|state| state.scope == Some(scope))
    }
}

fn owner(host: &Host, pid: u32, states: &[State]) -> Owner {
    if host.kind != Kind::Launchd {
        return Owner::of_pid(&host.root, pid);
    }
    match states.iter().find(|state| state.pid == Some(pid)) {
        Some(state) => Owner::Launchd { label: state.unit.clone() },
        None => Owner::Foreground,
    }
}

/// Where the files of a service are: a unit of the system has its own places.
pub(super) fn places(cx: &Context, host: &Host, scope: Scope) -> Paths {
    match (host.kind, scope) {
        (Kind::Systemd, Scope::System) => Paths::of_system_unit(cx.paths.profile.as_deref()),
        _ => cx.own.clone(),
    }
}

fn chosen(which: Which) -> Option<Scope> {
    match (which.system, which.user) {
        (true, _) => Some(Scope::System),
        (_, true) => Some(Scope::User),
        _ => None,
    }
}

async fn scope(cx: &Context, host: &Host, which: Which) -> anyhow::Result<Scope> {
    match chosen(which) {
        Some(scope) => Ok(scope),
        None => Found::look(cx, host).await.scope(host),
    }
}

async fn act(
    cx: &Context,
    host: &Host,
    action: &str,
    which: Which,
    doing: impl AsyncFnOnce(&Service<'_>) -> anyhow::Result<Done>,
) -> anyhow::Result<ExitCode> {
    let scope = scope(cx, host, which).await?;
    let paths = places(cx, host, scope);
    let service = Service::of(host, &paths, scope)?;
    let mut done = doing(&service).await?;
    let state = service.state().await;
    if matches!(action, "install" | "start" | "enable") {
        warn_of_the_other(cx, host, scope, &mut done).await;
    }
    tell(cx, host, action, &done, Some(&state));
    Ok(ExitCode::SUCCESS)
}

/// Two services of one profile would fight for the port after the next boot.
async fn warn_of_the_other(cx: &Context, host: &Host, scope: Scope, done: &mut Done) {
    let other = if scope == Scope::User { Scope::System } else { Scope::User };
    let paths = places(cx, host, other);
    let Ok(service) = Service::of(host, &paths, other) else { return };
    let state = service.state().await;
    if state.running || state.enabled {
        let flags = profile_flag(cx);
        done.warnings.push(format!("{} of the {} is there too", state.unit, other.name()));
        // That of the system is another user's, who wants it.
        done.hints.push(if host.uid != 0 && other == Scope::System {
            "each needs a gateway.port of its own".to_owned()
        } else {
            format!(
                "only one of them can have the port: moltbotctl service uninstall --{}{flags}",
                other.name()
            )
        });
    }
}

fn profile_flag(cx: &Context) -> String {
    cx.paths.profile.as_ref().map_or_else(String::new, |name| format!(" --profile {name}"))
}

fn tell(cx: &Context, host: &Host, action: &str, done: &Done, state: Option<&State>) {
    let out = cx.output;
    if out.json {
        out.value(&json!({
            "ok": true,
            "action": action,
            "result": done.result,
            "dryRun": host.dry_run,
            "steps": host.taken().iter().map(|step| step.report()).collect::<Vec<_>>(),
            "hints": done.hints,
            "warnings": done.warnings,
            "service": state.map(State::report),
        }));
        return;
    }
    if host.dry_run {
        for step in host.taken() {
            out.text(&step.to_string());
        }
    } else {
        let unit = state.map_or("the gateway", |state| &*state.unit);
        let pid = state.and_then(|state| state.pid);
        let pid = pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
        out.line(format!("{unit}: {}{pid}", done.result));
    }
    for warning in &done.warnings {
        out.remark(format!("warning: {}", clean(warning)));
    }
    for hint in &done.hints {
        out.remark(format!("help: {}", clean(hint)));
    }
}

async fn stop(cx: &Context, which: Which) -> anyhow::Result<ExitCode> {
    let host = Host::this(&cx.environment, which.dry_run)?;
    let found = Found::look(cx, &host).await;
    if let (None, Some(command)) = (chosen(which), found.of_another("stop")) {
        return Err(helped(
            format!("the gateway belongs to a unit of another name: {}", gateway_line(&found)),
            format!("stop that: {command}"),
        ));
    }
    let by_hand = matches!(found.owner, Some(Owner::Foreground | Owner::Container));
    let scope = match chosen(which) {
        Some(scope) => scope,
        None if by_hand => return end(cx, &host).await,
        None => found.scope(&host)?,
    };
    // A clean end is one that no manager follows with a start.
    let unreachable = found.state(scope).is_none_or(|state| state.unreachable.is_some());
    if unreachable && chosen(which).is_none() && found.pid.is_some() {
        return end(cx, &host).await;
    }
    act(cx, &host, "stop", which, async |it| it.stop().await).await
}

/// Ends the gateway without a manager, by a signal to the process that holds
/// its lock.
async fn end(cx: &Context, host: &Host) -> anyhow::Result<ExitCode> {
    let Some(pid) = Running::holder(&cx.paths) else {
        return Err(helped(
            format!("nobody holds the lock in {}", cx.paths.state_dir.display()),
            "see what is known: moltbotctl gateway status --deep",
        ));
    };
    if !host.dry_run {
        let raw = i32::try_from(pid).context("a process id")?;
        kill(Pid::from_raw(raw), Signal::SIGTERM)
            .with_context(|| format!("cannot signal {pid}"))?;
        wait_for(|| async { Running::holder(&cx.paths) != Some(pid) })
            .await
            .with_context(|| format!("process {pid} was told to stop and still runs"))?;
    }
    let mut done = Done::new("stopped");
    done.hints.push(format!("ended process {pid}, which no service manager looks after"));
    tell(cx, host, "stop", &done, None);
    Ok(ExitCode::SUCCESS)
}

async fn wait_for<F: Future<Output = bool>>(mut seen: impl FnMut() -> F) -> anyhow::Result<()> {
    let waiting = async {
        while !seen().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .with_context(|| format!("not within {} s", PATIENCE.as_secs()))
}

async fn restart(cx: &Context, args: RestartArgs) -> anyhow::Result<ExitCode> {
    let which = args.which;
    let host = Host::this(&cx.environment, which.dry_run)?;
    let found = Found::look(cx, &host).await;
    if is_inside(&host, &found) {
        return hand_over(cx, &host, &args, true).await;
    }
    let explicit = chosen(which).is_some();
    if !explicit && found.of_another("restart").is_some() {
        return hand_over(cx, &host, &args, false).await;
    }
    let scope = chosen(which).map_or_else(|| found.scope(&host), Ok)?;
    let state = found.state(scope);
    let unreachable = state.is_none_or(|state| state.unreachable.is_some() || !state.installed);
    if !explicit && found.pid.is_some() && unreachable {
        return hand_over(cx, &host, &args, false).await;
    }
    act(cx, &host, "restart", which, async |it| it.restart().await).await
}

/// Returns whether this program would be ended together with the gateway.
fn is_inside(host: &Host, found: &Found) -> bool {
    let own = Owner::of_pid(&host.root, std::process::id());
    own.is_unit() && found.owner.as_ref() == Some(&own)
}

/// Asks the gateway itself: from inside one of its runs, or where its manager
/// cannot be reached.
async fn hand_over(
    cx: &Context,
    host: &Host,
    args: &RestartArgs,
    inside: bool,
) -> anyhow::Result<ExitCode> {
    let session_key = args.session_key.clone();
    let session_key = session_key.or_else(|| cx.environment.own("SESSION_KEY").map(Into::into));
    let params = json!({ "sessionKey": session_key, "note": args.note });
    let params: serde_json::Map<_, _> = params
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, it)| !it.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut done = Done::new("restart-scheduled");
    if host.dry_run {
        done.hints.push(format!("would call gateway.restart {}", Value::Object(params)));
        tell(cx, host, "restart", &done, None);
        return Ok(ExitCode::SUCCESS);
    }
    let before = Running::holder(&cx.paths);
    cx.call("gateway.restart", Value::Object(params)).await?;
    if inside {
        done.hints.push("the gateway restarts once this answer is out; it reports back".into());
    } else {
        wait_for(|| async {
            let now = Running::holder(&cx.paths);
            // A new process that holds the lock may not serve yet.
            now.is_some() && now != before && cx.call("health", json!({})).await.is_ok()
        })
        .await
        .context("the gateway ended, but does not come back")?;
        done.result = "restarted";
    }
    tell(cx, host, "restart", &done, None);
    Ok(ExitCode::SUCCESS)
}

async fn status(cx: &Context, which: Which) -> anyhow::Result<ExitCode> {
    let host = Host::this(&cx.environment, true)?;
    let found = Found::look(cx, &host).await;
    let scope = chosen(which).map_or_else(|| found.scope(&host), Ok).unwrap_or(Scope::User);
    let state = found.state(scope);
    let other = found.states.iter().find(|it| it.scope != Some(scope) && it.installed);
    let report = json!({
        "profile": cx.paths.profile_name(),
        "service": state.map(State::report),
        "otherService": other.map(State::report),
        "pid": found.pid,
        "owner": found.owner.as_ref().map(Owner::report),
    });
    let runs = found.pid.is_some() || state.is_some_and(|state| state.running);
    if cx.output.json {
        cx.output.value(&report);
    } else {
        let mut pairs = vec![("Profile", cx.paths.profile_name().to_owned())];
        pairs.extend(lines(cx, state));
        if let Some(other) = other {
            pairs.push(("Also there", format!("{} ({})", other.unit, other.active)));
        }
        pairs.push(("Gateway", gateway_line(&found)));
        cx.output.pairs(&pairs);
    }
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn gateway_line(found: &Found) -> String {
    match (found.pid, &found.owner) {
        (Some(pid), Some(owner)) => format!("pid {pid}, looked after by {}", owner.text()),
        (Some(pid), None) => format!("pid {pid}"),
        (None, _) => "does not run".into(),
    }
}

/// Returns what the manager says, for people.
pub(super) fn lines(cx: &Context, state: Option<&State>) -> Vec<(&'static str, String)> {
    let out = cx.output;
    let Some(state) = state else {
        return vec![("Service", "this host has no service manager".to_owned())];
    };
    let scope = state.scope.map_or("", Scope::name);
    let name = format!("{} of {} ({scope})", state.unit, state.manager);
    if let Some(reason) = &state.unreachable {
        let text = format!("{name}: {}", out.verdict(false, &clean(reason)));
        return vec![("Service", text)];
    }
    if !state.installed {
        return vec![("Service", format!("{name}: not installed"))];
    }
    let since = state.since_ms.map_or_else(String::new, |since| {
        format!(" for {}", duration(now_ms().saturating_sub(since)))
    });
    let word = format!("{} ({})", state.active, state.sub_state);
    let word = if state.sub_state.is_empty() { state.active.clone() } else { word };
    let mut lines = vec![
        ("Service", format!("{name}: {}{since}", out.verdict(state.running, &word))),
        ("Enabled", state.enabled_text.clone()),
    ];
    if let Some(socket) = &state.socket {
        lines.push(("Socket", socket.clone()));
    }
    if let Some(restarts) = state.restarts.filter(|restarts| *restarts > 0) {
        lines.push(("Restarts", restarts.to_string()));
    }
    let trouble = |exit: &&Exit| exit.status != 0 || exit.reason != "exit-code";
    if let Some(exit) = state.last_exit.as_ref().filter(trouble) {
        lines.push(("Last exit", exit.text()));
    }
    if let Some(text) = &state.status_text {
        lines.push(("Says", clean(text)));
    }
    if state.start_limit_hit {
        let text = "systemd gave up after too many starts; `service start` begins anew";
        lines.push(("Start limit", out.verdict(false, text)));
    }
    if state.needs_reload {
        lines.push(("Files", "changed since systemd read them: systemctl daemon-reload".into()));
    }
    if state.lingers == Some(false) {
        lines.push(("Logout", "ends the service; loginctl enable-linger keeps it".into()));
    }
    lines
}

async fn show_log(cx: &Context, args: ServiceLogsArgs) -> anyhow::Result<ExitCode> {
    let host = Host::this(&cx.environment, args.which.dry_run)?;
    let scope = scope(cx, &host, args.which).await?;
    let paths = places(cx, &host, scope);
    let command = match Service::of(&host, &paths, scope) {
        Ok(Service::Systemd(unit)) if host.journalctl.exists() => {
            unit.log_command(args.lines, args.follow)
        }
        Ok(Service::Launchd(job)) => {
            let lines = format!("-n{}", args.lines);
            let mut command = vec!["/usr/bin/tail".to_owned(), lines];
            if args.follow {
                command.push("-F".into());
            }
            command.push(job.log_file().display().to_string());
            command
        }
        // Without a manager the gateway's own file is all there is.
        _ => {
            let limit = args.lines.min(5000);
            logs::run(cx, logs::LogsArgs { follow: args.follow, limit, interval: 1000 }).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    if host.dry_run {
        cx.output.line(format!("run {}", crate::service::program::shown(&command)));
        return Ok(ExitCode::SUCCESS);
    }
    let status = tokio::process::Command::new(&command[0])
        .args(&command[1..])
        .envs(host.runtime.iter().map(|path| ("XDG_RUNTIME_DIR", path)))
        .stdin(Stdio::null())
        .status()
        .await
        .with_context(|| format!("cannot run {}", command[0]))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
