//! When a conversation starts anew by itself.

use jiff::{Timestamp, ToSpan as _, Zoned};

use crate::config::ResetMode;

const IDLE_MINUTES: u64 = 60;

/// Returns whether a conversation that last changed then is over now.
#[must_use]
pub fn is_stale(reset: &ResetMode, updated_at_ms: Option<i64>, now: &Zoned) -> bool {
    let Some(updated) = updated_at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()) else {
        return true;
    };
    let idle_minutes = match reset.mode.as_str() {
        "idle" => Some(reset.idle_minutes.unwrap_or(IDLE_MINUTES)),
        _ => reset.idle_minutes,
    };
    let daily =
        reset.mode != "idle" && last_reset(reset.at_hour, now).is_some_and(|at| updated < at);
    daily || idle_minutes.is_some_and(|minutes| is_idle(updated, minutes, now))
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
    use super::*;

    fn ms(text: &str) -> i64 {
        zoned(text).timestamp().as_millisecond()
    }

    fn zoned(text: &str) -> Zoned {
        format!("{text}[Europe/Berlin]").parse().unwrap()
    }

    #[test]
    fn a_day_ends_at_the_hour_of_the_local_clock() {
        let reset = ResetMode::default();
        let now = zoned("2026-03-02T10:00");
        assert!(is_stale(&reset, Some(ms("2026-03-02T03:59")), &now));
        assert!(!is_stale(&reset, Some(ms("2026-03-02T04:00")), &now));
        let early = zoned("2026-03-02T03:00");
        assert!(!is_stale(&reset, Some(ms("2026-03-01T05:00")), &early));
        assert!(is_stale(&reset, Some(ms("2026-03-01T03:00")), &early));
    }

    #[test]
    fn an_idle_conversation_ends_after_its_minutes() {
        let reset = ResetMode { mode: "idle".into(), idle_minutes: Some(30), ..Default::default() };
        let now = zoned("2026-03-02T10:00");
        assert!(is_stale(&reset, Some(ms("2026-03-02T09:29")), &now));
        assert!(!is_stale(&reset, Some(ms("2026-03-02T09:30")), &now));
        let hour = ResetMode { idle_minutes: None, ..reset };
        assert!(!is_stale(&hour, Some(ms("2026-03-02T09:01")), &now));
        assert!(is_stale(&hour, None, &now));
    }
}
