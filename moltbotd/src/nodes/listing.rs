//! The nodes as operators see them: connected, paired, or both.

use std::collections::{BTreeMap, HashMap};

use moltbot_protocol::methods::node::Node;

use super::{Nodes, keyless, policy, registry::Connected};
use crate::store::{NodeDevice, StoreError};

impl Nodes {
    /// Returns every node, connected ones first, then by name.
    pub async fn list(&self) -> Result<Vec<Node>, StoreError> {
        let (devices, names) =
            self.store.read(|db| Ok((db.node_devices()?, db.node_names()?))).await?;
        let mut nodes: BTreeMap<String, Node> =
            devices.into_iter().map(|device| (device.id.clone(), paired(device))).collect();
        for connected in self.registry().all() {
            let known = nodes.remove(connected.caller.node_id());
            let node = live(connected, known);
            nodes.insert(node.node_id.clone(), node);
        }
        let mut nodes: Vec<Node> = nodes.into_values().map(|node| named(node, &names)).collect();
        nodes.sort_by_cached_key(|node| (!node.connected, label(node), node.node_id.clone()));
        Ok(nodes)
    }

    /// Returns one node.
    pub async fn describe(&self, node_id: &str) -> Result<Option<Node>, StoreError> {
        Ok(self.list().await?.into_iter().find(|node| node.node_id == node_id))
    }
}

fn paired(device: NodeDevice) -> Node {
    Node {
        node_id: device.id,
        display_name: device.display_name,
        platform: device.platform,
        remote_ip: device.remote_ip,
        allow: (!device.allow.is_empty()).then_some(device.allow),
        paired: true,
        ..Node::default()
    }
}

fn live(connected: &Connected, known: Option<Node>) -> Node {
    let Connected { caller, .. } = connected;
    let client = &caller.client;
    let text = |text: &Option<moltbot_protocol::Text>| text.as_ref().map(ToString::to_string);
    let known = known.unwrap_or_default();
    let allow = match &caller.device_id {
        Some(_) => known.allow.unwrap_or_default(),
        None => keyless(caller),
    };
    Node {
        node_id: caller.node_id().to_owned(),
        display_name: text(&client.display_name).or(known.display_name),
        platform: Some(client.platform.to_string()),
        version: Some(client.version.to_string()),
        core_version: None,
        ui_version: None,
        device_family: text(&client.device_family),
        model_identifier: text(&client.model_identifier),
        remote_ip: caller.remote_ip.clone().or(known.remote_ip),
        caps: connected.caps.clone(),
        withheld: policy::withheld(&allow, &connected.commands),
        allow: (!allow.is_empty()).then_some(allow),
        commands: connected.commands.clone(),
        path_env: connected.path_env.clone(),
        permissions: connected.permissions.clone(),
        connected_at_ms: Some(connected.connected_at_ms),
        paired: known.paired,
        connected: true,
    }
}

/// The name an operator gave wins over the node's own.
fn named(node: Node, names: &HashMap<String, String>) -> Node {
    match names.get(&node.node_id) {
        Some(name) => Node { display_name: Some(name.clone()), ..node },
        None => node,
    }
}

fn label(node: &Node) -> String {
    node.display_name.as_ref().unwrap_or(&node.node_id).to_lowercase()
}
