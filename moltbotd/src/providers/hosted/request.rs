//! A prompt in the form that genai sends.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use genai::{
    adapter::AdapterKind,
    chat::{
        CacheControl, ChatMessage, ChatOptions, ChatRequest, ContentPart, MessageContent,
        ReasoningEffort, Tool, ToolCall as GenaiCall, ToolResponse,
    },
};

use super::{Timing, endpoint::Target, thoughts::Thoughts};
use crate::providers::{Media, Prompt, ToolCall, ToolSpec, Turn};

/// Longest text file that is put into a message, in bytes.
const MAX_TEXT_FILE: usize = 200 * 1024;

/// Writes a prompt as a request. Thoughts of earlier tool calls go back to the
/// provider, which refuses the calls without them.
pub(super) fn request(prompt: &Prompt, target: &Target, thoughts: &Thoughts) -> ChatRequest {
    let images = target
        .settings
        .as_ref()
        .and_then(|settings| settings.input.as_ref())
        .is_none_or(|input| input.iter().any(|kind| kind == "image"));
    let mut request = ChatRequest::from_messages(messages(&prompt.turns, images, thoughts));
    if !prompt.system.is_empty() {
        request = request.with_system(prompt.system.as_str());
    }
    if !prompt.tools.is_empty() {
        request = request.with_tools(prompt.tools.iter().map(tool));
    }
    request
}

/// Returns how the request is to be answered.
pub(super) fn options(
    prompt: &Prompt,
    target: &Target,
    thoughts: &Thoughts,
    timing: &Timing,
) -> ChatOptions {
    let mut options = ChatOptions::default()
        .with_capture_usage(true)
        .with_capture_content(true)
        .with_capture_tool_calls(true)
        .with_capture_reasoning_content(true)
        .with_stream_header_timeout(timing.headers)
        .with_stream_read_timeout(timing.idle)
        .with_extra_headers(target.headers.clone());
    if let Some(limit) = target.settings.as_ref().and_then(|settings| settings.max_tokens) {
        options = options.with_max_tokens(u32::try_from(limit).unwrap_or(u32::MAX));
    }
    if let Some(effort) = effort(prompt, target, thoughts) {
        options = options.with_reasoning_effort(effort);
    }
    // The system text and the tools are the same in every turn of a session.
    if target.names.provider == "anthropic" {
        options = options.with_cache_control(CacheControl::Ephemeral);
    }
    options
}

fn effort(prompt: &Prompt, target: &Target, thoughts: &Thoughts) -> Option<ReasoningEffort> {
    let effort = match prompt.thinking.as_deref()? {
        "minimal" => ReasoningEffort::Minimal,
        "low" => ReasoningEffort::Low,
        "medium" => ReasoningEffort::Medium,
        "high" => ReasoningEffort::High,
        "xhigh" => ReasoningEffort::XHigh,
        _ => return None,
    };
    if target.settings.as_ref().is_some_and(|settings| !settings.reasoning) {
        return None;
    }
    // Anthropic refuses to think on about a tool call whose thoughts are gone.
    let forgotten = target.service.model.adapter_kind == AdapterKind::Anthropic
        && prompt.turns.iter().rev().take_while(|turn| !is_user(turn)).any(|turn| match turn {
            Turn::Assistant { calls, .. } => !calls.is_empty() && thoughts.of(calls).is_none(),
            _ => false,
        });
    (!forgotten).then_some(effort)
}

fn is_user(turn: &Turn) -> bool {
    matches!(turn, Turn::User { .. })
}

fn messages(turns: &[Turn], images: bool, thoughts: &Thoughts) -> Vec<ChatMessage> {
    let mut messages = Vec::new();
    let mut answers: Vec<ToolResponse> = Vec::new();
    for turn in turns {
        if let Turn::Tool { call_id, name, text, is_error } = turn {
            let text = if *is_error { format!("Error: {text}") } else { text.clone() };
            answers.push(ToolResponse::new(call_id.as_str(), text).with_fn_name(name.as_str()));
            continue;
        }
        // Answers to calls made at once belong into one message.
        if !answers.is_empty() {
            messages.push(ChatMessage::tool(tool_answers(&mut answers)));
        }
        messages.extend(message(turn, images, thoughts));
    }
    if !answers.is_empty() {
        messages.push(ChatMessage::tool(tool_answers(&mut answers)));
    }
    messages
}

fn tool_answers(answers: &mut Vec<ToolResponse>) -> MessageContent {
    MessageContent::from_tool_responses(std::mem::take(answers))
}

fn message(turn: &Turn, images: bool, thoughts: &Thoughts) -> Option<ChatMessage> {
    match turn {
        Turn::User { text, attachments, .. } => {
            let mut parts: Vec<ContentPart> = Vec::new();
            if !text.is_empty() {
                parts.push(ContentPart::from_text(text.as_str()));
            }
            parts.extend(attachments.iter().map(|media| attachment(media, images)));
            (!parts.is_empty()).then(|| ChatMessage::user(parts))
        }
        Turn::Assistant { text, calls } => {
            if let Some(message) = thoughts.of(calls) {
                return Some(message);
            }
            let mut parts: Vec<ContentPart> = Vec::new();
            if !text.is_empty() {
                parts.push(ContentPart::from_text(text.as_str()));
            }
            parts.extend(calls.iter().map(|call| ContentPart::ToolCall(tool_call(call))));
            (!parts.is_empty()).then(|| ChatMessage::assistant(parts))
        }
        Turn::Tool { .. } => None,
    }
}

fn attachment(media: &Media, images: bool) -> ContentPart {
    let Media { mime, file_name, data } = media;
    let name = file_name.as_deref().unwrap_or("file");
    let shown = (mime.starts_with("image/") && images) || mime == "application/pdf";
    if shown {
        let data = BASE64_STANDARD.encode(data);
        return ContentPart::from_binary_base64(mime.as_str(), data, file_name.clone());
    }
    let is_text = mime.starts_with("text/") || mime == "application/json";
    if is_text
        && data.len() <= MAX_TEXT_FILE
        && let Ok(text) = std::str::from_utf8(data)
    {
        return ContentPart::from_text(format!("[{name}, {mime}]\n{text}"));
    }
    let size = data.len();
    ContentPart::from_text(format!("[{name}, {mime}, {size} bytes: this model cannot read it]"))
}

fn tool_call(call: &ToolCall) -> GenaiCall {
    GenaiCall {
        call_id: call.id.clone(),
        fn_name: call.name.clone(),
        fn_arguments: call.arguments.clone(),
        thought_signatures: None,
    }
}

fn tool(spec: &ToolSpec) -> Tool {
    Tool::new(spec.name.as_str())
        .with_description(spec.description.as_str())
        .with_schema(spec.schema.clone())
}
