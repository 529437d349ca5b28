//! Everything at once, in fixed shares; and the viral campaign: everybody gives to one and looks at it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::create::Create;
use super::lifecycle::{self, Lifecycle};
use super::totals::{self, Reads, answers, shares, with_gifts};
use super::webhooks::{Event, PROMISE_DUPLICATE, PROMISE_NEW, repeat};
use super::{Bounds, Kind, Session};
use crate::api::Newness;
use crate::books::Books;
use crate::client::Wire;
use crate::engine::{Scenario, Turn};
use crate::measure::{Promise, Run};
use crate::recording::Outcome;

/// The kinds of requests, by their places: the lifecycle's steps stand together, as it wants them.
const SERIES: [&str; 11] = [
    "totals (memory)",
    "totals (redis)",
    "totals (view)",
    "totals (realtime)",
    "create",
    "new webhook",
    "duplicate webhook",
    lifecycle::SERIES[0],
    "create, of a life",
    lifecycle::SERIES[2],
    lifecycle::SERIES[3],
];
const CREATE: usize = 4;
const NEW: usize = 5;
const DUPLICATE: usize = 6;
const LIFE: usize = 7;
/// Sent events of which one is repeated, the latest ones.
const REPEATABLE: usize = 500;
const HUNDRED: u64 = 100;
/// Coprime with a hundred: neighbours are of different kinds.
const STRIDE: u64 = 37;

/// How many of a hundred requests are of each kind; the rest reads totals.
#[derive(Clone, Copy)]
struct Shares {
    lives: u64,
    creates: u64,
    new: u64,
    duplicates: u64,
}

struct Mixed {
    shares: Shares,
    create: Create,
    lifecycle: Lifecycle,
    reads: Reads,
    books: Arc<Books>,
    secret: String,
    sent: Mutex<VecDeque<Arc<Vec<u8>>>>,
}

impl Mixed {
    async fn webhook(&self, wire: &mut Wire) -> (usize, Outcome) {
        // In the first moments nothing was created yet that could be paid.
        let Some(payable) = self.create.take_payable() else { return (0, self.reads.read(wire, 0).await.1) };
        let event = Event::of(&self.books, payable);
        if let Err(outcome) = event.post(&self.secret, &self.books, wire).await {
            return (NEW, outcome);
        }
        if let Ok(bytes) = event.request(&self.secret) {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            if sent.len() >= REPEATABLE {
                sent.pop_front();
            }
            sent.push_back(Arc::new(bytes));
        }
        (NEW, Outcome::Done)
    }

    async fn duplicate(&self, wire: &mut Wire, number: u64) -> (usize, Outcome) {
        let bytes = {
            let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let at = usize::try_from(number).unwrap_or(0) % sent.len().max(1);
            sent.get(at).cloned()
        };
        match bytes {
            Some(bytes) => (DUPLICATE, repeat(wire, &bytes).await),
            None => self.reads.read(wire, number).await,
        }
    }
}

impl Scenario for Mixed {
    type Seat = Wire;

    fn series(&self) -> &'static [&'static str] {
        &SERIES
    }

    fn seat(&self, _: usize) -> Wire {
        self.lifecycle.desk()
    }

    async fn fire(&self, desk: &mut Wire, wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        let Shares { lives, creates, new, duplicates } = self.shares;
        let place = turn.number * STRIDE % HUNDRED;
        if place < lives {
            let lived = self.lifecycle.live(desk, wire, turn, LIFE + 1).await;
            (LIFE, lived.map_or_else(|outcome| outcome, |()| Outcome::Done))
        } else if place < lives + creates {
            (CREATE, self.create.give(wire, turn.number).await.map_or_else(|outcome| outcome, |_| Outcome::Done))
        } else if place < lives + creates + new {
            self.webhook(wire).await
        } else if place < lives + creates + new + duplicates {
            self.duplicate(wire, turn.number).await
        } else {
            self.reads.read(wire, turn.number).await
        }
    }
}

fn promise(what: &str) -> Promise {
    match what {
        "create" => super::create::PROMISE,
        "new webhook" => PROMISE_NEW,
        "duplicate webhook" => PROMISE_DUPLICATE,
        other => match other.strip_prefix("totals (").and_then(|rest| rest.strip_suffix(')')) {
            Some(level) => totals::promise(level),
            None => Promise::default(),
        },
    }
}

async fn run_shares(
    session: &Session,
    bounds: &Bounds,
    kind: Kind,
    campaigns: usize,
    of_hundred: Shares,
) -> Result<Run, String> {
    let campaigns = with_gifts(session, bounds, kind.name(), campaigns).await?;
    let before = answers(session).await?;
    let scenario = Arc::new(Mixed {
        shares: of_hundred,
        create: Create::new(session, campaigns.clone(), false).keeping(),
        lifecycle: Lifecycle::new(session, bounds, campaigns.clone()),
        reads: Reads::new(&campaigns, Newness::Any),
        books: Arc::clone(&session.books),
        secret: session.target.webhook_secret.clone(),
        sent: Mutex::default(),
    });
    let mut run = session.load(kind.name(), bounds.plan(kind), &scenario, promise).await?;
    run.notes.push(shares(session, before).await?);
    Ok(run.must_not_fail(kind.name()))
}

/// Runs everything at once.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let shares = Shares { lives: 5, creates: 15, new: 10, duplicates: 10 };
    run_shares(session, bounds, Kind::Mixed, bounds.campaigns, shares).await
}

/// Runs the viral campaign.
pub async fn run_viral(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let shares = Shares { lives: 10, creates: 0, new: 0, duplicates: 0 };
    run_shares(session, bounds, Kind::Viral, 1, shares).await
}
