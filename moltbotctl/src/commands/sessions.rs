//! `moltbotctl sessions`.

use serde_json::{Value, json};

use crate::{
    context::Context,
    output::{Output, ago, cell},
};

/// Lists the conversations.
///
/// # Errors
/// When the gateway does not answer.
pub async fn run(cx: &Context, active: Option<u32>) -> anyhow::Result<()> {
    let params = active.map_or(json!({}), |minutes| json!({ "activeMinutes": minutes }));
    let list = cx.call("sessions.list", params).await?;
    if cx.output.json {
        cx.output.value(&list);
    } else {
        show(cx.output, &list);
    }
    Ok(())
}

/// Prints a list of conversations for people.
pub fn show(out: Output, list: &Value) {
    let rows = list.get("sessions").and_then(Value::as_array).into_iter().flatten().map(|row| {
        vec![
            cell(row, "/key"),
            cell(row, "/kind"),
            ago(row, "/updatedAt"),
            cell(row, "/model"),
            cell(row, "/totalTokens"),
            cell(row, "/displayName"),
        ]
    });
    let headers = ["Key", "Kind", "Used", "Model", "Tokens", "Name"];
    out.table(&headers, rows.collect(), "No conversations yet.");
}
