//! How long to wait before the next attempt, and what to say meanwhile: once when an outage begins, once when its cause changes,
//! once when it is over.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use rand::Rng;

use crate::gateways::broker::BrokerError;

/// The shortest wait.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Waits that grow from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], each drawn at random so that replicas do not come back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(super) fn next_wait(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let ceiling = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(self.attempts)).min(BACKOFF_MAX);
        rand::rng().random_range(BACKOFF_MIN..=ceiling)
    }
}

/// A run of failures without a success between them.
#[derive(Debug)]
pub(super) struct Outage {
    subject: String,
    backoff: Backoff,
    cause: Option<Discriminant<BrokerError>>,
}

impl Outage {
    /// `subject` is what is out, for the log.
    pub(super) fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), backoff: Backoff::default(), cause: None }
    }

    /// Takes note of a failure and says how long to wait before trying again.
    pub(super) fn failed(&mut self, error: &BrokerError) -> Duration {
        let wait = self.backoff.next_wait();
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let cause = discriminant(error);
        if self.cause.replace(cause) == Some(cause) {
            tracing::debug!(subject = %self.subject, %error, wait_ms, "RabbitMQ is still away");
        } else {
            tracing::warn!(subject = %self.subject, %error, wait_ms, "RabbitMQ is away; trying again until it is back");
        }
        wait
    }

    /// Takes note of a success.
    pub(super) fn over(&mut self) {
        self.backoff = Backoff::default();
        if self.cause.take().is_some() {
            tracing::info!(subject = %self.subject, "RabbitMQ is back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_their_bounds_and_start_over_after_a_success() {
        let mut outage = Outage::new("test");
        for attempt in 1..=40_u32 {
            let wait = outage.failed(&BrokerError::Closed);
            assert!((BACKOFF_MIN..=BACKOFF_MAX).contains(&wait), "attempt {attempt}: {wait:?}");
        }
        outage.over();
        assert!(outage.failed(&BrokerError::Closed) <= BACKOFF_MIN * 2);
    }
}
