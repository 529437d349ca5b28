//! Stripe's webhooks: new ones, each capturing a payment that was created before, and the same ones again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::create::{Create, Payable};
use super::{Bounds, Kind, Session, needed};
use crate::api::{self, number, text};
use crate::books::{Books, Heard};
use crate::client::Wire;
use crate::clock::unix_seconds;
use crate::engine::{Scenario, Turn};
use crate::measure::{Promise, Run, thousands};
use crate::plan::{Pace, Plan};
use crate::recording::Outcome;
use crate::stripe::{SIGNATURE_LASTS_S, event_id, sign, succeeded};

/// The picture: about 100 ms uncached. Ours: product, "Speed".
pub const PROMISE_NEW: Promise = Promise {
    picture_p95_ms: Some(100.0),
    ours_p95_ms: Some(8.0),
    picture_per_second: Some(500.0),
    ours_per_second: Some(2000.0),
};
/// The picture: about 5 ms cached. Ours: product, "Speed".
pub const PROMISE_DUPLICATE: Promise = Promise {
    picture_p95_ms: Some(5.0),
    ours_p95_ms: Some(1.0),
    picture_per_second: Some(500.0),
    ours_per_second: Some(30_000.0),
};
/// Before a run without pause so many are sent, to see how many it will use up; more than so many are never prepared.
const PILOT: u64 = 2000;
const PREPARED_MAX: u64 = 400_000;
/// The pilot's connections are cold: so much more is prepared than it used.
const MARGIN: f64 = 1.6;
/// So many events are repeated.
const REPEATED: u64 = 200;

/// The numbers of events, over the whole program: no two runs share one.
static EVENTS: AtomicU64 = AtomicU64::new(0);

/// The event that a payment succeeded, not sent yet.
#[derive(Clone, Debug)]
pub struct Event {
    number: u64,
    payable: Payable,
    body: String,
}

impl Event {
    /// That this payment succeeded.
    pub fn of(books: &Books, payable: Payable) -> Self {
        let number = EVENTS.fetch_add(1, Ordering::Relaxed);
        let id = event_id(books.tag, number);
        let body = succeeded(&id, &payable.intent_id, payable.payment, payable.amount_minor);
        Self { number, payable, body }
    }

    /// The request, signed now.
    pub fn request(&self, secret: &str) -> Result<Vec<u8>, String> {
        Ok(api::webhook(&sign(secret, &self.body)?, &self.body))
    }

    /// Sends it for the first time; writes down what is acknowledged. The payment's version, which it must have moved.
    pub async fn post(&self, secret: &str, books: &Books, wire: &mut Wire) -> Result<i64, Outcome> {
        match self.tell(secret, books, wire).await? {
            (verdict, version) if verdict == "applied" => Ok(version),
            (verdict, _) => Err(Outcome::Wrong(format!("a new event was called {verdict}"))),
        }
    }

    /// The same, whatever the verdict on it is: that, and the payment's version.
    pub async fn tell(&self, secret: &str, books: &Books, wire: &mut Wire) -> Result<(String, i64), Outcome> {
        let bytes = self.request(secret).map_err(Outcome::Failed)?;
        let answer = wire.call(&bytes).await.map_err(|error| Outcome::Failed(error.to_string()))?;
        match api::outcome(&answer, 200) {
            Outcome::Done => {}
            other => return Err(other),
        }
        let body = answer.text();
        let verdict = text(body, "\"verdict\":\"").unwrap_or_default();
        books.hear(Heard { event: self.number, payment: self.payable.payment, is_applied: verdict == "applied" });
        Ok((verdict.to_owned(), number(body, "\"version\":").unwrap_or_default()))
    }
}

/// New webhooks.
struct New {
    payables: Vec<Payable>,
    books: Arc<Books>,
    secret: String,
}

impl Scenario for New {
    type Seat = ();

    fn series(&self) -> &'static [&'static str] {
        &["new webhook"]
    }

    fn seat(&self, _: usize) {}

    async fn fire(&self, (): &mut (), wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        let Some(payable) = usize::try_from(turn.number).ok().and_then(|number| self.payables.get(number)) else {
            return (0, Outcome::Failed("no payment was prepared for it".to_owned()));
        };
        let event = Event::of(&self.books, payable.clone());
        (0, event.post(&self.secret, &self.books, wire).await.map_or_else(|outcome| outcome, |_| Outcome::Done))
    }
}

/// Payments that wait for their webhook.
pub async fn payables(session: &Session, bounds: &Bounds, name: &str, count: u64) -> Result<Vec<Payable>, String> {
    let campaigns = session.campaigns(bounds.campaigns).await?;
    payables_of(session, bounds, name, count, campaigns).await
}

/// The same in these campaigns.
pub async fn payables_of(
    session: &Session,
    bounds: &Bounds,
    name: &str,
    count: u64,
    campaigns: Vec<uuid::Uuid>,
) -> Result<Vec<Payable>, String> {
    let create = Arc::new(Create::new(session, campaigns, false).insisting());
    session.prepare(name, bounds, count, &create).await?;
    Ok(create.take_payables())
}

/// New webhooks, one for each of these payments.
pub fn new_ones(session: &Session, payables: Vec<Payable>) -> Arc<impl Scenario> {
    let secret = session.target.webhook_secret.clone();
    Arc::new(New { payables, books: Arc::clone(&session.books), secret })
}

/// Runs new webhooks.
pub async fn run_new(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let name = Kind::WebhooksNew.name();
    let plan = bounds.plan(Kind::WebhooksNew);
    let count = match plan.pace {
        Pace::Open { rate } => needed(&plan, rate),
        Pace::Closed => used_up(session, bounds, &plan).await?,
    };
    let payables = payables(session, bounds, name, count).await?;
    let count = payables.len() as u64;
    let plan = match plan.pace {
        Pace::Closed => Plan { count: Some(count), ..plan },
        Pace::Open { .. } => plan,
    };
    let began = Instant::now();
    let mut run = session.load(name, plan, &new_ones(session, payables), |_| PROMISE_NEW).await?;
    if plan.pace == Pace::Closed && began.elapsed() < plan.whole() && !session.stop.is_wished() {
        run.notes.push(format!(
            "all {} payments that were prepared were used up after {:.1} s",
            thousands(count),
            began.elapsed().as_secs_f64()
        ));
    }
    Ok(run)
}

/// How many payments a run without pause will use up, as a short one shows.
async fn used_up(session: &Session, bounds: &Bounds, plan: &Plan) -> Result<u64, String> {
    let name = Kind::WebhooksNew.name();
    let payables = payables(session, bounds, name, PILOT).await?;
    let count = payables.len() as u64;
    let zero = Duration::ZERO;
    let pilot = Plan { count: Some(count), ramp: zero, warm_up: zero, ..*plan };
    let began = Instant::now();
    session.load(&format!("{name}: pilot"), pilot, &new_ones(session, payables), |_| PROMISE_NEW).await?;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    Ok((needed(plan, rate * MARGIN) + rate.ceil() as u64).clamp(PILOT, PREPARED_MAX))
}

/// The same webhooks again.
pub struct Duplicate {
    events: Arc<Vec<Event>>,
    secret: String,
}

/// Signed requests, and when they were signed.
pub struct Signed {
    requests: Vec<Vec<u8>>,
    at: i64,
}

impl Duplicate {
    fn signed(&self) -> Signed {
        // A secret of any length makes a signature; where it did not, the server would say so.
        let requests = self.events.iter().filter_map(|event| event.request(&self.secret).ok()).collect();
        Signed { requests, at: unix_seconds() }
    }
}

impl Scenario for Duplicate {
    type Seat = Signed;

    fn series(&self) -> &'static [&'static str] {
        &["duplicate webhook"]
    }

    fn seat(&self, _: usize) -> Signed {
        self.signed()
    }

    async fn fire(&self, seat: &mut Signed, wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        // The clock is looked at now and then; a signature lasts much longer than that.
        if turn.number.is_multiple_of(256) && unix_seconds() - seat.at > SIGNATURE_LASTS_S {
            *seat = self.signed();
        }
        let at = usize::try_from(turn.number).unwrap_or(0) % seat.requests.len().max(1);
        let Some(bytes) = seat.requests.get(at) else {
            return (0, Outcome::Failed("nothing is signed".to_owned()));
        };
        (0, repeat(wire, bytes).await)
    }
}

/// Sends an event that was handled.
pub async fn repeat(wire: &mut Wire, bytes: &[u8]) -> Outcome {
    match wire.call(bytes).await {
        Err(error) => Outcome::Failed(error.to_string()),
        Ok(answer) => match api::outcome(&answer, 200) {
            Outcome::Done if answer.text().contains("\"verdict\":\"duplicate\"") => Outcome::Done,
            Outcome::Done => Outcome::Wrong(format!("a repetition was not called one: {}", answer.text())),
            other => other,
        },
    }
}

/// Events that were handled, to be sent again.
pub async fn handled(session: &Session, bounds: &Bounds, name: &str) -> Result<Duplicate, String> {
    let mut wire = Wire::new(session.first(), bounds.patience);
    let mut events = Vec::new();
    let secret = session.target.webhook_secret.clone();
    for payable in payables(session, bounds, name, REPEATED).await? {
        let event = Event::of(&session.books, payable);
        if let Err(outcome) = event.post(&secret, &session.books, &mut wire).await {
            return Err(format!("{name}: preparing: {outcome:?}"));
        }
        events.push(event);
    }
    Ok(Duplicate { events: Arc::new(events), secret })
}

/// Runs duplicates.
pub async fn run_duplicate(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let name = Kind::WebhooksDuplicate.name();
    let scenario = Arc::new(handled(session, bounds, name).await?);
    session.load(name, bounds.plan(Kind::WebhooksDuplicate), &scenario, |_| PROMISE_DUPLICATE).await
}
