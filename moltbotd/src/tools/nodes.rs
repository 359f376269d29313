//! The tool `nodes`: list them, describe one, run a command on one.

use std::{pin::Pin, sync::Arc};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Calling, Effect, Intent, Tool, ToolContext, ToolError};
use crate::providers::ToolSpec;

const DEFAULT_TIMEOUT_MS: u64 = 30_000;
const MAX_TIMEOUT_MS: u64 = 10 * 60 * 1000;

/// How much later than the node the gateway gives up, so that the node's own
/// report of a timeout still arrives.
const GRACE_MS: u64 = 2_000;

/// Longest answer a model is given, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// Longest text of binary data a model is given, in bytes.
const MAX_BASE64: usize = 1024;

/// What the tool needs of the node registry. The registry decides whether a
/// command is allowed; the tool cannot get around it.
pub trait NodeCalls: Send + Sync + 'static {
    /// Returns the nodes as `node.list` shows them.
    fn list(&self) -> Answering;

    /// Returns one node as `node.describe` shows it. `node` is an id, a unique
    /// prefix of one, a name or an address.
    fn describe(&self, node: String) -> Answering;

    /// Runs a command on a node and returns its payload.
    fn invoke(&self, node: String, command: String, params: Value, timeout_ms: u64) -> Answering;
}

/// A question to the registry.
pub type Answering = Pin<Box<dyn Future<Output = Result<Value, ToolError>> + Send>>;

/// The tool.
pub struct Nodes {
    calls: Arc<dyn NodeCalls>,
}

impl Nodes {
    /// Returns the tool.
    #[must_use]
    pub fn new(calls: Arc<dyn NodeCalls>) -> Self {
        Self { calls }
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arguments {
    action: Action,
    #[serde(default)]
    node: String,
    #[serde(default)]
    command: String,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Describe,
    Invoke,
}

impl Tool for Nodes {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "nodes".into(),
            description: "Lists the user's paired devices (nodes), describes one, or runs a \
                command on one, for example system.run with params {\"command\": [\"uname\", \
                \"-a\"]}. Describe a node to see which commands it offers."
                .into(),
            schema: json!({
                "type": "object",
                "properties": {
                    "action": {
                        "type": "string",
                        "enum": ["list", "describe", "invoke"],
                    },
                    "node": {
                        "type": "string",
                        "description": "Id, prefix of an id, name or address of the node; may \
                            be left out when one node only is connected.",
                    },
                    "command": {
                        "type": "string",
                        "description": "The command to invoke, for example system.run.",
                    },
                    "params": {
                        "type": "object",
                        "description": "The command's parameters.",
                    },
                    "timeoutMs": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "How long to wait; 30000 when left out.",
                    },
                },
                "required": ["action"],
            }),
        }
    }

    fn intent(&self, arguments: &Value) -> Intent {
        match arguments["action"].as_str() {
            Some(action @ ("list" | "describe")) => {
                Intent { effect: Effect::Reads, action: action.to_owned(), stands_for: None }
            }
            _ => invoking(arguments["command"].as_str().unwrap_or_default()),
        }
    }

    fn call(&self, cx: ToolContext, arguments: Value) -> Calling {
        let calls = Arc::clone(&self.calls);
        Box::pin(async move {
            let cancel = cx.cancel.clone();
            tokio::select! {
                () = cancel.cancelled() => Err(ToolError("aborted".into())),
                text = run(calls, cx, arguments) => text,
            }
        })
    }

    fn hint(&self, arguments: &Value) -> Option<String> {
        let said = |name: &str| arguments[name].as_str().filter(|text| !text.trim().is_empty());
        let command = said("command").filter(|_| said("action") == Some("invoke"));
        command.or(said("action")).map(str::to_owned)
    }
}

/// Returns what the invocation of a command of a node does.
///
/// Every command acts: even those that change nothing on the node show its screen, its place or
/// what is in front of its camera.
#[must_use]
pub fn invoking(command: &str) -> Intent {
    let command = command.trim();
    let powers = [
        ("system.run", "exec"),
        ("system.which", "exec"),
        ("browser.", "browser"),
        ("canvas.", "canvas"),
    ];
    let stands_for = powers.into_iter().find(|(start, _)| command.starts_with(start));
    let stands_for = stands_for.map(|(_, power)| power);
    let effect = if is_reserved(command) { Effect::Reserved } else { Effect::Acts };
    Intent { effect, action: format!("invoke {command}"), stands_for }
}

/// Returns whether a command decides what may run on a node. Whoever may use a node must not decide
/// what it may be used for, so these have a method of their own, `exec.approvals.node.*` at
/// `operator.admin`, and are refused everywhere else at every scope.
#[must_use]
pub fn is_reserved(command: &str) -> bool {
    const FAMILY: &str = "system.execapprovals";
    let command = command.trim().to_ascii_lowercase();
    command.strip_prefix(FAMILY).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

async fn run(
    calls: Arc<dyn NodeCalls>,
    cx: ToolContext,
    arguments: Value,
) -> Result<String, ToolError> {
    let arguments: Arguments = serde_json::from_value(arguments)
        .map_err(|error| ToolError(format!("invalid arguments of nodes: {error}")))?;
    match arguments.action {
        Action::List => Ok(told(&calls.list().await?)),
        Action::Describe => Ok(told(&calls.describe(arguments.node).await?)),
        Action::Invoke => invoke(&*calls, &cx, arguments).await,
    }
}

async fn invoke(
    calls: &dyn NodeCalls,
    cx: &ToolContext,
    arguments: Arguments,
) -> Result<String, ToolError> {
    let Arguments { node, command, mut params, timeout_ms, .. } = arguments;
    if command.trim().is_empty() {
        return Err(ToolError("command required".into()));
    }
    // Some models write nested objects as text.
    if let Value::String(text) = &params {
        params = serde_json::from_str(text)
            .map_err(|error| ToolError(format!("params must be an object: {error}")))?;
    }
    let mut timeout_ms = timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS).min(MAX_TIMEOUT_MS);
    if command == "system.run"
        && let Value::Object(fields) = &mut params
    {
        let inner_ms = fields.get("timeoutMs").and_then(Value::as_u64).unwrap_or(timeout_ms);
        let inner_ms = inner_ms.min(MAX_TIMEOUT_MS);
        fields.insert("timeoutMs".into(), inner_ms.into());
        fields.insert("agentId".into(), cx.agent_id.clone().into());
        timeout_ms = timeout_ms.max(inner_ms.saturating_add(GRACE_MS));
    }
    let payload = calls.invoke(node, command.clone(), params, timeout_ms).await?;
    if command == "system.run"
        && let Some(text) = run_report(&payload)
    {
        return Ok(shortened(text));
    }
    Ok(told(&payload))
}

/// Writes what a program printed as it printed it, then how it ended.
fn run_report(payload: &Value) -> Option<String> {
    let fields = payload.as_object()?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut parts: Vec<String> = Vec::new();
    let mut add = |part: String| {
        if !part.trim().is_empty() {
            parts.push(part.trim_end().to_owned());
        }
    };
    add(text("stdout").to_owned());
    if !text("stderr").trim().is_empty() {
        add(format!("stderr:\n{}", text("stderr")));
    }
    add(text("error").to_owned());
    if fields.get("timedOut").and_then(Value::as_bool) == Some(true) {
        add("timed out".into());
    }
    if let Some(code) = fields.get("exitCode").and_then(Value::as_i64) {
        add(format!("exit code {code}"));
    }
    (!parts.is_empty()).then(|| parts.join("\n"))
}

fn told(payload: &Value) -> String {
    shortened(match payload {
        Value::Null => "done".to_owned(),
        payload => without_binaries(payload.clone()).to_string(),
    })
}

/// A picture as text would fill the model's context and tell it nothing.
fn without_binaries(payload: Value) -> Value {
    let replaced = |(name, value): (String, Value)| match &value {
        Value::String(data) if name == "base64" && data.len() > MAX_BASE64 => {
            (name, format!("({} bytes of base64 left out)", data.len()).into())
        }
        _ => (name, without_binaries(value)),
    };
    match payload {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(replaced).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.into_iter().map(without_binaries).collect(),
        other => other,
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push_str("\n... (truncated)");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::asker::{Asker, AskerKind};

    #[derive(Default)]
    struct Recorder {
        answer: Value,
        invoked: Mutex<Vec<(String, String, Value, u64)>>,
    }

    impl NodeCalls for Recorder {
        fn list(&self) -> Answering {
            Box::pin(async { Ok(json!({ "nodes": [] })) })
        }

        fn describe(&self, node: String) -> Answering {
            Box::pin(async move { Err(ToolError(format!("unknown node: {node}"))) })
        }

        fn invoke(&self, node: String, command: String, params: Value, ms: u64) -> Answering {
            self.invoked.lock().unwrap().push((node, command, params, ms));
            let answer = self.answer.clone();
            Box::pin(async move { Ok(answer) })
        }
    }

    fn context() -> ToolContext {
        ToolContext {
            agent_id: "main".into(),
            session_key: "agent:main:main".into(),
            run_id: "run".into(),
            asker: Asker::new(AskerKind::Owner, "test"),
            cancel: CancellationToken::new(),
        }
    }

    async fn call(calls: &Arc<Recorder>, arguments: Value) -> Result<String, String> {
        let calls: Arc<dyn NodeCalls> = Arc::clone(calls) as _;
        let result = Nodes::new(calls).call(context(), arguments).await;
        result.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_a_program_printed_is_told_as_it_was() {
        let answer = json!({
            "exitCode": 3, "timedOut": false, "success": false,
            "stdout": "a  b\n c\n", "stderr": "oh\n", "error": null,
        });
        let calls = Arc::new(Recorder { answer, ..Recorder::default() });
        let arguments = json!({
            "action": "invoke", "node": "n", "command": "system.run",
            "params": { "command": ["x"], "agentId": "other" },
        });
        let text = call(&calls, arguments).await.unwrap();
        assert_eq!(text, "a  b\n c\nstderr:\noh\nexit code 3");
        let invoked = calls.invoked.lock().unwrap();
        let (node, command, params, timeout_ms) = &invoked[0];
        assert_eq!((node.as_str(), command.as_str()), ("n", "system.run"));
        assert_eq!(params["agentId"], "main", "a model cannot pick another agent's approvals");
        assert_eq!(params["timeoutMs"], 30_000);
        assert_eq!(*timeout_ms, 32_000, "the gateway outlasts the node");
    }

    #[tokio::test]
    async fn other_payloads_are_json_without_pictures() {
        let answer = json!({ "format": "jpg", "base64": "A".repeat(5000) });
        let calls = Arc::new(Recorder { answer, ..Recorder::default() });
        let arguments = json!({ "action": "invoke", "command": "camera.snap", "timeoutMs": 5 });
        let text = call(&calls, arguments).await.unwrap();
        assert_eq!(text, r#"{"format":"jpg","base64":"(5000 bytes of base64 left out)"}"#);
        assert_eq!(calls.invoked.lock().unwrap()[0].3, 5);
    }

    #[tokio::test]
    async fn wrong_arguments_are_told_to_the_model() {
        let calls = Arc::new(Recorder::default());
        let error = call(&calls, json!({ "action": "approve" })).await.unwrap_err();
        assert!(error.contains("unknown variant `approve`"), "{error}");
        let error = call(&calls, json!({ "action": "invoke" })).await.unwrap_err();
        assert_eq!(error, "command required");
        let error = call(&calls, json!({ "action": "describe", "node": "x" })).await.unwrap_err();
        assert_eq!(error, "unknown node: x");
    }

    #[test]
    fn a_call_is_hinted_at_whatever_comes_of_it() {
        let nodes = Nodes::new(Arc::new(Recorder::default()));
        let hint = |arguments: Value| nodes.hint(&arguments);
        let run = json!({ "action": "invoke", "command": "system.run" });
        assert_eq!(hint(run).as_deref(), Some("system.run"));
        assert_eq!(hint(json!({ "action": "list", "command": "" })).as_deref(), Some("list"));
        assert_eq!(hint(json!("nonsense")), None);
    }

    #[test]
    fn what_it_would_do_is_known_before_it_does_it() {
        let nodes = Nodes::new(Arc::new(Recorder::default()));
        let intent = |arguments: Value| nodes.intent(&arguments);
        for action in ["list", "describe"] {
            assert_eq!(intent(json!({ "action": action })).effect, Effect::Reads);
        }
        // What nobody can read is taken for the worst.
        for arguments in [json!({}), json!("list"), json!({ "action": ["list"] })] {
            assert_eq!(intent(arguments).effect, Effect::Acts);
        }
        let run = intent(json!({ "action": "invoke", "command": " system.run " }));
        assert_eq!((run.action.as_str(), run.stands_for), ("invoke system.run", Some("exec")));
        assert_eq!(
            intent(json!({ "action": "invoke", "command": "camera.snap" })).stands_for,
            None
        );
    }

    #[test]
    fn what_decides_about_programs_is_reserved_in_every_spelling() {
        for command in
            ["system.execApprovals.set", " system.execApprovals.get ", "SYSTEM.EXECAPPROVALS.X"]
        {
            assert!(is_reserved(command), "{command}");
        }
        for command in ["system.run", "system.execApprovalsX", "my.system.execApprovals.set"] {
            assert!(!is_reserved(command), "{command}");
        }
    }

    #[tokio::test]
    async fn an_aborted_run_stops_the_call() {
        let cx = context();
        cx.cancel.cancel();
        let calls = Arc::new(Recorder::default());
        let result = Nodes::new(calls).call(cx, json!({ "action": "list" })).await;
        // Either arm may be taken when both are ready; none may hang.
        assert!(result.is_ok() || result.unwrap_err().to_string() == "aborted");
    }
}
