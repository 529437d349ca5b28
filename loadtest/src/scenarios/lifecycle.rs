//! Whole lives: a donor gives, pays at the sandbox, and waits until the own donation is shown as completed; the sandbox's
//! signed webhook does the rest, as Stripe's would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::create::{self, Create};
use super::{Bounds, Kind, Session};
use crate::api::{self, Gift, number, text};
use crate::books::Books;
use crate::client::Wire;
use crate::engine::{Scenario, Turn};
use crate::measure::{Promise, Run};
use crate::recording::{Outcome, Tally};

/// The kinds of requests, by their places.
pub const SERIES: [&str; 4] = ["give to completed", "create", "confirm at the sandbox", "paid to seen completed"];
/// One long poll holds no longer; it must end before a request's patience does.
const POLL_S: u64 = 3;
/// A donor who is not shown the own gift by then complains.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is promised of each step.
pub fn promise(step: &str) -> Promise {
    if step == "create" { create::PROMISE } else { Promise::default() }
}

/// Donors.
pub struct Lifecycle {
    create: Create,
    books: Arc<Books>,
    sandbox: SocketAddr,
    patience: Duration,
}

impl Lifecycle {
    /// Who give to these campaigns.
    pub fn new(session: &Session, bounds: &Bounds, campaigns: Vec<uuid::Uuid>) -> Self {
        Self {
            create: Create::new(session, campaigns, bounds.with_keys),
            books: Arc::clone(&session.books),
            sandbox: session.first(),
            patience: bounds.patience.max(Duration::from_secs(2 * POLL_S)),
        }
    }

    /// A connection to the sandbox.
    pub fn desk(&self) -> Wire {
        Wire::new(self.sandbox, self.patience)
    }

    /// One life. Steps are recorded in the series that begin at `first`.
    pub async fn live(&self, desk: &mut Wire, wire: &mut Wire, turn: Turn<'_>, first: usize) -> Result<(), Outcome> {
        let began = Instant::now();
        let gift = self.create.give(wire, turn.number).await?;
        step(turn.tally, first, began);
        let intent = match &gift.intent_id {
            Some(intent) => intent.clone(),
            // The sandbox was slow: the donor looks again, as the page would.
            None => wait(wire, &gift, intent_in).await?,
        };
        let began = Instant::now();
        let answer = desk.call(&api::confirm(&intent)).await.map_err(|error| Outcome::Failed(error.to_string()))?;
        match api::outcome(&answer, 200) {
            Outcome::Done => step(turn.tally, first + 1, began),
            other => return Err(other),
        }
        let began = Instant::now();
        wait(wire, &gift, |body| (text(body, "\"status\":\"") == Some("COMPLETED")).then_some(())).await?;
        step(turn.tally, first + 2, began);
        self.books.complete(gift.id);
        Ok(())
    }
}

/// Polls the donation until `seen` sees in it what it looks for.
pub(super) async fn wait<T>(wire: &mut Wire, gift: &Gift, seen: impl Fn(&str) -> Option<T>) -> Result<T, Outcome> {
    let deadline = Instant::now() + DEADLINE;
    // From the version before the answer's: what happened since is shown at once.
    let mut version = gift.version - 1;
    loop {
        let bytes = api::poll(gift, version, POLL_S);
        let answer = wire.call(&bytes).await.map_err(|error| Outcome::Failed(error.to_string()))?;
        match api::outcome(&answer, 200) {
            Outcome::Done => {}
            other => return Err(other),
        }
        if let Some(found) = seen(answer.text()) {
            return Ok(found);
        }
        let newer = number(answer.text(), "\"version\":").unwrap_or(version);
        if newer < version {
            return Err(Outcome::Wrong(format!("a donation's version went from {version} back to {newer}")));
        }
        version = newer;
        if Instant::now() > deadline {
            return Err(Outcome::Failed(format!("not shown as completed within {} s", DEADLINE.as_secs())));
        }
    }
}

/// The intent of a payment that the provider has opened.
pub(super) fn intent_in(body: &str) -> Option<String> {
    text(body, "\"intent_id\":\"").map(str::to_owned)
}

fn step(tally: &Tally, series: usize, began: Instant) {
    tally.record(series, began, Outcome::Done);
}

impl Scenario for Lifecycle {
    type Seat = Wire;

    fn series(&self) -> &'static [&'static str] {
        &SERIES
    }

    fn seat(&self, _: usize) -> Wire {
        self.desk()
    }

    async fn fire(&self, desk: &mut Wire, wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        (0, self.live(desk, wire, turn, 1).await.map_or_else(|outcome| outcome, |()| Outcome::Done))
    }
}

/// Runs it.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let campaigns = session.campaigns(bounds.campaigns).await?;
    let scenario = Arc::new(Lifecycle::new(session, bounds, campaigns));
    session.load(Kind::Lifecycle.name(), bounds.plan(Kind::Lifecycle), &scenario, promise).await
}
