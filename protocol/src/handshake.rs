//! `connect`, the first request on every socket, and its answer.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Scopes, Text,
    frame::StateVersion,
    limits::{
        self, CAPS, COMMANDS, KEY_CHARS, NAME_CHARS, PERMISSIONS, SCOPES, SECRET_CHARS,
        SIGNATURE_CHARS, WORD_CHARS,
    },
};

/// Close code and reason of a refused handshake are at most this long, because
/// a close frame holds 125 bytes.
pub const CLOSE_REASON_BYTES: usize = 120;

/// Parameters of `connect`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectParams {
    /// Lowest protocol version the client speaks.
    #[schemars(range(min = 1))]
    pub min_protocol: u32,
    /// Highest protocol version the client speaks.
    #[schemars(range(min = 1))]
    pub max_protocol: u32,
    /// Which program this is.
    pub client: ClientInfo,
    /// Capabilities of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = CAPS), inner(length(max = WORD_CHARS)))]
    pub caps: Option<Vec<Text>>,
    /// Commands a node offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = COMMANDS), inner(length(max = WORD_CHARS)))]
    pub commands: Option<Vec<Text>>,
    /// Permissions a node was given by its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = PERMISSIONS, "propertyNames" = { "maxLength": WORD_CHARS }))]
    pub permissions: Option<BTreeMap<String, bool>>,
    /// Search path of a node; its end is cut off beyond 8192 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_env: Option<String>,
    /// `operator` (the default) or `node`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub role: Option<Text>,
    /// Permissions asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = SCOPES), inner(length(max = WORD_CHARS)))]
    pub scopes: Option<Vec<Text>>,
    /// Proof of a device key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceProof>,
    /// Shared secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Credentials>,
    /// Language of the client, for example `en-US`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub locale: Option<String>,
    /// Free description of the client; its end is cut off beyond 512
    /// characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

impl ConnectParams {
    /// Cuts the texts that clients may send at any length and that nothing
    /// depends on.
    pub fn cut(&mut self) {
        for (text, chars) in [
            (&mut self.user_agent, limits::USER_AGENT_CHARS),
            (&mut self.path_env, limits::PATH_ENV_CHARS),
        ] {
            if let Some(text) = text {
                text.truncate(limits::cut(text, chars).len());
            }
        }
    }
}

/// Which program connects.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientInfo {
    /// One of [`CLIENT_IDS`], perhaps with an older or newer project prefix.
    #[schemars(schema_with = "client_id_schema")]
    pub id: Text,
    /// Name for people; becomes the presence host and the pairing label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = NAME_CHARS))]
    pub display_name: Option<Text>,
    /// Version of the program.
    #[schemars(length(max = WORD_CHARS))]
    pub version: Text,
    /// Operating system, for example `linux` or `iOS 18.1.0`.
    #[schemars(length(max = WORD_CHARS))]
    pub platform: Text,
    /// Kind of device, for example `iPhone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub device_family: Option<Text>,
    /// Model of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub model_identifier: Option<Text>,
    /// One of [`CLIENT_MODES`].
    #[schemars(schema_with = "client_mode_schema")]
    pub mode: Text,
    /// Identifies one running instance of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORD_CHARS))]
    pub instance_id: Option<Text>,
}

/// Names of the known programs. Those that begin with the project's name are
/// accepted with each of its names: `clawdbot-`, `moltbot-`, `openclaw-`.
pub const CLIENT_IDS: &[&str] = &[
    "webchat-ui",
    "moltbot-control-ui",
    "webchat",
    "cli",
    "gateway-client",
    "moltbot-macos",
    "moltbot-ios",
    "moltbot-android",
    "node-host",
    "test",
    "fingerprint",
    "moltbot-probe",
    "clawdbot-control-ui",
    "clawdbot-macos",
    "clawdbot-ios",
    "clawdbot-android",
    "clawdbot-probe",
    "openclaw-control-ui",
    "openclaw-tui",
    "openclaw-macos",
    "openclaw-ios",
    "openclaw-android",
    "openclaw-probe",
];

/// What a client is used for.
pub const CLIENT_MODES: &[&str] = &["webchat", "cli", "ui", "backend", "node", "probe", "test"];

fn constants(names: &[&str]) -> schemars::Schema {
    let any_of: Vec<Value> =
        names.iter().map(|name| serde_json::json!({ "const": name, "type": "string" })).collect();
    schemars::json_schema!({ "anyOf": any_of })
}

fn client_id_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    constants(CLIENT_IDS)
}

fn client_mode_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    constants(CLIENT_MODES)
}

/// A device's key and its signature over [`crate::signature::payload`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceProof {
    /// Lower-case hex SHA-256 of the raw public key.
    #[schemars(length(max = WORD_CHARS))]
    pub id: Text,
    /// The raw Ed25519 key as base64url, or a PEM text.
    #[schemars(length(max = KEY_CHARS))]
    pub public_key: Text,
    /// The signature as base64url.
    #[schemars(length(max = SIGNATURE_CHARS))]
    pub signature: Text,
    /// When it was signed, in milliseconds since the epoch.
    #[schemars(range(min = 0))]
    pub signed_at: u64,
    /// The nonce of `connect.challenge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = SIGNATURE_CHARS))]
    pub nonce: Option<Text>,
}

/// Secrets as sent by a client.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    /// The gateway's token, or a device token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = SECRET_CHARS))]
    pub token: Option<String>,
    /// The token that this device got when it was paired. Clients since 2026.5 send it here,
    /// some of them in `token` as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = SECRET_CHARS))]
    pub device_token: Option<String>,
    /// The secret of a setup code. This gateway makes none, so each is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = SECRET_CHARS))]
    pub bootstrap_token: Option<String>,
    /// The gateway's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = SECRET_CHARS))]
    pub password: Option<String>,
}

impl Credentials {
    /// Returns the token that the device's signature covers: the first that is there, even if it
    /// is empty. Clients of every version agree on this order.
    #[must_use]
    pub fn signed_token(&self) -> Option<&str> {
        let Self { token, device_token, bootstrap_token, .. } = self;
        [token, device_token, bootstrap_token].into_iter().find_map(Option::as_deref)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token.is_some())
            .field("device_token", &self.device_token.is_some())
            .field("bootstrap_token", &self.bootstrap_token.is_some())
            .field("password", &self.password.is_some())
            .finish()
    }
}

/// The answer to an accepted `connect`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloOk {
    /// Always `hello-ok`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The negotiated version.
    pub protocol: u32,
    /// Which gateway this is.
    pub server: ServerInfo,
    /// What may be called and what may be heard.
    pub features: Features,
    /// The state to start from.
    pub snapshot: Snapshot,
    /// Base address of the canvas host, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canvas_host_url: Option<String>,
    /// The device token, for clients that proved a device key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<IssuedToken>,
    /// The connection's limits.
    pub policy: Policy,
}

/// Which gateway answered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerInfo {
    /// Version of the gateway.
    pub version: String,
    /// Commit it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Name of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Identifies this connection.
    pub conn_id: String,
}

/// What the gateway offers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Features {
    /// Methods that may be called.
    pub methods: Vec<String>,
    /// Events that may be pushed.
    pub events: Vec<String>,
}

/// State at the moment of connecting.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Who is there.
    pub presence: Vec<crate::methods::system::PresenceEntry>,
    /// The last health report, `{}` before the first.
    pub health: Value,
    /// Versions of the two above.
    pub state_version: StateVersion,
    /// How long the gateway has been running.
    pub uptime_ms: u64,
    /// Its configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_path: Option<String>,
    /// Its state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
    /// Where a new conversation goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_defaults: Option<SessionDefaults>,
}

/// Where a new conversation goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionDefaults {
    /// The agent that answers.
    pub default_agent_id: String,
    /// Always `main`.
    pub main_key: String,
    /// Key of the main session.
    pub main_session_key: String,
    /// `per-sender` or `global`.
    pub scope: String,
}

/// A device token handed out by the handshake.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// The token, 32 hex digits.
    pub device_token: String,
    /// The role it is good for.
    pub role: String,
    /// The scopes it is good for.
    pub scopes: Scopes,
    /// When it was made, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at_ms: Option<u64>,
}

/// Limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Largest frame a client may send, in bytes.
    pub max_payload: u64,
    /// Most bytes the gateway keeps for a client that reads slowly.
    pub max_buffered_bytes: u64,
    /// Time between two `tick` events.
    pub tick_interval_ms: u64,
}
