//! `system-presence`, `system-event`, `last-heartbeat`

use moltbot_protocol::methods::system::{
    Done, LastHeartbeat, PresenceEntry, SystemEvent, SystemPresence,
};
use serde_json::Value;

use super::Context;
use crate::{
    gateway::Gateway,
    rpc::{Error, Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(last_heartbeat).on(presence).on(event);
}

async fn presence(cx: Context, _request: SystemPresence) -> Result<Vec<PresenceEntry>> {
    Ok(cx.gateway.presence.list())
}

async fn event(cx: Context, request: SystemEvent) -> Result<Done> {
    let text = request.text.as_str().map(str::trim).unwrap_or_default().to_owned();
    if text.is_empty() {
        return Err(Error::invalid("text required"));
    }
    cx.gateway.presence.report(&request, &text);
    Ok(Done::OK)
}

/// No heartbeat has run: this version has no heartbeat runner.
async fn last_heartbeat(_cx: Context, _request: LastHeartbeat) -> Result<Option<Value>> {
    Ok(None)
}
