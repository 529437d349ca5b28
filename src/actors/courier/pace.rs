//! A rate limit that counts what is sent, not what is asked: tokens that refill with time and are taken one a message.
//!
//! Deliberately absent: waiting. Whoever finds no token looks again when [`Pace::wait`] says so.

use std::time::Duration;

use tokio::time::Instant;

/// How long tokens are saved up where messages wait for them.
const LOT: Duration = Duration::from_millis(100);

/// So many messages in so much time, none of it saved up beyond one such time.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
}

impl Rate {
    /// What one message costs in time.
    fn each(self) -> Duration {
        self.per / self.count.max(1)
    }

    /// Tokens that are handed out together: what comes in [`LOT`]. A claim costs much more than one more message in it.
    fn lot(self) -> u32 {
        let lots = self.per.as_nanos() / LOT.as_nanos();
        u32::try_from(u128::from(self.count) / lots.max(1)).unwrap_or(u32::MAX).max(1)
    }
}

/// The tokens of one lane.
#[derive(Debug)]
pub struct Pace {
    /// `None`: unlimited.
    rate: Option<Rate>,
    /// When the bucket would be full again: each message taken moves it on by what it costs.
    full_at: Instant,
}

impl Pace {
    /// A full bucket, or one without a bottom.
    pub fn new(rate: Option<Rate>, now: Instant) -> Self {
        Self { rate, full_at: now }
    }

    /// How many messages may be sent now: none, or a lot at least.
    pub fn room(&self, now: Instant) -> usize {
        let Some(rate) = self.rate else { return usize::MAX };
        let missing = self.full_at.saturating_duration_since(now);
        let tokens = rate.per.saturating_sub(missing).as_nanos() / rate.each().as_nanos().max(1);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX).min(rate.count);
        if tokens < rate.lot() { 0 } else { tokens as usize }
    }

    /// Takes the token of one message.
    pub fn take(&mut self, now: Instant) {
        if let Some(rate) = self.rate {
            self.full_at = self.full_at.max(now) + rate.each();
        }
    }

    /// How long until there is a lot.
    pub fn wait(&self, now: Instant) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let next = self.full_at + rate.each() * rate.lot();
        next.saturating_duration_since(now).saturating_sub(rate.per)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_go_at_once_and_then_one_each_time_a_token_comes() {
        let now = Instant::now();
        let mut pace = Pace::new(Some(Rate { count: 10, per: Duration::from_secs(1) }), now);
        assert_eq!((pace.room(now), pace.wait(now)), (10, Duration::ZERO));
        for _ in 0..10 {
            pace.take(now);
        }
        assert_eq!((pace.room(now), pace.wait(now)), (0, Duration::from_millis(100)));
        let later = now + Duration::from_millis(250);
        assert_eq!((pace.room(later), pace.wait(later)), (2, Duration::ZERO));
        let much_later = now + Duration::from_secs(3600);
        assert_eq!(pace.room(much_later), 10, "what was not used is not saved up");
    }

    #[test]
    fn at_a_high_rate_tokens_come_in_lots() {
        let now = Instant::now();
        let mut pace = Pace::new(Some(Rate { count: 100, per: Duration::from_secs(1) }), now);
        (0..95).for_each(|_| pace.take(now));
        assert_eq!((pace.room(now), pace.wait(now)), (0, Duration::from_millis(50)), "five tokens are no lot yet");
        let later = now + Duration::from_millis(50);
        assert_eq!((pace.room(later), pace.wait(later)), (10, Duration::ZERO));
    }

    #[test]
    fn without_a_rate_there_is_always_room() {
        let now = Instant::now();
        let mut pace = Pace::new(None, now);
        (0..1000).for_each(|_| pace.take(now));
        assert_eq!((pace.room(now), pace.wait(now)), (usize::MAX, Duration::ZERO));
    }
}
