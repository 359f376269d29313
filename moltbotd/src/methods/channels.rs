//! `channels.status`, `channels.pairing.list`, `channels.pairing.approve`

use std::time::Duration;

use moltbot_protocol::methods::channels::{
    ChannelPairingRequest, ChannelsPairingApprove, ChannelsPairingApproveResult,
    ChannelsPairingList, ChannelsPairingListResult, ChannelsStatus, ChannelsStatusResult,
};

use super::Context;
use crate::{
    gateway::Gateway,
    rpc::{Error, Result, Router},
    store::PairingRow,
};

const PROBE_TIMEOUT_MS: u64 = 10_000;
const SHORTEST_PROBE_TIMEOUT_MS: u64 = 1000;

pub(super) fn register(router: &mut Router<Gateway>) {
    router.on(status).on(pairing_list).on(pairing_approve);
}

async fn status(cx: Context, params: ChannelsStatus) -> Result<ChannelsStatusResult> {
    let timeout_ms = params.timeout_ms.unwrap_or(PROBE_TIMEOUT_MS).max(SHORTEST_PROBE_TIMEOUT_MS);
    let probe = (params.probe == Some(true)).then(|| Duration::from_millis(timeout_ms));
    Ok(cx.gateway.channels.status(probe).await)
}

async fn pairing_list(
    cx: Context,
    params: ChannelsPairingList,
) -> Result<ChannelsPairingListResult> {
    let rows = cx.gateway.channels.pairing_requests().await?;
    let wanted =
        |row: &PairingRow| params.channel.as_ref().is_none_or(|channel| *channel == row.channel);
    Ok(ChannelsPairingListResult { requests: rows.into_iter().filter(wanted).map(shown).collect() })
}

async fn pairing_approve(
    cx: Context,
    params: ChannelsPairingApprove,
) -> Result<ChannelsPairingApproveResult> {
    let ChannelsPairingApprove { channel, code, notify } = params;
    let approved =
        cx.gateway.channels.approve_pairing(&channel, &code, notify == Some(true)).await?;
    let PairingRow { channel, account, sender_id: id, .. } = approved.ok_or_else(|| {
        Error::Invalid(format!(
            "no pairing request with code {code} waits on {channel}: codes expire after an hour; \
             run: moltbotctl pairing list"
        ))
    })?;
    Ok(ChannelsPairingApproveResult { channel, account, id })
}

fn shown(row: PairingRow) -> ChannelPairingRequest {
    ChannelPairingRequest {
        channel: row.channel,
        account: row.account,
        id: row.sender_id,
        code: row.code,
        created_at: row.created_at_ms,
        last_seen_at: row.last_seen_at_ms,
        meta: serde_json::from_str(&row.meta).unwrap_or_default(),
    }
}
