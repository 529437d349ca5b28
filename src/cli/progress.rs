//! How far long work is: a line on standard error every second, so that standard output stays the result.
//!
//! Deliberately absent: bars and colours; what is printed can be read in a log.

use std::time::Duration;

use tokio::time::Instant;

const EVERY: Duration = Duration::from_secs(1);

/// The progress of one piece of work.
pub struct Progress {
    what: &'static str,
    total: i64,
    done: i64,
    began: Instant,
    told: Instant,
}

impl Progress {
    /// Work that begins now; `what` names what is counted.
    pub fn of(what: &'static str, total: i64) -> Self {
        let now = Instant::now();
        Self { what, total, done: 0, began: now, told: now }
    }

    /// So many more are done; `found` is a word about what was found so far.
    #[allow(clippy::print_stderr, reason = "progress is for whoever waits at the terminal")]
    pub fn add(&mut self, count: usize, found: impl FnOnce() -> String) {
        self.done += i64::try_from(count).unwrap_or(i64::MAX);
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        eprintln!("{} of {} {}, {}/s; {}", self.done, self.total, self.what, self.rate(), found());
    }

    /// How many a second, so far.
    pub fn rate(&self) -> i64 {
        let elapsed_ms = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX).max(1);
        self.done.saturating_mul(1000) / elapsed_ms
    }

    /// How long it has taken, in words.
    pub fn took(&self) -> String {
        let elapsed = self.began.elapsed();
        format!("{}.{} s", elapsed.as_secs(), elapsed.subsec_millis() / 100)
    }
}
