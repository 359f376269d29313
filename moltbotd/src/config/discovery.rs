//! `discovery`: how the gateway is found on the network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bind, Config, is_exposed};

/// How the gateway is found on the network.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Discovery {
    /// Announcements on the local network (mDNS).
    pub mdns: Mdns,
}

/// Announcements on the local network.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Mdns {
    /// How much is announced: `minimal` when absent and the gateway listens on
    /// the local network, else `off`.
    pub mode: Option<MdnsMode>,
}

/// How much is announced on the local network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MdnsMode {
    /// Nothing.
    Off,
    /// Name, address and port.
    Minimal,
    /// The same with the client's path and the port of ssh.
    Full,
}

impl Config {
    /// Returns how much is announced by a gateway that listens as `bind` says.
    #[must_use]
    pub fn mdns_mode(&self, bind: Bind) -> MdnsMode {
        let off = ["MOLTBOT_DISABLE_BONJOUR", "CLAWDBOT_DISABLE_BONJOUR"]
            .iter()
            .filter_map(|name| self.variable(name))
            .any(|value| matches!(&*value.to_ascii_lowercase(), "1" | "true" | "yes" | "on"));
        if off {
            return MdnsMode::Off;
        }
        // Announcing a port that nobody there can reach would only tell strangers of it.
        let on_the_network = matches!(bind, Bind::Lan | Bind::Custom)
            && is_exposed(bind, self.gateway.custom_bind_host.as_deref());
        let default = if on_the_network { MdnsMode::Minimal } else { MdnsMode::Off };
        self.discovery.mdns.mode.unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    #[test]
    fn only_a_gateway_on_the_local_network_is_announced_unasked() {
        let mut config = Config::default();
        assert_eq!(config.mdns_mode(Bind::Loopback), MdnsMode::Off);
        assert_eq!(config.mdns_mode(Bind::Tailnet), MdnsMode::Off);
        assert_eq!(config.mdns_mode(Bind::Lan), MdnsMode::Minimal);
        config.gateway.custom_bind_host = Some("127.0.0.2".into());
        assert_eq!(config.mdns_mode(Bind::Custom), MdnsMode::Off);
        config.discovery.mdns.mode = Some(MdnsMode::Full);
        assert_eq!(config.mdns_mode(Bind::Loopback), MdnsMode::Full);
        config.variables = Environment::from([("CLAWDBOT_DISABLE_BONJOUR", "1")]);
        assert_eq!(config.mdns_mode(Bind::Lan), MdnsMode::Off);
    }
}
