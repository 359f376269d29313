//! The older pairing of nodes, by request instead of by connecting, and the
//! names operators give.
//!
//! It grants no connection: those are decided by device pairing.

use moltbot_protocol::{
    Text,
    events::node::{NodePairRequested, NodePairResolved},
    methods::node::{
        NodeFacts, NodePairAsked, NodePairListing, NodePairRequest, NodePaired, NodePending,
    },
};

use super::Nodes;
use crate::{
    auth::{Caller, Secret},
    clock,
    store::{Db, StoreError},
};

const REQUEST_LIFETIME_MS: i64 = 5 * 60 * 1000;

impl Nodes {
    /// Stores a request, or finds the one the node made before.
    pub async fn ask_to_pair(&self, request: NodePairRequest) -> Result<NodePairAsked, StoreError> {
        let now_ms = clock::now_ms();
        let (request, created) =
            self.store.write(move |db| request_pairing(db, request, now_ms)).await?;
        if created {
            self.bus.publish(&NodePairRequested(request.clone()));
        }
        Ok(NodePairAsked { status: "pending".into(), request, created })
    }

    /// Returns open requests and paired nodes.
    pub async fn pairings(&self) -> Result<NodePairListing, StoreError> {
        let since_ms = clock::now_ms() - REQUEST_LIFETIME_MS;
        let (pending, mut paired) = self
            .store
            .read(move |db| Ok((db.node_requests_since(since_ms)?, db.node_pairings()?)))
            .await?;
        paired.sort_by_key(|node| std::cmp::Reverse(node.approved_at_ms));
        Ok(NodePairListing { pending, paired })
    }

    /// Pairs a node; `None` when there is no such request.
    pub async fn approve(&self, request_id: String) -> Result<Option<NodePaired>, StoreError> {
        let now_ms = clock::now_ms();
        let id = request_id.clone();
        let node = self.store.write(move |db| approve_pairing(db, &id, now_ms)).await?;
        if let Some(node) = &node {
            self.resolved(request_id, &node.node_id, "approved", now_ms);
        }
        Ok(node)
    }

    /// Refuses a request and returns whose it was.
    pub async fn reject(&self, request_id: String) -> Result<Option<String>, StoreError> {
        let now_ms = clock::now_ms();
        let id = request_id.clone();
        let request = self
            .store
            .write(move |db| {
                db.drop_node_requests_before(now_ms - REQUEST_LIFETIME_MS)?;
                db.take_node_request(&id)
            })
            .await?;
        let Some(request) = request else { return Ok(None) };
        self.resolved(request_id, &request.node_id, "rejected", now_ms);
        Ok(Some(request.node_id))
    }

    /// Returns the node whose secret this is.
    pub async fn verify(
        &self,
        node_id: String,
        token: &str,
    ) -> Result<Option<NodePaired>, StoreError> {
        let node = self.store.read(move |db| db.node_pairing(&node_id)).await?;
        Ok(node.filter(|node| Secret::new(&node.token).is_some_and(|secret| secret.matches(token))))
    }

    /// Names a node; returns false when nobody knows it.
    pub async fn rename(&self, node_id: String, name: String) -> Result<bool, StoreError> {
        let connected = self.registry().find(&node_id).is_some();
        self.store.write(move |db| rename(db, &node_id, &name, connected)).await
    }

    /// Notes when a node connected, if it was paired in the older way.
    pub(super) async fn note_connection(&self, caller: &Caller) -> Result<(), StoreError> {
        let mut ids = vec![caller.node_id().to_owned()];
        ids.extend(caller.client.instance_id.as_ref().map(ToString::to_string));
        let known = ids.clone();
        let any = self
            .store
            .read(move |db| {
                known.iter().try_fold(false, |any, id| Ok(any || db.node_pairing(id)?.is_some()))
            })
            .await?;
        if !any {
            return Ok(());
        }
        let now_ms = stamp(clock::now_ms());
        self.store
            .write(move |db| {
                for id in &ids {
                    if let Some(node) = db.node_pairing(id)? {
                        let last_connected_at_ms = Some(now_ms);
                        db.put_node_pairing(&NodePaired { last_connected_at_ms, ..node })?;
                    }
                }
                Ok(())
            })
            .await
    }

    fn resolved(&self, request_id: String, node_id: &str, decision: &str, now_ms: i64) {
        self.bus.publish(&NodePairResolved {
            request_id,
            node_id: node_id.to_owned(),
            decision: decision.to_owned(),
            ts: stamp(now_ms),
        });
    }
}

fn request_pairing(
    db: &Db<'_>,
    request: NodePairRequest,
    now_ms: i64,
) -> rusqlite::Result<(NodePending, bool)> {
    db.drop_node_requests_before(now_ms - REQUEST_LIFETIME_MS)?;
    let node_id = request.node_id.trim().to_owned();
    if let Some(open) = db.node_request_of(&node_id)? {
        return Ok((open, false));
    }
    let pending = NodePending {
        request_id: uuid::Uuid::new_v4().to_string(),
        is_repair: db.node_pairing(&node_id)?.is_some(),
        node_id,
        silent: request.silent,
        facts: facts(request),
        ts: stamp(now_ms),
    };
    db.put_node_request(&pending)?;
    Ok((pending, true))
}

fn approve_pairing(
    db: &Db<'_>,
    request_id: &str,
    now_ms: i64,
) -> rusqlite::Result<Option<NodePaired>> {
    db.drop_node_requests_before(now_ms - REQUEST_LIFETIME_MS)?;
    let Some(request) = db.take_node_request(request_id)? else { return Ok(None) };
    let before = db.node_pairing(&request.node_id)?;
    let node = NodePaired {
        token: uuid::Uuid::new_v4().simple().to_string(),
        facts: request.facts,
        bins: before.as_ref().and_then(|node| node.bins.clone()),
        created_at_ms: before.as_ref().map_or(stamp(now_ms), |node| node.created_at_ms),
        approved_at_ms: stamp(now_ms),
        last_connected_at_ms: before.and_then(|node| node.last_connected_at_ms),
        node_id: request.node_id,
    };
    db.put_node_pairing(&node)?;
    Ok(Some(node))
}

fn rename(db: &Db<'_>, node_id: &str, name: &str, connected: bool) -> rusqlite::Result<bool> {
    let older = db.node_pairing(node_id)?;
    if older.is_none() && !connected && !db.is_node_device(node_id)? {
        return Ok(false);
    }
    if let Some(node) = older {
        let facts = NodeFacts { display_name: Some(name.to_owned()), ..node.facts };
        db.put_node_pairing(&NodePaired { facts, ..node })?;
    }
    db.put_node_name(node_id, name)?;
    Ok(true)
}

fn facts(request: NodePairRequest) -> NodeFacts {
    let texts = |list: Vec<Text>| list.into_iter().map(String::from).collect();
    NodeFacts {
        display_name: request.display_name.map(String::from),
        platform: request.platform.map(String::from),
        version: request.version.map(String::from),
        core_version: request.core_version.map(String::from),
        ui_version: request.ui_version.map(String::from),
        device_family: request.device_family.map(String::from),
        model_identifier: request.model_identifier.map(String::from),
        caps: request.caps.map(texts),
        commands: request.commands.map(texts),
        permissions: None,
        remote_ip: request.remote_ip.map(String::from),
    }
}

fn stamp(at_ms: i64) -> u64 {
    u64::try_from(at_ms).unwrap_or_default()
}
