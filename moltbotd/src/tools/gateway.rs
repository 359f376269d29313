//! The tool `gateway`: how it is, and a restart that whoever asked is told of
//! by the new process.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Calling, Effect, Intent, Tool, ToolContext, ToolError, nodes::Answering};
use crate::providers::ToolSpec;

/// What the tool needs of the daemon.
pub trait GatewayCalls: Send + Sync + 'static {
    /// Returns how the gateway is.
    fn status(&self) -> Answering;

    /// Promises a restart; the conversation is told of it, with the note, when
    /// the new process serves.
    fn restart(&self, session_key: String, note: Option<String>) -> Answering;
}

/// The tool.
pub struct Gateway {
    calls: Arc<dyn GatewayCalls>,
}

impl Gateway {
    /// Returns the tool.
    #[must_use]
    pub fn new(calls: Arc<dyn GatewayCalls>) -> Self {
        Self { calls }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
struct Arguments {
    action: Action,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Status,
    Restart,
}

impl Tool for Gateway {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "gateway".into(),
            description: "Shows how the gateway is that runs you, or restarts it when its owner \
                asks for that. A restart ends this process; when the new one serves, this \
                conversation is told, with the note. Never restart twice for one request."
                .into(),
            schema: json!({
                "type": "object",
                "properties": {
                    "action": { "type": "string", "enum": ["status", "restart"] },
                    "note": {
                        "type": "string",
                        "description": "Of a restart: what is to be said or done after it.",
                    },
                },
                "required": ["action"],
            }),
        }
    }

    fn intent(&self, arguments: &Value) -> Intent {
        let (effect, action) = match arguments["action"].as_str() {
            Some("status") => (Effect::Reads, "status"),
            _ => (Effect::Acts, "restart"),
        };
        Intent { effect, action: action.to_owned(), stands_for: None }
    }

    fn call(&self, cx: ToolContext, arguments: Value) -> Calling {
        let calls = Arc::clone(&self.calls);
        Box::pin(async move {
            let arguments: Arguments = serde_json::from_value(arguments)
                .map_err(|error| ToolError(format!("invalid arguments of gateway: {error}")))?;
            let answer = match arguments.action {
                Action::Status => calls.status().await?,
                Action::Restart => calls.restart(cx.session_key, arguments.note).await?,
            };
            Ok(answer.to_string())
        })
    }

    fn hint(&self, arguments: &Value) -> Option<String> {
        Some(arguments.get("action")?.as_str()?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::asker::{Asker, AskerKind};

    struct Stub;

    impl GatewayCalls for Stub {
        fn status(&self) -> Answering {
            Box::pin(async { Ok(json!("fine")) })
        }

        fn restart(&self, session_key: String, note: Option<String>) -> Answering {
            Box::pin(async move { Ok(json!([session_key, note])) })
        }
    }

    async fn call(arguments: Value) -> Result<String, String> {
        let cx = ToolContext {
            agent_id: "main".into(),
            session_key: "agent:main:main".into(),
            run_id: "run".into(),
            asker: Asker::new(AskerKind::Owner, "test"),
            cancel: CancellationToken::new(),
        };
        Gateway::new(Arc::new(Stub)).call(cx, arguments).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn it_tells_its_state_and_restarts_with_a_note() {
        assert_eq!(call(json!({ "action": "status" })).await.unwrap(), "\"fine\"");
        let restart = json!({ "action": "restart", "note": "n" });
        assert_eq!(call(restart).await.unwrap(), r#"["agent:main:main","n"]"#);
        let refused = call(json!({ "action": "stop" })).await.unwrap_err();
        assert!(refused.contains("unknown variant `stop`"), "{refused}");
    }

    #[test]
    fn everything_but_its_state_is_an_act() {
        let gateway = Gateway::new(Arc::new(Stub));
        let effect = |arguments: Value| gateway.intent(&arguments).effect;
        assert_eq!(effect(json!({ "action": "status" })), Effect::Reads);
        for arguments in [json!({ "action": "restart" }), json!({}), json!("status")] {
            assert_eq!(effect(arguments), Effect::Acts);
        }
    }
}
