//! `talk.mode`

use moltbot_protocol::{events::talk::TalkModeChanged, methods::talk::TalkMode};

use super::Context;
use crate::{
    clock,
    gateway::Gateway,
    rpc::{Error, Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(mode);
}

async fn mode(cx: Context, request: TalkMode) -> Result<TalkModeChanged> {
    if cx.caller.is_webchat() && !cx.gateway.nodes.has_mobile() {
        let text = "talk disabled: no connected iOS/Android nodes";
        return Err(Error::Unavailable(text.into()));
    }
    let changed = TalkModeChanged {
        enabled: request.enabled,
        phase: request.phase,
        ts: u64::try_from(clock::now_ms()).unwrap_or_default(),
    };
    cx.gateway.bus.publish(&changed);
    Ok(changed)
}
