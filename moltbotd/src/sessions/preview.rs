//! Titles and short forms of messages, for lists.

use jiff::{Timestamp, tz::TimeZone};
use moltbot_protocol::methods::sessions::{PreviewItem, SessionEntry};
use serde_json::Value;

use super::message;

const TITLE_CHARS: usize = 60;

/// Returns a title: the name, else the first message, else the id and day.
#[must_use]
pub(super) fn title(entry: &SessionEntry, first_message: Option<&Value>) -> Option<String> {
    let named = [&entry.display_name, &entry.subject]
        .into_iter()
        .filter_map(|name| name.as_deref().map(str::trim))
        .find(|name| !name.is_empty());
    if let Some(name) = named {
        return Some(name.to_owned());
    }
    let first = first_message.map(|message| cleaned(&message::text(message))).unwrap_or_default();
    if !first.is_empty() {
        return Some(shorten_words(&first, TITLE_CHARS));
    }
    if entry.session_id.is_empty() {
        return None;
    }
    let id: String = entry.session_id.chars().take(8).collect();
    let day = entry
        .updated_at
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map(|at| at.to_zoned(TimeZone::UTC).date());
    Some(day.map_or_else(|| id.clone(), |day| format!("{id} ({day})")))
}

/// Returns a message in a preview; `None` when it has no text.
#[must_use]
pub(super) fn item(message: &Value, max_chars: usize) -> Option<PreviewItem> {
    let calls = message::calls(message);
    let text = cleaned(&message::text(message));
    let (role, text) = match message::role(message) {
        "assistant" if text.is_empty() && !calls.is_empty() => {
            let names: Vec<_> = calls.into_iter().map(|call| call.name).collect();
            ("tool", format!("call {}", names.join(", ")))
        }
        "user" => ("user", text),
        "assistant" => ("assistant", text),
        "toolResult" | "tool" => ("tool", text),
        "system" => ("system", text),
        _ => ("other", text),
    };
    (!text.is_empty())
        .then(|| PreviewItem { role: role.to_owned(), text: shorten(&text, max_chars) })
}

/// Returns the last message that a person or the assistant wrote.
#[must_use]
pub(super) fn last_message<'a>(
    messages: impl DoubleEndedIterator<Item = &'a Value>,
) -> Option<String> {
    messages
        .rev()
        .filter(|message| matches!(message::role(message), "user" | "assistant"))
        .map(|message| cleaned(&message::text(message)))
        .find(|text| !text.is_empty())
}

/// Returns a message as people wrote it: without the envelope and the id lines
/// that other versions put around it.
#[must_use]
pub(super) fn without_envelope(text: &str) -> String {
    let body = text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .filter(|(envelope, _)| is_envelope(envelope))
        .map_or(text, |(_, body)| body);
    let lines: Vec<_> =
        body.lines().filter(|line| !line.trim_start().starts_with("[message_id:")).collect();
    if lines.len() == body.lines().count() { body.to_owned() } else { lines.join("\n") }
}

/// An envelope names a channel and ends with a time: `Telegram Ada 2026-01-02
/// 03:04 UTC`.
fn is_envelope(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let channel = words.next().is_some_and(|word| word.starts_with(char::is_uppercase));
    channel && words.any(|word| word.len() >= 10 && word.get(..10).is_some_and(is_date))
}

fn is_date(text: &str) -> bool {
    text.parse::<jiff::civil::Date>().is_ok()
}

fn cleaned(text: &str) -> String {
    without_envelope(text).trim().to_owned()
}

fn shorten(text: &str, max_chars: usize) -> String {
    if text.chars().count() <= max_chars {
        return text.to_owned();
    }
    let kept: String = text.chars().take(max_chars.saturating_sub(3)).collect();
    kept + "..."
}

fn shorten_words(text: &str, max_chars: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= max_chars {
        return line;
    }
    let kept: String = line.chars().take(max_chars - 1).collect();
    let whole_words = kept.rfind(' ').filter(|&end| end > max_chars / 2);
    format!("{}…", &kept[..whole_words.unwrap_or(kept.len())])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_title_is_the_first_message_cut_between_words() {
        let entry = SessionEntry { session_id: "db0ffa85-1".into(), ..Default::default() };
        let long = message::user(&"word ".repeat(40), &[], 0);
        let short = message::user("Hello there", &[], 0);
        let title_of = |message| title(&entry, message).unwrap();
        assert_eq!(title_of(Some(&short)), "Hello there");
        assert!(title_of(Some(&long)).ends_with("word…"));
        assert!(title_of(Some(&long)).chars().count() <= TITLE_CHARS);
        let dated = SessionEntry { updated_at: Some(1_795_337_000_000), ..entry.clone() };
        assert_eq!(title(&dated, None).unwrap(), "db0ffa85 (2026-11-22)");
    }

    #[test]
    fn envelopes_of_other_versions_are_not_shown() {
        let text = "[Telegram Ada id:7 +2m 2026-01-24 10:00 UTC] hi\n[message_id: 5]";
        assert_eq!(without_envelope(text), "hi");
        assert_eq!(without_envelope("[draft] hi"), "[draft] hi");
    }

    #[test]
    fn a_call_without_text_is_shown_as_a_call() {
        let call = json!({"role": "assistant",
            "content": [{"type": "toolCall", "id": "1", "name": "nodes", "arguments": {}}]});
        let item = item(&call, 240).unwrap();
        assert_eq!((item.role.as_str(), item.text.as_str()), ("tool", "call nodes"));
    }
}
