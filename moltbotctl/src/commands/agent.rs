//! `moltbotctl agent`: one message to the assistant, one answer.

use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::thinking_levels;
use crate::{
    client::Client,
    context::Context,
    error::Error,
    output::{Output, clean},
};

const DEFAULT_TIMEOUT_SECONDS: u64 = 600;
/// The gateway ends a run itself; its answer needs a moment more.
const GRACE_SECONDS: u64 = 30;

/// A message to the assistant.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The message
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: String,
    /// Use the conversation with this phone number or user
    #[arg(long, value_name = "WHO", allow_hyphen_values = true)]
    pub to: Option<String>,
    /// Use the conversation with this id
    #[arg(long, value_name = "ID")]
    pub session_id: Option<String>,
    /// Use the conversation with this key, such as agent:main:main
    #[arg(long, value_name = "KEY")]
    pub session: Option<String>,
    /// Ask this agent
    #[arg(long, value_name = "ID")]
    pub agent: Option<String>,
    /// How much to think
    #[arg(long, value_name = "LEVEL", ignore_case = true, value_parser = thinking_levels())]
    pub thinking: Option<String>,
    /// Also send the answer to the conversation's channel
    #[arg(long)]
    pub deliver: bool,
    /// Channel to deliver through
    #[arg(long, value_name = "CHANNEL")]
    pub channel: Option<String>,
    /// Longest time for the answer, in seconds [default: 600]
    #[arg(id = "timeout", long = "timeout", value_name = "SECONDS")]
    pub timeout_seconds: Option<u64>,
}

/// Sends the message and prints the answer.
///
/// # Errors
/// When the run fails.
pub async fn run(cx: &Context, args: AgentArgs) -> anyhow::Result<()> {
    let seconds = args.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS).max(1);
    // The flag means seconds here, so connecting keeps its default.
    let cx = &Context { timeout_given: None, ..cx.clone() };
    let connected = cx.connect().await?;
    let params = params(&args, &connected.client, seconds);
    let patience = Duration::from_secs(seconds + GRACE_SECONDS);
    let result = connected.client.call_final("agent", params, patience).await;
    connected.client.close().await;
    let result = result?;
    if cx.output.json {
        cx.output.value(&result);
    } else {
        show(cx.output, &result);
    }
    match result.get("status").and_then(Value::as_str) {
        Some("error") => Err(failed(&result).into()),
        _ => Ok(()),
    }
}

fn params(args: &AgentArgs, client: &Client, seconds: u64) -> Value {
    let mut params = Map::new();
    let mut put = |key: &str, value: Option<&String>| {
        if let Some(value) = value {
            params.insert(key.into(), json!(value));
        }
    };
    put("message", Some(&args.message));
    put("to", args.to.as_ref());
    put("sessionId", args.session_id.as_ref());
    put("agentId", args.agent.as_ref());
    put("thinking", args.thinking.as_ref());
    put("channel", args.channel.as_ref());
    let named = args.to.is_some() || args.session_id.is_some();
    let session = args.session.clone().or_else(|| match &args.agent {
        _ if named => None,
        Some(agent) => Some(format!("agent:{}:main", agent.trim().to_lowercase())),
        None => main_session(client),
    });
    put("sessionKey", session.as_ref());
    params.insert("deliver".into(), args.deliver.into());
    params.insert("timeout".into(), seconds.into());
    params.insert("idempotencyKey".into(), uuid::Uuid::new_v4().to_string().into());
    Value::Object(params)
}

/// Returns the key of the gateway's main conversation.
#[must_use]
pub fn main_session(client: &Client) -> Option<String> {
    let key = client.hello().pointer("/snapshot/sessionDefaults/mainSessionKey")?;
    key.as_str().map(ToOwned::to_owned)
}

fn show(out: Output, result: &Value) {
    let payloads = result.pointer("/result/payloads").and_then(Value::as_array);
    let mut shown = false;
    for payload in payloads.into_iter().flatten() {
        if let Some(text) = payload.get("text").and_then(Value::as_str).filter(|it| !it.is_empty())
        {
            out.line(clean(text));
            shown = true;
        }
        let many = payload.get("mediaUrls").and_then(Value::as_array).into_iter().flatten();
        let one = payload.get("mediaUrl").filter(|_| payload.get("mediaUrls").is_none());
        for url in many.chain(one).filter_map(Value::as_str) {
            out.line(format!("MEDIA:{}", clean(url)));
            shown = true;
        }
    }
    if !shown {
        out.line(clean(result.get("summary").and_then(Value::as_str).unwrap_or("no reply")));
    }
}

fn failed(result: &Value) -> Error {
    let summary = result.get("summary").and_then(Value::as_str).unwrap_or("the run failed");
    Error::Refused(Box::new(crate::error::Refusal {
        code: "UNAVAILABLE".into(),
        message: summary.to_owned(),
        details: None,
        payload: None,
    }))
}
