//! The headless node host: lends this machine's shell to a gateway, as far as
//! the owner's flags and, under them, the exec approvals file allow.

mod account;
mod approvals;
mod command;
mod execute;
mod family;
mod host;
mod link;
mod notify;
mod pattern;
mod programs;
mod rules;
mod script;
mod settings;
mod shown;
mod system_run;

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use moltbot_protocol::{Role, Scopes, Text};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    address::WebAddress,
    client::{Client, Options},
    config::LocalConfig,
    context::{Context, helped},
    delay::Delay,
    error::Error,
    files,
    identity::Keyring,
    target::{DEFAULT_PORT, Target},
};
use account::{Account, Additions};
use approvals::{Approvals, Ceiling};
use host::Host;
use rules::{Ask, Security};

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Whoever approves a device wants to see it arrive.
const APPROVAL_DELAY: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one.
const STABLE: Duration = Duration::from_secs(30);

/// How to be a node.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// Name shown to people [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub display_name: Option<String>,
    /// Id of this node's installation [default: one made at the first start]
    #[arg(long, value_name = "ID")]
    pub node_id: Option<String>,
    /// Host of the gateway, in place of --url
    #[arg(long, value_name = "HOST", conflicts_with = "url")]
    pub host: Option<String>,
    /// Use TLS
    #[arg(long, requires = "host")]
    pub tls: bool,
    /// What may run at most: nothing, what is on the allowlist, or everything.
    /// exec-approvals.json can be stricter, never wider
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = Security::Allowlist)]
    pub exec_security: Security,
    /// When a person must approve at least: never, for what is not on the
    /// allowlist, or always. exec-approvals.json can ask more often, never less
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Ask::OnMiss)]
    pub exec_ask: Ask,
    /// Let the gateway change exec-approvals.json, under the same ceiling
    #[arg(long)]
    pub allow_remote_approvals: bool,
    /// Let a call set this variable too; NAME may end with '*', may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub allow_env: Vec<String>,
    /// Pass this variable of the node to programs too; NAME may end with '*',
    /// may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub pass_env: Vec<String>,
}

/// Connects, serves, and connects again until told to stop.
///
/// # Errors
/// When this node cannot work at all: no device key, or credentials would be
/// sent in the clear.
pub async fn run(cx: &Context, args: NodeArgs) -> anyhow::Result<()> {
    let mut cx = cx.clone();
    if let Some(host) = &args.host {
        let port = cx.flags.port.take().unwrap_or(DEFAULT_PORT);
        let web = WebAddress { tls: args.tls, host: host.clone(), port, path: "/".into() };
        cx.flags.url = Some(web.key());
    }
    let folder = cx.paths.node_dir();
    let _lock = lock(&folder)?;
    let settings = settings::load(&folder, args.node_id.as_deref(), args.display_name.as_deref())?;
    let ceiling = Ceiling { security: args.exec_security, ask: args.exec_ask };
    let approvals =
        Approvals::new(folder.join("exec-approvals.json"), ceiling, args.allow_remote_approvals);
    warn_of_overruled(&cx, &approvals);
    let additions = Additions { inherited: args.pass_env, settable: args.allow_env };
    let account = Account::of_process(&cx.environment, &additions)?;
    let host = Host::new(Arc::new(approvals), account);
    let options = Options {
        id: "node-host",
        mode: "node",
        display_name: Some(settings.display_name),
        instance_id: settings.node_id,
        role: Role::Node,
        scopes: Scopes::default(),
        caps: vec![Text::new("system").expect("not empty")],
        commands: host.commands().into_iter().filter_map(Text::new).collect(),
        path_env: host.path(),
        keyring: Some(Keyring::new(&folder)),
        insecure: cx.insecure,
        timeout: cx.timeout(),
    };
    // The key is made before anything is printed: without one this is not a node.
    let device = Keyring::new(&folder).identity()?.device_id();
    cx.output.remark(format!("node {device}"));
    let mut terminate = signal(SignalKind::terminate())?;
    let result = tokio::select! {
        result = keep_connected(&mut cx, &options, &host) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    host.stop().await;
    result
}

fn warn_of_overruled(cx: &Context, approvals: &Approvals) {
    match approvals.overruled() {
        Ok(texts) => texts.iter().for_each(|text| cx.output.remark(text)),
        Err(error) => cx.output.remark(format!("no program runs until this is mended: {error:#}")),
    }
}

/// Two nodes with one key would take each other's calls.
fn lock(folder: &Path) -> anyhow::Result<Flock<File>> {
    let path = folder.join("lock");
    files::create(&path, "")?;
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        helped(
            format!("another node host runs with {}", folder.display()),
            "stop it, or give this one its own state: moltbotctl node run --state-dir DIR",
        )
    })
}

async fn keep_connected(cx: &mut Context, options: &Options, host: &Host) -> anyhow::Result<()> {
    let mut delay = Delay::new(FIRST_DELAY, LONGEST_DELAY);
    let mut told = String::new();
    loop {
        let started = std::time::Instant::now();
        match connect(cx, options).await {
            Ok((client, target)) => {
                told.clear();
                cx.output.remark(format!("connected to {}", target.address));
                let how = host.serve(client).await;
                cx.output.remark(format!("disconnected ({how}), connecting again"));
                if started.elapsed() >= STABLE {
                    delay.reset();
                }
            }
            Err(error) => {
                let text = format!("{error:#}");
                let known = error.downcast_ref::<Error>();
                if matches!(known, Some(Error::Plaintext(_) | Error::Identity(_))) {
                    return Err(error);
                }
                let waits = known.and_then(Error::pairing_request).map(ToOwned::to_owned);
                if waits.is_some() || known.is_some_and(Error::is_unauthorized) {
                    host.refused();
                }
                let line = match (&waits, known.and_then(Error::advice)) {
                    (Some(id), _) => format!(
                        "waiting for approval; on the gateway's host: moltbotctl devices approve {id}"
                    ),
                    (None, Some(advice)) => format!("{text}; {advice}"),
                    (None, None) => text,
                };
                if line != told {
                    cx.output.remark(&line);
                    told = line;
                }
                if waits.is_some() {
                    delay.at_most(APPROVAL_DELAY);
                }
            }
        }
        delay.wait().await;
    }
}

/// Looks again each time: the configuration or the control socket may have
/// changed.
async fn connect(cx: &mut Context, options: &Options) -> anyhow::Result<(Client, Target)> {
    cx.config = LocalConfig::read(&cx.paths.config_file, &cx.environment);
    let connected = cx.connect_as(|_| options.clone()).await?;
    let target = connected.candidate.target.context("what was connected to has an address")?;
    Ok((connected.client, target))
}
