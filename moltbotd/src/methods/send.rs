//! `send`

use moltbot_protocol::methods::send::{Send, SendResult};
use serde_json::json;

use super::{Context, chat};
use crate::{
    channels::{Channels, OutboundMessage, Peer, Route, SendError},
    gateway::Gateway,
    rpc::{Claim, Error, Result, Router},
    sessions::key,
};

/// What callers of the reference mean who name no channel.
const DEFAULT_CHANNEL: &str = "whatsapp";

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(send);
}

async fn send(cx: Context, params: Send) -> Result<SendResult> {
    let key = format!("send:{}", params.idempotency_key);
    let (message, peer) = addressed(&cx.gateway.channels, &params)?;
    if let Some(session_key) = named(&params) {
        chat::refuse_if_muted(&cx, session_key).await?;
    }
    // A call that is under way is joined: the key in the outbox is the same.
    let first = match cx.gateway.dedupe.claim(&key) {
        Claim::Done(answer) => return answered(answer),
        claim => claim == Claim::First,
    };
    match cx.gateway.channels.deliver(key.clone(), message.clone()).await {
        Ok(sent) => {
            if first {
                mirror(&cx, &params, &message, &peer).await;
            }
            let result = SendResult {
                run_id: params.idempotency_key.into_string(),
                message_id: sent.message_id,
                channel: message.route.channel,
                chat_id: Some(sent.chat_id),
            };
            cx.gateway.dedupe.store(&key, Ok(json!(result)));
            Ok(result)
        }
        Err(error) => {
            cx.gateway.dedupe.release(&key);
            Err(match error {
                SendError::UnknownChannel(_) => Error::Invalid(error.to_string()),
                _ => Error::Unavailable(format!("Error: {error}")),
            })
        }
    }
}

/// Copies a message into the transcript of its conversation.
async fn mirror(cx: &Context, params: &Send, message: &OutboundMessage, peer: &Peer) {
    let session = named(params).map_or_else(
        || key::of_peer(&cx.gateway.config.get(), &message.route, peer),
        str::to_owned,
    );
    // The message is out; a transcript without it is the lesser harm.
    if let Err(error) = cx.gateway.sessions.mirror(&session, &message.text).await {
        tracing::warn!(%error, "a sent message is missing in its transcript");
    }
}

/// Returns the conversation that the caller says the message is from.
fn named(params: &Send) -> Option<&str> {
    params.session_key.as_deref().filter(|key| !key.trim().is_empty())
}

fn answered(
    answer: std::result::Result<
        serde_json::Value,
        (moltbot_protocol::ErrorShape, Option<serde_json::Value>),
    >,
) -> Result<SendResult> {
    match answer {
        Ok(value) => serde_json::from_value(value).map_err(|error| Error::Internal(error.into())),
        Err((error, _)) => Err(Error::Unavailable(error.message)),
    }
}

fn addressed(channels: &Channels, params: &Send) -> Result<(OutboundMessage, Peer)> {
    let channel = params.channel.as_deref().map(str::trim).filter(|channel| !channel.is_empty());
    let channel = channel.unwrap_or(DEFAULT_CHANNEL).to_lowercase();
    let account = channels
        .default_account(&channel)
        .ok_or_else(|| Error::Invalid(SendError::UnknownChannel(channel.clone()).to_string()))?;
    let named = params.account_id.as_deref().map(str::trim).filter(|id| !id.is_empty());
    let target = channels.target(&channel, &params.to).map_err(Error::Invalid)?;
    let media = params.media_url.iter().chain(params.media_urls.iter().flatten());
    let message = OutboundMessage {
        route: Route {
            channel,
            account: named.map_or(account, str::to_owned),
            to: target.to,
            thread: target.thread,
            reply_to: None,
        },
        text: params.message.to_string(),
        media: media.filter(|media| !media.trim().is_empty()).cloned().collect(),
    };
    Ok((message, target.peer))
}
