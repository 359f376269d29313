//! Messages sent on an operator's word.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Access, Request, Scope, Text, Waits, limits};

/// Sends a message through a channel and waits until the channel confirmed it.
/// The same idempotency key never sends twice, not even across a restart.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Send {
    /// Who gets it, in the channel's own form.
    pub to: Text,
    /// The text, in Markdown.
    pub message: Text,
    /// A picture or file: path or http(s) address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_url: Option<String>,
    /// More pictures and files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_urls: Option<Vec<String>>,
    /// Whether a video is shown as an animation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gif_playback: Option<bool>,
    /// Id of the channel; `whatsapp` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Account of the channel; its default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// Session whose transcript gets a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::SESSION_KEY_CHARS))]
    pub session_key: Option<String>,
    /// Identifies the call: a repeated one is answered, not sent again.
    #[schemars(length(max = limits::REQUEST_ID_CHARS))]
    pub idempotency_key: Text,
}

impl Request for Send {
    const METHOD: &'static str = "send";
    const ACCESS: Access = Access::Operator(Scope::Write);
    const WAITS: Waits = Waits::ForOthers;
    type Response = SendResult;
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendResult {
    /// The idempotency key.
    pub run_id: String,
    /// Id of its last part in the channel.
    pub message_id: String,
    /// Id of the channel.
    pub channel: String,
    /// Chat it went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_id: Option<String>,
}
