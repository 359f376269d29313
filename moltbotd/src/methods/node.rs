//! `node.*`

mod event;

use moltbot_protocol::{
    ErrorCode, Text,
    methods::node::{
        NodeDescribe, NodeDescription, NodeInvoke, NodeInvokeNoted, NodeInvokeResult, NodeInvoked,
        NodeList, NodeListing, NodePairApprove, NodePairApproved, NodePairAsked, NodePairList,
        NodePairListing, NodePairReject, NodePairRejected, NodePairRequest, NodePairVerified,
        NodePairVerify, NodeRename, NodeRenamed,
    },
};
use serde_json::json;

use super::{Context, chat};
use crate::{
    clock,
    gateway::Gateway,
    nodes::{Invoke, InvokeError},
    rpc::{Error, Result, Router},
};

/// In the order clients of the reference see the names.
pub(super) fn register(router: &mut Router<Gateway>) {
    router
        .on(pair_request)
        .on(pair_list)
        .on(pair_approve)
        .on(pair_reject)
        .on(pair_verify)
        .on(rename)
        .on(list)
        .on(describe)
        .on(invoke)
        .on(invoke_result)
        .on(event::event);
}

async fn list(cx: Context, _: NodeList) -> Result<NodeListing> {
    Ok(NodeListing { ts: now(), nodes: cx.gateway.nodes.list().await? })
}

async fn describe(cx: Context, request: NodeDescribe) -> Result<NodeDescription> {
    let node_id = trimmed(&request.node_id, "nodeId required")?;
    let node = cx.gateway.nodes.describe(&node_id).await?;
    let node = node.ok_or_else(|| Error::invalid("unknown nodeId"))?;
    Ok(NodeDescription { ts: now(), node })
}

async fn invoke(cx: Context, request: NodeInvoke) -> Result<NodeInvoked> {
    let node_id = trimmed(&request.node_id, "nodeId and command required")?;
    let command = trimmed(&request.command, "nodeId and command required")?;
    let invoke = Invoke {
        node_id: node_id.clone(),
        command: command.clone(),
        params: request.params,
        timeout_ms: request.timeout_ms,
        idempotency_key: Some(request.idempotency_key.into_string()),
        asked_by: Some(std::sync::Arc::clone(&cx.caller)),
    };
    let answer = cx.gateway.nodes.invoke(invoke).await.inspect_err(|error| {
        if let InvokeError::Reserved { command } = error {
            let who = chat::asker(&cx);
            tracing::warn!(command, asker = who.kind.name(), %who, node = node_id, "node command refused");
        }
    })?;
    Ok(NodeInvoked {
        ok: true,
        node_id,
        command,
        payload: answer.payload,
        payload_json: answer.payload_json,
    })
}

async fn invoke_result(cx: Context, request: NodeInvokeResult) -> Result<NodeInvokeNoted> {
    cx.gateway.nodes.answered(&cx.caller, request)
}

async fn rename(cx: Context, request: NodeRename) -> Result<NodeRenamed> {
    let node_id = trimmed(&request.node_id, "nodeId required")?;
    let display_name = trimmed(&request.display_name, "displayName required")?;
    if !cx.gateway.nodes.rename(node_id.clone(), display_name.clone()).await? {
        return Err(Error::invalid("unknown nodeId"));
    }
    Ok(NodeRenamed { node_id, display_name })
}

async fn pair_request(cx: Context, request: NodePairRequest) -> Result<NodePairAsked> {
    trimmed(&request.node_id, "nodeId required")?;
    Ok(cx.gateway.nodes.ask_to_pair(request).await?)
}

async fn pair_list(cx: Context, _: NodePairList) -> Result<NodePairListing> {
    Ok(cx.gateway.nodes.pairings().await?)
}

async fn pair_approve(cx: Context, request: NodePairApprove) -> Result<NodePairApproved> {
    let request_id = request.request_id.into_string();
    let node = cx.gateway.nodes.approve(request_id.clone()).await?;
    let node = node.ok_or_else(|| Error::invalid("unknown requestId"))?;
    Ok(NodePairApproved { request_id, node })
}

async fn pair_reject(cx: Context, request: NodePairReject) -> Result<NodePairRejected> {
    let request_id = request.request_id.into_string();
    let node_id = cx.gateway.nodes.reject(request_id.clone()).await?;
    let node_id = node_id.ok_or_else(|| Error::invalid("unknown requestId"))?;
    Ok(NodePairRejected { request_id, node_id })
}

async fn pair_verify(cx: Context, request: NodePairVerify) -> Result<NodePairVerified> {
    let node_id = trimmed(&request.node_id, "nodeId required")?;
    let node = cx.gateway.nodes.verify(node_id, &request.token).await?;
    Ok(NodePairVerified { ok: node.is_some(), node })
}

fn trimmed(text: &Text, complaint: &str) -> Result<String> {
    let text = text.trim();
    if text.is_empty() { Err(Error::invalid(complaint)) } else { Ok(text.to_owned()) }
}

fn now() -> u64 {
    u64::try_from(clock::now_ms()).unwrap_or_default()
}

impl From<InvokeError> for Error {
    fn from(error: InvokeError) -> Self {
        let message = error.to_string();
        let refused = |code, message, details| Self::Refused { code, message, details };
        let node_error = |code: &str, message: String| {
            let details = json!({ "nodeError": { "code": code, "message": &message } });
            refused(ErrorCode::Unavailable, message, details)
        };
        match error {
            InvokeError::NotConnected => {
                refused(ErrorCode::Unavailable, message, json!({ "code": "NOT_CONNECTED" }))
            }
            InvokeError::Denied { reason, command } => refused(
                ErrorCode::InvalidRequest,
                message,
                json!({ "reason": reason.to_string(), "command": command }),
            ),
            InvokeError::NotGranted { command, .. } => refused(
                ErrorCode::InvalidRequest,
                message,
                json!({ "reason": "command not approved", "command": command }),
            ),
            InvokeError::Reserved { command } => {
                refused(ErrorCode::InvalidRequest, message, json!({ "command": command }))
            }
            InvokeError::Store(error) => error.into(),
            InvokeError::Busy | InvokeError::NotSent => node_error("UNAVAILABLE", message),
            InvokeError::Cancelled => Self::Unavailable(message),
            InvokeError::TimedOut => node_error("TIMEOUT", message),
            InvokeError::Disconnected(_) => Self::Unavailable(format!("Error: {message}")),
            InvokeError::Failed(error) => {
                refused(ErrorCode::Unavailable, message, json!({ "nodeError": error }))
            }
        }
    }
}
