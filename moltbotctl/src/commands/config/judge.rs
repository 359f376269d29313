//! Whether a configuration could be used, and what it would do. The daemon's
//! rules decide: those of the running one, which knows its variables, else
//! those of the installed program.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use moltbot_protocol::methods::config::{ConfigIssue, ConfigPlanned};
use serde_json::{Value, json};

use crate::{
    client::Client,
    commands::daemon,
    context::{Context, helped},
    target::{Candidate, Source},
};

/// What is said where nobody knows the rules.
pub(super) const UNJUDGED: &str =
    "moltbotd is not installed here: it checks the values when it reads the file.";

/// How long a gateway may take to read a change. It waits a moment for further ones
/// (`gateway.reload.debounceMs`).
const READ_PATIENCE: Duration = Duration::from_secs(5);
const READ_PAUSE: Duration = Duration::from_millis(50);

/// What files are to say; `None` for one that is to go.
pub(super) type Files = BTreeMap<PathBuf, Option<String>>;

/// Judges the configuration with other texts in its files. Returns `None` where
/// nobody knows the rules.
pub(super) async fn texts(cx: &Context, files: &Files) -> anyhow::Result<Option<ConfigPlanned>> {
    let request = request(files);
    if let Some(planned) = running(cx, &request).await {
        return Ok(Some(planned));
    }
    let Some(mut planned) = daemon::plan(cx, None, &request)? else { return Ok(None) };
    if !planned.valid {
        // Variables that the service has and this shell has not are missing in
        // the file as it is, too.
        let now = daemon::plan(cx, None, &json!({}))?;
        let known = now.iter().flat_map(|now| &now.issues).filter(|issue| is_variable(issue));
        let known: Vec<_> = known.map(|issue| &issue.path).collect();
        planned.issues.retain(|issue| !is_variable(issue) || !known.contains(&&issue.path));
        planned.valid = planned.issues.is_empty();
    }
    Ok(Some(planned))
}

/// Judges the profile's file, or another one, as it is.
pub(super) async fn file(
    cx: &Context,
    file: Option<&Path>,
) -> anyhow::Result<Option<ConfigPlanned>> {
    match file {
        Some(file) => daemon::plan(cx, Some(file), &json!({})),
        None => match running(cx, &json!({})).await {
            Some(planned) => Ok(Some(planned)),
            None => daemon::plan(cx, None, &json!({})),
        },
    }
}

/// Refuses what could not be used, and tells what is odd.
pub(super) fn accept(
    cx: &Context,
    planned: Option<&ConfigPlanned>,
    advice: &str,
) -> anyhow::Result<()> {
    let Some(planned) = planned else {
        cx.output.remark(UNJUDGED);
        return Ok(());
    };
    if planned.valid {
        warn(cx, planned);
        return Ok(());
    }
    let lines: Vec<_> = planned.issues.iter().map(line).collect();
    Err(helped(lines.join("\n"), advice))
}

/// Tells what is odd.
pub(super) fn warn(cx: &Context, planned: &ConfigPlanned) {
    for warning in &planned.warnings {
        cx.output.remark(format!("warning: {}", crate::output::clean(&line(warning))));
    }
}

/// Returns one line about something wrong or odd.
pub(super) fn line(issue: &ConfigIssue) -> String {
    if issue.path.is_empty() {
        return issue.message.clone();
    }
    format!("{}: {}", issue.path, issue.message)
}

/// Asks the gateway that uses this file, if one does. Over its control socket
/// only: the texts hold secrets.
async fn running(cx: &Context, request: &Value) -> Option<ConfigPlanned> {
    let candidates = cx.candidates().ok()?;
    let is_local = |it: &&Candidate| it.available && matches!(it.source, Source::ControlSocket);
    let target = candidates.iter().find(is_local)?.target.as_ref()?;
    let client = Client::connect(target, &cx.options(target)).await.ok()?;
    let answer = client.call_raw("config.plan", request.clone()).await;
    client.close().await;
    let planned: ConfigPlanned = serde_json::from_value(answer.ok()?).ok()?;
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    (real(Path::new(&planned.path)) == real(&cx.config.path)).then_some(planned)
}

/// Where a change stands that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The running gateway has read it: what needs no restart is in force.
    InForce,
    /// It has not, or keeps it back (`gateway.reload.mode`).
    Waits,
    /// No gateway runs on this file.
    NoGateway,
}

/// Waits until the running gateway has read the file as it is. It notices the change by itself;
/// once it has, the file says nothing that a plan would put in force without a restart.
pub(super) async fn standing(cx: &Context) -> Standing {
    let until = Instant::now() + READ_PATIENCE;
    loop {
        let Some(planned) = running(cx, &json!({})).await else { return Standing::NoGateway };
        let waits = planned.changes.iter().any(|change| change.effect != "restart");
        if planned.valid && !waits {
            return Standing::InForce;
        }
        if Instant::now() >= until {
            return Standing::Waits;
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
}

fn request(files: &Files) -> Value {
    let named = files.iter().map(|(file, text)| (file.display().to_string(), json!(text)));
    json!({ "files": Value::Object(named.collect()) })
}

fn is_variable(issue: &ConfigIssue) -> bool {
    issue.message.starts_with("environment variable ")
}

/// Reads a file, or standard input for `-`.
pub(super) fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("cannot read standard input");
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
