//! `gateway`: the socket and who may use it.

use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Effect;

/// The daemon's socket and who may use it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    /// TCP port.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Whether this host runs the gateway or only talks to another one.
    #[schemars(extend("x-effect" = Effect::Hot))]
    pub mode: Option<Mode>,
    /// Which addresses it listens on.
    #[schemars(extend("x-guarded" = true))]
    pub bind: Bind,
    /// Address for `bind: "custom"`.
    #[schemars(extend("x-guarded" = true))]
    pub custom_bind_host: Option<String>,
    /// Encryption of the port.
    #[schemars(extend("x-guarded" = true))]
    pub tls: GatewayTls,
    /// How the gateway is reached through a tailnet.
    #[schemars(extend("x-guarded" = true))]
    pub tailscale: Tailscale,
    /// Shared secrets.
    #[schemars(extend("x-guarded" = true))]
    pub auth: GatewayAuth,
    /// Where `moltbotctl` goes when `mode` is `remote`.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = true))]
    pub remote: Remote,
    /// Addresses or networks (`10.0.0.0/24`) of reverse proxies whose forwarding
    /// headers count. On this host they count from root, system accounts and the
    /// gateway's own user only.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = true))]
    pub trusted_proxies: Vec<String>,
    /// Limits of connections.
    #[schemars(extend("x-effect" = Effect::Hot))]
    pub limits: Limits,
    /// How devices are admitted.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = true))]
    pub pairing: Pairing,
    /// The web page's rules.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = true))]
    pub control_ui: ControlUi,
    /// What nodes may be asked.
    #[schemars(extend("x-effect" = Effect::Hot, "x-guarded" = true))]
    pub nodes: Nodes,
    /// What happens when this file changes.
    #[schemars(extend("x-effect" = Effect::Hot))]
    pub reload: Reload,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            port: 18789,
            mode: None,
            bind: Bind::default(),
            custom_bind_host: None,
            tls: GatewayTls::default(),
            tailscale: Tailscale::default(),
            auth: GatewayAuth::default(),
            remote: Remote::default(),
            trusted_proxies: Vec::new(),
            limits: Limits::default(),
            pairing: Pairing::default(),
            control_ui: ControlUi::default(),
            nodes: Nodes::default(),
            reload: Reload::default(),
        }
    }
}

impl Gateway {
    /// Returns whether an address is that of a reverse proxy whose headers count.
    #[must_use]
    pub fn trusts_proxy(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted_proxies.iter().filter_map(|text| network(text)).any(|net| net.contains(&ip))
    }
}

/// Reads an address or a network.
#[must_use]
pub(super) fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    let one = || text.parse::<IpAddr>().ok().map(|ip| IpNet::from(ip.to_canonical()));
    text.parse().ok().or_else(one)
}

/// Whether this host runs the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It does.
    Local,
    /// It only talks to another one.
    Remote,
}

/// Which addresses the daemon listens on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Bind {
    /// This host only.
    #[default]
    Loopback,
    /// The same as loopback.
    Auto,
    /// Every address.
    Lan,
    /// This host and its tailnet address.
    Tailnet,
    /// This host and `customBindHost`.
    Custom,
}

impl Bind {
    /// Returns the name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Auto => "auto",
            Self::Lan => "lan",
            Self::Tailnet => "tailnet",
            Self::Custom => "custom",
        }
    }
}

/// Encryption of the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTls {
    /// Whether the port speaks TLS, and nothing else.
    pub enabled: bool,
    /// The certificate and those that signed it, as PEM; without it one is made
    /// and kept in the state directory. A changed file is taken without restart.
    pub cert_path: Option<String>,
    /// Its private key, as PEM.
    pub key_path: Option<String>,
    /// Whether a certificate may be made when no path is given.
    pub auto_generate: bool,
}

impl Default for GatewayTls {
    fn default() -> Self {
        Self { enabled: false, cert_path: None, key_path: None, auto_generate: true }
    }
}

/// How the gateway is reached through a tailnet.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tailscale {
    /// Whether Tailscale leads to this gateway.
    pub mode: TailscaleMode,
    /// Whether that ends when the gateway stops.
    pub reset_on_exit: bool,
    /// The `tailscale` program, when it is not where packages put it.
    pub path: Option<String>,
    /// Where tailscaled listens for its program, when that is not
    /// `/run/tailscale/tailscaled.sock`.
    pub socket: Option<String>,
}

/// Whether Tailscale leads to this gateway.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum TailscaleMode {
    /// It does not.
    #[default]
    Off,
    /// For the devices of the tailnet.
    Serve,
    /// For everybody on the internet; needs a password.
    Funnel,
}

impl TailscaleMode {
    /// Returns the name in the configuration, which is Tailscale's own.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Serve => "serve",
            Self::Funnel => "funnel",
        }
    }
}

/// Shared secrets.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayAuth {
    /// Which secret counts; `password` when only a password is set.
    #[schemars(extend("x-effect" = Effect::Hot))]
    pub mode: Option<AuthMode>,
    /// The token.
    #[schemars(extend("x-effect" = Effect::Hot, "x-secret" = true))]
    pub token: Option<String>,
    /// The password.
    #[schemars(extend("x-effect" = Effect::Hot, "x-secret" = true))]
    pub password: Option<String>,
    /// Whether users of the tailnet need no secret, only an approved device; when
    /// absent, they do not while `tailscale.mode` is `serve` and tokens count.
    pub allow_tailscale: Option<bool>,
    /// Most that a client without a device key gets; every operator scope when
    /// absent.
    #[schemars(extend("x-effect" = Effect::Hot))]
    pub shared_secret_scopes: Option<Vec<String>>,
}

/// Which shared secret counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// The token.
    #[default]
    Token,
    /// The password.
    Password,
}

/// Where `moltbotctl` goes when `gateway.mode` is `remote`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Remote {
    /// WebSocket address.
    pub url: Option<String>,
    /// Its token.
    #[schemars(extend("x-secret" = true))]
    pub token: Option<String>,
    /// File that holds its token.
    pub token_file: Option<String>,
    /// Its password.
    #[schemars(extend("x-secret" = true))]
    pub password: Option<String>,
    /// SHA-256 of its certificate.
    pub tls_fingerprint: Option<String>,
    /// `ssh` or `direct`.
    pub transport: Option<String>,
    /// `user@host[:port]`.
    pub ssh_target: Option<String>,
    /// Private key file.
    pub ssh_identity: Option<String>,
}

/// Limits of connections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Largest frame of an authenticated client, in bytes. Clients that send no
    /// media have less: 1 MiB for nodes without a camera, canvas, screen, browser
    /// or files, 512 KiB for operators that may only read and for nodes without
    /// commands.
    pub max_payload: usize,
    /// Most bytes kept for a client that reads slowly.
    pub max_buffered_bytes: usize,
    /// How long a client may take to authenticate, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Most sockets of remote addresses that have not authenticated yet, and of
    /// this host as many again. Beyond it the oldest silent one is closed.
    #[schemars(extend("x-effect" = Effect::Restart))]
    pub unauthenticated: usize,
    /// Most of those from one address that is not this host.
    #[schemars(extend("x-effect" = Effect::Restart))]
    pub unauthenticated_per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload: 16 * 1024 * 1024,
            max_buffered_bytes: 1536 * 1024,
            handshake_timeout_ms: 10_000,
            unauthenticated: 256,
            unauthenticated_per_address: 16,
        }
    }
}

/// How devices are admitted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pairing {
    /// What happens to a device on this host that knows the shared secret.
    pub loopback: LoopbackPairing,
}

/// What happens to a device on this host that knows the shared secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoopbackPairing {
    /// It is admitted.
    #[default]
    Auto,
    /// An operator is asked.
    Ask,
}

/// The web page's rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ControlUi {
    /// Further origins that may connect.
    pub allowed_origins: Vec<String>,
    /// Lets the page in without a device key over plain HTTP.
    pub allow_insecure_auth: bool,
    /// Ignores the page's device key.
    pub dangerously_disable_device_auth: bool,
}

/// What nodes may be asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Nodes {
    /// Commands allowed besides those of the platform.
    pub allow_commands: Vec<String>,
    /// Commands never allowed.
    pub deny_commands: Vec<String>,
}

/// What happens when the configuration file changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Reload {
    /// How far a change goes.
    pub mode: ReloadMode,
    /// How long the file must have been left alone, in milliseconds.
    pub debounce_ms: u64,
}

impl Default for Reload {
    fn default() -> Self {
        Self { mode: ReloadMode::default(), debounce_ms: 300 }
    }
}

/// How far a change of the file goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReloadMode {
    /// What can be is put in force at once; for the rest the service manager
    /// starts the gateway anew.
    #[default]
    Hybrid,
    /// What can be is put in force at once; the rest waits.
    Hot,
    /// The service manager starts the gateway anew.
    Restart,
    /// Nothing, until the gateway is told to reload.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_trusted_by_address_or_network() {
        let gateway = Gateway {
            trusted_proxies: [" 10.0.0.1", "192.0.2.0/24", "::ffff:10.0.0.9", "fd00:1::/32"]
                .map(String::from)
                .into(),
            ..Gateway::default()
        };
        for (ip, trusted) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("10.0.0.9", true),
            ("10.0.0.2", false),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("fd00:1:2::7", true),
            ("fd00:2::7", false),
        ] {
            assert_eq!(gateway.trusts_proxy(ip.parse().unwrap()), trusted, "{ip}");
        }
        assert!(network("10.0.0.0/33").is_none() && network("proxy.example").is_none());
    }
}
