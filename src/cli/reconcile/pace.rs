//! How fast Stripe is asked: so many calls a second, and none while it asks for a pause or its circuit breaker is open.
//!
//! Deliberately absent: retries within one call; the Stripe client has those.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::gateways::error::GatewayError;

/// How often one thing is asked before it counts as failed.
pub const TRIES: usize = 5;
/// The pause where Stripe did not say how long.
const PAUSE: Duration = Duration::from_secs(2);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Hands out turns.
pub struct Pace {
    gap: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// At most `rate` turns a second.
    pub fn of(rate: u32) -> Self {
        Self { gap: Duration::from_secs(1) / rate.max(1), next: Mutex::new(Instant::now()) }
    }

    /// Waits for the next turn.
    pub async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*next).max(Instant::now());
            *next = at + self.gap;
            at
        };
        tokio::time::sleep_until(at).await;
    }

    /// Nobody asks until the provider wants to be asked again.
    fn hold(&self, wait: Duration) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(Instant::now() + wait.min(LONGEST_PAUSE));
    }

    /// Asks until there is an answer, a refusal, or no patience left.
    pub async fn ask<T>(&self, call: impl AsyncFn() -> Result<T, GatewayError>) -> Result<T, GatewayError> {
        let mut tries = 1;
        loop {
            self.turn().await;
            match call().await {
                Err(error) if error.is_retryable() && tries < TRIES => {
                    tries += 1;
                    self.hold(error.retry_after().unwrap_or(PAUSE));
                }
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[actix_web::test]
    async fn turns_keep_their_distance_and_a_pause_that_was_asked_for_is_kept() {
        tokio::time::pause();
        let pace = Pace::of(10);
        let began = Instant::now();
        for _ in 0..11 {
            pace.turn().await;
        }
        assert_eq!(began.elapsed().as_secs(), 1);
        let asked = Cell::new(0);
        let answer = pace
            .ask(async || {
                asked.set(asked.get() + 1);
                let wait = Some(Duration::from_secs(7));
                if asked.get() == 1 {
                    Err(GatewayError::Transient { reason: "429".into(), retry_after: wait })
                } else {
                    Ok(asked.get())
                }
            })
            .await;
        assert_eq!(answer, Ok(2));
        assert!(began.elapsed() >= Duration::from_secs(8));
    }

    #[actix_web::test]
    async fn patience_ends() {
        tokio::time::pause();
        let asked = Cell::new(0);
        let away = || GatewayError::CircuitOpen { retry_after: Duration::from_secs(10) };
        let answer: Result<(), _> = Pace::of(10)
            .ask(async || {
                asked.set(asked.get() + 1);
                Err(away())
            })
            .await;
        assert_eq!((answer, asked.get()), (Err(away()), TRIES));
    }
}
