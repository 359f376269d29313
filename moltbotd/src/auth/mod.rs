//! Who is connected, and the decision that lets them in.

mod decision;
pub mod device;
pub mod limiter;
pub mod pairing;
mod secret;

use moltbot_protocol::{Role, Scopes, handshake::ClientInfo};

pub use self::{
    decision::{Admitted, Auth, Ingress, Parts, Refusal, SECRET_CHANGED, Secrets},
    secret::Secret,
};

/// A peer that passed the handshake.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Identifies the connection.
    pub conn_id: String,
    /// What kind of peer it is.
    pub role: Role,
    /// What it may do.
    pub scopes: Scopes,
    /// Which program it is.
    pub client: ClientInfo,
    /// Id of its device key, when it proved one.
    pub device_id: Option<String>,
    /// Its address; absent for peers on this host.
    pub remote_ip: Option<String>,
    /// Whether it is on this host for sure.
    pub local: bool,
    /// Which of the gateway's shared secrets let it in, counted; absent when
    /// something else did.
    pub secret: Option<u64>,
    /// Whether what it may do comes from a shared secret alone, so that
    /// `gateway.auth.sharedSecretScopes` caps it.
    pub capped: bool,
}

impl Caller {
    /// Returns the name under which a node is registered: the id of its device
    /// key, else the name of its program.
    #[must_use]
    pub fn node_id(&self) -> &str {
        self.device_id.as_deref().unwrap_or(&self.client.id)
    }

    /// Returns a name for people.
    #[must_use]
    pub fn display_name(&self) -> &str {
        self.client.display_name.as_deref().unwrap_or(&self.client.id)
    }

    /// Returns whether it is a web chat.
    #[must_use]
    pub fn is_webchat(&self) -> bool {
        &*self.client.mode == "webchat" || &*self.client.id == "webchat-ui"
    }
}
