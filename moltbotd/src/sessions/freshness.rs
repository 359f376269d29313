//! When a conversation starts anew by itself.

use jiff::{Timestamp, ToSpan as _, Zoned};

use super::key;
use crate::config::{Reset, ResetMode, Session};

const IDLE_MINUTES: u64 = 60;
const AT_HOUR: u8 = 4;

/// What decides which rule a conversation follows.
#[derive(Clone, Copy, Debug)]
pub struct Kind<'a> {
    /// Its key.
    pub key: &'a str,
    /// The channel that the message is from, else the one the conversation is
    /// known from.
    pub channel: Option<&'a str>,
    /// Whether the message is from a conversation with several people.
    pub is_group: bool,
    /// Whether the message is from a thread or topic.
    pub is_thread: bool,
}

/// When a conversation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Hour of the local day.
    at_hour: Option<u8>,
    /// Minutes without a message.
    idle_minutes: Option<u64>,
}

impl Rule {
    /// Returns the rule that a conversation follows: its channel's, else that of
    /// its kind, else the one for all.
    #[must_use]
    pub fn of(session: &Session, kind: &Kind<'_>) -> Self {
        let by_channel = kind.channel.and_then(|channel| {
            let mut channels = session.reset_by_channel.iter();
            channels.find(|(name, _)| name.trim().eq_ignore_ascii_case(channel))
        });
        if let Some((_, reset)) = by_channel {
            return Self::from(*reset);
        }
        let by_type = session.reset_by_type.unwrap_or_default();
        let own = if kind.is_thread || key::is_thread(kind.key) {
            by_type.thread
        } else if kind.is_group || key::is_group(kind.key) {
            by_type.group
        } else {
            by_type.dm
        };
        let (own, base) = (own.unwrap_or_default(), session.reset.unwrap_or_default());
        let is_set = session.reset.is_some() || session.reset_by_type.is_some();
        let older = (!is_set && session.idle_minutes.is_some()).then_some(ResetMode::Idle);
        Self::from(Reset {
            mode: own.mode.or(base.mode).or(older),
            at_hour: own.at_hour.or(base.at_hour),
            idle_minutes: own.idle_minutes.or(base.idle_minutes).or(session.idle_minutes),
        })
    }

    /// Returns whether a conversation that last changed then is over now.
    #[must_use]
    pub fn is_stale(&self, updated_at_ms: Option<i64>, now: &Zoned) -> bool {
        let Some(updated) = updated_at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok())
        else {
            return true;
        };
        let last = self.at_hour.and_then(|hour| last_reset(hour, now));
        last.is_some_and(|at| updated < at)
            || self.idle_minutes.is_some_and(|minutes| is_idle(updated, minutes, now))
    }
}

impl From<Reset> for Rule {
    fn from(reset: Reset) -> Self {
        match reset.mode.unwrap_or_default() {
            ResetMode::Idle => {
                let idle_minutes = Some(reset.idle_minutes.unwrap_or(IDLE_MINUTES));
                Self { at_hour: None, idle_minutes }
            }
            ResetMode::Daily => {
                let at_hour = Some(reset.at_hour.unwrap_or(AT_HOUR));
                Self { at_hour, idle_minutes: reset.idle_minutes }
            }
        }
    }
}

/// Returns the last time the local clock showed the hour.
fn last_reset(at_hour: u8, now: &Zoned) -> Option<Timestamp> {
    let hour = i8::try_from(at_hour.min(23)).ok()?;
    let at = |date: jiff::civil::Date| {
        date.at(hour, 0, 0, 0).to_zoned(now.time_zone().clone()).ok().map(|zoned| zoned.timestamp())
    };
    let today = at(now.date())?;
    if today <= now.timestamp() {
        return Some(today);
    }
    at(now.date().checked_sub(1.day()).ok()?)
}

fn is_idle(updated: Timestamp, minutes: u64, now: &Zoned) -> bool {
    let limit_ms = i64::try_from(minutes).unwrap_or(i64::MAX).saturating_mul(60_000);
    now.timestamp().as_millisecond().saturating_sub(updated.as_millisecond()) > limit_ms
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ms(text: &str) -> i64 {
        zoned(text).timestamp().as_millisecond()
    }

    fn zoned(text: &str) -> Zoned {
        format!("{text}[Europe/Berlin]").parse().unwrap()
    }

    fn session(section: Value) -> Session {
        serde_json::from_value(section).unwrap()
    }

    #[test]
    fn a_day_ends_at_the_hour_of_the_local_clock() {
        let rule = Rule::from(Reset::default());
        let now = zoned("2026-03-02T10:00");
        assert!(rule.is_stale(Some(ms("2026-03-02T03:59")), &now));
        assert!(!rule.is_stale(Some(ms("2026-03-02T04:00")), &now));
        let early = zoned("2026-03-02T03:00");
        assert!(!rule.is_stale(Some(ms("2026-03-01T05:00")), &early));
        assert!(rule.is_stale(Some(ms("2026-03-01T03:00")), &early));
    }

    #[test]
    fn an_idle_conversation_ends_after_its_minutes() {
        let idle = Reset { mode: Some(ResetMode::Idle), ..Reset::default() };
        let short = Rule::from(Reset { idle_minutes: Some(30), ..idle });
        let now = zoned("2026-03-02T10:00");
        assert!(short.is_stale(Some(ms("2026-03-02T09:29")), &now));
        assert!(!short.is_stale(Some(ms("2026-03-02T09:30")), &now));
        let hour = Rule::from(idle);
        assert!(!hour.is_stale(Some(ms("2026-03-02T09:01")), &now));
        assert!(hour.is_stale(None, &now));
    }

    const DM: Kind<'_> = Kind {
        key: "agent:main:main",
        channel: Some("telegram"),
        is_group: false,
        is_thread: false,
    };
    const GROUP: Kind<'_> =
        Kind { key: "agent:main:telegram:group:-1", channel: Some("telegram"), ..DM };
    const TOPIC: Kind<'_> = Kind { key: "agent:main:telegram:group:-1:topic:3", ..GROUP };

    #[test]
    fn a_kind_of_conversation_has_its_own_rule_and_takes_the_rest_from_the_one_for_all() {
        let session = session(json!({
            "reset": { "mode": "daily", "atHour": 6, "idleMinutes": 240 },
            "resetByType": {
                "dm": { "mode": "idle" },
                "group": { "atHour": 2 },
                "thread": { "mode": "idle", "idleMinutes": 15 },
            },
        }));
        let rule = |at_hour, idle_minutes| Rule { at_hour, idle_minutes: Some(idle_minutes) };
        assert_eq!(Rule::of(&session, &DM), rule(None, 240));
        assert_eq!(Rule::of(&session, &GROUP), rule(Some(2), 240));
        assert_eq!(Rule::of(&session, &TOPIC), rule(None, 15));
        let threaded = Kind { is_thread: true, ..DM };
        assert_eq!(Rule::of(&session, &threaded), rule(None, 15));
        let shared = Kind { is_group: true, ..DM };
        assert_eq!(Rule::of(&session, &shared), rule(Some(2), 240));
    }

    #[test]
    fn a_channels_rule_replaces_the_others() {
        let session = session(json!({
            "reset": { "atHour": 6, "idleMinutes": 240 },
            "resetByType": { "group": { "mode": "idle" } },
            "resetByChannel": { "Telegram": { "mode": "idle" }, "webchat": {} },
        }));
        let hour = Rule { at_hour: None, idle_minutes: Some(60) };
        assert_eq!(Rule::of(&session, &DM), hour);
        assert_eq!(Rule::of(&session, &GROUP), hour);
        let daily = Rule { at_hour: Some(4), idle_minutes: None };
        assert_eq!(Rule::of(&session, &Kind { channel: Some("webchat"), ..GROUP }), daily);
        let other = Rule { at_hour: Some(6), idle_minutes: Some(240) };
        assert_eq!(Rule::of(&session, &Kind { channel: None, ..DM }), other);
    }

    #[test]
    fn the_older_name_alone_means_that_only_silence_ends_a_conversation() {
        let alone = session(json!({ "idleMinutes": 20 }));
        let silence = Rule { at_hour: None, idle_minutes: Some(20) };
        assert_eq!(Rule::of(&alone, &DM), silence);
        let beside = session(json!({ "idleMinutes": 20, "reset": {} }));
        assert_eq!(Rule::of(&beside, &DM), Rule { at_hour: Some(4), ..silence });
        let neither = Rule { at_hour: Some(4), idle_minutes: None };
        assert_eq!(Rule::of(&Session::default(), &DM), neither);
    }
}
