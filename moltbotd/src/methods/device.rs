//! `device.*`

use std::time::Duration;

use moltbot_protocol::{
    Role, Scopes, Text,
    events::device::{Decision, DevicePairResolved},
    methods::device::{
        AllowedDevice, ApprovedDevice, DeviceList, DevicePairAllow, DevicePairApprove,
        DevicePairList, DevicePairReject, DevicePairRemove, DeviceTokenRevoke, DeviceTokenRotate,
        PendingDevice, RejectedDevice, RemovedDevice, RevokedToken, RotatedToken,
    },
};

use super::Context;
use crate::{
    auth::pairing::{self, REQUEST_TTL_MS, Via},
    bus::Close,
    clock,
    gateway::Gateway,
    nodes,
    rpc::{Error, Result, Router},
};

/// Long enough for an answer to leave, short enough for a revocation.
const OWN_CLOSE_DELAY: Duration = Duration::from_millis(300);

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(list).on(approve).on(allow).on(reject).on(remove).on(rotate).on(revoke);
}

async fn list(cx: Context, _request: DevicePairList) -> Result<DeviceList> {
    let since_ms = clock::now_u64().saturating_sub(REQUEST_TTL_MS);
    let list = cx.gateway.store.read(move |db| {
        let paired = db.devices()?.iter().map(crate::store::Device::shown).collect();
        Ok(DeviceList { pending: db.device_requests(since_ms)?, paired })
    });
    Ok(list.await?)
}

async fn approve(cx: Context, request: DevicePairApprove) -> Result<ApprovedDevice> {
    let asked = find(&cx, &request.request_id).await?;
    check_grant(&cx, asked.scopes.as_ref())?;
    let allow = request.allow.as_deref().map(grants).transpose()?;
    let is_node = asked.role.as_deref() == Some(Role::Node.name());
    if allow.is_some() && !is_node {
        return Err(Error::invalid("allow is for nodes, and the device asks for another role"));
    }
    let offered = asked.commands.clone().unwrap_or_default();
    let now_ms = clock::now_u64();
    let device = cx
        .gateway
        .store
        .write(move |db| {
            let since_ms = now_ms.saturating_sub(REQUEST_TTL_MS);
            let Some(request) = db.take_device_request(&asked.request_id, since_ms)? else {
                return Ok(None);
            };
            pairing::approve(db, &request, allow, Via::Owner, now_ms).map(Some)
        })
        .await?
        .ok_or_else(unknown_request)?;
    let device = device.shown();
    let allowed = device.allow.clone().unwrap_or_default();
    let by = &cx.caller.conn_id;
    tracing::info!(device = device.device_id, by, ?allowed, "device approved");
    resolved(&cx, &request.request_id, &device.device_id, Decision::Approved);
    let withheld = is_node.then(|| nodes::withheld(&allowed, &offered)).flatten();
    Ok(ApprovedDevice { request_id: request.request_id.into(), device, withheld })
}

async fn allow(cx: Context, request: DevicePairAllow) -> Result<AllowedDevice> {
    let allow = grants(&request.allow)?;
    let id = request.device_id.to_string();
    let device = cx
        .gateway
        .store
        .write(move |db| pairing::allow(db, &id, allow))
        .await?
        .ok_or_else(|| Error::invalid("unknown deviceId, or no node"))?;
    let allow = device.allow.unwrap_or_default();
    tracing::info!(device = device.device_id, by = cx.caller.conn_id, ?allow, "node allowed");
    Ok(AllowedDevice { device_id: device.device_id, allow })
}

async fn reject(cx: Context, request: DevicePairReject) -> Result<RejectedDevice> {
    let id = request.request_id.to_string();
    let since_ms = clock::now_u64().saturating_sub(REQUEST_TTL_MS);
    let rejected = cx
        .gateway
        .store
        .write(move |db| db.take_device_request(&id, since_ms))
        .await?
        .ok_or_else(unknown_request)?;
    resolved(&cx, &rejected.request_id, &rejected.device_id, Decision::Rejected);
    Ok(RejectedDevice { request_id: rejected.request_id, device_id: rejected.device_id })
}

async fn remove(cx: Context, request: DevicePairRemove) -> Result<RemovedDevice> {
    let id = request.device_id.to_string();
    let removed = cx.gateway.store.write(move |db| db.remove_device(&id)).await?;
    if !removed {
        return Err(Error::invalid("unknown deviceId"));
    }
    send_away(&cx, &request.device_id, None, "device removed");
    Ok(RemovedDevice { device_id: request.device_id.into(), removed })
}

async fn rotate(cx: Context, request: DeviceTokenRotate) -> Result<RotatedToken> {
    let scopes =
        request.scopes.map(|scopes| Scopes(scopes.into_iter().map(String::from).collect()));
    check_grant(&cx, scopes.as_ref())?;
    let (id, role) = (request.device_id.to_string(), request.role.to_string());
    let held = cx.caller.scopes.clone();
    let now_ms = clock::now_u64();
    let rotated = cx
        .gateway
        .store
        .write(move |db| {
            // The new token is shown to the caller, who must hold all of it.
            let current = db.device(&id)?;
            let kept = current.as_ref().and_then(|device| device.token(&role));
            let granted = scopes.clone().or(kept.map(|token| token.summary.scopes.clone()));
            if granted.is_some_and(|granted| !held.covers(&granted)) {
                return Ok(Err(Error::invalid("cannot rotate a token with scopes you lack")));
            }
            Ok(Ok(pairing::rotate(db, &id, &role, scopes, now_ms)?))
        })
        .await??
        .ok_or_else(unknown_role)?;
    send_away(&cx, &request.device_id, Some(&request.role), "device token rotated");
    Ok(rotated)
}

async fn revoke(cx: Context, request: DeviceTokenRevoke) -> Result<RevokedToken> {
    let (id, role) = (request.device_id.to_string(), request.role.to_string());
    let now_ms = clock::now_u64();
    let known = cx.gateway.store.write(move |db| pairing::revoke(db, &id, &role, now_ms)).await?;
    if !known {
        return Err(unknown_role());
    }
    send_away(&cx, &request.device_id, Some(&request.role), "device token revoked");
    Ok(RevokedToken {
        device_id: request.device_id.into(),
        role: request.role.into(),
        revoked_at_ms: now_ms,
    })
}

async fn find(cx: &Context, request_id: &str) -> Result<PendingDevice> {
    let since_ms = clock::now_u64().saturating_sub(REQUEST_TTL_MS);
    let open = cx.gateway.store.read(move |db| db.device_requests(since_ms)).await?;
    open.into_iter().find(|request| request.request_id == request_id).ok_or_else(unknown_request)
}

fn grants(named: &[Text]) -> Result<Vec<String>> {
    nodes::grants(named.iter().map(Text::as_str)).map_err(Error::Invalid)
}

/// Nobody grants what he does not hold.
fn check_grant(cx: &Context, scopes: Option<&Scopes>) -> Result<()> {
    let missing = scopes
        .into_iter()
        .flat_map(|scopes| &scopes.0)
        .find(|name| !cx.caller.scopes.covers(&Scopes(vec![(*name).clone()])));
    match missing {
        Some(name) => Err(Error::Invalid(format!("cannot grant {name}: missing scope: {name}"))),
        None => Ok(()),
    }
}

fn resolved(cx: &Context, request_id: &str, device_id: &str, decision: Decision) {
    cx.gateway.bus.publish(&DevicePairResolved {
        request_id: request_id.to_owned(),
        device_id: device_id.to_owned(),
        decision,
        ts: clock::now_u64(),
    });
}

/// Ends the connections of a device, and before them what nodes run for it and what it runs as a
/// node; the caller's own connection ends a moment later, so that its answer arrives.
fn send_away(cx: &Context, device_id: &str, role: Option<&str>, reason: &'static str) {
    if role.is_none_or(|role| role == Role::Node.name()) {
        cx.gateway.nodes.drop_device(device_id);
    }
    let device_id = device_id.to_owned();
    let role = role.map(str::to_owned);
    let own = cx.caller.conn_id.clone();
    let gateway = std::sync::Arc::clone(&cx.gateway);
    let hit = move |caller: &crate::auth::Caller| {
        caller.device_id.as_ref() == Some(&device_id)
            && role.as_ref().is_none_or(|role| role == caller.role.name())
    };
    let cancelled = gateway.nodes.cancel_calls_of(&hit);
    let close = Close::policy(reason);
    let ended = gateway.bus.close_where(&close, |caller| hit(caller) && caller.conn_id != own);
    tracing::info!(ended, cancelled, reason, "connections ended");
    tokio::spawn(async move {
        tokio::time::sleep(OWN_CLOSE_DELAY).await;
        gateway.bus.close_where(&close, &hit);
        // What was just being sent to a node when the others were cancelled.
        gateway.nodes.cancel_calls_of(&hit);
    });
}

fn unknown_request() -> Error {
    Error::invalid("unknown requestId")
}

fn unknown_role() -> Error {
    Error::invalid("unknown deviceId/role")
}
