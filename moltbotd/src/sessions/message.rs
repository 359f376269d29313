//! Messages of a transcript, in the form that clients know from `chat.history`.

use serde_json::{Value, json};

use crate::providers::{ToolCall, Usage};

/// What is known of an answer besides its content.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    /// What the provider's server speaks.
    pub api: &'a str,
    /// Key of the provider.
    pub provider: &'a str,
    /// The model.
    pub model: &'a str,
    /// Tokens used.
    pub usage: Usage,
    /// What they cost.
    pub cost: Cost,
    /// `stop`, `length`, `toolUse`, `error` or `aborted`.
    pub stop_reason: &'a str,
    /// Why it failed.
    pub error: Option<&'a str>,
}

/// What an answer cost, in the currency of the configured prices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Tokens read.
    pub input: f64,
    /// Tokens written.
    pub output: f64,
    /// Tokens read from the provider's cache.
    pub cache_read: f64,
    /// Tokens written to the provider's cache.
    pub cache_write: f64,
}

/// Returns an id for a message: eight hexadecimal digits.
#[must_use]
pub fn new_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(8);
    id
}

/// Returns what a person wrote. `images` are pairs of type and base64.
#[must_use]
pub fn user(text: &str, images: &[(String, String)], at_ms: i64) -> Value {
    let mut content = vec![json!({"type": "text", "text": text})];
    content.extend(
        images.iter().map(|(mime, data)| json!({"type": "image", "data": data, "mimeType": mime})),
    );
    json!({"role": "user", "content": content, "timestamp": at_ms})
}

/// Returns what a model wrote.
#[must_use]
pub fn assistant(text: &str, calls: &[ToolCall], written: &Written<'_>, at_ms: i64) -> Value {
    let mut content = Vec::with_capacity(calls.len() + 1);
    if !text.is_empty() {
        content.push(json!({"type": "text", "text": text}));
    }
    content.extend(calls.iter().map(|call| {
        json!({"type": "toolCall", "id": call.id, "name": call.name, "arguments": call.arguments})
    }));
    let mut message = json!({
        "role": "assistant",
        "content": content,
        "api": written.api,
        "provider": written.provider,
        "model": written.model,
        "usage": usage(written.usage, written.cost),
        "stopReason": written.stop_reason,
        "timestamp": at_ms,
    });
    if let Some(error) = written.error {
        message["errorMessage"] = error.into();
    }
    message
}

/// Returns what a tool answered.
#[must_use]
pub fn tool_result(call_id: &str, name: &str, text: &str, is_error: bool, at_ms: i64) -> Value {
    json!({
        "role": "toolResult",
        "toolCallId": call_id,
        "toolName": name,
        "content": [{"type": "text", "text": text}],
        "isError": is_error,
        "timestamp": at_ms,
    })
}

/// Returns a message of the assistant that no model wrote.
#[must_use]
pub fn injected(text: &str, at_ms: i64) -> Value {
    json!({
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "timestamp": at_ms,
        "stopReason": "injected",
        "usage": no_usage(),
    })
}

/// Returns the copy of a message that went out beside a conversation.
#[must_use]
pub fn mirrored(text: &str, at_ms: i64) -> Value {
    json!({
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "api": "openai-responses",
        "provider": "moltbot",
        "model": "delivery-mirror",
        "usage": no_usage(),
        "stopReason": "stop",
        "timestamp": at_ms,
    })
}

/// Returns the usage of what no model wrote.
#[must_use]
pub fn no_usage() -> Value {
    json!({"input": 0, "output": 0, "totalTokens": 0})
}

/// Returns the role of a message.
#[must_use]
pub fn role(message: &Value) -> &str {
    message["role"].as_str().unwrap_or_default()
}

/// Returns the text of a message, its parts joined by line ends.
#[must_use]
pub fn text(message: &Value) -> String {
    let content = &message["content"];
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let parts: Vec<_> = parts(message, "text").filter_map(|part| part["text"].as_str()).collect();
    parts.join("\n")
}

/// Returns the tools that a message calls.
#[must_use]
pub fn calls(message: &Value) -> Vec<ToolCall> {
    parts(message, "toolCall")
        .map(|part| ToolCall {
            id: part["id"].as_str().unwrap_or_default().to_owned(),
            name: part["name"].as_str().unwrap_or_default().to_owned(),
            arguments: part["arguments"].clone(),
        })
        .collect()
}

/// Returns the ids of the tool calls of a message.
pub fn call_ids(message: &Value) -> impl Iterator<Item = &str> {
    parts(message, "toolCall").filter_map(|part| part["id"].as_str())
}

/// Returns the pictures of a message as pairs of type and base64.
pub fn images(message: &Value) -> impl Iterator<Item = (&str, &str)> {
    parts(message, "image")
        .filter_map(|part| Some((part["mimeType"].as_str()?, part["data"].as_str()?)))
}

fn parts<'a>(message: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    message["content"].as_array().into_iter().flatten().filter(move |part| part["type"] == kind)
}

fn usage(usage: Usage, cost: Cost) -> Value {
    let Usage { input, output, cache_read, cache_write } = usage;
    json!({
        "input": input,
        "output": output,
        "cacheRead": cache_read,
        "cacheWrite": cache_write,
        "totalTokens": input + output + cache_read + cache_write,
        "cost": {
            "input": amount(cost.input),
            "output": amount(cost.output),
            "cacheRead": amount(cost.cache_read),
            "cacheWrite": amount(cost.cache_write),
            "total": amount(cost.input + cost.output + cost.cache_read + cost.cache_write),
        },
    })
}

/// Clients read a cost of nothing as the whole number that the reference sends.
fn amount(amount: f64) -> Value {
    if amount == 0.0 { json!(0) } else { json!(amount) }
}
