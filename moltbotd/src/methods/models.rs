//! `models.list`

use moltbot_protocol::methods::models::{Model, ModelListing, ModelsList};

use super::Context;
use crate::{
    gateway::Gateway,
    providers::ModelInfo,
    rpc::{Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(list);
}

async fn list(cx: Context, _: ModelsList) -> Result<ModelListing> {
    Ok(ModelListing { models: cx.gateway.models.list().into_iter().map(shown).collect() })
}

fn shown(info: ModelInfo) -> Model {
    Model {
        id: info.model.model,
        name: info.name,
        provider: info.model.provider,
        context_window: info.context_window,
        reasoning: Some(info.reasoning),
        input: Some(info.input),
    }
}
