//! What came of the requests: HDR histograms for the whole measured time and for each slice of it, and counts of
//! everything that has no latency because it did not succeed.
//!
//! Latency is counted from when a request was due, not from when it could be sent. Deliberately absent: averages.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::plan::Plan;

/// Three significant digits over the whole time, two in a slice.
const DIGITS: u8 = 3;
const SLICE_DIGITS: u8 = 2;
/// Latencies are kept in microseconds, up to ten minutes.
const LONGEST_US: u64 = 600_000_000;
/// Slices of the run at most; longer runs have wider ones.
const SLICES: u64 = 300;
/// Different complaints that are kept; the rest is counted as one.
const COMPLAINTS: usize = 12;
/// What stands between a complaint and its example.
pub const SUCH_AS: &str = ", such as ";
/// Sent this much after it was due, a request is counted as late.
const LATE: Duration = Duration::from_millis(10);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// The server was too busy and said so.
    Refused(Refusal),
    /// Otherwise: no answer, or another status than expected.
    Failed(String),
    /// An answer that must never be given: the run fails.
    Wrong(String),
}

/// How a server says that it is too busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 503, or 429 where it is the client who asks too often.
    pub status: u16,
    /// Whether it said when to come again.
    pub retry_after: bool,
}

/// Counts and latencies of one kind of request.
#[derive(Clone, Debug)]
pub struct Series {
    /// What is counted.
    pub name: &'static str,
    /// Latencies of what was done in the measured time, in microseconds.
    pub latency: Histogram<u64>,
    /// Done, of what was due in the measured time.
    pub done: u64,
    /// Done in the measured time, whenever it was due: past capacity that is more.
    pub throughput: u64,
    /// Refused in the measured time.
    pub refused: u64,
    /// Of those, with 429.
    pub limited: u64,
    /// Of those, without `Retry-After`.
    pub unexplained: u64,
    /// How long a refusal took, from when the request was due, in microseconds: a server that is too busy says so at once.
    pub refusal: Histogram<u64>,
    /// Failed in the measured time.
    pub failed: u64,
    /// Wrong, at any time.
    pub wrong: u64,
    /// The whole run in slices, warm-up included.
    pub slices: Vec<Slice>,
}

/// One slice of the run.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Latencies of what was done in it, in microseconds.
    pub latency: Histogram<u64>,
    /// Refused or failed in it.
    pub undone: u64,
}

#[allow(clippy::expect_used, reason = "the bounds are constants, and valid")]
fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_US, digits).expect("valid bounds")
}

impl Series {
    fn new(name: &'static str) -> Self {
        let (latency, refusal, slices) = (histogram(DIGITS), histogram(DIGITS), Vec::new());
        let (done, throughput, refused, limited, unexplained, failed, wrong) = (0, 0, 0, 0, 0, 0, 0);
        Self { name, latency, done, throughput, refused, limited, unexplained, refusal, failed, wrong, slices }
    }

    fn slice(&mut self, at: usize) -> &mut Slice {
        while self.slices.len() <= at {
            self.slices.push(Slice { latency: histogram(SLICE_DIGITS), undone: 0 });
        }
        &mut self.slices[at]
    }

    fn add(&mut self, other: &Self) {
        let _ = self.latency.add(&other.latency); // the same bounds: it fits
        self.done += other.done;
        self.throughput += other.throughput;
        self.refused += other.refused;
        self.limited += other.limited;
        self.unexplained += other.unexplained;
        let _ = self.refusal.add(&other.refusal);
        self.failed += other.failed;
        self.wrong += other.wrong;
        for (at, slice) in other.slices.iter().enumerate() {
            let mine = self.slice(at);
            let _ = mine.latency.add(&slice.latency);
            mine.undone += slice.undone;
        }
    }
}

/// What happened since the last look, for the line that is shown each second.
#[derive(Debug)]
pub struct Glance {
    /// Latencies in microseconds.
    pub latency: Histogram<u64>,
    /// Refused or failed.
    pub undone: u64,
    /// Requests that are due and not sent yet.
    pub waiting: u64,
    /// Requests without an answer yet.
    pub in_flight: u64,
}

impl Glance {
    fn new() -> Self {
        Self { latency: histogram(SLICE_DIGITS), undone: 0, waiting: 0, in_flight: 0 }
    }

    /// Takes another thread's in.
    pub fn add(&mut self, other: &Self) {
        let _ = self.latency.add(&other.latency);
        self.undone += other.undone;
        self.waiting += other.waiting;
        self.in_flight += other.in_flight;
    }
}

/// What a whole run was.
#[derive(Clone, Debug)]
pub struct Recording {
    /// By kind of request.
    pub series: Vec<Series>,
    /// Due in the measured time, but not sent before its end.
    pub unsent: u64,
    /// Sent more than 10 ms after they were due, in the measured time.
    pub late: u64,
    /// How late the schedule itself was, in microseconds: so much of a latency may be the generator's own.
    pub behind: Histogram<u64>,
    /// What was said of failures, with how often.
    pub complaints: BTreeMap<String, u64>,
    /// How wide a slice is.
    pub slice: Duration,
    /// The measured time that really was: shorter after Ctrl-C.
    pub measured: Duration,
}

/// One thread's share of a recording.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    measured_from: Duration,
    ends: Duration,
    slice: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    series: Vec<Series>,
    unsent: u64,
    late: u64,
    behind: Histogram<u64>,
    complaints: BTreeMap<String, u64>,
    glance: Glance,
}

impl Tally {
    /// Of a run that began at `started`.
    pub fn new(plan: &Plan, started: Instant, series: &[&'static str]) -> Self {
        let series = series.iter().map(|name| Series::new(name)).collect();
        let slice = Duration::from_secs((plan.whole().as_secs() / SLICES).max(1));
        let (behind, complaints, glance) = (histogram(SLICE_DIGITS), BTreeMap::new(), Glance::new());
        let kept = Kept { series, unsent: 0, late: 0, behind, complaints, glance };
        Self { started, measured_from: plan.measured_from(), ends: plan.whole(), slice, kept: Mutex::new(kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_measured(&self, intended: Instant) -> bool {
        intended >= self.started + self.measured_from
    }

    /// A request was sent.
    pub fn sent(&self, intended: Instant) {
        let mut kept = self.kept();
        kept.glance.in_flight += 1;
        if self.is_measured(intended) && intended.elapsed() > LATE {
            kept.late += 1;
        }
    }

    /// The schedule hands out a request that was due at `intended` only now.
    pub fn behind(&self, intended: Instant) {
        if self.is_measured(intended) {
            let late = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX).clamp(1, LONGEST_US);
            let _ = self.kept().behind.record(late); // clamped to what it holds
        }
    }

    /// A request that was [`sent`](Self::sent) has ended.
    pub fn ended(&self) {
        self.kept().glance.in_flight -= 1;
    }

    /// A request of kind `series` that was due at `intended` ended now.
    pub fn record(&self, series: usize, intended: Instant, outcome: Outcome) {
        let now = Instant::now();
        let latency = u64::try_from((now - intended).as_micros()).unwrap_or(u64::MAX).clamp(1, LONGEST_US);
        let at = usize::try_from((now - self.started).as_millis() / self.slice.as_millis().max(1)).unwrap_or(0);
        let is_measured = self.is_measured(intended);
        let is_within = self.is_measured(now) && now < self.started + self.ends;
        let mut kept = self.kept();
        let Kept { series: all, complaints, glance, .. } = &mut *kept;
        let Some(series) = all.get_mut(series) else { return };
        let counted = u64::from(is_measured);
        match outcome {
            Outcome::Done => {
                let _ = glance.latency.record(latency); // clamped to what it holds
                let _ = series.slice(at).latency.record(latency);
                series.done += counted;
                series.throughput += u64::from(is_within);
                if is_measured {
                    let _ = series.latency.record(latency);
                }
            }
            Outcome::Refused(refusal) => {
                glance.undone += 1;
                series.slice(at).undone += 1;
                series.refused += counted;
                series.limited += counted * u64::from(refusal.status == 429);
                series.unexplained += counted * u64::from(!refusal.retry_after);
                if is_measured {
                    let _ = series.refusal.record(latency);
                }
            }
            Outcome::Failed(complaint) => {
                glance.undone += 1;
                series.slice(at).undone += 1;
                series.failed += counted;
                complain(complaints, complaint, 1);
            }
            Outcome::Wrong(complaint) => {
                series.wrong += 1;
                complain(complaints, format!("WRONG: {complaint}"), 1);
            }
        }
    }

    /// Requests that were due and cannot be sent any more.
    pub fn unsent(&self, intended: impl Iterator<Item = Instant>) {
        let count = intended.filter(|intended| self.is_measured(*intended)).count();
        self.kept().unsent += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// How many requests wait to be sent.
    pub fn waiting(&self, count: usize) {
        self.kept().glance.waiting = u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// What happened since the last look.
    pub fn glance(&self) -> Glance {
        let mut kept = self.kept();
        let (waiting, in_flight) = (kept.glance.waiting, kept.glance.in_flight);
        std::mem::replace(&mut kept.glance, Glance { waiting, in_flight, ..Glance::new() })
    }
}

/// Complaints that differ only in their example (after [`SUCH_AS`]) are one; the first example is kept.
fn complain(complaints: &mut BTreeMap<String, u64>, complaint: String, count: u64) {
    let head = |text: &str| text.split(SUCH_AS).next().unwrap_or_default().to_owned();
    let known = complaints.keys().find(|known| head(known) == head(&complaint)).cloned();
    let is_full = complaints.len() >= COMPLAINTS;
    let key = known.unwrap_or_else(|| if is_full { "(others)".to_owned() } else { complaint });
    *complaints.entry(key).or_insert(0) += count;
}

/// All threads' shares as one; the run ended now.
pub fn whole(tallies: &[std::sync::Arc<Tally>], plan: &Plan) -> Recording {
    let mut all = Recording {
        series: Vec::new(),
        unsent: 0,
        late: 0,
        behind: histogram(SLICE_DIGITS),
        complaints: BTreeMap::new(),
        slice: Duration::from_secs(1),
        measured: Duration::ZERO,
    };
    for tally in tallies {
        let kept = tally.kept();
        if all.series.is_empty() {
            all.series = kept.series.iter().map(|series| Series::new(series.name)).collect();
        }
        all.slice = tally.slice;
        all.measured = tally.started.elapsed().saturating_sub(plan.measured_from()).min(plan.duration);
        all.unsent += kept.unsent;
        all.late += kept.late;
        let _ = all.behind.add(&kept.behind); // the same bounds: it fits
        for (mine, theirs) in all.series.iter_mut().zip(&kept.series) {
            mine.add(theirs);
        }
        for (complaint, count) in &kept.complaints {
            complain(&mut all.complaints, complaint.clone(), *count);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::Pace;

    fn plan() -> Plan {
        let pace = Pace::Open { rate: 10.0 };
        let s = Duration::from_secs;
        let (connections, threads, count) = (1, 1, None);
        Plan { pace, connections, threads, ramp: s(1), warm_up: s(1), duration: s(10), patience: s(1), count }
    }

    #[tokio::test(start_paused = true)]
    async fn latency_is_counted_from_when_it_was_due_and_the_warm_up_is_left_out() {
        let started = Instant::now();
        let tally = Arc::new(Tally::new(&plan(), started, &["a"]));
        tokio::time::advance(Duration::from_millis(1500)).await;
        tally.record(0, started + Duration::from_millis(1000), Outcome::Done);
        tokio::time::advance(Duration::from_millis(1500)).await;
        tally.record(0, started + Duration::from_millis(2500), Outcome::Done);
        let all = whole(&[tally], &plan());
        assert_eq!((all.series[0].done, all.series[0].throughput, all.series[0].latency.len()), (1, 1, 1));
        let latency = all.series[0].latency.max();
        assert!((499_000..=501_000).contains(&latency), "{latency}");
        assert_eq!(all.series[0].slices.iter().map(|slice| slice.latency.len()).sum::<u64>(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_and_what_was_late_is_counted() {
        let started = Instant::now();
        let tally = Arc::new(Tally::new(&plan(), started, &["a"]));
        tokio::time::advance(Duration::from_secs(3)).await;
        tally.sent(Instant::now() - Duration::from_millis(50));
        tally.sent(Instant::now());
        tally.unsent([started, Instant::now()].into_iter());
        let all = whole(&[tally], &plan());
        assert_eq!((all.late, all.unsent), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn shares_of_threads_add_up_and_complaints_are_bounded() {
        let started = Instant::now();
        let tallies: Vec<Arc<Tally>> = (0..2).map(|_| Arc::new(Tally::new(&plan(), started, &["a", "b"]))).collect();
        tokio::time::advance(Duration::from_secs(4)).await;
        for (at, tally) in tallies.iter().enumerate() {
            let refusal = Refusal { status: 503 - 74 * u16::from(at == 1), retry_after: at == 1 };
            tally.record(1, Instant::now() - Duration::from_millis(2), Outcome::Refused(refusal));
            tally.record(0, Instant::now(), Outcome::Wrong("it went back".to_owned()));
            (0..100).for_each(|n| tally.record(0, Instant::now(), Outcome::Failed(format!("{at} {n}"))));
        }
        let all = whole(&tallies, &plan());
        assert_eq!((all.series[1].refused, all.series[0].failed, all.series[0].wrong), (2, 200, 2));
        assert_eq!((all.series[1].limited, all.series[1].unexplained), (1, 1));
        assert!((1900..=2100).contains(&all.series[1].refusal.max()), "{}", all.series[1].refusal.max());
        assert!(all.complaints.len() <= COMPLAINTS + 1, "{}", all.complaints.len());
        assert_eq!(all.complaints.values().sum::<u64>(), 202);
    }
}
