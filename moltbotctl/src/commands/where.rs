//! `moltbotctl where`: which gateway would be used, and why.

use serde_json::{Value, json};

use crate::{
    context::Context,
    output::{Output, cell},
    target::Candidate,
};

/// Prints every candidate and the winner; connects to none.
///
/// # Errors
/// When a candidate is named but cannot be used.
pub fn run(cx: &Context) -> anyhow::Result<()> {
    cx.announce_anew();
    let report = report(cx)?;
    if cx.output.json {
        cx.output.value(&report);
    } else {
        show(cx.output, &report);
    }
    Ok(())
}

/// Describes every candidate, with fingerprints in place of secrets.
///
/// # Errors
/// When a candidate is named but cannot be used.
pub fn report(cx: &Context) -> anyhow::Result<Value> {
    let candidates = cx.candidates()?;
    let winner = candidates.iter().position(|candidate| candidate.available);
    let reports: Vec<Value> = candidates
        .iter()
        .enumerate()
        .map(|(at, candidate)| {
            let mut report = described(cx, candidate, Some(at) == winner);
            // What applies and is not chosen lost to what comes before it.
            let lost = candidate.available && Some(at) != winner;
            let to = winner.filter(|_| lost).map(|at| candidates[at].source.name());
            report["lostTo"] = to.into();
            report
        })
        .collect();
    Ok(json!({
        "profile": cx.paths.profile_name(),
        "gateway": cx.meant.name(),
        "config": {
            "path": cx.config.path, "exists": cx.config.exists, "problem": cx.config.problem,
        },
        "stateDir": cx.paths.state_dir,
        "controlSocket": cx.paths.control_socket(),
        "chosen": winner.map(|at| reports[at].clone()),
        "candidates": reports,
    }))
}

fn described(cx: &Context, candidate: &Candidate, chosen: bool) -> Value {
    let mut report = candidate.report(chosen);
    let Some(target) = &candidate.target else { return report };
    let keyring = crate::identity::Keyring::new(cx.paths.client_dir());
    let stored = keyring.stored_token(&target.address.key(), "operator");
    report["deviceToken"] = stored
        .map_or(Value::Null, |token| json!({ "sha256": crate::identity::fingerprint(&token) }));
    report
}

/// Prints the report for people.
pub fn show(out: Output, report: &Value) {
    let missing = if report["config"]["exists"] == true { "" } else { " (not there)" };
    out.pairs(&[
        ("Profile", cell(report, "/profile")),
        ("Config", format!("{}{missing}", cell(report, "/config/path"))),
        ("State", cell(report, "/stateDir")),
        ("Socket", cell(report, "/controlSocket")),
    ]);
    if let Some(problem) = report["config"]["problem"].as_str() {
        out.line(out.verdict(false, problem));
    }
    out.line("");
    let rows = report["candidates"].as_array().into_iter().flatten().map(|candidate| {
        let chosen = candidate["chosen"] == true;
        vec![
            if chosen { out.verdict(true, "*") } else { String::new() },
            cell(candidate, "/kind"),
            cell(candidate, "/url"),
            credentials(candidate),
            why(candidate),
        ]
    });
    out.table(&["", "Candidate", "URL", "Credentials", "Why"], rows.collect(), "Nothing.");
    if let Some(withheld) = report.pointer("/chosen/withheld").and_then(Value::as_str) {
        out.line(format!("Note: {withheld}."));
    }
    out.line(out.quiet("Credentials are shown as the first 8 hex digits of their SHA-256."));
}

fn why(candidate: &Value) -> String {
    let reason = cell(candidate, "/reason");
    match candidate["lostTo"].as_str() {
        Some(winner) => format!("{reason}, but {winner} comes first"),
        None => reason,
    }
}

fn credentials(candidate: &Value) -> String {
    let mut parts = Vec::new();
    for (key, label) in
        [("token", "token"), ("password", "password"), ("deviceToken", "device token")]
    {
        if let Some(digits) = candidate[key]["sha256"].as_str() {
            let source = candidate[key]["source"].as_str();
            let source = source.map(|source| format!(" from {source}")).unwrap_or_default();
            parts.push(format!("{label} {digits}{source}"));
        }
    }
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}
