//! `moltbotctl pairing`: people who wrote to a channel and wait to be let in.

use serde_json::{Value, json};

use crate::{
    cli::PairingCommand,
    context::{Context, helped},
    output::{ago, cell},
};

/// Lists or admits people.
///
/// # Errors
/// When the gateway refuses.
pub async fn run(cx: &Context, command: PairingCommand) -> anyhow::Result<()> {
    match command {
        PairingCommand::List { channel } => list(cx, channel).await,
        PairingCommand::Approve { channel, code, notify } => {
            approve(cx, channel, &code, notify).await
        }
    }
}

async fn list(cx: &Context, channel: Option<String>) -> anyhow::Result<()> {
    let params = channel.map_or(json!({}), |channel| json!({ "channel": channel }));
    let list = cx.call("channels.pairing.list", params).await?;
    if cx.output.json {
        cx.output.value(&list);
        return Ok(());
    }
    let rows = requests(&list).map(|request| {
        vec![
            cell(request, "/code"),
            cell(request, "/channel"),
            cell(request, "/account"),
            cell(request, "/id"),
            who(request),
            ago(request, "/lastSeenAt"),
        ]
    });
    let headers = ["Code", "Channel", "Account", "Id", "Who", "Seen"];
    cx.output.table(&headers, rows.collect(), "Nobody waits for approval.");
    Ok(())
}

async fn approve(
    cx: &Context,
    channel: Option<String>,
    code: &str,
    notify: bool,
) -> anyhow::Result<()> {
    let connected = cx.connect().await?;
    let channel = match channel {
        Some(channel) => channel,
        None => {
            let list = connected.client.call_raw("channels.pairing.list", json!({})).await?;
            channel_of(&list, code)?
        }
    };
    let mut params = json!({ "channel": channel, "code": code.trim().to_uppercase() });
    if notify {
        params["notify"] = true.into();
    }
    let result = connected.client.call_raw("channels.pairing.approve", params).await;
    connected.client.close().await;
    let result = result?;
    if cx.output.json {
        cx.output.value(&result);
    } else {
        cx.output.line(format!(
            "Approved {} on {}.",
            cell(&result, "/id"),
            cell(&result, "/channel")
        ));
    }
    Ok(())
}

fn channel_of(list: &Value, code: &str) -> anyhow::Result<String> {
    let code = code.trim();
    let named = |request: &&Value| {
        request["code"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(code))
    };
    let channel = requests(list).find(named).and_then(|request| request["channel"].as_str());
    channel.map(ToOwned::to_owned).ok_or_else(|| {
        helped(
            format!("no pending pairing request has the code {code}"),
            "see who waits: moltbotctl pairing list",
        )
    })
}

fn requests(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("requests").and_then(Value::as_array).into_iter().flatten()
}

fn who(request: &Value) -> String {
    let meta = request.get("meta").and_then(Value::as_object);
    let names = meta.into_iter().flat_map(|meta| meta.values()).filter_map(Value::as_str);
    match names.map(crate::output::clean).collect::<Vec<_>>().join(" ") {
        text if text.is_empty() => "-".into(),
        text => text,
    }
}
