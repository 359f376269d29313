//! `sessions.list`: filters, order and rows.

use std::ops::ControlFlow;

use moltbot_protocol::methods::sessions::{SessionRow as Row, SessionsList, SessionsPage};

use super::{Sessions, key, model, preview};
use crate::{
    clock::now_ms,
    rpc::Result,
    store::{Db, SessionRow},
};

/// How far back a last message is looked for.
const LAST_MESSAGES: usize = 20;
const LAST_BYTES: usize = 256 * 1024;

impl Sessions {
    /// Lists conversations, the last changed first.
    pub async fn list(&self, request: SessionsList) -> Result<SessionsPage> {
        let now = now_ms();
        let since = request.active_minutes.map(|minutes| {
            now.saturating_sub(i64::try_from(minutes).unwrap_or(i64::MAX).saturating_mul(60_000))
        });
        let config = self.config();
        let agent = key::default_agent(&config);
        let sessions = self
            .0
            .store
            .read(move |db| {
                let limit = request.limit.and_then(|limit| usize::try_from(limit).ok());
                let search = request.search.as_deref().map(str::trim).unwrap_or_default();
                let search = search.to_lowercase();
                let mut rows = Vec::new();
                db.each_session(since, |row| {
                    if wanted(&row, &request, &search) {
                        rows.push(shown(db, row, &request)?);
                    }
                    let full = limit.is_some_and(|limit| rows.len() >= limit);
                    Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                })?;
                Ok(rows)
            })
            .await?;
        Ok(SessionsPage {
            ts: now,
            path: self.path(),
            count: sessions.len(),
            defaults: model::defaults(&config, &self.0.models, &agent),
            sessions,
        })
    }
}

/// Returns whether a conversation is one that the caller asks for.
pub(super) fn belongs(
    row: &SessionRow,
    agent: Option<&str>,
    spawned_by: Option<&str>,
    global: bool,
    unknown: bool,
) -> bool {
    match row.key.as_str() {
        "global" => return global && agent.is_none() && spawned_by.is_none(),
        "unknown" => return unknown && agent.is_none() && spawned_by.is_none(),
        _ => {}
    }
    let owner = key::agent_of(&row.key);
    agent.is_none_or(|agent| owner.is_some_and(|owner| owner.eq_ignore_ascii_case(agent)))
        && spawned_by.is_none_or(|parent| row.entry.spawned_by.as_deref() == Some(parent))
}

fn wanted(row: &SessionRow, request: &SessionsList, search: &str) -> bool {
    let entry = &row.entry;
    belongs(
        row,
        request.agent_id.as_deref(),
        request.spawned_by.as_deref(),
        request.include_global.unwrap_or(false),
        request.include_unknown.unwrap_or(false),
    ) && request.label.as_ref().is_none_or(|label| entry.label.as_ref() == Some(label))
        && (search.is_empty() || holds(row, search))
}

fn holds(row: &SessionRow, search: &str) -> bool {
    let entry = &row.entry;
    [&entry.display_name, &entry.label, &entry.subject]
        .into_iter()
        .flatten()
        .chain([&entry.session_id, &row.key])
        .any(|text| text.to_lowercase().contains(search))
}

fn shown(db: &Db<'_>, row: SessionRow, request: &SessionsList) -> rusqlite::Result<Row> {
    let SessionRow { key, entry } = row;
    let derived_title = if request.include_derived_titles == Some(true) {
        preview::title(&entry, db.first_user_message(&entry.session_id)?.as_ref())
    } else {
        None
    };
    let last_message_preview = if request.include_last_message == Some(true) {
        let rows = db.last_messages(&entry.session_id, LAST_MESSAGES, LAST_BYTES)?;
        preview::last_message(rows.iter().map(|row| &row.message))
    } else {
        None
    };
    let total = entry
        .total_tokens
        .unwrap_or(entry.input_tokens.unwrap_or(0) + entry.output_tokens.unwrap_or(0));
    Ok(Row {
        kind: key::kind(&key, entry.chat_type.as_deref()).to_owned(),
        key,
        display_name: entry.display_name.or_else(|| entry.label.clone()),
        label: entry.label,
        channel: entry.channel,
        subject: entry.subject,
        group_channel: entry.group_channel,
        space: entry.space,
        chat_type: entry.chat_type,
        origin: entry.origin,
        updated_at: entry.updated_at,
        session_id: Some(entry.session_id),
        system_sent: entry.system_sent,
        aborted_last_run: entry.aborted_last_run,
        thinking_level: entry.thinking_level,
        verbose_level: entry.verbose_level,
        reasoning_level: entry.reasoning_level,
        elevated_level: entry.elevated_level,
        send_policy: entry.send_policy,
        input_tokens: entry.input_tokens,
        output_tokens: entry.output_tokens,
        total_tokens: total,
        response_usage: entry.response_usage,
        model_provider: entry.model_provider,
        model: entry.model,
        context_tokens: entry.context_tokens,
        delivery_context: entry.delivery_context,
        last_channel: entry.last_channel,
        last_to: entry.last_to,
        last_account_id: entry.last_account_id,
        derived_title,
        last_message_preview,
    })
}
