//! `moltbotctl profile …`: several gateways side by side, each with a name.
//!
//! A profile is its folders: there is no list of profiles that could disagree
//! with them.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use directories::BaseDirs;
use moltbot_settings::account::ActingAs;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::service::{self, InstallArgs, ServiceCommand, Which};
use crate::{
    config::LocalConfig,
    context::{Context, helped},
    environment::Environment,
    files,
    host_gateway::{self, SystemGateway, has_template, names_in},
    identity::{fingerprint, hex},
    output::{cell, duration},
    paths::{Choices, Paths},
    running::Running,
    service::{Host, Kind, Scope, Service, advice},
};

const DEFAULT_PORT: u16 = 18789;
/// What the configuration of a deleted profile is called in its state folder.
const DELETED_CONFIG: &str = "moltbot.json.deleted";
/// Ports of a profile: the gateway's, and room for what stands beside it.
const BLOCK: u16 = 20;

/// Profiles.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Make a profile: folders, token, and a port of its own
    Create(CreateArgs),
    /// List the profiles of this user; as root, those of the system too
    List,
    /// Show a profile
    Show {
        /// Its name
        name: String,
    },
    /// Take a profile out of use; its state stays unless it is purged
    Delete {
        /// Its name
        name: String,
        /// Delete its state too: conversations, keys, paired devices, configuration
        #[arg(long)]
        purge: bool,
        /// Do not only print what --purge would delete
        #[arg(long, requires = "purge")]
        yes: bool,
    },
}

/// How to make a profile.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name: lower-case letters, digits and -
    name: String,
    /// Its port; the first of a free block of 20 when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Install and start its service
    #[arg(long)]
    start: bool,
}

/// Runs a command.
///
/// # Errors
/// When it fails.
pub async fn run(cx: &Context, command: ProfileCommand) -> anyhow::Result<ExitCode> {
    for name in ["STATE_DIR", "CONFIG_PATH"] {
        if let Some((variable, _)) = cx.environment.named(name) {
            cx.output.remark(format!(
                "{variable} is set here: it leads every command to one place, whatever the profile"
            ));
        }
    }
    match command {
        ProfileCommand::Create(args) => return create(cx, args).await,
        ProfileCommand::List => list(cx)?,
        ProfileCommand::Show { name } => show(cx, &name)?,
        ProfileCommand::Delete { name, purge, yes } => delete(cx, &name, purge, yes).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A profile of this user or of the system, by its folders.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) paths: Paths,
    pub(super) config: LocalConfig,
    scope: Scope,
}

impl Profile {
    /// Returns a profile, whether it is there or not. Variables that name
    /// folders are not followed: they would lead all profiles to one.
    fn named(name: &str) -> anyhow::Result<Self> {
        let choices = Choices { profile: Some(name), ..Choices::default() };
        let environment = Environment::default();
        let mut paths = Paths::resolve(&choices, &environment)?;
        // What a system unit of the same name does is its own affair.
        paths.system_runtime_dir = None;
        let config = LocalConfig::read(&paths.config_file, &environment);
        Ok(Self { paths, config, scope: Scope::User })
    }

    /// Returns a profile of the system, whether it is there or not.
    fn of_system(name: &str) -> anyhow::Result<Self> {
        let name = Self::named(name)?.paths.profile;
        let paths = Paths::of_system_unit(name.as_deref());
        let config = LocalConfig::read(&paths.config_file, &Environment::default());
        Ok(Self { paths, config, scope: Scope::System })
    }

    /// Returns the profile that a name means: root looks after those of the
    /// system, and after its own only where the system has none of that name.
    fn meant(cx: &Context, name: &str) -> anyhow::Result<Self> {
        let own = Self::named(name)?;
        if !is_of_system(cx) {
            return Ok(own);
        }
        let system = Self::of_system(name)?;
        Ok(if own.exists() && !system.exists() { own } else { system })
    }

    /// Returns every profile that this user looks after.
    pub(super) fn all(cx: &Context) -> anyhow::Result<Vec<Self>> {
        if !is_of_system(cx) {
            return Self::all_own();
        }
        let mut names: BTreeSet<String> =
            ["/etc", "/var/lib"].into_iter().flat_map(|it| names_in(Path::new(it))).collect();
        names.remove("default");
        let named = names.iter().filter_map(|name| Self::of_system(name).ok());
        let own = Self::all_own()?.into_iter().filter(Self::exists);
        Ok([Self::of_system("default")?].into_iter().chain(named).chain(own).collect())
    }

    fn all_own() -> anyhow::Result<Vec<Self>> {
        let dirs = BaseDirs::new().context("no home folder is known for this user; set HOME")?;
        let state = dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir());
        let mut names = BTreeSet::new();
        for parent in [dirs.config_dir(), state] {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(name) = name.to_str().and_then(|it| it.strip_prefix("moltbot-")) else {
                    continue;
                };
                names.insert(name.to_owned());
            }
        }
        names.remove("default");
        let named = names.iter().filter_map(|name| Self::named(name).ok());
        Ok([Self::named("default")?].into_iter().chain(named).collect())
    }

    /// What a client keeps under a name that was mistyped is no profile.
    fn exists(&self) -> bool {
        self.paths.has_gateway() || self.paths.state_dir.join(DELETED_CONFIG).exists()
    }

    fn port(&self) -> Option<u16> {
        let configured = self.config.at("gateway.port").and_then(Value::as_u64);
        let configured = configured.and_then(|port| u16::try_from(port).ok());
        let default = self.paths.profile.is_none().then_some(DEFAULT_PORT);
        configured.or(default)
    }

    fn unit(&self) -> String {
        match &self.paths.profile {
            None => "moltbotd.service".into(),
            Some(name) => format!("moltbotd@{name}.service"),
        }
    }

    fn report(&self) -> Value {
        let running = Running::find(&self.paths);
        let token = fs::read_to_string(self.paths.generated_token()).ok();
        json!({
            "profile": self.paths.profile_name(),
            "port": running.as_ref().and_then(Running::port).or_else(|| self.port()),
            "running": running.is_some(),
            "pid": running.as_ref().map(|it| it.pid),
            "startedAtMs": running.as_ref().map(|it| it.started_at_ms),
            "version": running.as_ref().map(|it| it.version.clone()),
            "config": self.paths.config_file,
            "configExists": self.config.exists,
            "configProblem": self.config.problem,
            "stateDir": self.paths.state_dir,
            "controlSocket": self.paths.control_socket(),
            "tokenFile": self.paths.generated_token(),
            "tokenSha256": token.map(|token| fingerprint(token.trim())),
            "unit": self.unit(),
            "scope": self.scope.name(),
        })
    }
}

async fn create(cx: &Context, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let profile = match is_of_system(cx) {
        true => Profile::of_system(&args.name)?,
        false => Profile::named(&args.name)?,
    };
    let Some(name) = profile.paths.profile.clone() else {
        bail!("the default profile is always there");
    };
    let _alone = one_at_a_time(&profile)?;
    if profile.config.exists {
        return Err(helped(
            format!("profile {name} is there: {}", profile.paths.config_file.display()),
            format!("look at it: moltbotctl profile show {name}"),
        ));
    }
    let kept = profile.paths.state_dir.join("moltbot.db").exists();
    let port = port(args.port, &Profile::all(cx)?)?;
    let last = port.saturating_add(BLOCK - 1);
    let text = format!(
        "{{\n  // Profile {name}: ports {port} to {last} are its own.\n  gateway: {{ port: {port} }},\n}}\n"
    );
    match profile.scope {
        Scope::System => make_for_service(&name, &profile.paths, &text)?,
        Scope::User => {
            private_folder(&profile.paths.state_dir)?;
            private_folder(profile.paths.config_file.parent().context("a file needs a folder")?)?;
            files::create(&profile.paths.generated_token(), &format!("{}\n", token()?))?;
            // Last: a profile without it is not there yet and can be made again.
            files::create(&profile.paths.config_file, &text)?;
        }
    }
    let profile = match profile.scope {
        Scope::System => Profile::of_system(&name)?,
        Scope::User => Profile::named(&name)?,
    };
    if cx.output.json {
        cx.output.value(&profile.report());
    } else {
        details(cx, &profile);
        if kept {
            cx.output.remark("state of an earlier profile of this name was there and is used");
        }
    }
    if args.start {
        let own = Profile::named(&name)?.paths;
        let globals = Context { paths: profile.paths, config: profile.config, own, ..cx.clone() };
        let of_system = profile.scope == Scope::System;
        let which = Which { user: !of_system, system: of_system, ..Which::default() };
        let install =
            InstallArgs { which, force: false, no_start: false, socket: false, daemon: None };
        return service::run(&globals, ServiceCommand::Install(install)).await;
    }
    if !cx.output.json {
        cx.output.remark(format!("start it: {}", advice::install(Kind::here(), Some(&name))));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns whether root looks after profiles of the system.
fn is_of_system(cx: &Context) -> bool {
    cx.may_mean_system && has_template()
}

/// Writes the configuration of a service, as the service's user: its unit
/// makes everything else.
fn make_for_service(name: &str, paths: &Paths, text: &str) -> anyhow::Result<()> {
    SystemGateway::named(name).make_config_folder()?;
    let folder = paths.config_file.parent().context("a file needs a folder")?;
    let acting = ActingAs::owner_of(folder);
    let _acting = acting.with_context(|| format!("cannot write in {}", folder.display()))?;
    files::create(&paths.config_file, text).map(drop)
}

/// Two profiles that are made at the same time must not get the same ports.
fn one_at_a_time(profile: &Profile) -> anyhow::Result<Flock<File>> {
    let folder = match profile.scope {
        Scope::System => Path::new("/run"),
        Scope::User => profile.paths.state_dir.parent().context("a folder needs a place")?,
    };
    private_folder(folder)?;
    let path = folder.join(".moltbot-profiles.lock");
    let failed = || format!("cannot lock {}", path.display());
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(failed)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(failed)
}

fn private_folder(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot create {}", path.display()))
}

fn token() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(hex(&bytes))
}

/// Returns the first port of a block that no profile has and nobody uses.
fn port(wanted: Option<u16>, profiles: &[Profile]) -> anyhow::Result<u16> {
    let taken: Vec<(u16, String)> = profiles
        .iter()
        .filter_map(|it| Some((it.port()?, it.paths.profile_name().to_owned())))
        .chain(running_elsewhere())
        .collect();
    let holder = |port: u16| taken.iter().find(|(other, _)| other.abs_diff(port) < BLOCK);
    if let Some(port) = wanted {
        if let Some((other, name)) = holder(port) {
            return Err(helped(
                format!("port {port} is within the ports of profile {name} ({other} and on)"),
                "leave --port out for a free one",
            ));
        }
        if !is_free(port) {
            bail!("port {port} is in use by another program");
        }
        return Ok(port);
    }
    (DEFAULT_PORT..=u16::MAX - BLOCK)
        .step_by(BLOCK.into())
        .skip(1)
        .find(|port| holder(*port).is_none() && (0..BLOCK).all(|at| is_free(port + at)))
        .context("there is no free block of ports")
}

/// Profiles of system units have their files where this user may not look; a
/// readable configuration still tells its port.
fn running_elsewhere() -> Vec<(u16, String)> {
    let entries = fs::read_dir("/etc").into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let profile = name.strip_prefix("moltbot-")?.to_owned();
        let file = entry.path().join("moltbot.json");
        let config = LocalConfig::read(&file, &Environment::default());
        let port = config.at("gateway.port")?.as_u64()?;
        Some((u16::try_from(port).ok()?, format!("{profile} (system)")))
    });
    named.collect()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn list(cx: &Context) -> anyhow::Result<()> {
    let profiles = Profile::all(cx)?;
    let shown = profiles.iter().filter(|it| it.paths.profile.is_none() || it.exists());
    let reports: Vec<Value> = shown.map(Profile::report).collect();
    if cx.output.json {
        cx.output.value(&json!({ "profiles": reports }));
        return Ok(());
    }
    let rows = reports.iter().map(|report| {
        let state = match report["startedAtMs"].as_u64() {
            Some(since) => {
                let up = duration(crate::client::now_ms().saturating_sub(since));
                cx.output.verdict(true, &format!("runs, up {up}"))
            }
            None if report["configExists"] == false && report["profile"] != "default" => {
                "deleted, state kept".into()
            }
            None => "stopped".into(),
        };
        let of = |pointer| cell(report, pointer);
        vec![of("/profile"), of("/port"), state, of("/pid"), of("/version"), of("/stateDir")]
    });
    let headers = ["Profile", "Port", "State", "Pid", "Version", "State folder"];
    cx.output.table(&headers, rows.collect(), "None.");
    Ok(())
}

fn show(cx: &Context, name: &str) -> anyhow::Result<()> {
    let profile = existing(cx, name)?;
    if cx.output.json {
        cx.output.value(&profile.report());
    } else {
        details(cx, &profile);
    }
    Ok(())
}

fn existing(cx: &Context, name: &str) -> anyhow::Result<Profile> {
    let profile = Profile::meant(cx, name)?;
    if profile.exists() || profile.paths.profile.is_none() {
        return Ok(profile);
    }
    Err(host_gateway::no_such_profile(name, &host_gateway::existing(&cx.environment)))
}

/// Returns where a profile's token is, for people.
fn token_place(profile: &Profile, report: &Value) -> String {
    let configured = |key: &str| profile.config.at(&format!("gateway.auth.{key}")).is_some();
    let of = |pointer| cell(report, pointer);
    if let Some(key) = ["token", "tokenFile"].into_iter().find(|key| configured(key)) {
        return format!("gateway.auth.{key} of the configuration");
    }
    match report["tokenSha256"].is_string() {
        true => format!("{} (SHA-256 {}…)", of("/tokenFile"), of("/tokenSha256")),
        false => format!("{} (made at the first start)", of("/tokenFile")),
    }
}

fn details(cx: &Context, profile: &Profile) {
    let report = profile.report();
    let of = |pointer| cell(&report, pointer);
    let state = match report["pid"].as_u64() {
        Some(pid) => cx.output.verdict(true, &format!("runs, pid {pid}")),
        None => "stopped".into(),
    };
    cx.output.pairs(&[
        ("Profile", of("/profile")),
        ("State", state),
        ("Port", of("/port")),
        ("Config", of("/config")),
        ("State folder", of("/stateDir")),
        ("Socket", of("/controlSocket")),
        ("Token", token_place(profile, &report)),
        ("Unit", of("/unit")),
    ]);
}

async fn delete(cx: &Context, name: &str, purge: bool, yes: bool) -> anyhow::Result<()> {
    let profile = existing(cx, name)?;
    if profile.paths.profile.is_none() {
        bail!("the default profile is not deleted");
    }
    let folders = folders(&profile)?;
    if purge && !yes {
        let list: Vec<_> = folders.iter().map(|it| it.display().to_string()).collect();
        return Err(helped(
            format!("--purge deletes {} for good", list.join(" and ")),
            format!("if that is meant: moltbotctl profile delete {name} --purge --yes"),
        ));
    }
    let _alone = one_at_a_time(&profile)?;
    let _stopped = stays_stopped(&profile)?;
    uninstall(cx, &profile).await?;
    let mut done = json!({ "ok": true, "profile": name, "purged": purge });
    if purge {
        for folder in &folders {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot delete {}", folder.display()))?;
        }
        done["deleted"] = json!(folders);
    } else if profile.config.exists {
        let kept = profile.paths.state_dir.join(DELETED_CONFIG);
        let _acting = match profile.scope {
            Scope::System => ActingAs::owner_of(&profile.paths.state_dir)?,
            Scope::User => None,
        };
        private_folder(&profile.paths.state_dir)?;
        let text = files::read(&profile.paths.config_file)?.unwrap_or_default();
        files::replace(&kept, &text)?;
        fs::remove_file(&profile.paths.config_file)
            .with_context(|| format!("cannot delete {}", profile.paths.config_file.display()))?;
        done["kept"] = json!([profile.paths.state_dir, kept]);
    }
    if cx.output.json {
        cx.output.value(&done);
    } else if purge {
        cx.output.line(format!("profile {name}: deleted with its state"));
    } else {
        let state = profile.paths.state_dir.display();
        cx.output.line(format!("profile {name}: deleted; its state stays in {state}"));
        cx.output
            .remark(format!("delete that too: moltbotctl profile delete {name} --purge --yes"));
    }
    Ok(())
}

/// Returns the folders of a profile that are there: only such as bear its name
/// and are no links to somewhere else.
fn folders(profile: &Profile) -> anyhow::Result<Vec<PathBuf>> {
    let config = profile.paths.config_file.parent().context("a file needs a folder")?;
    let own = format!("moltbot-{}", profile.paths.profile_name());
    let mut folders = vec![profile.paths.state_dir.clone()];
    if config != profile.paths.state_dir {
        folders.push(config.to_owned());
    }
    folders.retain(|folder| fs::symlink_metadata(folder).is_ok());
    for folder in &folders {
        let real = fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir());
        let named = folder.file_name().is_some_and(|name| *name == *own);
        anyhow::ensure!(
            real && named,
            "{} is not a folder of this profile alone",
            folder.display()
        );
    }
    Ok(folders)
}

/// Takes the lock that a starting gateway needs, so that none starts while its
/// folders go.
fn stays_stopped(profile: &Profile) -> anyhow::Result<Option<Flock<File>>> {
    let lock = profile.paths.state_dir.join("lock");
    // In the folder of a service root makes nothing.
    let is_own = profile.scope == Scope::User;
    if !profile.paths.state_dir.exists() || !is_own && !lock.exists() {
        return Ok(None);
    }
    let opened = OpenOptions::new()
        .read(true)
        .write(is_own)
        .create(is_own)
        .truncate(false)
        .mode(0o600)
        .open(&lock);
    let file = opened.with_context(|| format!("cannot open {}", lock.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err(_) => {
            let name = profile.paths.profile_name();
            let pid = Running::holder(&profile.paths);
            let stop = advice::stop(Kind::here(), Some(name), pid);
            let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            Err(helped(format!("profile {name} runs{pid}"), format!("stop it first: {stop}")))
        }
    }
}

async fn uninstall(cx: &Context, profile: &Profile) -> anyhow::Result<()> {
    let host = Host::this(&cx.environment, false)?;
    let Ok(service) = Service::of(&host, &profile.paths, profile.scope) else { return Ok(()) };
    let state = service.state().await;
    // A unit that is enabled or failed is undone; one that is only possible,
    // because the template is there, needs nothing.
    let known = state.enabled || state.running || state.active == "failed";
    if state.unreachable.is_none() && known {
        service.uninstall().await?;
    }
    Ok(())
}
