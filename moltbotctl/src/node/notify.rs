//! `system.notify`: a message on this host's screen.

use std::{path::Path, time::Duration};

use serde_json::{Map, Value};

use super::{
    account::Account,
    execute::{self, Cancellation, Job},
    programs::Programs,
};

/// The program that shows notifications on Linux desktops.
const PROGRAM: &str = "notify-send";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Returns whether this host can show notifications.
pub(super) fn is_possible(programs: &Programs) -> bool {
    programs.find(PROGRAM, Path::new("/")).is_some()
}

/// Shows a notification.
pub(super) async fn notify(
    account: &Account,
    params: &Map<String, Value>,
    cancellation: Cancellation,
) -> Result<(), (&'static str, String)> {
    let text = |key: &str| params.get(key).and_then(Value::as_str).unwrap_or_default().trim();
    let (title, body) = (text("title"), text("body"));
    if title.is_empty() && body.is_empty() {
        return Err(("INVALID_REQUEST", "INVALID_REQUEST: title or body required".into()));
    }
    let Some(program) = Programs::new(account).find(PROGRAM, Path::new("/")) else {
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
        environment: account.environment(),
        timeout: Some(TIMEOUT),
    };
    let finished = execute::run(job, cancellation).await;
    if finished.success() {
        return Ok(());
    }
    let reason = finished.error.unwrap_or(finished.stderr);
    Err(("UNAVAILABLE", format!("NOTIFICATION_UNAVAILABLE: {}", reason.trim())))
}
