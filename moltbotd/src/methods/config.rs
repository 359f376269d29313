//! `config.*`

use jiff::Timestamp;
use moltbot_protocol::methods::config::{
    ConfigDescription, ConfigGet, ConfigSchema, ConfigSnapshot,
};

use super::Context;
use crate::{
    channels, config,
    gateway::Gateway,
    rpc::{Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(get).on(schema);
}

async fn get(cx: Context, _: ConfigGet) -> Result<ConfigSnapshot> {
    Ok(cx.gateway.config.loaded().snapshot())
}

async fn schema(_: Context, _: ConfigSchema) -> Result<ConfigDescription> {
    let channels: Vec<_> = channels::ALL.iter().map(|entry| (entry.id, entry.schema)).collect();
    let schema = config::schema(&channels);
    Ok(ConfigDescription {
        ui_hints: config::hints(&schema),
        schema,
        version: env!("CARGO_PKG_VERSION").into(),
        generated_at: format!("{:.3}", Timestamp::now()),
    })
}
