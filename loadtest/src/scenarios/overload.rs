//! Ten times what the server can do, and what became of it: who was refused, how long the accepted ones waited, how much
//! memory it took, and how soon everything was as before.
//!
//! First connections without pause find the capacity; then comes half of it, for comparison; then ten times of it, whether or
//! not answers come; then half of it again. The generator shares the machine and cannot send everything: what it did not send
//! is told apart from what the server refused, latencies under overload run from when a request was sent, and the schedule's
//! own delay is told beside them. Deliberately absent: the look for what was lost, which is the audit's, as after every run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::create::{Create, Payable};
use super::totals::{Reads, with_gifts};
use super::webhooks::{Duplicate, Event, Signed, handled, payables_of};
use super::{Bounds, Kind, Session};
use crate::api::Newness;
use crate::books::Books;
use crate::client::Wire;
use crate::engine::{Scenario, Turn};
use crate::measure::{Measure, Moment, Promise, Run, milliseconds, thousands};
use crate::plan::{Pace, Plan};
use crate::recording::Outcome;

const SERIES: [&str; 5] = ["totals", "donations", "new webhooks", "duplicate webhooks", ALL];
const TOTALS: usize = 0;
const DONATIONS: usize = 1;
const NEW: usize = 2;
const DUPLICATES: usize = 3;
/// The same requests once more, from when they were due.
const ALL: &str = "all, from when due";
const ALL_AT: usize = 4;

/// Of a hundred requests.
const SHARE_TOTALS: u64 = 50;
const SHARE_DONATIONS: u64 = 30;
const SHARE_NEW: u64 = 10;
const HUNDRED: u64 = 100;
/// Coprime with a hundred: neighbours are of different kinds.
const STRIDE: u64 = 37;

/// Connections that find the capacity.
const CALLERS: usize = 64;
/// Connections of the crowd at least: each has one request in flight. Measured on two cores: with 8,192 of them the generator is
/// seconds late itself, and the server closes connections on which nothing came (408). `--connections` takes more where there are
/// cores for it.
const CROWD: usize = 1024;
/// A schedule that is so late is the generator's exhaustion: what fails then is not held against the server.
const EXHAUSTED_US: u64 = 1_000_000;
/// What is offered, in capacities.
const TIMES: f64 = 10.0;
const NORMAL: f64 = 0.5;
/// Payments that are prepared for new webhooks.
const STOCK_MIN: f64 = 500.0;
const STOCK_MAX: f64 = 40_000.0;
/// It is as before when p95 is no more than this many times what it was, and what is too little to tell, and when no more than so
/// much of what is answered is refused or fails.
const AS_BEFORE: u64 = 2;
const FLOOR_US: u64 = 2000;
const UNDONE_MAX: f64 = 0.02;
/// Answers that are neither given nor refused, of a thousand that were sent: beyond it the server did not bend but break.
const BROKEN_MAX: u64 = 1;

/// Everybody at once.
struct Crowd {
    create: Create,
    reads: Reads,
    repeats: Duplicate,
    stock: Mutex<Vec<Payable>>,
    /// New webhooks for which there was no payment: a duplicate was sent instead.
    missed: AtomicU64,
    books: Arc<Books>,
    secret: String,
}

impl Crowd {
    fn stock(&self) -> MutexGuard<'_, Vec<Payable>> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, signed: &mut Signed, wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        let place = turn.number * STRIDE % HUNDRED;
        if place < SHARE_TOTALS {
            return (TOTALS, self.reads.read(wire, turn.number).await.1);
        }
        if place < SHARE_TOTALS + SHARE_DONATIONS {
            return (DONATIONS, ended(self.create.give(wire, turn.number).await));
        }
        let payable = if place < SHARE_TOTALS + SHARE_DONATIONS + SHARE_NEW { self.stock().pop() } else { None };
        if let Some(payable) = payable {
            let posted = Event::of(&self.books, payable.clone()).post(&self.secret, &self.books, wire).await;
            if matches!(posted, Err(Outcome::Refused(_))) {
                self.stock().push(payable);
            }
            return (NEW, ended(posted));
        }
        if place < SHARE_TOTALS + SHARE_DONATIONS + SHARE_NEW {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        (DUPLICATES, self.repeats.fire(signed, wire, turn).await.1)
    }
}

fn ended<T>(outcome: Result<T, Outcome>) -> Outcome {
    outcome.map_or_else(|outcome| outcome, |_| Outcome::Done)
}

impl Scenario for Crowd {
    type Seat = Signed;

    fn series(&self) -> &'static [&'static str] {
        &SERIES
    }

    fn seat(&self, number: usize) -> Signed {
        self.repeats.seat(number)
    }

    async fn fire(&self, signed: &mut Signed, wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        let began = Instant::now();
        let (kind, outcome) = self.send(signed, wire, turn).await;
        match outcome {
            // A complaint is made once.
            Outcome::Failed(_) | Outcome::Wrong(_) => (kind, outcome),
            Outcome::Done | Outcome::Refused(_) => {
                turn.tally.record(kind, began, outcome.clone());
                (ALL_AT, outcome)
            }
        }
    }
}

/// Runs it.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let name = Kind::Overload.name();
    let crowd = crowd(session, bounds).await?;
    let usual = Plan { ramp: Duration::ZERO, warm_up: Duration::ZERO, ..bounds.plan(Kind::Overload) };
    let closed = bounds.closed_plan(CALLERS, bounds.duration / 6);
    let capacity = classes(session.load("overload: capacity", closed, &crowd, |_| Promise::default()).await?);
    let rate = capacity.per_second();
    if rate < 1.0 {
        return Err(format!("{name}: the server does nothing at all: {:?}", capacity.complaints));
    }
    stock_up(session, bounds, &crowd, rate).await?;
    session.rest().await?;
    let normal = Plan { pace: Pace::Open { rate: rate * NORMAL }, duration: bounds.duration / 6, ..usual };
    let before = session.load("overload: before", normal, &crowd, |_| Promise::default()).await?;
    let pace = Pace::Open { rate: rate * TIMES };
    let flood = Plan { pace, connections: usual.connections.max(CROWD), duration: bounds.duration, ..usual };
    let offered_until = Instant::now() + flood.whole();
    let during = classes(session.load("overload: ten times", flood, &crowd, |_| Promise::default()).await?);
    let gap = Instant::now().saturating_duration_since(offered_until);
    let after = Plan { duration: bounds.duration / 2, ..normal };
    let after = session.load("overload: after", after, &crowd, |_| Promise::default()).await?;
    let mut run = Run::default();
    run.notes.push(format!("capacity: {}/s with {CALLERS} connections without pause", thousands(rate.round() as u64)));
    run.notes.extend(flooded(&during, &flood, rate));
    run.notes.extend(memory(&[&before, &during, &after]));
    if !session.stop.is_wished() {
        // However it is, it is a figure: a busy machine must not make a run fail.
        run.notes.push(recovery(&before, &after).map_or_else(
            |never| format!("NOT RECOVERED: {never}"),
            |seconds| {
                format!(
                    "p95 was within {AS_BEFORE} × of before, and hardly anybody refused, {:.1} s after the last request of the flood was due",
                    gap.as_secs_f64() + seconds
                )
            },
        ));
    }
    let faults = broken(&during);
    if during.behind.p99_us < EXHAUSTED_US {
        run.faults.extend(faults);
    } else {
        run.notes.extend(faults.iter().map(|fault| format!("{fault}; but the generator was exhausted: no fault")));
    }
    let missed = crowd.missed.load(Ordering::Relaxed);
    if missed > 0 {
        run.notes.push(format!("{} new webhooks had no payment left and were sent as duplicates", thousands(missed)));
    }
    for (part, what) in [(capacity, "capacity"), (before, "before"), (during, "× 10"), (after, "after")] {
        run.faults.extend(part.faults);
        run.complaints.extend(part.complaints);
        run.measures.extend(part.measures.into_iter().map(|measure| Measure {
            scenario: name.to_owned(),
            manner: format!("{what}: {}", measure.manner),
            ..measure
        }));
    }
    Ok(run)
}

async fn crowd(session: &Session, bounds: &Bounds) -> Result<Arc<Crowd>, String> {
    let name = Kind::Overload.name();
    let campaigns = with_gifts(session, bounds, name, bounds.campaigns).await?;
    Ok(Arc::new(Crowd {
        create: Create::new(session, campaigns.clone(), false),
        reads: Reads::new(&campaigns, Newness::Any),
        repeats: handled(session, bounds, name).await?,
        stock: Mutex::default(),
        missed: AtomicU64::new(0),
        books: Arc::clone(&session.books),
        secret: session.target.webhook_secret.clone(),
    }))
}

/// Payments for new webhooks: enough for all of the normal load, and for the flood as much as capacity lets through.
async fn stock_up(session: &Session, bounds: &Bounds, crowd: &Crowd, rate: f64) -> Result<(), String> {
    let share = SHARE_NEW as f64 / HUNDRED as f64;
    let wanted = (rate * share * bounds.duration.as_secs_f64() * 1.5).clamp(STOCK_MIN, STOCK_MAX);
    let campaigns = session.campaigns(bounds.campaigns).await?;
    let payables = payables_of(session, bounds, Kind::Overload.name(), wanted as u64, campaigns).await?;
    crowd.stock().extend(payables);
    Ok(())
}

/// The kinds alone: under overload the time from when a request was due is mostly the generator's, and so is what it did not
/// send.
fn classes(run: Run) -> Run {
    let kept = run.measures.into_iter().filter(|measure| measure.what != ALL);
    Run { measures: kept.map(|measure| Measure { unsent: 0, late: 0, ..measure }).collect(), ..run }
}

fn flooded(during: &Run, flood: &Plan, capacity: f64) -> Vec<String> {
    let count = |of: fn(&Measure) -> u64| during.measures.iter().map(of).sum::<u64>();
    let (done, refused, failed) = (count(|it| it.done), count(|it| it.refused), count(|it| it.failed));
    let seconds = flood.duration.as_secs_f64().max(0.001);
    let reached = (done + refused + failed) as f64 / seconds;
    let offered = match flood.pace {
        Pace::Open { rate } => rate,
        Pace::Closed => 0.0,
    };
    let mut notes = vec![format!(
        "offered {}/s over {} connections; {}/s ({:.1} × capacity) were sent; for the rest no connection was free, or the generator was too busy: it counts for nobody",
        thousands(offered.round() as u64),
        thousands(flood.connections as u64),
        thousands(reached.round() as u64),
        reached / capacity
    )];
    notes.extend(during.measures.iter().map(|it| {
        format!(
            "{:<20} accepted {:>9} ({:>5.1} %), p99 {:>8} from sending, of each second {:>8}; refused {:>9} ({} with 429, {} without Retry-After), p99 {:>8}",
            it.what,
            thousands(it.done),
            100.0 * it.done as f64 / (it.done + it.refused + it.failed).max(1) as f64,
            milliseconds(it.latency.p99_us),
            milliseconds(usual_p99_us(&it.moments)),
            thousands(it.refused),
            thousands(it.limited),
            thousands(it.unexplained),
            milliseconds(it.refusal.p99_us)
        )
    }));
    notes.push(format!(
        "the generator's own schedule was late by p50 {}, p99 {}: so much of those latencies may be its own",
        milliseconds(during.behind.p50_us),
        milliseconds(during.behind.p99_us)
    ));
    notes
}

/// The median of the seconds' 99th percentiles: the first second, in which all come at once, would be most of the whole run's.
fn usual_p99_us(moments: &[Moment]) -> u64 {
    let mut each: Vec<u64> = moments.iter().filter(|it| it.per_second > 0.0).map(|it| it.latency.p99_us).collect();
    each.sort_unstable();
    each.get(each.len() / 2).copied().unwrap_or_default()
}

/// The server's memory over the phases.
fn memory(phases: &[&Run]) -> Option<String> {
    let known: Vec<(u64, u64)> = phases.iter().filter_map(|run| run.memory_kib).collect();
    let [(at_first, normally), (_, at_most), (afterwards, in_the_end)] = known[..] else { return None };
    let mib = |kib: u64| thousands(kib / 1024);
    Some(format!(
        "the server's memory: {} MiB at first, up to {} before, {} under overload, {} right after it, {} in the end",
        mib(at_first),
        mib(normally),
        mib(at_most),
        mib(afterwards),
        mib(in_the_end)
    ))
}

/// What the server must not do however many come: leave requests without an answer, or refuse without saying until when.
fn broken(during: &Run) -> Vec<String> {
    let count = |of: fn(&Measure) -> u64| during.measures.iter().map(of).sum::<u64>();
    let (failed, unexplained) = (count(|it| it.failed), count(|it| it.unexplained));
    let sent = count(|it| it.done + it.refused + it.failed);
    let mut faults = Vec::new();
    if failed * 1000 > sent * BROKEN_MAX {
        faults.push(format!("overload: {} of {} were neither done nor refused", thousands(failed), thousands(sent)));
    }
    if unexplained > 0 {
        faults.push(format!("overload: {} refusals came without Retry-After", thousands(unexplained)));
    }
    faults
}

/// After how many seconds of the run `after` latency was as in `before`, and stayed so.
fn recovery(before: &Run, after: &Run) -> Result<f64, String> {
    let all = |run: &Run| run.measures.iter().find(|measure| measure.what == ALL).cloned();
    let before = all(before).ok_or("nothing was done before the overload")?;
    let after = all(after).ok_or("nothing was done after the overload")?;
    let bearable = (before.latency.p95_us * AS_BEFORE).max(FLOOR_US);
    let is_bad = |moment: &Moment| {
        let undone = moment.undone_per_second / (moment.per_second + moment.undone_per_second).max(1.0);
        moment.per_second <= 0.0 || moment.latency.p95_us > bearable || undone > UNDONE_MAX
    };
    // The last slice may be a few answers of the end: it is no judgement on its own.
    let whole = after.moments.iter().filter(|moment| moment.at_s < after.seconds.floor().max(1.0));
    let moments: Vec<&Moment> = whole.collect();
    match moments.iter().rposition(|moment| is_bad(moment)) {
        None => Ok(0.0),
        Some(last) if last + 1 < moments.len() => Ok(moments[last + 1].at_s),
        Some(_) => Err(format!(
            "{:.0} s after the overload p95 was still more than {}, {AS_BEFORE} × what it was before, or more than {:.0} % were refused",
            after.seconds,
            milliseconds(bearable),
            UNDONE_MAX * 100.0
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Latency;

    /// A run of normal load whose p95 in each second is this, in milliseconds; 0 is a second in which nothing was done.
    fn seconds(p95_ms: &[u64]) -> Run {
        let moment = |(at, ms): (usize, &u64)| {
            let latency = Latency { p95_us: ms * 1000, ..Latency::default() };
            Moment { at_s: at as f64, per_second: *ms as f64, undone_per_second: 0.0, latency }
        };
        let moments: Vec<Moment> = p95_ms.iter().enumerate().map(moment).collect();
        let latency = Latency { p95_us: p95_ms[0] * 1000, ..Latency::default() };
        Run {
            measures: vec![Measure { moments, latency, seconds: p95_ms.len() as f64, ..measure(ALL) }],
            ..Run::default()
        }
    }

    fn measure(what: &str) -> Measure {
        Measure {
            scenario: String::new(),
            what: what.to_owned(),
            manner: String::new(),
            offered_per_second: None,
            connections: 1,
            seconds: 1.0,
            done: 10,
            per_second: 10.0,
            refused: 0,
            limited: 0,
            unexplained: 0,
            refusal: Latency::default(),
            failed: 0,
            wrong: 0,
            unsent: 5,
            late: 5,
            latency: Latency::default(),
            moments: Vec::new(),
            warm_up_s: 0.0,
            percentiles: Vec::new(),
            promise: Promise::default(),
        }
    }

    #[test]
    fn recovery_is_when_latency_is_as_before_and_stays_so() {
        let before = seconds(&[3, 3]);
        assert_eq!(recovery(&before, &seconds(&[5, 6, 4])), Ok(0.0));
        assert_eq!(recovery(&before, &seconds(&[90, 40, 5, 5])), Ok(2.0));
        assert_eq!(
            recovery(&before, &seconds(&[5, 90, 5, 0, 5])),
            Ok(4.0),
            "a second without any answer is none of rest"
        );
        let mut refused = seconds(&[5, 5, 5, 5]);
        refused.measures[0].moments[1].undone_per_second = 1.0;
        assert_eq!(recovery(&before, &refused), Ok(2.0), "a second in which many are refused is none of rest");
        assert!(recovery(&before, &seconds(&[5, 5, 90])).is_err());
        assert!(recovery(&before, &Run::default()).is_err());
    }

    #[test]
    fn the_first_second_is_not_the_usual_one() {
        let moment = |per_second, p99_us| Moment {
            at_s: 0.0,
            per_second,
            undone_per_second: 0.0,
            latency: Latency { p99_us, ..Latency::default() },
        };
        assert_eq!(usual_p99_us(&[]), 0);
        let seconds = [moment(9.0, 1_500), moment(9.0, 200), moment(0.0, 0), moment(9.0, 300), moment(9.0, 250)];
        assert_eq!(usual_p99_us(&seconds), 300);
        assert_eq!(usual_p99_us(&seconds[1..]), 250);
    }

    #[test]
    fn what_the_generator_did_not_send_is_not_held_against_the_server() {
        let run = Run { measures: vec![measure("totals"), measure(ALL)], ..Run::default() };
        let kept = classes(run);
        assert_eq!(kept.measures.len(), 1);
        assert!(!kept.measures[0].is_overloaded());
        assert!(broken(&kept).is_empty());
    }

    #[test]
    fn requests_without_an_answer_and_refusals_without_retry_after_are_faults() {
        let lost = Run { measures: vec![Measure { failed: 1, ..measure("totals") }], ..Run::default() };
        assert!(broken(&lost)[0].contains("1 of 11 were neither done nor refused"), "{:?}", broken(&lost));
        let few = Run { measures: vec![Measure { failed: 1, done: 5000, ..measure("totals") }], ..Run::default() };
        assert!(broken(&few).is_empty());
        let curt =
            Run { measures: vec![Measure { refused: 2, unexplained: 2, ..measure("totals") }], ..Run::default() };
        assert!(broken(&curt)[0].contains("2 refusals"), "{:?}", broken(&curt));
    }
}
