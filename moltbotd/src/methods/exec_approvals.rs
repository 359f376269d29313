//! `exec.approvals.node.*`: what may run on a node.
//!
//! The only way to a node's rules over the gateway. The node decides whether it takes them.

use moltbot_protocol::{
    Text,
    methods::exec_approvals::{ExecApprovalsNodeGet, ExecApprovalsNodeSet},
};
use serde_json::{Value, json};

use super::{Context, chat};
use crate::{
    gateway::Gateway,
    nodes::{Answer, Invoke},
    rpc::{Error, Result, Router},
};

/// How long a node may take, in milliseconds: as long as in OpenClaw.
const TIMEOUT_MS: u64 = 30_000;

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(get).on(set);
}

async fn get(cx: Context, request: ExecApprovalsNodeGet) -> Result<Value> {
    let node_id = node_id(&request.node_id)?;
    let answer = ask(&cx, node_id, "system.execApprovals.get", json!({})).await?;
    Ok(answer.payload.unwrap_or(Value::Null))
}

/// Who changed the rules of a node is in the log with what the rules were before and after, by
/// their hash.
async fn set(cx: Context, request: ExecApprovalsNodeSet) -> Result<Value> {
    let node_id = node_id(&request.node_id)?;
    let before = request.base_hash.as_ref().map(|hash| hash.as_str().to_owned());
    let mut params = json!({ "file": request.file });
    if let Some(hash) = &before {
        params["baseHash"] = hash.as_str().into();
    }

    let who = chat::asker(&cx);
    let before = before.unwrap_or_default();
    match ask(&cx, node_id.clone(), "system.execApprovals.set", params).await {
        Ok(answer) => {
            let payload = answer.payload.unwrap_or(Value::Null);
            let after = payload["hash"].as_str().unwrap_or_default();
            tracing::warn!(node = node_id, %who, before, after, "exec approvals of a node changed");
            Ok(payload)
        }
        Err(error) => {
            tracing::warn!(node = node_id, %who, before, "exec approvals of a node not changed");
            Err(error)
        }
    }
}

async fn ask(cx: &Context, node_id: String, command: &str, params: Value) -> Result<Answer> {
    let invoke = Invoke {
        node_id,
        command: command.to_owned(),
        params: Some(params),
        timeout_ms: Some(TIMEOUT_MS),
        idempotency_key: Some(uuid::Uuid::new_v4().to_string()),
        asked_by: Some(std::sync::Arc::clone(&cx.caller)),
    };
    Ok(cx.gateway.nodes.exec_approvals(invoke).await?)
}

fn node_id(text: &Text) -> Result<String> {
    match text.trim() {
        "" => Err(Error::invalid("nodeId required")),
        node_id => Ok(node_id.to_owned()),
    }
}
