//! `config.*`

use std::sync::Arc;

use jiff::Timestamp;
use moltbot_protocol::methods::config::{
    ConfigDescription, ConfigGet, ConfigSchema, ConfigSnapshot,
};
use tokio::task;

use super::Context;
use crate::{
    channels, config,
    gateway::Gateway,
    rpc::{Error, Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(get).on(schema);
}

async fn get(cx: Context, _: ConfigGet) -> Result<ConfigSnapshot> {
    let live = Arc::clone(&cx.gateway.config);
    read(move || live.source().load().snapshot(&live.in_force())).await
}

/// Files may be on a file system that is slow, or hangs.
async fn read<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.into()))
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
