//! `config.*`

use std::sync::Arc;

use jiff::Timestamp;
use moltbot_protocol::{
    ErrorCode, limits,
    methods::{
        config::{
            ConfigApplied, ConfigApply, ConfigDescription, ConfigGet, ConfigPatch, ConfigPlan,
            ConfigPlanned, ConfigSchema, ConfigSet, ConfigSnapshot, ConfigWritten,
            Reauthentication,
        },
        gateway::{RestartNote, RestartPlan, Restarting, Sentinel},
    },
};
use serde_json::{Value, json};
use tokio::task;

use super::Context;
use crate::{
    channels,
    config::{self, Guard, ReloadMode, WriteError, Written},
    gateway::Gateway,
    logging::Peer,
    restart::{Asked, RestartError},
    rpc::{Error, Result, Router},
};

/// Guarded keys that a refusal names.
const GUARDED_SHOWN: usize = 5;

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

fn whole_schema() -> Value {
    let channels: Vec<_> = channels::ALL.iter().map(|entry| (entry.id, entry.schema)).collect();
    config::schema(&channels)
}

/// Returns whether every key may be changed. The control socket and a direct connection of this
/// host are those of somebody who could edit the file; that includes whoever came through `ssh`,
/// who has a shell here. Everybody else shows the secret for it.
fn may_change_all(cx: &Context, auth: Option<&Reauthentication>) -> Result<bool> {
    let Some(Reauthentication { reauth }) = auth else { return Ok(cx.caller.local) };
    cx.gateway.auth.reauthenticate(&cx.caller, reauth).map(|()| true).map_err(|refusal| {
        Error::Refused {
            code: refusal.code,
            message: refusal.message,
            details: json!({ "code": "REAUTH_FAILED" }),
        }
    })
}

/// Changes the configuration, on a thread where that may take its time.
async fn change<F>(cx: &Context, auth: Option<&Reauthentication>, work: F) -> Result<Written>
where
    F: FnOnce(&config::Live, Guard<'_>) -> std::result::Result<Written, WriteError>
        + Send
        + 'static,
{
    let lifted = may_change_all(cx, auth)?;
    let live = Arc::clone(&cx.gateway.config);
    let written = read(move || {
        if lifted {
            return work(&live, Guard::Lifted);
        }
        work(&live, Guard::Up(&whole_schema()))
    });
    let written = written.await?;
    if let Err(WriteError::Guarded(paths)) = &written {
        let (client, device) = (Peer(cx.caller.display_name()), cx.caller.device_id.as_deref());
        let ip = cx.caller.remote_ip.as_deref();
        tracing::warn!(%client, device, ip, ?paths, "change refused: needs the secret again");
    }
    Ok(written?)
}

async fn schema(_: Context, _: ConfigSchema) -> Result<ConfigDescription> {
    let schema = whole_schema();
    Ok(ConfigDescription {
        ui_hints: config::hints(&schema),
        schema,
        version: env!("CARGO_PKG_VERSION").into(),
        generated_at: format!("{:.3}", Timestamp::now()),
    })
}

async fn set(cx: Context, request: ConfigSet) -> Result<ConfigWritten> {
    let by = by(&cx, "config.set");
    let ConfigSet { raw, base_hash, auth } = request;
    let written = change(&cx, auth.as_ref(), move |live, guard| {
        live.replace(&raw, base_hash.as_deref(), &by, guard)
    });
    let written = written.await?;
    let path = written.loaded.file.display().to_string();
    Ok(ConfigWritten { ok: true, path, config: written.shown() })
}

async fn apply(cx: Context, request: ConfigApply) -> Result<ConfigApplied> {
    let ConfigApply { raw, base_hash, auth, session_key, note, restart_delay_ms } = request;
    let by = by(&cx, "config.apply");
    let written = change(&cx, auth.as_ref(), move |live, guard| {
        live.replace(&raw, base_hash.as_deref(), &by, guard)
    });
    let written = written.await?;
    let asked = Asked { session_key, note, delay_ms: restart_delay_ms, ..Asked::default() };
    put_in_force(&cx, "config.apply", written, asked).await
}

async fn patch(cx: Context, request: ConfigPatch) -> Result<ConfigApplied> {
    let ConfigPatch { raw, base_hash, auth, session_key, note, restart_delay_ms } = request;
    let by = by(&cx, "config.patch");
    let written = change(&cx, auth.as_ref(), move |live, guard| {
        live.patch(&raw, base_hash.as_deref(), &by, guard)
    });
    let written = written.await?;
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
            WriteError::Guarded(paths) => {
                let first = paths.first().map_or("KEY", String::as_str);
                let shown = paths.iter().take(GUARDED_SHOWN).cloned().collect::<Vec<_>>();
                let more = paths.len() - shown.len();
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                let message = format!(
                    "changing {}{more} from another host needs the gateway's secret again: send \
                     it as auth.reauth, or run on the gateway's host: moltbotctl config set \
                     {first} VALUE",
                    shown.join(", ")
                );
                let details = json!({ "code": "REAUTH_REQUIRED", "paths": shown });
                Self::Refused { code: ErrorCode::InvalidRequest, message, details }
            }
            // An administrator may know the files by name.
            WriteError::Book(error) => Self::Unavailable(error.to_string()),
        }
    }
}
