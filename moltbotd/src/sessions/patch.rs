//! The rules of `sessions.patch`.

use moltbot_protocol::{
    Text,
    methods::sessions::{GroupActivation, ResponseUsage, SendPolicy, SessionEntry, SessionsPatch},
};

use super::model;
use crate::providers::ModelRef;

/// Models of the reference's catalogue that think as hard as that.
const XHIGH_MODELS: [&str; 3] =
    ["openai/gpt-5.2", "openai-codex/gpt-5.2-codex", "openai-codex/gpt-5.1-codex"];

type Rule = Result<(), String>;

/// Changes an entry as a patch says. The text of an error is for the caller.
pub(super) fn apply(
    key: &str,
    entry: &mut SessionEntry,
    patch: &SessionsPatch,
    default_model: &ModelRef,
) -> Rule {
    spawned_by(key, entry, patch.spawned_by.as_ref())?;
    if let Some(label) = &patch.label {
        entry.label.clone_from(label);
    }
    model_choice(entry, patch.model.as_ref(), default_model)?;
    levels(entry, patch, default_model)?;
    exec(entry, patch)?;
    if let Some(usage) = patch.response_usage {
        entry.response_usage = match usage {
            Some(ResponseUsage::Tokens | ResponseUsage::On) => Some("tokens".into()),
            Some(ResponseUsage::Full) => Some("full".into()),
            Some(ResponseUsage::Off) | None => None,
        };
    }
    if let Some(policy) = patch.send_policy {
        entry.send_policy = policy.map(|policy| match policy {
            SendPolicy::Allow => "allow".into(),
            SendPolicy::Deny => "deny".into(),
        });
    }
    if let Some(activation) = patch.group_activation {
        entry.group_activation = activation.map(|activation| match activation {
            GroupActivation::Mention => "mention".into(),
            GroupActivation::Always => "always".into(),
        });
    }
    Ok(())
}

/// Reads a thinking level, also in the words people use; `None` when unknown.
#[must_use]
pub fn thinking_level(text: &str) -> Option<&'static str> {
    Some(match text.trim().to_lowercase().as_str() {
        "off" | "none" => "off",
        "minimal" | "min" | "think" => "minimal",
        "low" | "on" | "enable" | "enabled" => "low",
        "medium" | "mid" | "med" => "medium",
        "high" | "highest" | "max" | "ultra" => "high",
        "xhigh" | "x-high" | "x_high" => "xhigh",
        _ => return None,
    })
}

/// Reads a verbosity, also in the words people use; `None` when unknown.
#[must_use]
pub fn verbose_level(text: &str) -> Option<&'static str> {
    Some(match text.trim().to_lowercase().as_str() {
        "off" | "false" | "no" | "0" => "off",
        "full" | "all" | "everything" => "full",
        "on" | "minimal" | "true" | "yes" | "1" => "on",
        _ => return None,
    })
}

fn levels(entry: &mut SessionEntry, patch: &SessionsPatch, default_model: &ModelRef) -> Rule {
    if let Some(level) = &patch.thinking_level {
        entry.thinking_level = match level {
            Some(text) => thinking(text, entry, default_model)?,
            None => None,
        };
    }
    if let Some(level) = &patch.verbose_level {
        entry.verbose_level =
            choose(level, verbose_level, r#"invalid verboseLevel (use "on"|"off")"#)?;
    }
    if let Some(level) = &patch.reasoning_level {
        let error = r#"invalid reasoningLevel (use "on"|"off"|"stream")"#;
        entry.reasoning_level = choose(level, |text| pick(text, &["on", "off", "stream"]), error)?
            .filter(|level| level != "off");
    }
    if let Some(level) = &patch.elevated_level {
        let error = r#"invalid elevatedLevel (use "on"|"off"|"ask"|"full")"#;
        entry.elevated_level =
            choose(level, |text| pick(text, &["on", "off", "ask", "full"]), error)?;
    }
    Ok(())
}

fn thinking(
    text: &str,
    entry: &SessionEntry,
    default_model: &ModelRef,
) -> Result<Option<String>, String> {
    let own = entry.provider_override.as_ref().zip(entry.model_override.as_ref());
    let model = own.map_or_else(
        || default_model.to_string(),
        |(provider, model)| format!("{provider}/{model}"),
    );
    let reaches_xhigh = XHIGH_MODELS.contains(&model.as_str());
    match thinking_level(text) {
        None => {
            let more = if reaches_xhigh { "|xhigh" } else { "" };
            Err(format!("invalid thinkingLevel (use off|minimal|low|medium|high{more})"))
        }
        Some("xhigh") if !reaches_xhigh => {
            let [first, second, third] = XHIGH_MODELS;
            Err(format!(
                "thinkingLevel \"xhigh\" is only supported for {first}, {second} or {third}"
            ))
        }
        Some("off") => Ok(None),
        Some(level) => Ok(Some(level.to_owned())),
    }
}

fn exec(entry: &mut SessionEntry, patch: &SessionsPatch) -> Rule {
    if let Some(host) = &patch.exec_host {
        let error = r#"invalid execHost (use "sandbox"|"gateway"|"node")"#;
        entry.exec_host = choose(host, |text| pick(text, &["sandbox", "gateway", "node"]), error)?;
    }
    if let Some(security) = &patch.exec_security {
        let error = r#"invalid execSecurity (use "deny"|"allowlist"|"full")"#;
        entry.exec_security =
            choose(security, |text| pick(text, &["deny", "allowlist", "full"]), error)?;
    }
    if let Some(ask) = &patch.exec_ask {
        let error = r#"invalid execAsk (use "off"|"on-miss"|"always")"#;
        entry.exec_ask = choose(ask, |text| pick(text, &["off", "on-miss", "always"]), error)?;
    }
    if let Some(node) = &patch.exec_node {
        entry.exec_node = trimmed(node, "invalid execNode: empty")?;
    }
    Ok(())
}

fn model_choice(
    entry: &mut SessionEntry,
    model: Option<&Option<Text>>,
    default_model: &ModelRef,
) -> Rule {
    let Some(model) = model else { return Ok(()) };
    let chosen = trimmed(model, "invalid model: empty")?
        .map(|name| model::parse(&name, default_model))
        .filter(|model| model != default_model);
    (entry.provider_override, entry.model_override) =
        chosen.map(|ModelRef { provider, model }| (provider, model)).unzip();
    Ok(())
}

fn spawned_by(key: &str, entry: &mut SessionEntry, parent: Option<&Option<Text>>) -> Rule {
    let Some(parent) = parent else { return Ok(()) };
    let Some(parent) = trimmed(parent, "invalid spawnedBy: empty")? else {
        if entry.spawned_by.is_some() {
            return Err("spawnedBy cannot be cleared once set".into());
        }
        return Ok(());
    };
    let rest = key.splitn(3, ':').nth(2).unwrap_or(key);
    if !rest.starts_with("subagent:") {
        return Err("spawnedBy is only supported for subagent:* sessions".into());
    }
    if entry.spawned_by.as_ref().is_some_and(|known| *known != parent) {
        return Err("spawnedBy cannot be changed once set".into());
    }
    entry.spawned_by = Some(parent);
    Ok(())
}

fn choose(
    given: &Option<Text>,
    read: impl Fn(&str) -> Option<&'static str>,
    error: &str,
) -> Result<Option<String>, String> {
    match given {
        None => Ok(None),
        Some(text) => match read(text) {
            Some(level) => Ok(Some(level.to_owned())),
            None => Err(error.to_owned()),
        },
    }
}

fn pick(text: &str, allowed: &[&'static str]) -> Option<&'static str> {
    let text = text.trim().to_lowercase();
    allowed.iter().copied().find(|&known| known == text)
}

fn trimmed(given: &Option<Text>, error: &str) -> Result<Option<String>, String> {
    match given.as_ref().map(|text| text.trim()) {
        Some("") => Err(error.to_owned()),
        text => Ok(text.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn patched(fields: Value) -> Result<SessionEntry, String> {
        patched_as("agent:main:a", fields)
    }

    fn patched_as(key: &str, mut fields: Value) -> Result<SessionEntry, String> {
        fields["key"] = key.into();
        let patch: SessionsPatch = serde_json::from_value(fields).unwrap();
        let mut entry = SessionEntry { thinking_level: Some("low".into()), ..Default::default() };
        let default = ModelRef { provider: "mock".into(), model: "mock-1".into() };
        apply(key, &mut entry, &patch, &default).map(|()| entry)
    }

    #[test]
    fn refusals_are_worded_like_the_reference() {
        let cases = [
            (
                json!({"thinkingLevel": "x"}),
                "invalid thinkingLevel (use off|minimal|low|medium|high)",
            ),
            (json!({"verboseLevel": "x"}), r#"invalid verboseLevel (use "on"|"off")"#),
            (json!({"execHost": "moon"}), r#"invalid execHost (use "sandbox"|"gateway"|"node")"#),
            (json!({"model": " "}), "invalid model: empty"),
            (json!({"spawnedBy": "x"}), "spawnedBy is only supported for subagent:* sessions"),
        ];
        for (fields, error) in cases {
            assert_eq!(patched(fields).unwrap_err(), error);
        }
    }

    #[test]
    fn the_default_model_and_null_clear_the_choice() {
        let other = patched(json!({"model": "nope/none"})).unwrap();
        assert_eq!(other.provider_override.as_deref(), Some("nope"));
        assert_eq!(other.model_override.as_deref(), Some("none"));
        assert_eq!(patched(json!({"model": "mock/mock-1"})).unwrap().model_override, None);
        assert_eq!(patched(json!({"model": null})).unwrap().model_override, None);
    }

    #[test]
    fn off_clears_thinking_but_is_kept_as_verbosity() {
        let entry = patched(json!({"thinkingLevel": "off", "verboseLevel": "off"})).unwrap();
        assert_eq!(entry.thinking_level, None);
        assert_eq!(entry.verbose_level.as_deref(), Some("off"));
    }

    #[test]
    fn a_parent_is_set_once() {
        let key = "agent:main:subagent:1";
        let entry = patched_as(key, json!({"spawnedBy": "agent:main:main"})).unwrap();
        assert_eq!(entry.spawned_by.as_deref(), Some("agent:main:main"));
    }
}
