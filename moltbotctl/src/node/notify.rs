//! `system.notify`: a message on this host's screen.

use std::{path::Path, time::Duration};

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::{
    execute::{self, Job},
    programs::Programs,
};

/// The program that shows notifications on Linux desktops.
const PROGRAM: &str = "notify-send";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Returns whether this host can show notifications.
pub(super) fn is_possible(programs: &Programs) -> bool {
    programs.find(PROGRAM, programs.path(), Path::new("/")).is_some()
}

/// Shows a notification.
pub(super) async fn notify(
    programs: &Programs,
    params: &Map<String, Value>,
    cancelled: CancellationToken,
) -> Result<(), (&'static str, String)> {
    let text = |key: &str| params.get(key).and_then(Value::as_str).unwrap_or_default().trim();
    let (title, body) = (text("title"), text("body"));
    if title.is_empty() && body.is_empty() {
        return Err(("INVALID_REQUEST", "INVALID_REQUEST: title or body required".into()));
    }
    let Some(program) = programs.find(PROGRAM, programs.path(), Path::new("/")) else {
        return Err((
            "UNAVAILABLE",
            "NOTIFICATION_UNAVAILABLE: notify-send is not installed on this node".into(),
        ));
    };
    let urgency = match text("priority") {
        "passive" => "low",
        "timeSensitive" => "critical",
        _ => "normal",
    };
    let title = if title.is_empty() { "Moltbot" } else { title };
    let argv = [PROGRAM, "--app-name=Moltbot", "--urgency", urgency, "--", title, body];
    let job = Job {
        program,
        argv: argv.map(ToOwned::to_owned).into(),
        folder: None,
        environment: Vec::new(),
        timeout: Some(TIMEOUT),
    };
    let finished = execute::run(job, cancelled).await;
    if finished.success() {
        return Ok(());
    }
    let reason = finished.error.unwrap_or(finished.stderr);
    Err(("UNAVAILABLE", format!("NOTIFICATION_UNAVAILABLE: {}", reason.trim())))
}
