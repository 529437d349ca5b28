//! Pressure: how long donors and Stripe wait for their commits, and how much of what nobody waits for may be done meanwhile.
//!
//! A donation is safe once it is committed. Opening its payment at the provider, publishing its facts and looking at due
//! payments can come a moment later, and share the same cores and the same disk. So in a crowd they give way: the committer
//! reports what the slowest of each interval waited, and the allowance of openings is halved while that is too long, and
//! grows while it is not. What is too long follows from what this database can do: on a slow disk every commit is slow.
//! Deliberately absent: queues; whoever asks keeps what must wait, with a bound of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::admission::Admission;

/// How often it is looked whether anybody waits too long.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// A wait that nobody notices: up to here there is no pressure.
const UNNOTICED_US: u64 = 4_000;
/// Above that, a wait of so many of the fastest commits of the last minutes.
const FASTEST_TIMES: u64 = 3;
/// After so many intervals the fastest commit of before is forgotten.
const FASTEST_COUNTS: u64 = 1_200;
/// So many calm intervals in a row end the pressure: what gives way would be back at once otherwise, and everybody waits again.
const CALM: u64 = 4;
/// Each calm interval allows more openings by this part of them.
const GROWTH: usize = 4;
/// Openings that are allowed in one interval at least: five hundred a second are no crowd, whatever hiccups, and a crowd slows the
/// others down and never stops them.
const LEAST: usize = 25;
/// And at most: more than any provider takes.
const MOST: usize = 1_024;

/// Shared by the committer, who reports, and by those who give way.
#[derive(Clone, Default)]
pub struct Pressure(Arc<Gauge>);

struct Gauge {
    /// The longest wait of this interval; 0 where nobody waited.
    longest_us: AtomicU64,
    /// The fastest commit of these minutes, and of those before.
    fastest_us: [AtomicU64; 2],
    intervals: AtomicU64,
    is_high: AtomicBool,
    /// Intervals since somebody waited too long.
    calm: AtomicU64,
    /// Openings that are allowed in an interval, and those that were begun in this one.
    allowance: AtomicUsize,
    begun: AtomicUsize,
    admission: Admission,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            longest_us: AtomicU64::default(),
            fastest_us: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            intervals: AtomicU64::default(),
            is_high: AtomicBool::default(),
            calm: AtomicU64::new(CALM),
            allowance: AtomicUsize::new(MOST),
            begun: AtomicUsize::default(),
            admission: Admission::default(),
        }
    }
}

impl Pressure {
    /// A batch was committed: what the first of those outside waited, and what the commit itself took.
    pub fn committed(&self, longest: Duration, commit: Duration) {
        self.0.longest_us.fetch_max(micros(longest), Relaxed);
        self.0.fastest_us[0].fetch_min(micros(commit), Relaxed);
    }

    /// Whether somebody outside waits too long for what else is being done.
    pub fn is_high(&self) -> bool {
        self.0.is_high.load(Relaxed)
    }

    /// Who is taken in at all.
    pub fn admission(&self) -> &Admission {
        &self.0.admission
    }

    /// Leave to open one more payment now.
    pub fn admits(&self) -> bool {
        let allowance = self.0.allowance.load(Relaxed);
        self.0.begun.fetch_update(Relaxed, Relaxed, |begun| (begun < allowance).then_some(begun + 1)).is_ok()
    }

    /// An interval is over; somebody outside, whose commit is still to come, has been waiting for so long.
    pub(super) fn adjust(&self, unfinished: Duration) {
        let gauge = &self.0;
        let fastest = || gauge.fastest_us.iter().map(|it| it.load(Relaxed)).min().unwrap_or(u64::MAX);
        let mut is_new_measure = false;
        if gauge.intervals.fetch_add(1, Relaxed) % FASTEST_COUNTS == FASTEST_COUNTS - 1 {
            let before = fastest();
            gauge.fastest_us[1].store(gauge.fastest_us[0].swap(u64::MAX, Relaxed), Relaxed);
            is_new_measure = fastest() != before;
        }
        let fastest = fastest();
        let too_long = if fastest == u64::MAX { UNNOTICED_US } else { UNNOTICED_US.max(fastest * FASTEST_TIMES) };
        let longest = gauge.longest_us.swap(0, Relaxed);
        let is_too_long = longest > too_long;
        gauge.admission.adjust(Duration::from_micros(longest), unfinished, Duration::from_micros(too_long));
        // By a new measure, what was too long before says nothing.
        let calm_before = if is_new_measure { CALM } else { gauge.calm.load(Relaxed) };
        let calm = if is_too_long { 0 } else { calm_before.saturating_add(1) };
        gauge.calm.store(calm, Relaxed);
        let begun = gauge.begun.swap(0, Relaxed);
        let allowance = gauge.allowance.load(Relaxed);
        // Halved from what was really done: an allowance that nobody used is no load.
        let next = if is_too_long { allowance.min(begun) / 2 } else { allowance + allowance / GROWTH + 1 };
        gauge.allowance.store(next.clamp(LEAST, MOST), Relaxed);
        gauge.is_high.store(calm < CALM, Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(pressure: &Pressure, wanted: usize, longest_ms: u64, commit_ms: u64) -> usize {
        let begun = (0..wanted).filter(|_| pressure.admits()).count();
        pressure.committed(Duration::from_millis(longest_ms), Duration::from_millis(commit_ms));
        pressure.adjust(Duration::ZERO);
        begun
    }

    #[test]
    fn openings_give_way_while_donors_wait_too_long_but_never_stop_and_come_back_after_it() {
        let pressure = Pressure::default();
        assert_eq!(interval(&pressure, 100, 2, 1), 100, "nobody is in the way");
        assert!(!pressure.is_high());
        let crowd: Vec<usize> = (0..9).map(|_| interval(&pressure, 100, 40, 1)).collect();
        assert_eq!(crowd, [100, 50, LEAST, LEAST, LEAST, LEAST, LEAST, LEAST, LEAST]);
        assert!(pressure.is_high());
        let quiet: Vec<usize> = (0..20).map(|_| interval(&pressure, 100, 2, 1)).collect();
        assert!(quiet.is_sorted() && quiet.last() == Some(&100), "{quiet:?}");
    }

    #[test]
    fn one_calm_interval_is_not_the_end_of_a_crowd() {
        let pressure = Pressure::default();
        assert!(!pressure.is_high(), "nobody has waited yet");
        interval(&pressure, 0, 40, 1);
        for _ in 1..CALM {
            interval(&pressure, 0, 2, 1);
            assert!(pressure.is_high());
        }
        interval(&pressure, 0, 2, 1);
        assert!(!pressure.is_high());
    }

    #[test]
    fn few_openings_never_give_way() {
        let pressure = Pressure::default();
        assert!((0..100).all(|_| interval(&pressure, LEAST, 500, 1) == LEAST));
    }

    #[test]
    fn a_slow_disk_is_no_pressure() {
        let pressure = Pressure::default();
        for _ in 0..FASTEST_COUNTS * 2 {
            interval(&pressure, 0, 25, 10);
            assert!(!pressure.is_high());
        }
        interval(&pressure, 0, 31, 10);
        assert!(pressure.is_high());
        // A disk that has become slow is so for minutes before it is believed.
        for _ in 0..FASTEST_COUNTS * 2 {
            interval(&pressure, 0, 90, 40);
        }
        assert!(!pressure.is_high());
    }
}
