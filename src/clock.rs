//! The one place that reads the wall clock, so that tests can hold the hands.
//!
//! Deliberately absent: timers. Those are the actors' and tokio's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use time::OffsetDateTime;

/// A source of the current time in UTC.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's own clock.
    #[default]
    System,
    /// A clock that stands still until it is told otherwise; the value is in milliseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that shows `at` until [`Clock::advance_ms`] moves it.
    pub fn manual(at: OffsetDateTime) -> Self {
        let ms = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        Self::Manual(Arc::new(AtomicI64::new(ms)))
    }

    /// The current time, in whole microseconds: what Postgres can keep, so that a time is the same before and after.
    #[allow(clippy::disallowed_methods, reason = "this is the one reader of the machine's clock")]
    pub fn now(&self) -> OffsetDateTime {
        match self {
            Self::System => to_microseconds(OffsetDateTime::now_utc()),
            Self::Manual(ms) => {
                let nanos = i128::from(ms.load(Ordering::Acquire)) * 1_000_000;
                OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
            }
        }
    }

    /// The current time in whole seconds since the Unix epoch, as Stripe writes it.
    pub fn unix_seconds(&self) -> i64 {
        self.now().unix_timestamp()
    }

    /// Moves a manual clock forward; the machine's clock is left alone.
    pub fn advance_ms(&self, by_ms: i64) {
        if let Self::Manual(ms) = self {
            ms.fetch_add(by_ms, Ordering::AcqRel);
        }
    }
}

fn to_microseconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(at.nanosecond() / 1000 * 1000).unwrap_or(at)
}
