//! How often, how long and how patiently one call is tried.
//!
//! Deliberately absent: what is worth another try (`answer` decides), and the long schedule of an actor that keeps
//! asking for hours: that one lives with the actor.

use std::time::Duration;

use super::answer::Failure;
use crate::gateways::breaker;

/// Further attempts after the first one.
pub const RETRIES: u32 = 2;
/// The pause before the second attempt; it doubles from there.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// No pause of our own is longer.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(4);
/// A longer `Retry-After` is not waited for here: the error carries it to the caller's own schedule.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5);
/// One call with all its attempts and pauses.
pub const DEADLINE: Duration = Duration::from_secs(25);

/// The limits of one call, and of the breaker that all calls share.
#[derive(Clone, Copy, Debug)]
pub struct CallPolicy {
    /// Further attempts after the first one.
    pub retries: u32,
    /// The pause before the second attempt; it doubles from there, with jitter.
    pub first_backoff: Duration,
    /// No pause of our own is longer.
    pub longest_backoff: Duration,
    /// A longer `Retry-After` ends the call.
    pub longest_retry_after: Duration,
    /// One call with all its attempts and pauses.
    pub deadline: Duration,
    /// Failures in a row that open the breaker. Attempts count, not calls.
    pub failures_to_open: u32,
    /// How long the open breaker keeps everybody away.
    pub cool_down: Duration,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self {
            retries: RETRIES,
            first_backoff: FIRST_BACKOFF,
            longest_backoff: LONGEST_BACKOFF,
            longest_retry_after: LONGEST_RETRY_AFTER,
            deadline: DEADLINE,
            failures_to_open: breaker::FAILURES_TO_OPEN,
            cool_down: breaker::COOL_DOWN,
        }
    }
}

impl CallPolicy {
    /// The pause before attempt `attempt + 1`, counted from zero, or `None` where the call ends here.
    pub(super) fn pause(&self, attempt: u32, failure: &Failure, left: Duration) -> Option<Duration> {
        if !failure.worth_retry || attempt >= self.retries {
            return None;
        }
        let asked = failure.error.retry_after().unwrap_or_default();
        let pause = self.backoff(attempt).max(asked);
        (asked <= self.longest_retry_after && pause < left).then_some(pause)
    }

    /// Between half and the whole of the exponential pause, so that callers who failed together do not return together.
    fn backoff(&self, attempt: u32) -> Duration {
        let whole = self.first_backoff.saturating_mul(2_u32.saturating_pow(attempt)).min(self.longest_backoff);
        let whole_ms = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(rand::random_range(whole_ms / 2..=whole_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateways::error::GatewayError;

    fn failure(retry_after: Option<Duration>) -> Failure {
        let error = GatewayError::Transient { reason: "429".into(), retry_after };
        Failure { error, worth_retry: true, alive: false }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_tries_end() {
        let policy = CallPolicy { retries: 9, ..CallPolicy::default() };
        let plain = failure(None);
        for (attempt, whole_ms) in [(0, 500), (1, 1000), (2, 2000), (3, 4000), (8, 4000)] {
            let pause_ms = policy.pause(attempt, &plain, DEADLINE).unwrap().as_millis();
            assert!((whole_ms / 2..=whole_ms).contains(&pause_ms), "attempt {attempt}: {pause_ms}");
        }
        assert_eq!(policy.pause(9, &plain, DEADLINE), None);
    }

    #[test]
    fn retry_after_is_obeyed_within_its_bound_and_the_deadline() {
        let policy = CallPolicy::default();
        let wait = Duration::from_secs(5);
        assert_eq!(policy.pause(0, &failure(Some(wait)), DEADLINE), Some(wait));
        assert_eq!(policy.pause(0, &failure(Some(wait)), wait), None);
        assert_eq!(policy.pause(0, &failure(Some(wait * 2)), DEADLINE), None);
    }

    #[test]
    fn what_is_not_worth_a_retry_gets_none() {
        let hopeless = Failure { worth_retry: false, ..failure(None) };
        assert_eq!(CallPolicy::default().pause(0, &hopeless, DEADLINE), None);
    }
}
