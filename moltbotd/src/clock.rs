//! The wall clock, as the wire and the database count it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the same as an unsigned number, as the wire has it.
#[must_use]
pub fn now_u64() -> u64 {
    now_ms().cast_unsigned()
}

/// Returns milliseconds since the Unix epoch; 0 if the clock stands before it.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
