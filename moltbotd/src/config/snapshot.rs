//! What clients are shown of the configuration.

use moltbot_protocol::methods::config::{ConfigIssue, ConfigSnapshot};
use moltbot_settings::include::merge;
use serde_json::{Value, json};

use super::{Issue, Loaded, known, redact};

impl Loaded {
    /// Returns everything but the secrets. While the file is invalid, what is
    /// `in_force` is shown as the configuration.
    #[must_use]
    pub fn snapshot(&self, in_force: &Value) -> ConfigSnapshot {
        let (moved, odd): (Vec<_>, Vec<_>) =
            self.warnings.iter().partition(|issue| known::moved_to(&issue.path).is_some());
        ConfigSnapshot {
            path: self.file.display().to_string(),
            exists: self.raw.is_some(),
            raw: self.raw.as_ref().and_then(|raw| redact::text(raw, &self.resolved)),
            parsed: redact::value(&self.parsed),
            valid: self.is_valid(),
            config: redact::value(&with_defaults(if self.is_valid() {
                &self.resolved
            } else {
                in_force
            })),
            hash: self.hash.clone(),
            issues: self.issues.iter().map(shown).collect(),
            warnings: odd.into_iter().map(shown).collect(),
            legacy_issues: moved.into_iter().map(shown).collect(),
        }
    }
}

/// Adds the defaults that clients of the reference read from here.
pub(super) fn with_defaults(resolved: &Value) -> Value {
    let mut value = json!({
        "agents": { "defaults": { "maxConcurrent": 4, "subagents": { "maxConcurrent": 8 } } },
        "commands": { "native": "auto", "nativeSkills": "auto" },
        "messages": { "ackReactionScope": "group-mentions" },
    });
    merge(&mut value, resolved.clone());
    value
}

/// Returns something wrong or odd as clients are shown it.
#[must_use]
pub fn shown(issue: &Issue) -> ConfigIssue {
    let message = match &issue.place {
        Some(place) => format!("{} ({place})", issue.message),
        None => issue.message.clone(),
    };
    ConfigIssue { path: issue.path.clone(), message }
}
