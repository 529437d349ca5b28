//! Admission: who is asked to come back later when more comes than can be done.
//!
//! Without it everybody is taken in and everybody waits, longer the more there are. What is looked at is how long work waits
//! here: for a commit, and for a thread that answers requests; not how long the provider takes. Where even the shortest wait
//! of the last intervals is too long, the wait is no burst but a queue that stands, and a part of the requests is refused at
//! once, which is cheap: first those who only look, then donors, and Stripe last of all (CoDel, RFC 8289, has the idea of
//! the standing queue).
//!
//! Nobody is refused for what he is no part of. Who is answered from memory is in the way of threads and not of a slow database;
//! beyond a few, the database is asked for those who look only while commits do not wait for it.
//!
//! A few are never refused for what commits take: one row more costs a statement little, and where even a few wait long (a
//! database that has hardly a core to itself, say) refusing them would make nobody's wait shorter. Deliberately absent: a
//! queue, and any other number of requests, which would say nothing about what they cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rand::Rng;

use crate::metrics::METRICS;

/// A queue stands when it was there in so many intervals in a row. Fewer would refuse donors where a disk has a hiccup.
const STANDING: usize = 8;
/// Once it stood it is known to be a crowd: then in so many.
const AGAIN: usize = 2;
/// Known for so many intervals, two seconds. Without an end a database that is slow for one would be taken for a crowd for ever: those
/// who look are refused, which makes no commit quicker.
const KNOWN: u32 = 40;
/// So many of a class at once, being written or decided, are never too many for the database: a quarter of what a statement takes.
const FEW: u32 = 64;
/// So many at once who are read for are never too many: what all see in memory is renewed by them.
const FEW_READS: u32 = 2;
/// A thread that was later than this lately has no core of its own: where commits wait, they may wait for those who look.
const LATE: Duration = Duration::from_millis(20);
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
    /// Looks at what only the database knows: asked where it is needed, of those who were taken in.
    Read,
    /// Looks at campaigns and their totals.
    Look,
    /// Gives.
    Donation,
    /// Tells what became of money.
    Webhook,
}

impl Class {
    /// All, by rank.
    pub const ALL: [Self; 4] = [Self::Read, Self::Look, Self::Donation, Self::Webhook];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Look => "look",
            Self::Donation => "donation",
            Self::Webhook => "webhook",
        }
    }

    /// How long a standing queue may be for this class to be taken in whole.
    fn bearable(self) -> Duration {
        Duration::from_millis(match self {
            Self::Read | Self::Look => 60,
            Self::Donation => 80,
            Self::Webhook => 120,
        })
    }

    /// So many at once are in nobody's way.
    fn few(self) -> u32 {
        match self {
            Self::Read => FEW_READS,
            Self::Look => 0,
            Self::Donation | Self::Webhook => FEW,
        }
    }
}

/// Shared by those who report waits and those who let in.
#[derive(Clone, Default)]
pub struct Admission(Arc<Gate>);

#[derive(Default)]
struct Gate {
    /// The longest that a thread kept requests waiting in this interval.
    lag_us: AtomicU64,
    /// The longest that a donor waited in this interval, from the request to the commit.
    waited_us: AtomicU64,
    /// What reads are measured by: how late threads were, and how long commits took that are finished.
    reads: Waits,
    /// What those who look are measured by: how late threads were, and commits where threads were late lately.
    looks: Waits,
    /// What the others are measured by: as reads, and how long those have waited by now who still do.
    writes: Waits,
    lags: Waits,
    /// How long threads have been late in a row.
    standing_lag_us: AtomicU64,
    parts: [Part; 4],
    /// Those of each class who are being written, decided or read for.
    under_way: [AtomicU32; 4],
}

/// The part of a class that is admitted.
struct Part {
    admitted: AtomicU32,
    /// Intervals since the queue stood.
    calm: AtomicU32,
}

impl Default for Part {
    fn default() -> Self {
        Self { admitted: AtomicU32::new(ALL), calm: AtomicU32::new(KNOWN) }
    }
}

impl Part {
    fn get(&self) -> u32 {
        self.admitted.load(Relaxed)
    }

    fn adjust(&self, waits: &Waits, class: Class) {
        let stood = |intervals| waits.standing(intervals) > micros(class.bearable());
        let calm = if stood(STANDING) { 0 } else { self.calm.load(Relaxed).saturating_add(1) };
        self.calm.store(calm, Relaxed);
        let admitted = self.get();
        let next = if stood(if calm < KNOWN { AGAIN } else { STANDING }) {
            admitted / CUT
        } else {
            admitted + admitted / GROWTH + GROWTH
        };
        self.admitted.store(next.clamp(LEAST, ALL), Relaxed);
    }
}

/// The waits of the last intervals, in turn.
#[derive(Default)]
struct Waits {
    us: [AtomicU64; STANDING],
    next: AtomicUsize,
}

impl Waits {
    fn push(&self, wait_us: u64) {
        self.us[self.next.fetch_add(1, Relaxed) % STANDING].store(wait_us, Relaxed);
    }

    /// The shortest of so many of the last.
    fn standing(&self, intervals: usize) -> u64 {
        let next = self.next.load(Relaxed) + STANDING;
        (1..=intervals).map(|back| self.us[(next - back) % STANDING].load(Relaxed)).min().unwrap_or(0)
    }

    /// The longest of all.
    fn longest(&self) -> u64 {
        self.us.iter().map(|us| us.load(Relaxed)).max().unwrap_or(0)
    }
}

/// One who is being written, decided or read for, until it is dropped.
pub struct UnderWay(Admission, Class);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.under_way[self.1 as usize].fetch_sub(1, Relaxed);
    }
}

impl Admission {
    /// Whether one more of this class is taken in. Who is not is to be told when to come again.
    pub fn admits(&self, class: Class) -> bool {
        let part = self.0.parts[class as usize].get();
        let admitted = part >= ALL || self.are_few(class) || rand::rng().random_range(0..ALL) < part;
        if !admitted {
            METRICS.http_refused.with_label_values(&[class.as_str()]).inc();
        }
        admitted
    }

    /// Whether these are too few to be in each other's way. Threads that are late are so by whatever comes, and refusing helps.
    fn are_few(&self, class: Class) -> bool {
        self.0.under_way[class as usize].load(Relaxed) < class.few()
            && self.0.standing_lag_us.load(Relaxed) <= micros(class.bearable())
    }

    /// One of this class is to be written or read for; it is until what is returned is dropped.
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

    /// An interval is over. The longest wait for a commit that was made in it (zero: there was none), the longest of those who still
    /// wait for theirs, and how much of either is what commits take here.
    ///
    /// That somebody still waits says nothing to reads: what is written may fail, and they can be answered.
    pub(super) fn adjust(&self, finished: Duration, unfinished: Duration, usual: Duration) {
        let gate = &self.0;
        let beyond = |wait_us: u64| wait_us.saturating_sub(micros(usual));
        let adjust = |class: Class, waits: &Waits| gate.parts[class as usize].adjust(waits, class);
        let lag = gate.lag_us.swap(0, Relaxed);
        // A donor's wait has the threads' lag in it already.
        let finished = micros(finished).max(gate.waited_us.swap(0, Relaxed));
        gate.writes.push(beyond(finished.max(micros(unfinished))).max(lag));
        gate.lags.push(lag);
        gate.standing_lag_us.store(gate.lags.standing(AGAIN), Relaxed);
        adjust(Class::Donation, &gate.writes);
        adjust(Class::Webhook, &gate.writes);
        gate.looks.push(if gate.lags.longest() > micros(LATE) { beyond(finished).max(lag) } else { lag });
        adjust(Class::Look, &gate.looks);
        if finished > 0 || unfinished.is_zero() || lag > micros(Class::Read.bearable()) {
            gate.reads.push(beyond(finished).max(lag));
            adjust(Class::Read, &gate.reads);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn parts(admission: &Admission) -> [u32; 4] {
        [0, 1, 2, 3].map(|class| admission.0.parts[class].get())
    }

    /// Threads are late, though less than anybody minds.
    fn after(admission: &Admission, intervals: usize, wait_ms: u64) -> [u32; 4] {
        for _ in 0..intervals {
            admission.lagged(ms(21));
            admission.adjust(ms(wait_ms), NONE, NONE);
        }
        parts(admission)
    }

    fn admitted(admission: &Admission, class: Class) -> usize {
        (0..1_000).filter(|_| admission.admits(class)).count()
    }

    fn crowd(admission: &Admission, class: Class) -> Vec<UnderWay> {
        (0..class.few()).map(|_| admission.begin(class)).collect()
    }

    #[test]
    fn a_burst_is_taken_in_and_a_queue_that_stands_is_not() {
        let admission = Admission::default();
        assert_eq!(after(&admission, STANDING - 1, 900), [ALL; 4]);
        assert_eq!(after(&admission, 1, 1), [ALL; 4], "it was a burst");
        assert_eq!(after(&admission, STANDING - 1, 900), [ALL; 4]);
        assert_eq!(after(&admission, 1, 900), [ALL / CUT; 4], "it stands");
        let calm = after(&admission, 1, 1);
        assert!(calm.iter().all(|part| *part > ALL / CUT));
        assert_eq!(after(&admission, AGAIN - 1, 900).map(|part| part > calm[0]), [true; 4], "it seems to be over");
        let more = parts(&admission);
        assert_eq!(after(&admission, 1, 900), more.map(|part| part / CUT), "it is not");
    }

    #[test]
    fn a_few_are_taken_in_however_long_everybody_waits_for_a_commit() {
        let admission = Admission::default();
        assert_eq!(after(&admission, 100, 2_000), [LEAST; 4]);
        let mut under_way = Vec::new();
        for _ in 0..FEW {
            assert!(admission.admits(Class::Donation));
            under_way.push(admission.begin(Class::Donation));
        }
        assert!(admitted(&admission, Class::Donation) < 500);
        assert_eq!(admitted(&admission, Class::Webhook), 1_000, "of them nobody is under way");
        assert!(admitted(&admission, Class::Look) < 500, "who looks is not written");
        under_way.pop();
        assert_eq!(admitted(&admission, Class::Donation), 1_000, "there is a place again");
    }

    #[test]
    fn where_threads_are_late_a_few_are_refused_too() {
        let admission = Admission::default();
        for _ in 0..100 {
            admission.lagged(ms(100));
            admission.adjust(NONE, NONE, NONE);
        }
        assert_eq!(parts(&admission), [LEAST, LEAST, LEAST, ALL]);
        assert!(admitted(&admission, Class::Donation) < 500);
        after(&admission, 1, 900);
        assert_eq!(admitted(&admission, Class::Donation), 1_000, "they are not late any more");
    }

    #[test]
    fn who_only_looks_is_refused_first_then_donors_then_stripe_and_nobody_wholly() {
        let admission = Admission::default();
        assert_eq!(after(&admission, 100, 70), [LEAST, LEAST, ALL, ALL]);
        assert_eq!(after(&admission, 100, 100), [LEAST, LEAST, LEAST, ALL]);
        assert_eq!(after(&admission, 100, 200), [LEAST; 4]);
        let _under_way = crowd(&admission, Class::Webhook);
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
        assert_eq!(after(&admission, 20, 1), [ALL; 4], "a second of calm");
        let _under_way = crowd(&admission, Class::Donation);
        assert!((0..1_000).all(|_| Class::ALL.into_iter().all(|class| admission.admits(class))));
    }

    #[test]
    fn where_only_the_database_is_slow_memory_answers_everybody_and_a_few_reads_renew_it() {
        let admission = Admission::default();
        (0..100).for_each(|_| admission.adjust(ms(900), NONE, NONE));
        assert_eq!(parts(&admission), [LEAST, ALL, LEAST, LEAST]);
        assert_eq!(admitted(&admission, Class::Look), 1_000);
        assert_eq!(admitted(&admission, Class::Read), 1_000, "nobody is being read for");
        let _under_way = crowd(&admission, Class::Read);
        assert!(admitted(&admission, Class::Read) < 500);
    }

    #[test]
    fn a_slow_database_is_no_crowd_for_ever_after_one() {
        let admission = Admission::default();
        after(&admission, 100, 500);
        assert_eq!(parts(&admission), [LEAST; 4]);
        for _ in 0..20 {
            after(&admission, 3, 150);
            after(&admission, 1, 1);
        }
        assert_eq!(parts(&admission), [ALL; 4], "as it would be if there had been no crowd");
    }

    #[test]
    fn what_commits_take_here_is_no_queue() {
        let admission = Admission::default();
        (0..100).for_each(|_| admission.adjust(ms(400), ms(400), ms(390)));
        assert_eq!(parts(&admission), [ALL; 4]);
    }

    #[test]
    fn who_still_waits_counts_for_those_who_write_and_says_nothing_to_reads() {
        let admission = Admission::default();
        (0..100).for_each(|_| admission.adjust(NONE, ms(2_000), NONE));
        assert_eq!(parts(&admission), [ALL, ALL, LEAST, LEAST]);
        let crowded = Admission::default();
        after(&crowded, 100, 900);
        (0..100).for_each(|_| crowded.adjust(NONE, ms(2_000), NONE));
        assert_eq!(parts(&crowded), [LEAST, ALL, LEAST, LEAST], "nor that it is over");
        (0..20).for_each(|_| crowded.adjust(NONE, NONE, NONE));
        assert_eq!(parts(&crowded), [ALL; 4], "nobody waits");
    }

    #[test]
    fn a_thread_that_is_late_counts_like_a_commit_that_is_and_not_twice() {
        let admission = Admission::default();
        for _ in 0..STANDING {
            admission.lagged(ms(5));
            admission.lagged(ms(70));
            admission.waited(ms(70));
            admission.adjust(NONE, ms(50), NONE);
        }
        assert_eq!(parts(&admission), [ALL / CUT, ALL / CUT, ALL, ALL]);
    }
}
