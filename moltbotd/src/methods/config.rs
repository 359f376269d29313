//! `config.*`

use std::sync::Arc;

use jiff::Timestamp;
use moltbot_protocol::{
    ErrorCode, limits,
    methods::{
        config::{
            ConfigApplied, ConfigApply, ConfigDescription, ConfigGet, ConfigPatch, ConfigPlan,
            ConfigPlanned, ConfigSchema, ConfigSet, ConfigSnapshot, ConfigWritten,
        },
        gateway::{RestartNote, RestartPlan, Restarting, Sentinel},
    },
};
use serde_json::json;
use tokio::task;

use super::Context;
use crate::{
    channels,
    config::{self, ReloadMode, WriteError, Written},
    gateway::Gateway,
    restart::{Asked, RestartError},
    rpc::{Error, Result, Router},
};

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(get).on(schema).on(set).on(apply).on(patch).on(plan);
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

async fn set(cx: Context, request: ConfigSet) -> Result<ConfigWritten> {
    let by = by(&cx, "config.set");
    let live = Arc::clone(&cx.gateway.config);
    let written =
        read(move || live.replace(&request.raw, request.base_hash.as_deref(), &by)).await??;
    let path = written.loaded.file.display().to_string();
    Ok(ConfigWritten { ok: true, path, config: written.shown() })
}

async fn apply(cx: Context, request: ConfigApply) -> Result<ConfigApplied> {
    let ConfigApply { raw, base_hash, session_key, note, restart_delay_ms } = request;
    let by = by(&cx, "config.apply");
    let live = Arc::clone(&cx.gateway.config);
    let written = read(move || live.replace(&raw, base_hash.as_deref(), &by)).await??;
    let asked = Asked { session_key, note, delay_ms: restart_delay_ms, ..Asked::default() };
    put_in_force(&cx, "config.apply", written, asked).await
}

async fn patch(cx: Context, request: ConfigPatch) -> Result<ConfigApplied> {
    let ConfigPatch { raw, base_hash, session_key, note, restart_delay_ms } = request;
    let by = by(&cx, "config.patch");
    let live = Arc::clone(&cx.gateway.config);
    let written = read(move || live.patch(&raw, base_hash.as_deref(), &by)).await??;
    let asked = Asked { session_key, note, delay_ms: restart_delay_ms, ..Asked::default() };
    put_in_force(&cx, "config.patch", written, asked).await
}

async fn plan(cx: Context, request: ConfigPlan) -> Result<ConfigPlanned> {
    let files = request.files.into_iter().map(|(file, text)| (file.into(), text)).collect();
    let live = Arc::clone(&cx.gateway.config);
    read(move || live.plan(files)).await
}

/// Names a change in the list of changes.
fn by(cx: &Context, method: &str) -> String {
    format!("{method} ({})", cx.caller.display_name())
}

/// Restarts if that is what the change needs and what the configuration
/// allows. Whoever asked is told in any case.
async fn put_in_force(
    cx: &Context,
    method: &str,
    written: Written,
    asked: Asked,
) -> Result<ConfigApplied> {
    let path = written.loaded.file.display().to_string();
    let asked = Asked {
        kind: "config-apply",
        reason: method.to_owned(),
        stats: Some(json!({ "mode": method, "root": path })),
        ..asked
    };
    let waiting = written.plan.restart.join(", ");
    let mode = cx.gateway.config.source_mode();
    let restart = &cx.gateway.restart;
    let Restarting { restart, sentinel, .. } = if waiting.is_empty() {
        let note = restart.tell_at_once(asked).await?;
        not_restarting(format!("{method}: in force without a restart"), note)
    } else if matches!(mode, ReloadMode::Hot | ReloadMode::Off) {
        let note = restart.tell_at_once(asked).await?;
        not_restarting(format!("gateway.reload.mode keeps waiting: {waiting}"), note)
    } else {
        match restart.request(asked.clone()).await {
            Err(RestartError::Unsupervised) => {
                let note = restart.tell_at_once(asked).await?;
                not_restarting(format!("restart needed by hand for: {waiting}"), note)
            }
            requested => requested?,
        }
    };
    Ok(ConfigApplied { ok: true, path, config: written.shown(), restart, sentinel })
}

fn not_restarting(reason: String, payload: RestartNote) -> Restarting {
    let restart = RestartPlan {
        ok: false,
        pid: std::process::id(),
        delay_ms: 0,
        reason,
        mode: "none".into(),
        supervisor: "none".into(),
    };
    Restarting { ok: true, restart, sentinel: Sentinel { path: None, payload } }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Refused(text) => Self::Invalid(text),
            WriteError::Invalid(issues) => {
                let issues: Vec<_> =
                    issues.iter().take(limits::CONFIG_ISSUES).map(config::shown).collect();
                Self::Refused {
                    code: ErrorCode::InvalidRequest,
                    message: "invalid config".into(),
                    details: json!({ "issues": issues }),
                }
            }
            // An administrator may know the files by name.
            WriteError::Book(error) => Self::Unavailable(error.to_string()),
        }
    }
}
