//! A queue whose items come out when they are due, in tokio's time.
//!
//! Deliberately absent: durability. What waits here can be told from the state, and is put back after a restart.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Items by the time at which they are due, then by their order of arrival.
#[derive(Debug)]
pub(super) struct DueQueue<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Notify,
    maximum: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    items: BTreeMap<(Instant, u64), T>,
    pushed: u64,
}

impl<T> DueQueue<T> {
    /// Holds at most `maximum` items.
    pub fn new(maximum: usize) -> Self {
        let waiting = Mutex::new(Waiting { items: BTreeMap::new(), pushed: 0 });
        Self { waiting, changed: Notify::new(), maximum }
    }

    /// Puts an item in, due after `delay`; it comes back when the queue is full.
    pub fn push(&self, delay: Duration, item: T) -> Result<(), T> {
        let mut waiting = self.lock();
        if waiting.items.len() >= self.maximum {
            return Err(item);
        }
        waiting.pushed += 1;
        let place = (Instant::now() + delay, waiting.pushed);
        waiting.items.insert(place, item);
        let is_first = waiting.items.first_key_value().is_some_and(|(first, _)| *first == place);
        drop(waiting);
        if is_first {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Changes every item and makes it due now; says how many there were.
    pub fn rush(&self, mut change: impl FnMut(&mut T)) -> usize {
        let mut waiting = self.lock();
        let now = Instant::now();
        let items = std::mem::take(&mut waiting.items);
        waiting.items = (items.into_iter())
            .map(|((_, number), mut item)| {
                change(&mut item);
                ((now, number), item)
            })
            .collect();
        let count = waiting.items.len();
        drop(waiting);
        self.changed.notify_one();
        count
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Waits for the next item that is due. For one caller at a time; dropping it loses nothing.
    pub async fn next(&self) -> T {
        loop {
            match self.due() {
                Due::Now(item) => return item,
                Due::At(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.changed.notified() => {}
                    }
                }
                Due::Never => self.changed.notified().await,
            }
        }
    }

    fn due(&self) -> Due<T> {
        let mut waiting = self.lock();
        match waiting.items.first_entry() {
            None => Due::Never,
            Some(entry) if entry.key().0 > Instant::now() => Due::At(entry.key().0),
            Some(entry) => Due::Now(entry.remove()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Due<T> {
    Now(T),
    At(Instant),
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn items_come_out_when_they_are_due_and_then_in_order() {
        let queue = DueQueue::new(9);
        for (ms, item) in [(40, "late"), (0, "first"), (1, "second")] {
            queue.push(Duration::from_millis(ms), item).unwrap();
        }
        assert_eq!((queue.next().await, queue.next().await, queue.next().await), ("first", "second", "late"));
    }

    #[tokio::test]
    async fn a_full_queue_gives_the_item_back_and_rushing_makes_all_due() {
        let queue = DueQueue::new(1);
        queue.push(Duration::from_secs(3600), 1).unwrap();
        assert_eq!(queue.push(Duration::ZERO, 2), Err(2));
        assert_eq!(queue.rush(|item| *item += 10), 1);
        assert_eq!(queue.next().await, 11);
    }
}
