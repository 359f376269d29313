//! `voicewake.*`

use moltbot_protocol::methods::voicewake::{Triggers, VoicewakeGet, VoicewakeSet};
use serde_json::Value;

use super::Context;
use crate::{
    gateway::Gateway,
    rpc::{Error, Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(get).on(set);
}

async fn get(cx: Context, _: VoicewakeGet) -> Result<Triggers> {
    Ok(Triggers { triggers: cx.gateway.nodes.wake_words().await? })
}

async fn set(cx: Context, request: VoicewakeSet) -> Result<Triggers> {
    let Value::Array(words) = request.triggers else {
        return Err(Error::invalid("voicewake.set requires triggers: string[]"));
    };
    Ok(Triggers { triggers: cx.gateway.nodes.set_wake_words(&words).await? })
}
