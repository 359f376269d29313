//! What a change of a key takes. Each key, or the section around it, says so
//! where it is declared (`#[schemars(extend("x-effect" = …))]`), and it is part
//! of the schema that clients see.

use moltbot_settings::{Path, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a change of a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing: it is in force at once.
    Hot,
    /// The channel concerned starts anew.
    Channel,
    /// The process starts anew.
    Restart,
}

/// Where the schema says it.
pub(super) const KEYWORD: &str = "x-effect";

impl Effect {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Channel => "channel",
            Self::Restart => "restart",
        }
    }

    /// Returns what a change of the value at `path` takes: what the nearest
    /// declaration on the way to it says. Nobody reads what has none.
    pub(super) fn of(path: &Path, schema: &Value) -> Self {
        let mut effect = Self::Hot;
        let mut node = Some(schema);
        for step in &path.0 {
            node = node.and_then(|node| inner(node, step));
            let declared = node.and_then(|node| node.get(KEYWORD));
            if let Some(declared) = declared.and_then(|it| Self::deserialize(it).ok()) {
                effect = declared;
            }
        }
        effect
    }
}

/// Returns what the schema says of a key or an item below a node.
pub(super) fn inner<'a>(node: &'a Value, step: &Step) -> Option<&'a Value> {
    let found = match step {
        Step::Key(key) => node
            .pointer(&format!("/properties/{}", escaped(key)))
            .or_else(|| node.get("additionalProperties").filter(|it| it.is_object())),
        Step::Index(_) => node.get("items"),
    };
    let choices = || ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|name| node.get(name));
    found.or_else(|| {
        choices().filter_map(Value::as_array).flatten().find_map(|choice| inner(choice, step))
    })
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{OTHER_SECTIONS, known, schema};

    fn of(path: &str) -> Effect {
        let Ok(path) = path.parse();
        Effect::of(&path, &schema(&[]))
    }

    #[test]
    fn the_nearest_declaration_counts() {
        assert_eq!(of("gateway.port"), Effect::Restart);
        assert_eq!(of("gateway.tls.certPath"), Effect::Restart);
        assert_eq!(of("gateway.controlUi.allowedOrigins[0]"), Effect::Hot);
        assert_eq!(of("gateway.limits.unauthenticated"), Effect::Restart);
        assert_eq!(of("channels.telegram.accounts.a.botToken"), Effect::Channel);
        assert_eq!(of("models.providers.x.apiKey"), Effect::Hot);
        assert_eq!(of("canvasHost.root"), Effect::Restart);
        assert_eq!(of("unheard.of"), Effect::Hot);
    }

    #[test]
    fn every_section_says_it() {
        let schema = schema(&[]);
        for name in known::TYPED.iter().copied().chain(OTHER_SECTIONS.iter().map(|it| it.0)) {
            assert!(schema["properties"][name][KEYWORD].is_string(), "{name}");
        }
    }
}
