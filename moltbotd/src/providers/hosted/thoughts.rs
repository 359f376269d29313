//! What models thought before they called tools.
//!
//! Some providers sign it and refuse to go on with a call when it does not come
//! back to them. It is of no use to anybody else, so it lives here and not in
//! the transcript, and is lost with a restart.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use genai::chat::ChatMessage;

use crate::providers::ToolCall;

/// Messages kept; the oldest goes first.
const CAPACITY: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Thoughts(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// By id of the first call.
    messages: HashMap<String, ChatMessage>,
    order: VecDeque<String>,
}

impl Thoughts {
    /// Keeps a message that calls tools, if there is more to it than the calls.
    pub(super) fn keep(&self, message: ChatMessage) {
        let signed = message.content.contains_thought_signature()
            || message.content.contains_reasoning_content()
            || message.content.contains_custom();
        let Some(id) = first_call(&message).filter(|_| signed) else { return };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.order.len() >= CAPACITY
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.messages.remove(&oldest);
        }
        if kept.messages.insert(id.clone(), message).is_none() {
            kept.order.push_back(id);
        }
    }

    /// Returns the whole message that made these calls.
    pub(super) fn of(&self, calls: &[ToolCall]) -> Option<ChatMessage> {
        let first = calls.first()?;
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let message = kept.messages.get(&first.id)?;
        let made = message.content.tool_calls();
        // Ids of some servers repeat.
        let same = made.len() == calls.len()
            && made.iter().zip(calls).all(|(made, call)| {
                made.call_id == call.id
                    && made.fn_name == call.name
                    && made.fn_arguments == call.arguments
            });
        same.then(|| message.clone())
    }
}

fn first_call(message: &ChatMessage) -> Option<String> {
    message.content.tool_calls().first().map(|call| call.call_id.clone())
}
