//! Processes that are gone: numbers whose lock has been free for longer than a living process may be without it.
//!
//! Deliberately absent: the looking (the courier asks the store) and the freeing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Since when each number was seen free, at every look.
#[derive(Debug, Default)]
pub struct Ghosts {
    seen: HashMap<i32, Instant>,
}

impl Ghosts {
    /// Takes what was seen free now; returns the numbers that have been so at every look for `believe`.
    pub fn look(&mut self, free: &[i32], believe: Duration, now: Instant) -> Vec<i32> {
        self.seen.retain(|number, _| free.contains(number));
        for number in free {
            self.seen.entry(*number).or_insert(now);
        }
        self.seen
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= believe)
            .map(|(number, _)| *number)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_believed_gone_only_when_it_was_free_all_the_time() {
        let (start, believe) = (Instant::now(), Duration::from_secs(5));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ghosts = Ghosts::default();
        assert!(ghosts.look(&[1, 2], believe, at(0)).is_empty());
        assert!(ghosts.look(&[1], believe, at(3)).is_empty());
        assert_eq!(ghosts.look(&[1, 2], believe, at(5)), [1], "2 had its lock meanwhile");
        assert!(ghosts.look(&[2], believe, at(9)).is_empty());
        assert_eq!(ghosts.look(&[2], believe, at(10)), [2]);
    }
}
