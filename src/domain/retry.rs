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

/// Delivering a text message: news of a payment is worth little after some hours.
pub const SMS: Schedule = &[5, 30, 5 * MINUTE, 30 * MINUTE, 2 * HOUR];

/// Mailing a link: it opens for [`LINK_OPENS_S`], and a mail with a dead link only annoys.
pub const LINK: Schedule = &[5, 30, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 25 * MINUTE];

/// How long a link to one's donations opens the list, from the request for it, in seconds.
pub const LINK_OPENS_S: u64 = HOUR;

/// Telling a partner's program, as Standard Webhooks recommends it.
pub const WEBHOOK: Schedule =
    &[5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];

/// Testing an endpoint: whoever tests looks at once.
pub const WEBHOOK_TEST: Schedule = &[];

/// The longest wait that a provider may ask for; what asks for more gets this.
pub const ASKED_MAX: Duration = Duration::from_secs(DAY);

/// Publishing an event that the broker refuses.
pub const PUBLISH: Schedule = &[1, 2, 5, 15, MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR];

/// How long to wait after attempt number `attempt` (the first is 0), lengthened by up to a quarter by `jitter` (0 to
/// 999); `None` once the schedule is used up.
pub fn wait_after(schedule: Schedule, attempt: u32, jitter: u16) -> Option<Duration> {
    let seconds = schedule.get(usize::try_from(attempt).ok()?)?;
    let millis = seconds * 1000;
    Some(Duration::from_millis(millis + millis / 4 * u64::from(jitter.min(999)) / 1000))
}

/// The longest wait of a schedule, in seconds, with all its jitter.
pub const fn longest_wait_s(schedule: Schedule) -> u64 {
    let (mut longest, mut next) = (0, 0);
    while next < schedule.len() {
        if schedule[next] > longest {
            longest = schedule[next];
        }
        next += 1;
    }
    longest + longest / 4
}

/// The same, and at least as long as the provider asked for (`Retry-After`), up to [`ASKED_MAX`]. Being asked to wait adds
/// no attempt to the schedule.
pub fn wait_as_asked(schedule: Schedule, attempt: u32, jitter: u16, asked: Option<Duration>) -> Option<Duration> {
    let wait = wait_after(schedule, attempt, jitter)?;
    Some(asked.map_or(wait, |asked| wait.max(asked.min(ASKED_MAX))))
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

    #[test]
    fn a_link_is_not_mailed_any_more_once_it_is_dead() {
        let waits = (0..).map_while(|attempt| wait_after(LINK, attempt, 999));
        assert!(waits.sum::<Duration>() < Duration::from_secs(LINK_OPENS_S));
    }

    #[test]
    fn the_longest_wait_is_that_of_the_schedule_with_all_its_jitter() {
        let longest = (0..).map_while(|attempt| wait_after(WEBHOOK, attempt, 999)).max().unwrap();
        assert_eq!(longest_wait_s(WEBHOOK), 30 * HOUR);
        assert!(longest <= Duration::from_secs(longest_wait_s(WEBHOOK)));
        assert!(ASKED_MAX < Duration::from_secs(longest_wait_s(WEBHOOK)));
    }

    #[test]
    fn a_provider_may_lengthen_a_wait_to_a_day_but_neither_shorten_it_nor_add_an_attempt() {
        let asked = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(wait_as_asked(WEBHOOK, 0, 0, None), asked(5));
        assert_eq!(wait_as_asked(WEBHOOK, 0, 0, asked(1)), asked(5));
        assert_eq!(wait_as_asked(WEBHOOK, 0, 0, asked(90)), asked(90));
        assert_eq!(wait_as_asked(WEBHOOK, 0, 0, asked(30 * DAY)), asked(DAY));
        assert_eq!(wait_as_asked(WEBHOOK, 9, 0, asked(90)), None);
        assert_eq!(wait_as_asked(WEBHOOK_TEST, 0, 0, asked(90)), None);
    }
}
