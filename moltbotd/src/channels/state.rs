//! What is known of an account while the daemon runs.

use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use crate::clock::now_ms;

/// State of an account, as `channels.status` shows it.
#[derive(Debug, Default)]
pub(super) struct AccountState(Mutex<Snapshot>);

/// A copy of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) running: bool,
    pub(super) last_start_at: Option<i64>,
    pub(super) last_stop_at: Option<i64>,
    pub(super) last_error: Option<String>,
    pub(super) last_inbound_at: Option<i64>,
    pub(super) last_outbound_at: Option<i64>,
    pub(super) last_probe_at: Option<i64>,
    pub(super) probe: Option<Value>,
}

impl AccountState {
    pub(super) fn started(&self) {
        self.change(|state| {
            state.running = true;
            state.last_start_at = Some(now_ms());
            state.last_error = None;
        });
    }

    pub(super) fn stopped(&self, error: Option<String>) {
        self.change(|state| {
            state.running = false;
            state.last_stop_at = Some(now_ms());
            if error.is_some() {
                state.last_error = error;
            }
        });
    }

    /// Notes what hinders it now; `None` when it works again.
    pub(super) fn trouble(&self, error: Option<String>) {
        self.change(|state| state.last_error = error);
    }

    pub(super) fn received(&self) {
        self.change(|state| state.last_inbound_at = Some(now_ms()));
    }

    pub(super) fn sent(&self) {
        self.change(|state| state.last_outbound_at = Some(now_ms()));
    }

    pub(super) fn probed(&self, probe: Value) {
        self.change(|state| {
            state.last_probe_at = Some(now_ms());
            state.probe = Some(probe);
        });
    }

    pub(super) fn get(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Snapshot {
    /// Adds the fields that every account has.
    pub(super) fn fill(&self, fields: &mut Map<String, Value>) {
        fields.insert("running".into(), json!(self.running));
        fields.insert("lastStartAt".into(), json!(self.last_start_at));
        fields.insert("lastStopAt".into(), json!(self.last_stop_at));
        fields.insert("lastError".into(), json!(self.last_error));
    }
}
