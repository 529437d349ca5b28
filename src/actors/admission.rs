//! Admission: who is asked to come back later when more comes than can be done.
//!
//! Without it everybody is taken in and everybody waits, longer the more there are. What is looked at is how long work waits
//! here: for a commit, and for a thread that answers requests; not how long the provider takes. Where even the shortest wait
//! of the last intervals is too long, the wait is no burst but a queue that stands, and a part of the requests is refused at
//! once, which is cheap: first those who only look, then donors, and Stripe last of all (CoDel, RFC 8289, has the idea of
//! the standing queue).
//!
//! As many as fill a batch are never refused: one row more costs a statement little, and where even a few wait long (a database
//! that has hardly a core to itself, say) refusing them would make nobody's wait shorter. Deliberately absent: a queue, and
//! any other number of requests, which would say nothing about what they cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rand::Rng;

use crate::metrics::METRICS;

/// For those who only look, a queue stands when it was there in so many intervals in a row: threads are late in bursts.
const STANDING: usize = 8;
/// For the others, who are not refused while few are under way, and for everybody once some are refused.
const AGAIN: usize = 2;
/// So many of a class who are being written are never too many.
const FEW: u32 = 64;
/// What is admitted is counted in so many parts.
const ALL: u32 = 1_000;
/// However long the wait, one of so many is admitted: by what becomes of it, it is seen that the wait is over.
const LEAST: u32 = ALL / 50;
/// In an interval in which the queue stands, the admitted part is divided by this.
const CUT: u32 = 2;
/// In one in which it does not, this part of it is added, and as much in thousandths: all are back after a second.
const GROWTH: u32 = 6;

/// Who comes, by rank: the first is asked first to come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Looks at campaigns and their totals.
    Look,
    /// Gives.
    Donation,
    /// Tells what became of money.
    Webhook,
}

impl Class {
    /// All, by rank.
    pub const ALL: [Self; 3] = [Self::Look, Self::Donation, Self::Webhook];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Donation => "donation",
            Self::Webhook => "webhook",
        }
    }

    /// How long a standing queue may be for this class to be taken in whole.
    fn bearable(self) -> Duration {
        Duration::from_millis(match self {
            Self::Look => 60,
            Self::Donation => 80,
            Self::Webhook => 120,
        })
    }
}

/// Shared by those who report waits and those who let in.
#[derive(Clone, Default)]
pub struct Admission(Arc<Gate>);

struct Gate {
    /// The longest that a thread kept requests waiting in this interval.
    lag_us: AtomicU64,
    /// The longest that a donor waited in this interval, from the request to the commit.
    waited_us: AtomicU64,
    /// The waits of the last intervals, in turn.
    waits_us: [AtomicU64; STANDING],
    interval: AtomicU64,
    /// The part of each class that is admitted.
    parts: [AtomicU32; 3],
    /// Those of each class who are being written.
    under_way: [AtomicU32; 3],
}

/// One who is being written, until it is dropped.
pub struct UnderWay(Admission, Class);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.under_way[self.1 as usize].fetch_sub(1, Relaxed);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            lag_us: AtomicU64::default(),
            waited_us: AtomicU64::default(),
            waits_us: Default::default(),
            interval: AtomicU64::default(),
            parts: Class::ALL.map(|_| AtomicU32::new(ALL)),
            under_way: Default::default(),
        }
    }
}

impl Admission {
    /// Whether one more of this class is taken in. Who is not is to be told when to come again.
    pub fn admits(&self, class: Class) -> bool {
        let part = self.0.parts[class as usize].load(Relaxed);
        let are_few = || class != Class::Look && self.0.under_way[class as usize].load(Relaxed) < FEW;
        let admitted = part >= ALL || are_few() || rand::rng().random_range(0..ALL) < part;
        if !admitted {
            METRICS.http_refused.with_label_values(&[class.as_str()]).inc();
        }
        admitted
    }

    /// One of this class is to be written; it is until what is returned is dropped.
    pub fn begin(&self, class: Class) -> UnderWay {
        self.0.under_way[class as usize].fetch_add(1, Relaxed);
        UnderWay(self.clone(), class)
    }

    /// A thread that answers requests came back so much later than it should have: so long did requests wait for it.
    pub fn lagged(&self, lag: Duration) {
        self.0.lag_us.fetch_max(micros(lag), Relaxed);
    }

    /// A donor's gift was committed so long after the request was taken in: with all the hops between threads.
    pub fn waited(&self, wait: Duration) {
        self.0.waited_us.fetch_max(micros(wait), Relaxed);
    }

    /// An interval is over in which the longest wait for a commit, finished or not, was this (zero: there was none), of which so
    /// much is what commits take here. One in which nothing is known though something was under way says nothing: it does not
    /// count.
    pub(super) fn adjust(&self, longest: Duration, usual: Duration, is_busy: bool) {
        let gate = &self.0;
        let lag = gate.lag_us.swap(0, Relaxed);
        let longest = micros(longest).max(gate.waited_us.swap(0, Relaxed));
        if longest == 0 && is_busy {
            return;
        }
        let turn = usize::try_from(gate.interval.fetch_add(1, Relaxed)).unwrap_or(0) % STANDING;
        // A donor's wait has the threads' lag in it already.
        gate.waits_us[turn].store(longest.saturating_sub(micros(usual)).max(lag), Relaxed);
        let back = |intervals: usize| gate.waits_us[(turn + STANDING - intervals) % STANDING].load(Relaxed);
        for class in Class::ALL {
            let part = &gate.parts[class as usize];
            let admitted = part.load(Relaxed);
            let looked_at = if class == Class::Look && admitted == ALL { STANDING } else { AGAIN };
            let standing = (0..looked_at).map(back).min().unwrap_or(0);
            let is_too_long = standing > micros(class.bearable());
            let next = if is_too_long { admitted / CUT } else { admitted + admitted / GROWTH + GROWTH };
            part.store(next.clamp(LEAST, ALL), Relaxed);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(admission: &Admission, intervals: usize, wait_ms: u64) -> [u32; 3] {
        (0..intervals).for_each(|_| admission.adjust(Duration::from_millis(wait_ms), Duration::ZERO, false));
        [0, 1, 2].map(|class| admission.0.parts[class].load(Relaxed))
    }

    #[test]
    fn a_burst_is_taken_in_and_a_queue_that_stands_is_not() {
        let admission = Admission::default();
        assert_eq!(after(&admission, AGAIN - 1, 900), [ALL; 3]);
        assert_eq!(after(&admission, 1, 1), [ALL; 3], "it was a burst");
        assert_eq!(after(&admission, AGAIN - 1, 900), [ALL; 3]);
        assert_eq!(after(&admission, 1, 900), [ALL, ALL / CUT, ALL / CUT], "it stands");
        assert_eq!(after(&admission, STANDING - AGAIN, 900)[0], ALL / CUT, "for those who look, too");
    }

    #[test]
    fn as_many_as_fill_a_batch_are_taken_in_however_long_everybody_waits() {
        let admission = Admission::default();
        assert_eq!(after(&admission, 100, 2_000), [LEAST; 3]);
        let mut under_way = Vec::new();
        for _ in 0..FEW {
            assert!(admission.admits(Class::Donation));
            under_way.push(admission.begin(Class::Donation));
        }
        let admitted = |class| (0..1_000).filter(|_| admission.admits(class)).count();
        assert!(admitted(Class::Donation) < 500);
        assert_eq!(admitted(Class::Webhook), 1_000, "of them nobody is being written");
        assert!(admitted(Class::Look) < 500, "who looks is not written");
        under_way.pop();
        assert_eq!(admitted(Class::Donation), 1_000, "there is a place again");
    }

    #[test]
    fn who_only_looks_is_refused_first_then_donors_then_stripe_and_nobody_wholly() {
        let admission = Admission::default();
        assert_eq!(after(&admission, 100, 70), [LEAST, ALL, ALL]);
        assert_eq!(after(&admission, 100, 100), [LEAST, LEAST, ALL]);
        assert_eq!(after(&admission, 100, 200), [LEAST; 3]);
        let _under_way: Vec<UnderWay> = (0..FEW).map(|_| admission.begin(Class::Webhook)).collect();
        let refused = METRICS.http_refused.with_label_values(&[Class::Webhook.as_str()]);
        let before = refused.get();
        let admitted = (0..10_000).filter(|_| admission.admits(Class::Webhook)).count();
        assert!((1..1_000).contains(&admitted), "{admitted}");
        assert!(refused.get() - before >= 9_000);
    }

    #[test]
    fn all_are_taken_in_again_within_a_few_seconds() {
        let admission = Admission::default();
        after(&admission, 1_000, 500);
        assert_eq!(after(&admission, 20, 1), [ALL; 3], "a second of calm");
        assert!((0..1_000).all(|_| Class::ALL.into_iter().all(|class| admission.admits(class))));
    }

    #[test]
    fn what_commits_take_here_is_no_queue() {
        let admission = Admission::default();
        for _ in 0..100 {
            admission.adjust(Duration::from_millis(400), Duration::from_millis(390), true);
        }
        assert_eq!(after(&admission, 0, 0), [ALL; 3]);
    }

    #[test]
    fn an_interval_of_which_nothing_is_known_says_nothing() {
        let admission = Admission::default();
        for _ in 1..AGAIN {
            admission.waited(Duration::from_millis(300));
            admission.adjust(Duration::ZERO, Duration::ZERO, true);
            admission.lagged(Duration::from_millis(1));
            admission.adjust(Duration::ZERO, Duration::ZERO, true);
        }
        assert_eq!(after(&admission, 0, 0), [ALL; 3], "one long wait less than it takes");
        admission.waited(Duration::from_millis(300));
        admission.adjust(Duration::ZERO, Duration::ZERO, true);
        assert_eq!(after(&admission, 0, 0), [ALL, ALL / CUT, ALL / CUT]);
    }

    #[test]
    fn a_thread_that_is_late_counts_like_a_commit_that_is_and_not_twice() {
        let admission = Admission::default();
        for _ in 0..STANDING {
            admission.lagged(Duration::from_millis(5));
            admission.lagged(Duration::from_millis(70));
            admission.adjust(Duration::from_millis(70), Duration::ZERO, false);
        }
        assert!(admission.0.parts[0].load(Relaxed) < ALL);
        assert_eq!(admission.0.parts[1].load(Relaxed), ALL);
    }
}
