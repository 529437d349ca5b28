//! Captures and readers on every process at once: nobody may see a total go back, or one that is older than asked for.
//!
//! A connection is one reader. Every second read asks for no less than the newest version that anybody has seen, on
//! whichever process. There are only captures, so more versions mean more money. At the end every level of every process
//! must say what the ledger's full sum says.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::create::Payable;
use super::totals::{answers, shares};
use super::webhooks::{Event, payables_of};
use super::{Bounds, Kind, Session, needed};
use crate::api::{self, Newness, number};
use crate::audit::{Sum, full_sums};
use crate::books::Books;
use crate::client::Wire;
use crate::database::connect;
use crate::engine::{Scenario, Turn};
use crate::measure::{Promise, Run};
use crate::office::{Office, Totals};
use crate::plan::{Pace, Plan};
use crate::recording::{Outcome, SUCH_AS};

const SERIES: [&str; 3] = ["read", "read with min_version", "capture"];
const CAPTURE: usize = 2;
/// How long the levels may take to agree once the captures have ended: for 30 s Redis is not believed after a renewal failed.
const AGREE: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct Watch {
    campaign: Uuid,
    payables: Vec<Payable>,
    books: Arc<Books>,
    secret: String,
    /// Of all requests.
    captures_share: f64,
    newest: AtomicI64,
}

/// The newest that a connection has seen.
#[derive(Default)]
struct Seen {
    version: i64,
    raised_minor: i64,
}

impl Watch {
    /// Which capture request `number` is, if it is one: they are spread evenly.
    fn capture(&self, number: u64) -> Option<usize> {
        let upto = |number: u64| (number as f64 * self.captures_share).floor() as usize;
        (upto(number + 1) > upto(number)).then(|| upto(number))
    }

    async fn read(&self, seen: &mut Seen, wire: &mut Wire, asks: bool) -> Outcome {
        let min_version = if asks { self.newest.load(Ordering::Acquire) } else { 0 };
        let newness = if asks { Newness::AtLeast(min_version) } else { Newness::Any };
        let answer = match wire.call(&api::totals(self.campaign, newness)).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        match api::outcome(&answer, 200) {
            Outcome::Done => {}
            other => return other,
        }
        let body = answer.text();
        let (Some(version), Some(raised_minor)) = (number(body, "\"version\":"), number(body, "\"raised_minor\":"))
        else {
            return Outcome::Wrong("totals without a version".to_owned());
        };
        if version < min_version {
            return Outcome::Wrong(format!(
                "a total older than asked for{SUCH_AS}version {version} instead of {min_version}"
            ));
        }
        if version < seen.version || raised_minor < seen.raised_minor {
            return Outcome::Wrong(format!(
                "a total went back on one connection{SUCH_AS}version {version} with {raised_minor} after {} with {}",
                seen.version, seen.raised_minor
            ));
        }
        *seen = Seen { version, raised_minor };
        self.newest.fetch_max(version, Ordering::AcqRel);
        Outcome::Done
    }
}

impl Scenario for Watch {
    type Seat = Seen;

    fn series(&self) -> &'static [&'static str] {
        &SERIES
    }

    fn seat(&self, _: usize) -> Seen {
        Seen::default()
    }

    async fn fire(&self, seen: &mut Seen, wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        if let Some(capture) = self.capture(turn.number) {
            let Some(payable) = self.payables.get(capture) else {
                return (CAPTURE, Outcome::Failed("no payment was prepared for it".to_owned()));
            };
            let event = Event::of(&self.books, payable.clone());
            let posted = event.post(&self.secret, &self.books, wire).await;
            return (CAPTURE, posted.map_or_else(|outcome| outcome, |_| Outcome::Done));
        }
        let asks = turn.number.is_multiple_of(2);
        (usize::from(asks), self.read(seen, wire, asks).await)
    }
}

/// Runs it: `--rate` reads and `--captures` captures a second.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let name = Kind::TotalsWatch.name();
    let config = session.target.database.as_ref().ok_or("totals-watch needs the database: give --database-url")?;
    let Pace::Open { rate: reads } = Bounds { closed: None, ..*bounds }.plan(Kind::TotalsWatch).pace else {
        return Err("totals-watch has a rate".to_owned());
    };
    let pace = Pace::Open { rate: reads + bounds.captures };
    let plan = Plan { pace, ..Bounds { closed: None, ..*bounds }.plan(Kind::TotalsWatch) };
    let count = needed(&plan, bounds.captures) + 1;
    let campaign = session.campaigns(1).await?[0];
    let payables = payables_of(session, bounds, name, count, vec![campaign]).await?;
    let before = answers(session).await?;
    let scenario = Arc::new(Watch {
        campaign,
        payables,
        books: Arc::clone(&session.books),
        secret: session.target.webhook_secret.clone(),
        captures_share: bounds.captures / (reads + bounds.captures),
        newest: AtomicI64::new(0),
    });
    let mut run = session.load(name, plan, &scenario, promise).await?;
    run.notes.push(format!("{} processes", session.target.replicas.len()));
    run.notes.push(shares(session, before).await?);
    let client = connect(config).await?;
    let sum = full_sums(&client, &[campaign]).await?.into_iter().next().ok_or("no sum")?;
    match agree(session, &sum).await {
        Ok(told) => run.notes.push(told),
        Err(fault) => run.faults.push(format!("{name}: {fault}")),
    }
    Ok(run)
}

fn promise(what: &str) -> Promise {
    if what == SERIES[CAPTURE] { super::webhooks::PROMISE_NEW } else { Promise::default() }
}

/// Asks every process until each of its levels has answered, and each must say what the ledger says.
async fn agree(session: &Session, sum: &Sum) -> Result<String, String> {
    if sum.paid_minor != sum.raised_minor {
        return Err(format!("the payments do not say what the ledger says: {sum:?}"));
    }
    let mut told = Vec::new();
    for address in &session.target.replicas {
        let mut office = Office::new(*address, &session.target.admin_key);
        let mut levels = vec![("memory", Newness::Any)];
        if session.target.has_redis {
            levels.push(("redis", Newness::Any));
        }
        // The view, or the ledger itself where the view does not know the campaign yet.
        levels.push(("database", Newness::Fresh));
        for (level, newness) in levels {
            answered(&mut office, sum, level, newness).await.map_err(|error| format!("{address}: {error}"))?;
            told.push(level);
        }
    }
    Ok(format!("{} = the full sum of {} lines, on each process", told.join(" = "), sum.lines))
}

async fn answered(office: &mut Office, sum: &Sum, level: &str, newness: Newness) -> Result<(), String> {
    let deadline = Instant::now() + AGREE;
    let is_it = |totals: &Totals| match level {
        "database" => matches!(totals.source.as_str(), "view" | "realtime"),
        other => totals.source == other,
    };
    loop {
        let totals = office.totals(sum.campaign, newness).await?;
        if is_it(&totals) && sum.is(&totals) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{level} does not say what the ledger says ({sum:?}), but {totals:?}"));
        }
        sleep(LOOK_AGAIN).await;
    }
}
