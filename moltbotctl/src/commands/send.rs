//! `moltbotctl send`: a message through a channel.

use clap::Args;
use serde_json::json;

use crate::{context::Context, output::cell};

/// A message for somebody.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The channel, such as telegram
    #[arg(long, value_name = "CHANNEL")]
    pub channel: String,
    /// Who gets it: a chat id, a user name, a number
    #[arg(long, value_name = "WHO", allow_hyphen_values = true)]
    pub to: String,
    /// The message
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: String,
    /// Address of a picture or document, or its path on the gateway's host
    #[arg(long, value_name = "URL")]
    pub media: Option<String>,
    /// Account of the channel
    #[arg(long, value_name = "ID")]
    pub account: Option<String>,
    /// The same key never sends twice [default: a random one]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// Sends it.
///
/// # Errors
/// When it is not delivered.
pub async fn run(cx: &Context, args: SendArgs) -> anyhow::Result<()> {
    let key = args.idempotency_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let mut params = json!({
        "channel": args.channel, "to": args.to, "message": args.message, "idempotencyKey": key,
    });
    if let Some(media) = args.media {
        params["mediaUrl"] = media.into();
    }
    if let Some(account) = args.account {
        params["accountId"] = account.into();
    }
    let result = cx.call("send", params).await?;
    if cx.output.json {
        cx.output.value(&result);
    } else {
        let (channel, id) = (cell(&result, "/channel"), cell(&result, "/messageId"));
        cx.output.line(format!("Sent through {channel}, message {id}."));
    }
    Ok(())
}
