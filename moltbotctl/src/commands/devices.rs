//! `moltbotctl devices`: who may connect.

use serde_json::{Value, json};

use super::pick::{Kind, pick};
use crate::{
    cli::{DeviceName, DevicesCommand},
    client::Client,
    context::{Context, helped},
    output::{Output, ago, cell, clean, short},
};

const DEVICE: Kind = Kind { name: "device", id: "deviceId", list: "moltbotctl devices list" };

/// Runs one of the device commands.
///
/// # Errors
/// When the gateway refuses.
pub async fn run(cx: &Context, command: DevicesCommand) -> anyhow::Result<()> {
    let connected = cx.connect().await?;
    let result = act(cx, &connected.client, command).await;
    connected.client.close().await;
    result
}

async fn act(cx: &Context, client: &Client, command: DevicesCommand) -> anyhow::Result<()> {
    let out = cx.output;
    let (result, text) = match command {
        DevicesCommand::List => {
            let list = client.call_raw("device.pair.list", json!({})).await?;
            if out.json {
                out.value(&list);
            } else {
                show(out, &list);
            }
            return Ok(());
        }
        DevicesCommand::Approve { request, allow } => {
            let request = match request {
                Some(request) => request,
                None => only_request(client).await?,
            };
            let mut params = json!({ "requestId": request });
            if !allow.is_empty() {
                params["allow"] = allow.into();
            }
            let result = client.call_raw("device.pair.approve", params).await.map_err(unknown)?;
            let text = approved(&result);
            (result, text)
        }
        DevicesCommand::Allow { device, commands, only } => {
            let result = allow(client, &device, commands, only).await?;
            let text = format!(
                "{} may be asked to run: {}.",
                short(&cell(&result, "/deviceId")),
                match items(&result, "allow") {
                    [] => "no command that needs an approval of its own".into(),
                    _ => cell(&result, "/allow"),
                }
            );
            (result, text)
        }
        DevicesCommand::Reject { request } => {
            let params = json!({ "requestId": request });
            let result = client.call_raw("device.pair.reject", params).await.map_err(unknown)?;
            (result, format!("Rejected {}.", clean(&request)))
        }
        DevicesCommand::Remove { device } => {
            let id = resolve(client, device).await?;
            let result = client.call_raw("device.pair.remove", json!({ "deviceId": id })).await?;
            (result, format!("Removed {}.", short(&id)))
        }
        DevicesCommand::Rotate { device, role, scopes } => {
            let id = resolve(client, device).await?;
            let mut params = json!({ "deviceId": id, "role": role });
            if !scopes.is_empty() {
                params["scopes"] = scopes.into();
            }
            out.value(&client.call_raw("device.token.rotate", params).await?);
            return Ok(());
        }
        DevicesCommand::Revoke { device, role } => {
            let id = resolve(client, device).await?;
            let params = json!({ "deviceId": id, "role": role });
            let result = client.call_raw("device.token.revoke", params).await?;
            (result, format!("Revoked the {role} token of {}.", short(&id)))
        }
    };
    if out.json {
        out.value(&result);
    } else {
        out.line(text);
    }
    Ok(())
}

async fn allow(
    client: &Client,
    device: &str,
    mut commands: Vec<String>,
    only: bool,
) -> anyhow::Result<Value> {
    let list = client.call_raw("device.pair.list", json!({})).await?;
    let id = pick(DEVICE, items(&list, "paired"), device)?;
    if !only {
        let known = items(&list, "paired").iter().filter(|device| device["deviceId"] == id);
        let before = known.flat_map(|device| items(device, "allow"));
        commands.extend(before.filter_map(Value::as_str).map(str::to_owned));
    }
    let params = json!({ "deviceId": id, "allow": commands });
    Ok(client.call_raw("device.pair.allow", params).await?)
}

/// Says who was let in, and what an approval of a node grants and does not.
fn approved(result: &Value) -> String {
    let id = short(&cell(result, "/device/deviceId"));
    let mut text = format!("Approved {id} as {}.", cell(result, "/device/role"));
    if !items(&result["device"], "allow").is_empty() {
        text += &format!("\nIt may be asked to run: {}.", cell(result, "/device/allow"));
    }
    let withheld = items(result, "withheld");
    if !withheld.is_empty() {
        let words: Vec<&str> = withheld.iter().filter_map(Value::as_str).collect();
        text += &format!(
            "\nIt offers, and was not approved for: {}.\nTo approve that: moltbotctl devices allow \
             {id} {}",
            cell(result, "/withheld"),
            clean(&words.join(" "))
        );
    }
    text
}

/// Prints requests and devices for people.
pub fn show(out: Output, list: &Value) {
    let pending = items(list, "pending");
    if !pending.is_empty() {
        out.heading(&format!("Waiting ({})", pending.len()));
        let rows = pending.iter().map(|request| {
            vec![
                cell(request, "/requestId"),
                short(&cell(request, "/deviceId")),
                cell(request, "/displayName"),
                cell(request, "/platform"),
                cell(request, "/role"),
                cell(request, "/scopes"),
                cell(request, "/remoteIp"),
                ago(request, "/ts"),
            ]
        });
        let headers = ["Request", "Device", "Name", "Platform", "Role", "Scopes", "IP", "Asked"];
        out.table(&headers, rows.collect(), "");
        for request in pending.iter().filter(|request| !items(request, "commands").is_empty()) {
            let id = short(&cell(request, "/deviceId"));
            out.line(out.quiet(&format!("{id} offers: {}", cell(request, "/commands"))));
        }
        out.line(out.quiet(
            "Admit one: moltbotctl devices approve REQUEST; a node from elsewhere needs --allow \
             system.run --allow 'browser.*' to be asked for these",
        ));
        out.line("");
    }
    let paired = items(list, "paired");
    out.heading(&format!("Paired ({})", paired.len()));
    let rows = paired.iter().map(|device| {
        vec![
            short(&cell(device, "/deviceId")),
            device_name(device),
            cell(device, "/platform"),
            cell(device, "/roles"),
            cell(device, "/scopes"),
            tokens(device),
            cell(device, "/allow"),
            cell(device, "/remoteIp"),
        ]
    });
    let headers = ["Device", "Name", "Platform", "Roles", "Scopes", "Tokens", "Allowed", "IP"];
    out.table(&headers, rows.collect(), "No device is paired.");
}

fn device_name(device: &Value) -> String {
    match cell(device, "/displayName") {
        name if name == "-" => cell(device, "/clientId"),
        name => name,
    }
}

fn tokens(device: &Value) -> String {
    let tokens: Vec<String> = items(device, "tokens")
        .iter()
        .map(|token| {
            let revoked = token.get("revokedAtMs").is_some_and(|at| !at.is_null());
            format!("{}{}", cell(token, "/role"), if revoked { " (revoked)" } else { "" })
        })
        .collect();
    if tokens.is_empty() { "-".into() } else { tokens.join(", ") }
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

async fn only_request(client: &Client) -> anyhow::Result<String> {
    let list = client.call_raw("device.pair.list", json!({})).await?;
    match items(&list, "pending") {
        [only] => Ok(cell(only, "/requestId")),
        [] => {
            Err(helped("no device waits for approval", "see all devices: moltbotctl devices list"))
        }
        several => Err(helped(
            format!("{} devices wait for approval", several.len()),
            "choose one: moltbotctl devices list, then moltbotctl devices approve REQUEST",
        )),
    }
}

async fn resolve(client: &Client, device: DeviceName) -> anyhow::Result<String> {
    let wanted = device.id.or(device.flag).unwrap_or_default();
    let list = client.call_raw("device.pair.list", json!({})).await?;
    pick(DEVICE, items(&list, "paired"), &wanted)
}

fn unknown(error: crate::error::Error) -> anyhow::Error {
    match &error {
        crate::error::Error::Refused(refusal) if refusal.message.contains("unknown requestId") => {
            helped(
                refusal.message.clone(),
                "requests expire after 5 minutes; see those waiting: moltbotctl devices list",
            )
        }
        _ => error.into(),
    }
}
