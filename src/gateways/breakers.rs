//! A circuit breaker for each of many, as endpoints of webhooks are: one that is away must not hold up the others.
//!
//! Deliberately absent: a task that clears up. Whoever asks for one more than there is room for makes room.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::breaker::{Breaker, BreakerState, COOL_DOWN, FAILURES_TO_OPEN};

/// How many are remembered.
pub const MAXIMUM_BREAKERS: usize = 1_024;

/// Breakers by key. Shared by its clones.
#[derive(Clone, Debug)]
pub struct Breakers<K> {
    capacity: usize,
    failures_to_open: u32,
    cool_down: Duration,
    by_key: Arc<Mutex<HashMap<K, Breaker>>>,
}

impl<K: Clone + Eq + Hash> Default for Breakers<K> {
    fn default() -> Self {
        Self::new(MAXIMUM_BREAKERS, FAILURES_TO_OPEN, COOL_DOWN)
    }
}

impl<K: Clone + Eq + Hash> Breakers<K> {
    /// At most `capacity` breakers that each open after `failures_to_open` failures in a row, for `cool_down`.
    pub fn new(capacity: usize, failures_to_open: u32, cool_down: Duration) -> Self {
        Self { capacity, failures_to_open, cool_down, by_key: Arc::default() }
    }

    /// The breaker of `key`. Where there is no room for another and none can be spared, it is a fresh one that nobody
    /// will find again: that one key goes unguarded, and the memory stays bounded.
    pub fn of(&self, key: &K) -> Breaker {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(breaker) = by_key.get(key) {
            return breaker.clone();
        }
        if by_key.len() >= self.capacity {
            by_key.retain(|_, breaker| !breaker.knows_nothing());
        }
        let breaker = Breaker::new(self.failures_to_open, self.cool_down);
        if by_key.len() < self.capacity {
            by_key.insert(key.clone(), breaker.clone());
        }
        breaker
    }

    /// Forgets what is known of `key`: its address was changed, or it was taken away.
    pub fn forget(&self, key: &K) {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// How many keep their callers away now, for metrics.
    pub fn open(&self) -> usize {
        let by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        by_key.values().filter(|breaker| breaker.state() == BreakerState::Open).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn one_that_is_away_does_not_hold_up_the_others() {
        let breakers = Breakers::new(10, 1, LONG);
        breakers.of(&"bad").admit().unwrap().fail();
        assert!(breakers.clone().of(&"bad").admit().is_err());
        assert!(breakers.of(&"good").admit().is_ok());
        assert_eq!(breakers.open(), 1);
        breakers.forget(&"bad");
        assert!(breakers.of(&"bad").admit().is_ok());
        assert_eq!(breakers.open(), 0);
    }

    #[test]
    fn room_is_made_of_those_that_know_nothing_and_never_of_those_that_count() {
        let breakers = Breakers::new(3, 2, LONG);
        breakers.of(&0).admit().unwrap().fail();
        let under_way = breakers.of(&1).admit().unwrap();
        for healthy in 2..1_000 {
            breakers.of(&healthy).admit().unwrap().succeed();
            assert!(breakers.by_key.lock().unwrap().len() <= 3);
        }
        breakers.of(&0).admit().unwrap().fail();
        assert!(breakers.of(&0).admit().is_err(), "its first failure was remembered");
        under_way.fail();
        breakers.of(&1).admit().unwrap().fail();
        assert!(breakers.of(&1).admit().is_err(), "it kept its place while a call was under way");
    }

    #[test]
    fn without_room_a_key_goes_unguarded() {
        let breakers = Breakers::new(1, 1, LONG);
        breakers.of(&0).admit().unwrap().fail();
        breakers.of(&1).admit().unwrap().fail();
        assert!(breakers.of(&0).admit().is_err() && breakers.of(&1).admit().is_ok());
    }
}
