//! When to try again: schedules as data.
//!
//! Deliberately absent: randomness. Jitter comes in as a number between 0 and 999, so that a schedule can be asserted.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Waits in seconds between attempts.
pub type Schedule = &'static [u64];

/// Opening a payment with the provider: quick at first, because a donor may be waiting.
pub const OPEN_PAYMENT: Schedule = &[1, 2, 5, 10, 30, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR];

/// Asking the provider how an open payment stands, in case its webhooks were lost.
pub const CHECK_PAYMENT: Schedule = &[MINUTE, 5 * MINUTE, HOUR, DAY, DAY, DAY, DAY, DAY];

/// Delivering a mail.
pub const MAIL: Schedule = &[5, 30, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 24 * HOUR];

/// Publishing an event that the broker refuses.
pub const PUBLISH: Schedule = &[1, 2, 5, 15, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR];

/// How long to wait after attempt number `attempt` (the first is 0), lengthened by up to a quarter by `jitter` (0 to
/// 999); `None` once the schedule is used up.
pub fn wait_after(schedule: Schedule, attempt: u32, jitter: u16) -> Option<Duration> {
    let seconds = schedule.get(usize::try_from(attempt).ok()?)?;
    let millis = seconds * 1000;
    Some(Duration::from_millis(millis + millis / 4 * u64::from(jitter.min(999)) / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_schedule_with_at_most_a_quarter_more_and_end() {
        assert_eq!(wait_after(OPEN_PAYMENT, 0, 0), Some(Duration::from_secs(1)));
        assert_eq!(wait_after(OPEN_PAYMENT, 2, 0), Some(Duration::from_secs(5)));
        let jittered = wait_after(OPEN_PAYMENT, 2, 999).unwrap();
        assert!(jittered > Duration::from_secs(5) && jittered <= Duration::from_millis(6250));
        assert_eq!(wait_after(CHECK_PAYMENT, 8, 0), None);
    }
}
