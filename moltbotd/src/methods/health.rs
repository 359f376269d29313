//! `health`, `status`

use moltbot_protocol::methods::health::{Health, HealthSummary, Status, StatusSummary};
use serde_json::Value;

use super::Context;
use crate::{
    gateway::Gateway,
    rpc::{Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(health).on(status);
}

async fn health(cx: Context, request: Health) -> Result<HealthSummary> {
    Ok(cx.gateway.health.report(request.probe == Value::Bool(true)).await?)
}

async fn status(cx: Context, _request: Status) -> Result<StatusSummary> {
    Ok(cx.gateway.health.status(Vec::new()).await?)
}
