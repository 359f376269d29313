//! Conversations in short, for health and status: counts and the latest few,
//! read without loading the others.

use moltbot_protocol::methods::health::SessionStatus;
use rusqlite::params;
use serde_json::Value;

use super::Db;

/// Conversations of an agent, or of all.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// How many there are.
    pub count: u64,
    /// The latest.
    pub recent: Vec<SessionStatus>,
}

impl Db<'_> {
    /// Returns how many conversations there are and the latest ten; of all
    /// agents without `agent_id`.
    pub fn session_overview(
        &self,
        agent_id: Option<&str>,
        now_ms: u64,
    ) -> rusqlite::Result<Overview> {
        let count: i64 = self
            .0
            .prepare_cached(
                "SELECT count(*) FROM session
                 WHERE (?1 IS NULL OR agent_id = ?1) AND key NOT IN ('global', 'unknown')",
            )?
            .query_row([agent_id], |row| row.get(0))?;
        let recent = self
            .0
            .prepare_cached(
                "SELECT key, agent_id, session_id, updated_at_ms, entry FROM session
                 WHERE (?1 IS NULL OR agent_id = ?1) AND key NOT IN ('global', 'unknown')
                 ORDER BY updated_at_ms DESC LIMIT 10",
            )?
            .query_map(params![agent_id], |row| {
                let entry: String = row.get(4)?;
                let updated: Option<i64> = row.get(3)?;
                Ok(status(
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    updated.map(i64::cast_unsigned),
                    &serde_json::from_str(&entry).unwrap_or_default(),
                    now_ms,
                ))
            })?
            .collect::<Result<_, _>>()?;
        Ok(Overview { count: count.cast_unsigned(), recent })
    }
}

fn status(
    key: String,
    agent_id: String,
    session_id: String,
    updated_at: Option<u64>,
    entry: &Value,
    now_ms: u64,
) -> SessionStatus {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| entry.get(name).and_then(Value::as_u64);
    let (total, context) = (number("totalTokens"), number("contextTokens"));
    let used = total.zip(context).filter(|(_, context)| *context > 0);
    let mut flags = Vec::new();
    for (flag, name) in [("think", "thinkingLevel"), ("verbose", "verboseLevel")] {
        flags.extend(text(name).map(|level| format!("{flag}:{level}")));
    }
    flags.push(format!("id:{session_id}"));
    SessionStatus {
        kind: kind(&key, entry).to_owned(),
        agent_id: Some(agent_id),
        session_id: Some(session_id),
        age: updated_at.map(|at| now_ms.saturating_sub(at)),
        updated_at,
        thinking_level: text("thinkingLevel"),
        verbose_level: text("verboseLevel"),
        aborted_last_run: entry.get("abortedLastRun").and_then(Value::as_bool),
        input_tokens: number("inputTokens"),
        output_tokens: number("outputTokens"),
        total_tokens: total,
        remaining_tokens: used.map(|(total, context)| context.saturating_sub(total)),
        percent_used: used.map(|(total, context)| (total * 100 / context).min(999)),
        model: text("model"),
        context_tokens: context,
        flags,
        key,
    }
}

fn kind(key: &str, entry: &Value) -> &'static str {
    let chat_type = entry.get("chatType").and_then(Value::as_str);
    let grouped = key.contains(":group:") || key.contains(":channel:");
    match key {
        "global" => "global",
        "unknown" => "unknown",
        _ if grouped || matches!(chat_type, Some("group" | "channel")) => "group",
        _ => "direct",
    }
}
