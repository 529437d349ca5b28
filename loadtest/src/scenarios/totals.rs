//! Totals are read: of a few campaigns (memory answers), or of so many that memory has forgotten each (a lower level does).
//!
//! Each answer says which level gave it, and is counted there.

use std::sync::Arc;

use uuid::Uuid;

use super::webhooks::{Event, payables_of};
use super::{Bounds, Kind, Session};
use crate::api::{self, Newness};
use crate::client::Wire;
use crate::engine::{Scenario, Turn};
use crate::measure::{Promise, Run};
use crate::office::metric;
use crate::plan::Pace;
use crate::recording::Outcome;

/// The levels, as answers name them.
pub const LEVELS: [&str; 4] = ["memory", "redis", "view", "realtime"];
/// Gifts that the few campaigns hold.
const GIFTS: u64 = 200;
/// Campaigns that are hot.
const HOT: usize = 8;
/// The server remembers a total for 1 s: a campaign is asked for again after this many seconds' worth of requests.
const FORGOTTEN_S: f64 = 1.5;
/// The server remembers 10,000 campaigns; beyond it this is another measurement.
const COLD_MAX: f64 = 9000.0;

/// What is promised of a level's answers.
pub fn promise(level: &str) -> Promise {
    let of = |picture, ours| Promise { picture_p95_ms: Some(picture), ours_p95_ms: Some(ours), ..Promise::default() };
    match level {
        "memory" => Promise { picture_per_second: Some(500.0), ours_per_second: Some(40_000.0), ..of(10.0, 0.5) },
        "redis" => of(10.0, 5.0),
        // The picture calls both of them real-time: it has no exact view.
        _ => of(200.0, 5.0),
    }
}

/// Reads totals.
pub struct Reads {
    requests: Vec<Vec<u8>>,
}

impl Reads {
    /// Of these campaigns in turn.
    pub fn new(campaigns: &[Uuid], newness: Newness) -> Self {
        Self { requests: campaigns.iter().map(|campaign| api::totals(*campaign, newness)).collect() }
    }

    /// Reads one: the level that answered, and how it went.
    pub async fn read(&self, wire: &mut Wire, number: u64) -> (usize, Outcome) {
        let at = usize::try_from(number).unwrap_or(0) % self.requests.len();
        match wire.call(&self.requests[at]).await {
            Err(error) => (0, Outcome::Failed(error.to_string())),
            Ok(answer) => {
                let source = api::text(answer.text(), "\"source\":\"").unwrap_or_default();
                match (api::outcome(&answer, 200), LEVELS.iter().position(|level| *level == source)) {
                    (Outcome::Done, Some(level)) => (level, Outcome::Done),
                    (Outcome::Done, None) => (0, Outcome::Wrong(format!("totals from {source:?}"))),
                    (other, _) => (0, other),
                }
            }
        }
    }
}

impl Scenario for Reads {
    type Seat = ();

    fn series(&self) -> &'static [&'static str] {
        &LEVELS
    }

    fn seat(&self, _: usize) {}

    async fn fire(&self, (): &mut (), wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        self.read(wire, turn.number).await
    }
}

/// How often each level has answered, by the server's own count, all processes together.
pub async fn answers(session: &Session) -> Result<[f64; 4], String> {
    let mut sums = [0.0; 4];
    for address in &session.target.replicas {
        let metrics = crate::office::Office::new(*address, &session.target.admin_key).metrics().await?;
        for (sum, level) in sums.iter_mut().zip(LEVELS) {
            *sum += metric(&metrics, &format!("careforall_totals_answers_total{{source=\"{level}\"}}"));
        }
    }
    Ok(sums)
}

/// The shares of the levels since `before`, in words.
pub async fn shares(session: &Session, before: [f64; 4]) -> Result<String, String> {
    let after = answers(session).await?;
    let counts: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let all: f64 = counts.iter().sum();
    let share = |(level, count): (&str, &f64)| format!("{level} {:.2} %", 100.0 * count / all.max(1.0));
    let words: Vec<String> = LEVELS.into_iter().zip(&counts).map(share).collect();
    Ok(format!("answered by {} (/metrics); the picture: Redis 90 %, view 9 %, live 1 %", words.join(", ")))
}

/// Campaigns with some money in them.
pub async fn with_gifts(session: &Session, bounds: &Bounds, name: &str, count: usize) -> Result<Vec<Uuid>, String> {
    let campaigns = session.campaigns(count).await?;
    let mut wire = Wire::new(session.first(), bounds.patience);
    for payable in payables_of(session, bounds, name, GIFTS, campaigns.clone()).await? {
        let event = Event::of(&session.books, payable);
        if let Err(outcome) = event.post(&session.target.webhook_secret, &session.books, &mut wire).await {
            return Err(format!("{name}: preparing: {outcome:?}"));
        }
    }
    Ok(campaigns)
}

/// Runs reads of a few campaigns.
pub async fn run_hot(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let name = Kind::TotalsHot.name();
    let campaigns = with_gifts(session, bounds, name, HOT).await?;
    let before = answers(session).await?;
    let scenario = Arc::new(Reads::new(&campaigns, Newness::Any));
    let mut run = session.load(name, bounds.plan(Kind::TotalsHot), &scenario, promise).await?;
    run.notes.push(shares(session, before).await?);
    Ok(run)
}

/// Runs reads of many campaigns.
pub async fn run_cold(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let name = Kind::TotalsCold.name();
    let plan = bounds.plan(Kind::TotalsCold);
    let count = match plan.pace {
        Pace::Open { rate } => (rate * FORGOTTEN_S).clamp(100.0, COLD_MAX),
        Pace::Closed => COLD_MAX,
    };
    let campaigns = with_gifts(session, bounds, name, count as usize).await?;
    let scenario = Arc::new(Reads::new(&campaigns, Newness::Any));
    // Each was asked for before: what remembers for longer than memory has it.
    session.prepare(name, bounds, u64::try_from(campaigns.len()).unwrap_or(u64::MAX), &scenario).await?;
    let before = answers(session).await?;
    let mut run = session.load(name, plan, &scenario, promise).await?;
    run.notes.push(format!("{} campaigns in turn", crate::measure::thousands(campaigns.len() as u64)));
    run.notes.push(shares(session, before).await?);
    Ok(run)
}
