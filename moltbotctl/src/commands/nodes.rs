//! `moltbotctl nodes`: devices that lend what they can do.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    json_argument,
    pick::{Kind, pick},
};
use crate::{
    client::Client,
    context::{Context, helped},
    output::{Output, ago, cell, clean, short},
};

const NODE: Kind = Kind { name: "node", id: "nodeId", list: "moltbotctl nodes list" };
const DEFAULT_INVOKE_TIMEOUT_MS: u64 = 15_000;
/// The gateway's own time-out must come first: it says more.
const GRACE: Duration = Duration::from_secs(2);

/// Nodes.
#[derive(Debug, Subcommand)]
pub enum NodesCommand {
    /// List nodes
    #[command(alias = "status")]
    List {
        /// Only those connected now
        #[arg(long)]
        connected: bool,
    },
    /// Show one node
    Describe(NodeName),
    /// Run a command on a node
    Invoke(InvokeArgs),
    /// Give a node another name
    Rename {
        /// The node
        #[command(flatten)]
        node: NodeName,
        /// The new name
        #[arg(long)]
        name: String,
    },
}

/// A node, as an argument or a flag.
#[derive(Clone, Debug, Args)]
#[group(id = "which", required = true, multiple = false)]
pub struct NodeName {
    /// Id, beginning of the id, name or address of the node
    #[arg(value_name = "NODE")]
    pub id: Option<String>,
    /// The same as a flag
    #[arg(long = "node", value_name = "NODE")]
    pub flag: Option<String>,
}

/// A command for a node.
#[derive(Debug, Args)]
#[command(override_usage = "moltbotctl nodes invoke [OPTIONS] <NODE> <COMMAND> [PARAMS]")]
pub struct InvokeArgs {
    /// The node, the command and its parameters, as far as no flag gives them
    #[arg(value_name = "NODE COMMAND PARAMS", num_args = 0..=3)]
    pub words: Vec<String>,
    /// Id, beginning of the id, name or address of the node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// The command, such as system.which
    #[arg(long, value_name = "COMMAND")]
    pub command: Option<String>,
    /// Its parameters
    #[arg(long, value_name = "JSON")]
    pub params: Option<String>,
    /// Longest time for the command, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_INVOKE_TIMEOUT_MS)]
    pub invoke_timeout: u64,
    /// The same key is the same call [default: a random one]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// Runs one of the node commands.
///
/// # Errors
/// When the gateway or the node refuses.
pub async fn run(cx: &Context, command: NodesCommand) -> anyhow::Result<()> {
    let connected = cx.connect().await?;
    let result = act(cx, &connected.client, command).await;
    connected.client.close().await;
    result
}

async fn act(cx: &Context, client: &Client, command: NodesCommand) -> anyhow::Result<()> {
    let out = cx.output;
    match command {
        NodesCommand::List { connected } => {
            let mut list = client.call_raw("node.list", json!({})).await?;
            if connected && let Some(nodes) = list.get_mut("nodes").and_then(Value::as_array_mut) {
                nodes.retain(|node| node["connected"] == true);
            }
            if out.json {
                out.value(&list);
            } else {
                show(out, &list);
            }
        }
        NodesCommand::Describe(node) => {
            let id = resolve(client, &node.id.or(node.flag).unwrap_or_default()).await?;
            let node = client.call_raw("node.describe", json!({ "nodeId": id })).await?;
            if out.json {
                out.value(&node);
            } else {
                describe(out, &node);
            }
        }
        NodesCommand::Invoke(args) => invoke(cx, client, args).await?,
        NodesCommand::Rename { node, name } => {
            let id = resolve(client, &node.id.or(node.flag).unwrap_or_default()).await?;
            let params = json!({ "nodeId": id, "displayName": name });
            let result = client.call_raw("node.rename", params).await?;
            if out.json {
                out.value(&result);
            } else {
                out.line(format!("{} is now called {}.", short(&id), clean(&name)));
            }
        }
    }
    Ok(())
}

async fn invoke(cx: &Context, client: &Client, args: InvokeArgs) -> anyhow::Result<()> {
    let mut words = args.words.into_iter();
    let node = args.node.or_else(|| words.next());
    let command = args.command.or_else(|| words.next());
    let params = args.params.or_else(|| words.next());
    let (Some(node), Some(command), None) = (node, command, words.next()) else {
        return Err(helped(
            "a node and a command are needed",
            "moltbotctl nodes invoke NODE COMMAND [PARAMS], for example: moltbotctl nodes invoke \
             my-laptop system.which '{\"bins\":[\"git\"]}'",
        ));
    };
    let params = json_argument("the parameters are", params.as_deref().unwrap_or("{}"))?;
    let id = resolve(client, &node).await?;
    let key = args.idempotency_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let request = json!({
        "nodeId": id, "command": command, "params": params,
        "timeoutMs": args.invoke_timeout, "idempotencyKey": key,
    });
    let patience = cx.timeout().max(Duration::from_millis(args.invoke_timeout) + GRACE);
    let result = client.call_within("node.invoke", request, patience).await?;
    cx.output.value(&result);
    Ok(())
}

/// Prints a list of nodes for people.
pub fn show(out: Output, list: &Value) {
    let rows = list.get("nodes").and_then(Value::as_array).into_iter().flatten().map(|node| {
        let connected = node["connected"] == true;
        vec![
            short(&cell(node, "/nodeId")),
            cell(node, "/displayName"),
            out.verdict(connected, if connected { "connected" } else { "away" }),
            cell(node, "/paired"),
            cell(node, "/platform"),
            cell(node, "/version"),
            cell(node, "/remoteIp"),
            cell(node, "/caps"),
            cell(node, "/allow"),
            cell(node, "/withheld"),
        ]
    });
    let headers = [
        "Node", "Name", "State", "Paired", "Platform", "Version", "IP", "Caps", "Allowed",
        "Withheld",
    ];
    out.table(&headers, rows.collect(), "No nodes. Start one: moltbotctl node run");
}

fn describe(out: Output, node: &Value) {
    out.pairs(&[
        ("Node", cell(node, "/nodeId")),
        ("Name", cell(node, "/displayName")),
        ("Connected", cell(node, "/connected")),
        ("Since", ago(node, "/connectedAtMs")),
        ("Paired", cell(node, "/paired")),
        ("Platform", cell(node, "/platform")),
        ("Version", cell(node, "/version")),
        ("Address", cell(node, "/remoteIp")),
        ("Caps", cell(node, "/caps")),
        ("Commands", cell(node, "/commands")),
        ("Allowed", cell(node, "/allow")),
        ("Withheld", cell(node, "/withheld")),
    ]);
    if let Some(withheld) = node["withheld"].as_array() {
        let words: Vec<&str> = withheld.iter().filter_map(Value::as_str).collect();
        let id = short(&cell(node, "/nodeId"));
        let words = clean(&words.join(" "));
        out.line(out.quiet(&format!("Allow that: moltbotctl devices allow {id} {words}")));
    }
}

async fn resolve(client: &Client, wanted: &str) -> anyhow::Result<String> {
    let list = client.call_raw("node.list", json!({})).await?;
    let nodes = list.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    pick(NODE, nodes, wanted)
}
