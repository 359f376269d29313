//! `sessions.*`

use std::time::Duration;

use moltbot_protocol::methods::sessions::{
    SessionDeleted, SessionPatched, SessionPreviews, SessionReset, SessionResolved, SessionsDelete,
    SessionsList, SessionsPage, SessionsPatch, SessionsPreview, SessionsReset, SessionsResolve,
};

use super::Context;
use crate::{
    gateway::Gateway,
    rpc::{Error, Result, Router},
    sessions::key,
};

/// How long a run may take to end when its conversation is deleted.
const QUIET: Duration = Duration::from_secs(15);

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(list).on(preview).on(resolve).on(patch).on(reset).on(delete);
}

async fn list(cx: Context, request: SessionsList) -> Result<SessionsPage> {
    cx.gateway.sessions.list(request).await
}

async fn preview(cx: Context, request: SessionsPreview) -> Result<SessionPreviews> {
    cx.gateway.sessions.preview(request).await
}

async fn resolve(cx: Context, request: SessionsResolve) -> Result<SessionResolved> {
    cx.gateway.sessions.resolve(request).await
}

async fn patch(cx: Context, request: SessionsPatch) -> Result<SessionPatched> {
    cx.gateway.sessions.patch(request).await
}

async fn reset(cx: Context, request: SessionsReset) -> Result<SessionReset> {
    cx.gateway.sessions.reset(&request.key).await
}

async fn delete(cx: Context, request: SessionsDelete) -> Result<SessionDeleted> {
    let key = cx.gateway.sessions.canonical(&request.key);
    // What must not be deleted must not be disturbed either.
    if !key::is_main(&key) && !cx.gateway.agent.quiet(&key, QUIET).await {
        let text = format!("Session {key} is still active; try again in a moment.");
        return Err(Error::Unavailable(text));
    }
    let keep = request.delete_transcript == Some(false);
    cx.gateway.sessions.delete(&request.key, keep).await
}
