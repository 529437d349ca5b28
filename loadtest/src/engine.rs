//! Sends what is due when it is due, on a few threads, over a bounded number of connections.
//!
//! On each thread one task keeps the schedule and hands due requests to whichever connection is free; where none is, they
//! wait, and their latency runs from when they were due. What still waits when the schedule ends is counted as unsent.
//! Deliberately absent: what a request is (the scenario knows) and what becomes of the figures.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{Instant, timeout_at};

use crate::client::Wire;
use crate::nap::Nap;
use crate::plan::{Pace, Plan};
use crate::progress::Progress;
use crate::recording::{Outcome, Recording, Tally, whole};
use crate::stop::Stop;

/// Requests that wait for a connection on one thread at most; beyond it they are unsent at once.
const WAITING_MAX: usize = 200_000;
/// Naps are no shorter than this: at high rates several requests share one.
const NAP_MIN: Duration = Duration::from_micros(40);
/// The schedule lets others run after so many requests that are due at once.
const PUSHED_AT_ONCE: usize = 64;
/// What was due at the very end is still sent within this.
const GRACE: Duration = Duration::from_millis(5);
/// How much longer than its patience a thread waits for the last answers.
const DRAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether all is sent that was counted out.
const LOOK: Duration = Duration::from_millis(2);
/// A connection that has so many failures in a row has nobody to send to: what was counted out is given up.
const LOST: u32 = 3;

/// A request that is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// From 0, over all threads.
    pub number: u64,
    /// When it was due.
    pub intended: Instant,
    /// Takes figures beside the request's own.
    pub tally: &'a Tally,
}

/// A kind of load.
#[allow(async_fn_in_trait, reason = "requests stay on the thread that sends them")]
pub trait Scenario: Send + Sync + 'static {
    /// What one connection keeps between its requests.
    type Seat: 'static;

    /// The kinds of requests; they are named by their place.
    fn series(&self) -> &'static [&'static str];

    /// What connection `number` begins with.
    fn seat(&self, number: usize) -> Self::Seat;

    /// Sends one request (or a few that make one) and says of which kind it was and how it ended.
    async fn fire(&self, seat: &mut Self::Seat, wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome);
}

/// Requests that are due and wait for a connection.
#[derive(Default)]
struct Queue {
    due: RefCell<VecDeque<(u64, Instant)>>,
    is_over: Cell<bool>,
    news: Notify,
}

impl Queue {
    fn push(&self, number: u64, intended: Instant) -> bool {
        let mut due = self.due.borrow_mut();
        let has_room = due.len() < WAITING_MAX;
        if has_room {
            due.push_back((number, intended));
            self.news.notify_one();
        }
        has_room
    }

    async fn pop(&self) -> Option<(u64, Instant)> {
        loop {
            if let Some(due) = self.due.borrow_mut().pop_front() {
                return Some(due);
            }
            if self.is_over.get() {
                return None;
            }
            self.news.notified().await;
        }
    }

    /// Ends it; what waits is given back.
    fn end(&self) -> VecDeque<(u64, Instant)> {
        self.is_over.set(true);
        self.news.notify_waiters();
        self.due.take()
    }
}

/// What all threads share.
struct Shared<S> {
    plan: Plan,
    addresses: Vec<SocketAddr>,
    scenario: Arc<S>,
    stop: Stop,
    started: Instant,
    /// Numbers of the requests of a closed run.
    numbers: AtomicU64,
}

/// Runs a scenario to its end. Connections are spread evenly over `addresses`.
pub async fn run<S: Scenario>(
    plan: Plan,
    addresses: &[SocketAddr],
    scenario: Arc<S>,
    stop: &Stop,
    progress: &mut Progress,
) -> Result<Recording, String> {
    let started = Instant::now();
    let shared = Arc::new(Shared {
        plan,
        addresses: addresses.to_vec(),
        scenario,
        stop: stop.clone(),
        started,
        numbers: AtomicU64::new(0),
    });
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let series = shared.scenario.series();
    let tallies: Vec<Arc<Tally>> = (0..threads).map(|_| Arc::new(Tally::new(&plan, started, series))).collect();
    let (told, ended) = tokio::sync::oneshot::channel();
    let mine: Vec<Arc<Tally>> = tallies.clone();
    // A thread that waits for threads, so that the runtime does not.
    std::thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            let running: Vec<_> = mine
                .into_iter()
                .enumerate()
                .map(|(thread, tally)| {
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || drive(thread, threads, &shared, &tally))
                })
                .collect();
            let outcomes: Vec<Result<(), String>> = running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err("a sending thread panicked".to_owned())))
                .collect();
            let _ = told.send(outcomes.into_iter().collect::<Result<(), String>>());
        })
        .map_err(|error| error.to_string())?;
    progress.follow(&plan, &tallies, ended).await?;
    Ok(whole(&tallies, &plan))
}

/// One thread: its share of the connections and of the schedule.
fn drive<S: Scenario>(
    thread: usize,
    threads: usize,
    shared: &Arc<Shared<S>>,
    tally: &Arc<Tally>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let local = LocalSet::new();
    let queue = Rc::new(Queue::default());
    let connections: Vec<_> = (thread..shared.plan.connections.max(1))
        .step_by(threads)
        .map(|number| local.spawn_local(connection(number, Arc::clone(shared), Rc::clone(&queue), Arc::clone(tally))))
        .collect();
    local.block_on(&runtime, async {
        match shared.plan.pace {
            Pace::Open { .. } => schedule(thread, threads, shared, &queue, tally).await?,
            Pace::Closed => close(shared, &connections).await,
        }
        let waiting = queue.end();
        tally.unsent(waiting.into_iter().map(|(_, intended)| intended));
        tally.waiting(0);
        let last = Instant::now() + shared.plan.patience + DRAIN;
        for connection in connections {
            // Beyond its patience a request is over; a scenario that makes several gets as long again at most.
            if let Ok(Err(error)) = timeout_at(last, connection).await {
                return Err(format!("a connection's task ended: {error}"));
            }
        }
        Ok(())
    })
}

/// Waits until a closed run is over.
async fn close<S: Scenario>(shared: &Shared<S>, connections: &[JoinHandle<()>]) {
    let over = async {
        match shared.plan.count {
            // Each connection sees by itself that there is nothing left to send, however long that takes.
            Some(_) => {
                while !connections.iter().all(JoinHandle::is_finished) {
                    tokio::time::sleep(LOOK).await;
                }
            }
            None => tokio::time::sleep_until(shared.started + shared.plan.whole()).await,
        }
    };
    tokio::select! {
        () = over => {}
        () = shared.stop.wished() => {}
    }
}

/// Hands out this thread's share of the requests, each when it is due.
async fn schedule<S: Scenario>(
    thread: usize,
    threads: usize,
    shared: &Shared<S>,
    queue: &Queue,
    tally: &Tally,
) -> Result<(), String> {
    let nap = Nap::new().map_err(|error| error.to_string())?;
    let mut number = thread as u64;
    let mut at_once = 0;
    while let Some(due) = shared.plan.due(number) {
        let intended = shared.started + due;
        let ahead = intended.saturating_duration_since(Instant::now());
        if ahead > Duration::ZERO {
            at_once = 0;
            tally.waiting(queue.due.borrow().len());
            tokio::select! {
                slept = nap.sleep(ahead.max(NAP_MIN)) => slept.map_err(|error| error.to_string())?,
                () = shared.stop.wished() => return Ok(()),
            }
            tally.behind(intended);
        } else {
            at_once += 1;
            if at_once % PUSHED_AT_ONCE == 0 {
                tally.waiting(queue.due.borrow().len());
                tokio::task::yield_now().await;
                tally.behind(intended);
                if shared.stop.is_wished() {
                    return Ok(());
                }
            }
        }
        if !queue.push(number, intended) {
            tally.unsent(std::iter::once(intended));
        }
        number += threads as u64;
    }
    // A preparation is waited for; a measured run is over when its time is, and the last ones have had theirs.
    let grace = Instant::now() + GRACE;
    while !queue.due.borrow().is_empty() && !shared.stop.is_wished() {
        if shared.plan.count.is_none() && Instant::now() > grace {
            break;
        }
        nap.sleep(NAP_MIN).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// One connection: sends what is due, one request at a time.
async fn connection<S: Scenario>(number: usize, shared: Arc<Shared<S>>, queue: Rc<Queue>, tally: Arc<Tally>) {
    let address = shared.addresses[number % shared.addresses.len()];
    let mut wire = Wire::new(address, shared.plan.patience);
    let mut seat = shared.scenario.seat(number);
    match shared.plan.pace {
        Pace::Open { .. } => {
            while let Some((number, intended)) = queue.pop().await {
                fire(&shared, &mut seat, &mut wire, Turn { number, intended, tally: &tally }).await;
            }
        }
        Pace::Closed => {
            tokio::time::sleep_until(shared.started + shared.plan.begins(number)).await;
            let mut lost = 0;
            loop {
                let intended = Instant::now();
                let number = shared.numbers.fetch_add(1, Ordering::Relaxed);
                let is_over = match shared.plan.count {
                    Some(count) => number >= count || lost == LOST,
                    None => intended >= shared.started + shared.plan.whole(),
                };
                if is_over || shared.stop.is_wished() {
                    return;
                }
                let is_lost = fire(&shared, &mut seat, &mut wire, Turn { number, intended, tally: &tally }).await;
                lost = if is_lost { lost + 1 } else { 0 };
            }
        }
    }
}

/// Sends one request; whether nobody answered a closed run.
async fn fire<S: Scenario>(shared: &Shared<S>, seat: &mut S::Seat, wire: &mut Wire, turn: Turn<'_>) -> bool {
    turn.tally.sent(turn.intended);
    let (series, outcome) = shared.scenario.fire(seat, wire, turn).await;
    // Where nobody answers at all, a closed run must not spin.
    let is_lost = matches!(outcome, Outcome::Failed(_)) && shared.plan.pace == Pace::Closed;
    turn.tally.record(series, turn.intended, outcome);
    turn.tally.ended();
    if is_lost {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    is_lost
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes its time and asks nobody.
    struct Slow {
        takes: Duration,
        outcome: Outcome,
        ended: AtomicU64,
    }

    impl Scenario for Slow {
        type Seat = ();

        fn series(&self) -> &'static [&'static str] {
            &["slow"]
        }

        fn seat(&self, _: usize) {}

        async fn fire(&self, (): &mut (), _: &mut Wire, _: Turn<'_>) -> (usize, Outcome) {
            tokio::time::sleep(self.takes).await;
            self.ended.fetch_add(1, Ordering::Relaxed);
            (0, self.outcome.clone())
        }
    }

    /// How many of `count` requests two connections without any patience bring to an end.
    async fn prepared(count: u64, takes: Duration, outcome: Outcome) -> u64 {
        let zero = Duration::ZERO;
        let plan = Plan {
            pace: Pace::Closed,
            connections: 2,
            threads: 2,
            ramp: zero,
            warm_up: zero,
            duration: zero,
            patience: zero,
            count: Some(count),
        };
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let slow = Arc::new(Slow { takes, outcome, ended: AtomicU64::new(0) });
        run(plan, &[nobody], Arc::clone(&slow), &Stop::default(), &mut Progress::new("slow", true)).await.unwrap();
        slow.ended.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_is_counted_out_is_all_sent_however_much_longer_than_its_patience_it_takes() {
        let each = Duration::from_millis(500);
        let count = 2 * (DRAIN.as_millis() / each.as_millis()) as u64 + 4;
        assert_eq!(prepared(count, each, Outcome::Done).await, count);
    }

    #[tokio::test]
    async fn what_is_counted_out_is_given_up_where_nobody_answers() {
        let failed = Outcome::Failed("nobody".to_owned());
        assert_eq!(prepared(1_000_000, Duration::ZERO, failed).await, u64::from(2 * LOST));
    }
}
