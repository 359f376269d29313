//! `moltbotctl config`.

mod change;
mod judge;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    cli::ConfigCommand,
    config::{LocalConfig, at},
    context::{Context, helped},
    error::Error,
};

/// Words in the names of keys whose values are secrets.
const SECRET_WORDS: [&str; 5] = ["token", "password", "secret", "apikey", "privatekey"];

/// Runs one of the configuration commands.
///
/// # Errors
/// When a file or key is not usable.
pub async fn run(cx: &Context, command: ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Path => {
            let cx = cx.at_its_files()?;
            let path = cx.config.path.display().to_string();
            if cx.output.json {
                cx.output.value(&json!({ "path": path, "exists": cx.config.exists }));
            } else {
                cx.output.line(path);
            }
            Ok(())
        }
        ConfigCommand::Get { key } => get(cx, key.as_deref()).await,
        ConfigCommand::Check { file } => check(cx, file).await,
        ConfigCommand::Plan { file } => change::plan(cx, &file).await,
        ConfigCommand::History => change::history(cx),
        ConfigCommand::Set { key, value, string } => change::set(cx, &key, &value, string).await,
        ConfigCommand::Unset { key } => change::unset(cx, &key).await,
        ConfigCommand::Edit { resume } => change::edit(cx, resume).await,
        ConfigCommand::Undo { number } => change::undo(cx, number).await,
    }
}

/// The running gateway knows defaults too; without one the file is read.
async fn get(cx: &Context, key: Option<&str>) -> anyhow::Result<()> {
    let mut config = match cx.call("config.get", json!({})).await {
        Ok(snapshot) => snapshot.get("config").cloned().unwrap_or(snapshot),
        Err(error) if is_unreachable(&error) => {
            cx.at_its_files()?;
            cx.output.remark("the gateway does not answer; this is the file without defaults");
            if let Some(problem) = &cx.config.problem {
                return Err(helped(problem.clone(), "fix it and run: moltbotctl config check"));
            }
            cx.config.expanded()?
        }
        Err(error) => return Err(error),
    };
    redact(&mut config);
    let found = key.map_or(Some(&config), |key| at(&config, key));
    match (found, key) {
        (Some(Value::String(text)), Some(_)) if !cx.output.json => {
            cx.output.line(crate::output::clean(text));
        }
        (Some(value), _) => cx.output.value(value),
        (None, key) => {
            return Err(helped(
                format!("{} is not set", key.unwrap_or_default()),
                "see everything that is: moltbotctl config get",
            ));
        }
    }
    Ok(())
}

fn is_unreachable(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Connect { .. } | Error::Timeout(_)))
}

/// Replaces the secrets that a reference gateway or the file shows.
fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let name = key.to_lowercase();
                let secret = SECRET_WORDS.iter().any(|word| name.ends_with(word));
                if secret && member.as_str().is_some_and(|text| !text.is_empty()) {
                    *member = "(redacted)".into();
                } else {
                    redact(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

/// The daemon knows the values; without its program the form is checked.
async fn check(cx: &Context, file: Option<PathBuf>) -> anyhow::Result<()> {
    if file.is_none() {
        cx.at_its_files()?;
    }
    if let Some(file) = file.as_ref().filter(|file| !file.exists()) {
        return Err(helped(
            format!("there is no file {}", file.display()),
            "see which file is used: moltbotctl config path",
        ));
    }
    let Some(planned) = judge::file(cx, file.as_deref()).await? else {
        return check_form(cx, file);
    };
    let exists = file.is_some() || cx.config.exists;
    if cx.output.json {
        cx.output.value(&json!({ "path": planned.path, "exists": exists, "ok": planned.valid,
            "problem": planned.issues.first().map(judge::line), "issues": planned.issues,
            "warnings": planned.warnings, "restrictions": planned.restrictions }));
    } else {
        judge::warn(cx, &planned);
        for restriction in &planned.restrictions {
            cx.output.line(crate::output::clean(&judge::line(restriction)));
        }
    }
    if !planned.valid {
        let lines: Vec<_> = planned.issues.iter().map(judge::line).collect();
        let advice = "edit the file and check again: moltbotctl config check";
        return Err(helped(lines.join("\n"), advice));
    }
    if !cx.output.json {
        cx.output.line(if exists && !planned.warnings.is_empty() {
            format!("{}: can be used; see the warnings.", planned.path)
        } else if exists {
            format!("{}: good.", planned.path)
        } else {
            format!("{} is not there; defaults apply.", planned.path)
        });
    }
    Ok(())
}

fn check_form(cx: &Context, file: Option<PathBuf>) -> anyhow::Result<()> {
    let config = match &file {
        Some(file) => LocalConfig::read(file, &cx.environment),
        None => cx.config.clone(),
    };
    let problem = config.problem.clone();
    let problem = problem.or_else(|| config.expanded().err().map(|error| format!("{error:#}")));
    let path = config.path.display().to_string();
    if cx.output.json {
        let report = json!({ "path": path, "exists": config.exists, "ok": problem.is_none(),
            "problem": problem });
        cx.output.value(&report);
    }
    match problem {
        Some(problem) => {
            Err(helped(problem, "edit the file and check again: moltbotctl config check"))
        }
        None if cx.output.json => Ok(()),
        None if config.exists => {
            cx.output.line(format!("{path}: syntax, includes and variables are right."));
            cx.output.line(cx.output.quiet(judge::UNJUDGED));
            Ok(())
        }
        None => {
            cx.output.line(format!("{path} is not there; defaults apply."));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_redacted_and_the_rest_stays() {
        let mut config = json!({
            "gateway": { "auth": { "token": "t", "mode": "token" }, "port": 1 },
            "channels": { "telegram": { "botToken": "b", "tokenFile": "/x" } },
            "models": { "providers": [{ "apiKey": "k" }] },
            "maxTokens": 5,
        });
        redact(&mut config);
        assert_eq!(
            config,
            json!({
                "gateway": { "auth": { "token": "(redacted)", "mode": "token" }, "port": 1 },
                "channels": { "telegram": { "botToken": "(redacted)", "tokenFile": "/x" } },
                "models": { "providers": [{ "apiKey": "(redacted)" }] },
                "maxTokens": 5,
            })
        );
    }
}
