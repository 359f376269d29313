//! `moltbotctl tunnel …`.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};
use serde_json::{Value, json};
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
};

use crate::{
    context::{Context, ended, helped},
    files,
    output::{ago, cell, clean},
    target::{DEFAULT_PORT, Source, Target},
    tunnel::{
        Tunnel,
        note::{self, Note, State},
        service,
    },
};

/// How long a tunnel that was told to end may take.
const END_WAIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
/// `tunnel status` when no tunnel is up.
const NOT_UP: u8 = 3;

/// A local port that leads to the gateway of another host.
#[derive(Debug, Subcommand)]
pub enum TunnelCommand {
    /// Start a tunnel in the background and wait until the gateway answers
    Up(TunnelArgs),
    /// End a tunnel
    Down {
        /// Its port on this host; may be left out when only one tunnel runs
        #[arg(long, value_name = "PORT")]
        local_port: Option<u16>,
    },
    /// Show the tunnels of this user
    Status {
        /// Only the one of this port
        #[arg(long, value_name = "PORT")]
        local_port: Option<u16>,
    },
    /// Keep a tunnel up in the foreground
    Run {
        /// Which
        #[command(flatten)]
        tunnel: TunnelArgs,
        /// Be independent of the terminal
        #[arg(long, hide = true)]
        detached: bool,
    },
    /// Keep a tunnel up from login on: a user unit of systemd or a launchd agent
    Install {
        /// Which
        #[command(flatten)]
        tunnel: TunnelArgs,
        /// Print what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove what install wrote
    Uninstall {
        /// Its port on this host
        #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
        local_port: u16,
        /// Print what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which tunnel. Where it leads is said by --ssh, --ssh-identity and --port, or by gateway.remote.
#[derive(Clone, Debug, Args)]
pub struct TunnelArgs {
    /// Port on this host
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub local_port: u16,
    /// How often the gateway is asked whether it answers, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub check_every: u64,
}

/// Runs one of the commands.
///
/// # Errors
/// When it fails.
pub async fn run(cx: &Context, command: TunnelCommand) -> anyhow::Result<ExitCode> {
    match command {
        TunnelCommand::Up(args) => up(cx, &args).await?,
        TunnelCommand::Down { local_port } => down(cx, local_port).await?,
        TunnelCommand::Status { local_port } => return status(cx, local_port),
        TunnelCommand::Run { tunnel, detached } => keep(cx, &tunnel, detached).await?,
        TunnelCommand::Install { tunnel, dry_run } => {
            target(cx)?;
            let arguments = arguments(cx, &tunnel)?;
            service::install(cx, tunnel.local_port, &arguments, dry_run).await?;
        }
        TunnelCommand::Uninstall { local_port, dry_run } => {
            service::uninstall(cx, local_port, dry_run).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn keep(cx: &Context, args: &TunnelArgs, detached: bool) -> anyhow::Result<()> {
    if detached {
        // Fails only for the leader of a group, who has no terminal to lose either.
        let _ = setsid();
    }
    let tunnel = Tunnel {
        target: target(cx)?,
        local_port: args.local_port,
        every: Duration::from_secs(args.check_every),
        name_must_be_known: detached,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let stop = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv(), if !detached => {}
        }
    };
    tunnel.keep(cx, stop).await
}

/// Returns the gateway behind ssh that is meant.
fn target(cx: &Context) -> anyhow::Result<Target> {
    if cx.flags.ssh.is_some() {
        let candidates = cx.candidates()?;
        let found = candidates.into_iter().find(|it| it.source == Source::Ssh);
        return found.and_then(|it| it.target).context("--ssh names a target");
    }
    cx.surroundings().remote_by_ssh()?.ok_or_else(|| {
        helped(
            "no ssh server is named for the tunnel",
            "name it with --ssh user@host, or for good: moltbotctl remote set --ssh user@host",
        )
    })
}

async fn up(cx: &Context, args: &TunnelArgs) -> anyhow::Result<()> {
    let target = target(cx)?;
    if let Some(note) = note::find(&cx.paths, args.local_port)? {
        if note.url != target.address.key() {
            return Err(helped(
                format!("port {} leads to {} already", args.local_port, clean(&note.url)),
                format!("end that: moltbotctl tunnel down --local-port {}", args.local_port),
            ));
        }
        return shown(cx, &note);
    }
    let mut child = detach(cx, args)?;
    let pid = child.id();
    let waiting = wait_until_up(cx, args.local_port, &mut child);
    match tokio::time::timeout(cx.timeout() + END_WAIT, waiting).await {
        Ok(result) => shown(cx, &result?),
        Err(_) => Err(ended(
            8,
            format!("the tunnel is not up yet; process {} goes on trying", pid.unwrap_or_default()),
            format!(
                "see how it is: moltbotctl tunnel status; end it: moltbotctl tunnel down \
                 --local-port {}",
                args.local_port
            ),
        )),
    }
}

fn detach(cx: &Context, args: &TunnelArgs) -> anyhow::Result<Child> {
    let path = note::file(&cx.paths, args.local_port, "log");
    files::replace(&path, "")?;
    let mut options = OpenOptions::new();
    let log = options.append(true).mode(0o600).open(&path);
    let log = log.with_context(|| format!("cannot open {}", path.display()))?;
    let program = std::env::current_exe().context("this program does not know its own path")?;
    tokio::process::Command::new(program)
        .args(arguments(cx, args)?)
        .args(["--detached", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot start the tunnel")
}

/// Returns the command line of the process that keeps the tunnel up. Its secrets
/// would be there for everybody to read, so there are none.
fn arguments(cx: &Context, args: &TunnelArgs) -> anyhow::Result<Vec<OsString>> {
    let flags = &cx.flags;
    if flags.password.is_some() || (flags.token.is_some() && flags.token_file.is_none()) {
        return Err(helped(
            "a tunnel in the background would show --token and --password to every user",
            "put the token into a file: --token-file FILE, or moltbotctl remote set",
        ));
    }
    let file = |path: &std::path::PathBuf| std::path::absolute(path).map(OsString::from);
    let mut words: Vec<OsString> = ["tunnel", "run"].map(OsString::from).into();
    words.extend(cx.daemon_flags.iter().cloned());
    let mut add = |name: &str, value: Option<OsString>| {
        words.extend(value.into_iter().flat_map(|value| [name.into(), value]));
    };
    add("--ssh", flags.ssh.as_ref().map(|it| it.to_string().into()));
    add("--ssh-identity", flags.ssh_identity.as_ref().map(file).transpose()?);
    add("--port", flags.port.map(|port| port.to_string().into()));
    add("--token-file", flags.token_file.as_ref().map(file).transpose()?);
    add(
        "--tls-fingerprint",
        flags.pins.as_ref().map(|it| it.to_string().replace(" or ", ",").into()),
    );
    add("--timeout", cx.timeout_given.map(|ms| ms.to_string().into()));
    add("--local-port", Some(args.local_port.to_string().into()));
    add("--check-every", Some(args.check_every.to_string().into()));
    Ok(words)
}

/// Waits for the word of the process itself, not of one before it.
async fn wait_until_up(cx: &Context, port: u16, child: &mut Child) -> anyhow::Result<Note> {
    let pid = child.id();
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(why_it_ended(cx, port, status.code()));
        }
        if let Some(note) = note::find(&cx.paths, port)?
            && Some(note.pid) == pid
            && matches!(note.state, State::Up | State::Degraded)
        {
            return Ok(note);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Repeats the last words of a tunnel that ended.
fn why_it_ended(cx: &Context, port: u16, code: Option<i32>) -> anyhow::Error {
    let path = note::file(&cx.paths, port, "log");
    let log = files::read(&path).ok().flatten().unwrap_or_default();
    let last = log.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |key: &str| last.as_ref()?["error"][key].as_str().map(ToOwned::to_owned);
    let code = code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0);
    ended(
        code.unwrap_or(1),
        text("message").unwrap_or_else(|| "the tunnel ended".into()),
        text("advice").unwrap_or_else(|| format!("see its log: {}", path.display())),
    )
}

fn shown(cx: &Context, note: &Note) -> anyhow::Result<()> {
    if cx.output.json {
        cx.output.value(&serde_json::to_value(note)?);
    } else {
        cx.output.line(clean(&note.line()));
    }
    if note.state == State::Up {
        return Ok(());
    }
    Err(ended(
        26,
        format!("the tunnel is there, but no gateway answers behind it on {}", clean(&note.url)),
        format!(
            "start the gateway there; the tunnel goes on and notices. End it: moltbotctl tunnel \
             down --local-port {}",
            note.local_port
        ),
    ))
}

/// Returns the port of the tunnel that is meant.
fn only_port(cx: &Context) -> anyhow::Result<u16> {
    let ports: Vec<u16> = note::all(&cx.paths)?.iter().map(|note| note.local_port).collect();
    match ports[..] {
        [] => Ok(DEFAULT_PORT),
        [port] => Ok(port),
        _ => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            Err(helped(
                format!("several tunnels run, on the ports {}", ports.join(", ")),
                "say which: moltbotctl tunnel down --local-port PORT",
            ))
        }
    }
}

async fn down(cx: &Context, port: Option<u16>) -> anyhow::Result<()> {
    let port = port.map_or_else(|| only_port(cx), Ok)?;
    let Some(note) = note::find(&cx.paths, port)? else {
        if cx.output.json {
            cx.output.value(&json!({ "ok": true, "localPort": port, "ended": false }));
        } else {
            cx.output.line(format!("No tunnel runs on port {port}."));
        }
        return Ok(());
    };
    let pid = i32::try_from(note.pid).context("the tunnel has a process id")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot end the tunnel")?;
    let gone = async {
        while note::find(&cx.paths, port).is_ok_and(|note| note.is_some()) {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(END_WAIT, gone).await.is_err() {
        return Err(helped(
            format!("the tunnel of process {pid} does not end"),
            format!("end it at once: kill -9 {pid}"),
        ));
    }
    if cx.output.json {
        cx.output.value(&json!({ "ok": true, "localPort": port, "ended": true, "pid": pid }));
    } else {
        cx.output.line(format!("The tunnel on port {port} has ended."));
    }
    Ok(())
}

fn status(cx: &Context, port: Option<u16>) -> anyhow::Result<ExitCode> {
    let notes = match port {
        Some(port) => note::find(&cx.paths, port)?.into_iter().collect(),
        None => note::all(&cx.paths)?,
    };
    let up = !notes.is_empty() && notes.iter().all(|note| note.state == State::Up);
    let report = json!({ "ok": up, "tunnels": notes });
    if cx.output.json {
        cx.output.value(&report);
    } else {
        let rows = report["tunnels"].as_array().into_iter().flatten().map(|note| {
            let state = cell(note, "/state");
            vec![
                cell(note, "/localPort"),
                cell(note, "/url"),
                cx.output.verdict(state == "up", &state),
                ago(note, "/upSinceMs"),
                cell(note, "/version"),
                cell(note, "/pid"),
                cell(note, "/reconnects"),
                cell(note, "/detail"),
            ]
        });
        let headers = ["Port", "To", "State", "Up", "Version", "Pid", "Reconnects", "Remark"];
        cx.output.table(&headers, rows.collect(), "No tunnel runs.");
    }
    Ok(if up { ExitCode::SUCCESS } else { ExitCode::from(NOT_UP) })
}
