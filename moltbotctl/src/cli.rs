//! The command line: every command, every flag, its help.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments are help texts; brackets in them are no links"
)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    commands::{
        agent::AgentArgs,
        chat::ChatArgs,
        logs::LogsArgs,
        nodes::NodesCommand,
        profile::ProfileCommand,
        remote::RemoteCommand,
        send::SendArgs,
        service::{InstallArgs, RestartArgs, ServiceCommand, Which},
        tunnel::TunnelCommand,
    },
    ssh::Destination,
    tls::Pins,
};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nobody answers, 4 what answers
is no gateway, 5 another protocol version, 6 credentials not accepted, 7 waits
for approval, 8 no answer in time, 9 the connection ended, 10 refused to send
credentials in the clear.
Of TLS: 11 another certificate than the pinned one, 12 certificate not trusted,
13 certificate expired, 14 one side speaks TLS and the other does not.
Of ssh: 20 cannot be started or failed, 21 host key not known, 22 host key
changed, 23 key refused, 24 name not known, 25 host does not answer, 26 no
gateway behind it, 27 forwarding prohibited, 28 connection lost, 29 silent.
Of tunnel: 69 the local port is taken.
Of backup and import, from moltbotd: 64 wrong flags, 75 a gateway runs
on this state, 77 refused for safety.

Whose gateway: that of the system, if this host runs one as a service and you
are root; else your own. --user is always your own, --profile, --config and
--state-dir name one.

The gateway is found in this order: --ssh, --url, MOLTBOT_GATEWAY_URL,
gateway.remote when gateway.mode is remote, the control socket of the profile,
the configured port on this host. `moltbotctl where` shows what won and why.

Environment: MOLTBOT_GATEWAY_URL, MOLTBOT_GATEWAY_TOKEN,
MOLTBOT_GATEWAY_PASSWORD, MOLTBOT_GATEWAY_PORT, MOLTBOT_PROFILE,
MOLTBOT_STATE_DIR, MOLTBOT_CONFIG_PATH (or CLAWDBOT_…), NO_COLOR. The device
key of this client is client/device.json in the state folder.";

const NODE_FILES: &str = "The node's device key (device.json), name (node.json) and rules
(exec-approvals.json) are in the folder node of the state folder. The rules are for one agent or
for all (\"*\"):

  { \"version\": 1, \"agents\": { \"*\": { \"security\": \"allowlist\", \"ask\": \"on-miss\",
    \"allowlist\": [ { \"pattern\": \"/usr/bin/git\" }, { \"pattern\": \"~/bin/*\" } ] } } }

A pattern is matched against the whole path of the program: * within a folder, ** across folders.
A shell's script runs when every program in it is allowed and nothing in it is uncertain.";

/// Controls a running Moltbot gateway, and hosts a headless node.
#[derive(Debug, Parser)]
#[command(name = "moltbotctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that may stand before or after any command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// Address of the gateway: ws://, wss://, ssh://[user@]host[:port]/PORT, ssh+wss:// (TLS inside ssh)
    /// or unix:PATH
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// Token of the gateway; visible to other users of this host, see --token-file
    #[arg(long, global = true, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Password of the gateway
    #[arg(long, global = true, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Reach the gateway of another host through ssh
    #[arg(long, global = true, value_name = "[USER@]HOST[:PORT]")]
    pub ssh: Option<Destination>,
    /// Private key for ssh
    #[arg(long, global = true, value_name = "FILE")]
    pub ssh_identity: Option<PathBuf>,
    /// Port of the gateway, on its host [default: 18789, or as configured]
    #[arg(long, global = true, value_name = "PORT",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Accept this certificate of a gateway and no other: its SHA-256, or two parted by a comma; with
    /// --ssh it also means TLS inside ssh
    #[arg(long, global = true, value_name = "SHA256")]
    pub tls_fingerprint: Option<Pins>,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the durable state
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Name of the gateway's instance
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// The gateway of this user, where the host also runs one as a service of the system
    #[arg(long, global = true)]
    pub user: bool,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Longest time for connecting and the call, in milliseconds [default: 10000]
    #[arg(long, global = true, value_name = "MS")]
    pub timeout: Option<u64>,
    /// Send credentials over plain ws:// to another host
    #[arg(long, global = true)]
    pub insecure: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask the gateway for its health
    Health {
        /// Check the channels now instead of showing the last check
        #[arg(long)]
        probe: bool,
    },
    /// Show the gateway and what it does
    Status {
        /// Check channels; list channels, nodes and who is connected
        #[arg(long)]
        deep: bool,
        /// Also list devices, sessions and how the gateway was found
        #[arg(long)]
        all: bool,
    },
    /// Reach the gateway and call it
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Make, list and delete profiles: several gateways side by side
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Run the gateway as a service of this host
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Give the assistant a message and wait for its answer
    Agent(AgentArgs),
    /// Send a message through a channel
    Send(SendArgs),
    /// Talk to the assistant, line by line
    Chat(ChatArgs),
    /// List the conversations
    Sessions {
        /// Only those used in the last N minutes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        active: Option<u32>,
    },
    /// List nodes and use them
    #[command(subcommand)]
    Nodes(NodesCommand),
    /// Admit devices and manage their tokens
    #[command(subcommand)]
    Devices(DevicesCommand),
    /// Admit people who wrote to a channel
    #[command(subcommand)]
    Pairing(PairingCommand),
    /// Show messaging channels
    #[command(subcommand)]
    Channels(ChannelsCommand),
    /// Show the gateway's log
    Logs(LogsArgs),
    /// Find, read, check and change the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show which gateway would be used, and why
    Where,
    /// Say which gateway on another host commands go to
    #[command(subcommand)]
    Remote(RemoteCommand),
    /// Keep a port of this host connected to the gateway of another one, for apps that need a port
    #[command(subcommand)]
    Tunnel(TunnelCommand),
    /// Copy everything the gateway remembers, check copies, put them back
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Take over the state of a reference gateway; it is not changed
    Import(ImportArgs),
    /// Look for what keeps the gateway from working; exits with 1 if there is something
    Doctor {
        /// Narrow modes and make folders; nothing is deleted or rewritten
        #[arg(long)]
        fix: bool,
    },
    /// Be a node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Print a completion script
    Completions {
        /// The shell it is for
        shell: Shell,
    },
}

impl Command {
    /// Returns what a profile that is named must be for this command.
    #[must_use]
    pub const fn profile_use(&self) -> ProfileUse {
        match self {
            // These take names of their own, or none.
            Self::Profile(_) | Self::Completions { .. } => ProfileUse::NotAsked,
            // These fill a new profile with what they bring.
            Self::Import(_)
            | Self::Backup(BackupCommand::Restore { .. })
            | Self::Remote(RemoteCommand::Set)
            | Self::Node(_) => ProfileUse::MayBeNew,
            _ => ProfileUse::MustExist,
        }
    }
}

/// What a profile that is named must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileUse {
    /// One that is there.
    MustExist,
    /// Any: the command makes it.
    MayBeNew,
    /// The command does not use it.
    NotAsked,
}

/// Reaching and calling the gateway.
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Show the service, the process, and whether the gateway answers
    Status {
        /// Do not connect to the gateway
        #[arg(long)]
        no_probe: bool,
        /// Also look at other gateways of this host, locks, versions and permissions
        #[arg(long)]
        deep: bool,
    },
    /// Ask the gateway for its health
    Health {
        /// Check the channels now instead of showing the last check
        #[arg(long)]
        probe: bool,
    },
    /// Send a message through a channel
    Send(SendArgs),
    /// Give the assistant a message and wait for its answer
    Agent(AgentArgs),
    /// Call any method
    Call {
        /// Name of the method, such as sessions.list
        method: String,
        /// Its parameters
        #[arg(long, value_name = "JSON", default_value = "{}")]
        params: String,
        /// Wait for the second answer of a method that first says accepted
        #[arg(long)]
        expect_final: bool,
    },
    /// Try every place a gateway might be, all at once
    Probe {
        /// Try the host of the remote gateway by ssh too
        #[arg(long)]
        ssh_auto: bool,
    },
    /// Show the gateway's certificate: what clients pin
    Tls,
    /// Show which gateways announce themselves on the local network
    Discover,
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
}

/// Device pairing.
#[derive(Debug, Subcommand)]
pub enum DevicesCommand {
    /// List requests and paired devices
    List,
    /// Admit a device
    Approve {
        /// Id of the request; may be left out when only one is waiting
        request: Option<String>,
        /// What a node may be asked to run: system.run, browser.proxy or 'browser.*'; may be
        /// repeated [default: everything on the gateway's own host, nothing elsewhere]
        #[arg(long, value_name = "COMMAND")]
        allow: Vec<String>,
    },
    /// Let a node run commands that need an approval of their own: system.run, browser.proxy,
    /// 'browser.*'
    Allow {
        /// Id, beginning of the id, name or address of the node
        device: String,
        /// The commands, beside those allowed before
        #[arg(value_name = "COMMAND", required_unless_present = "only")]
        commands: Vec<String>,
        /// Allow nothing but these; without any, nothing at all
        #[arg(long)]
        only: bool,
    },
    /// Refuse a device
    Reject {
        /// Id of the request
        request: String,
    },
    /// Forget a paired device and close its connections
    Remove {
        /// The device
        #[command(flatten)]
        device: DeviceName,
    },
    /// Give a device a new token and print it
    Rotate {
        /// The device
        #[command(flatten)]
        device: DeviceName,
        /// Role of the token: operator or node
        #[arg(long)]
        role: String,
        /// Scope of the new token; may be repeated
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
    /// Take a device's token away
    Revoke {
        /// The device
        #[command(flatten)]
        device: DeviceName,
        /// Role of the token: operator or node
        #[arg(long)]
        role: String,
    },
}

/// A device, as an argument or a flag.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DeviceName {
    /// Id, beginning of the id, name or address of the device
    #[arg(value_name = "DEVICE")]
    pub id: Option<String>,
    /// The same as a flag
    #[arg(long = "device", value_name = "DEVICE")]
    pub flag: Option<String>,
}

/// People who wrote to a channel.
#[derive(Debug, Subcommand)]
pub enum PairingCommand {
    /// List who waits for approval
    List {
        /// Only this channel
        channel: Option<String>,
    },
    /// Admit somebody by the code they were sent
    #[command(allow_missing_positional = true)]
    Approve {
        /// The channel, where several are meant
        channel: Option<String>,
        /// The code
        #[arg(required = true)]
        code: String,
        /// Tell them
        #[arg(long)]
        notify: bool,
    },
}

/// Messaging channels.
#[derive(Debug, Subcommand)]
pub enum ChannelsCommand {
    /// Show the state of every channel
    Status {
        /// Check them now
        #[arg(long)]
        probe: bool,
    },
}

/// The configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print where the configuration file is
    Path,
    /// Print the configuration, or the value at a dotted key
    Get {
        /// Such as gateway.port or agents.list[0].id
        key: Option<String>,
    },
    /// Change a value; comments and order of the file stay
    Set {
        /// Such as gateway.port, agents.list[0].id or agents.defaults.models["a/b-1.5"].alias
        key: String,
        /// In JSON5; what is none is taken as text. "-" reads a text from standard input
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// Take the value as text, whatever it looks like
        #[arg(long)]
        string: bool,
    },
    /// Take a value away
    Unset {
        /// Such as gateway.port
        key: String,
    },
    /// Change the file with $VISUAL or $EDITOR; what cannot be used is not installed
    Edit {
        /// Go on with a copy that was not installed
        #[arg(long, value_name = "FILE")]
        resume: Option<PathBuf>,
    },
    /// Take the last change back, or go back to before a certain one
    Undo {
        /// Number of the change, from `config history`
        number: Option<u64>,
    },
    /// List the changes that can be taken back
    History,
    /// Show what another configuration file would do: nothing is changed
    Plan {
        /// The file; "-" reads standard input
        file: PathBuf,
    },
    /// Check a configuration file
    Check {
        /// The file; the profile's when left out
        file: Option<PathBuf>,
    },
}

/// Copies of the state. `moltbotd` does the work: see `moltbotd state --help`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Copy database, configuration and files into one file; the gateway may run
    Create {
        /// The file; in this folder and named after the profile and the time when left out
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check that a copy is whole and can be restored
    Verify {
        /// The copy
        file: PathBuf,
    },
    /// Put a copy in the place of the state, which is kept aside; the gateway must not run
    Restore {
        /// The copy
        file: PathBuf,
        /// Leave the configuration as it is
        #[arg(long)]
        without_config: bool,
    },
}

/// What is taken over. `moltbotd` does the work: see `moltbotd state --help`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Its state folder, such as ~/.clawdbot
    pub folder: PathBuf,
    /// Its configuration file, where that is not in its state folder
    #[arg(long, value_name = "FILE")]
    pub reference_config: Option<PathBuf>,
}

/// Being a node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Lend this host's shell to the gateway, in the foreground
    #[command(after_help = NODE_FILES)]
    Run(crate::node::NodeArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_declarations_are_sound_and_the_notes_fit_a_terminal() {
        Cli::command().debug_assert();
        for line in EXIT_CODES.lines() {
            assert!(line.chars().count() < 80, "{line}");
        }
    }

    #[test]
    fn a_code_may_stand_alone_or_after_its_channel() {
        let words = |words: &[&str]| {
            let words = ["moltbotctl", "pairing", "approve"].iter().chain(words);
            match Cli::try_parse_from(words).map(|cli| cli.command) {
                Ok(Command::Pairing(PairingCommand::Approve { channel, code, .. })) => {
                    Some((channel, code))
                }
                _ => None,
            }
        };
        assert_eq!(words(&["AB12"]), Some((None, "AB12".into())));
        assert_eq!(words(&["telegram", "AB12"]), Some((Some("telegram".into()), "AB12".into())));
        assert_eq!(words(&[]), None);
        assert_eq!(words(&["telegram", "AB12", "more"]), None);
    }

    #[test]
    fn only_known_levels_of_thinking_are_taken() {
        let parses = |level: &str| {
            ["chat", "agent"].map(|command| {
                let words: &[&str] = if command == "agent" { &["-m", "hi"] } else { &[] };
                let words = [&["moltbotctl", command, "--thinking", level], words].concat();
                Cli::try_parse_from(words).is_ok()
            })
        };
        for level in ["off", "minimal", "low", "medium", "high", "xhigh", "x-high", "HIGH"] {
            assert_eq!(parses(level), [true; 2], "{level}");
        }
        for level in ["", "hihg", "7"] {
            assert_eq!(parses(level), [false; 2], "{level}");
        }
    }
}
