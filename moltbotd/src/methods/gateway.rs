//! `gateway.restart`, and why there is no `update.run`

use moltbot_protocol::methods::gateway::{GatewayRestart, Restarting};

use super::Context;
use crate::{
    gateway::Gateway,
    restart::{Asked, RestartError},
    rpc::{Error, Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(restart).absent(
        "update.run",
        "this gateway does not replace its own programs; install the new package, which restarts it",
    );
}

async fn restart(cx: Context, request: GatewayRestart) -> Result<Restarting> {
    let asked = Asked {
        session_key: request.session_key,
        note: request.note,
        delay_ms: request.restart_delay_ms,
        ..Asked::of_kind("restart", "gateway.restart")
    };
    Ok(cx.gateway.restart.request(asked).await?)
}

impl From<RestartError> for Error {
    fn from(error: RestartError) -> Self {
        match error {
            RestartError::Store(error) => error.into(),
            error => Self::Unavailable(error.to_string()),
        }
    }
}
