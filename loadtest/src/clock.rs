//! The time of day, read in one place: signatures carry it, and reports say when they were made.
//!
//! Deliberately absent: measuring. Durations come from `Instant`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Whole seconds since the Unix epoch.
pub fn unix_seconds() -> i64 {
    i64::try_from(unix_millis() / 1000).unwrap_or(i64::MAX)
}

/// Milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
