//! Donations are created: each is one POST, recorded with its payment in one commit and opened at the sandbox.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::lifecycle::{intent_in, wait};
use super::{Bounds, Kind, Session};
use crate::api::{self, Gift};
use crate::books::Books;
use crate::client::Wire;
use crate::engine::{Scenario, Turn};
use crate::measure::{Promise, Run};
use crate::recording::{Outcome, Refusal};

/// The picture: about 50 ms. Ours: product, "Speed". Of a donor who waits for the intent it is the provider that decides.
pub const PROMISE: Promise = Promise {
    picture_p95_ms: Some(50.0),
    ours_p95_ms: Some(5.0),
    picture_per_second: Some(500.0),
    ours_per_second: Some(8000.0),
};

/// How long a preparation lets itself be put off, and for how long at a time: less than the second that `Retry-After` asks
/// for, since its 64 donors are all there are.
const INSISTING: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);

/// A payment that is open at the sandbox.
#[derive(Clone, Debug)]
pub struct Payable {
    /// The payment.
    pub payment: Uuid,
    /// Its intent.
    pub intent_id: String,
    /// What was asked for.
    pub amount_minor: u64,
}

/// Creates donations.
#[derive(Debug)]
pub struct Create {
    campaigns: Vec<Uuid>,
    books: Arc<Books>,
    with_keys: bool,
    /// Whether the donors wait until the provider has opened their payment.
    waits: bool,
    /// What can be paid, where somebody wants it.
    payables: Option<Mutex<Vec<Payable>>>,
    /// Whether a payment that the provider is still to open is looked at until it can be paid.
    insists: bool,
}

impl Create {
    /// Over these campaigns.
    pub fn new(session: &Session, campaigns: Vec<Uuid>, with_keys: bool) -> Self {
        Self { campaigns, books: Arc::clone(&session.books), with_keys, waits: true, payables: None, insists: false }
    }

    /// The same; donors get their answer right after the commit.
    pub fn not_waiting(self) -> Self {
        Self { waits: false, ..self }
    }

    /// The same, and what can be paid is kept.
    pub fn keeping(self) -> Self {
        Self { payables: Some(Mutex::default()), ..self }
    }

    /// The same, and each can be paid: a preparation, which is not measured.
    pub fn insisting(self) -> Self {
        Self { insists: true, ..self.keeping() }
    }

    /// What can be paid; it is given away.
    pub fn take_payables(&self) -> Vec<Payable> {
        self.payables.as_ref().map(|kept| std::mem::take(&mut *lock(kept))).unwrap_or_default()
    }

    /// One that can be paid; it is given away.
    pub fn take_payable(&self) -> Option<Payable> {
        lock(self.payables.as_ref()?).pop()
    }

    /// Sends one donation.
    pub async fn give(&self, wire: &mut Wire, number: u64) -> Result<Gift, Outcome> {
        let mut gift = if self.insists {
            insist(async || self.ask(wire, number).await).await?
        } else {
            self.ask(wire, number).await?
        };
        self.books.give(gift.id, gift.payment_id);
        if self.insists && gift.intent_id.is_none() {
            gift.intent_id = Some(insist(async || wait(wire, &gift, intent_in).await).await?);
        }
        if let (Some(kept), Some(intent_id)) = (&self.payables, gift.intent_id.clone()) {
            lock(kept).push(Payable { payment: gift.payment_id, intent_id, amount_minor: amount(number) });
        }
        Ok(gift)
    }

    async fn ask(&self, wire: &mut Wire, number: u64) -> Result<Gift, Outcome> {
        let campaign = self.campaigns[usize::try_from(number).unwrap_or(0) % self.campaigns.len()];
        let key = self.with_keys.then(|| format!("load-{:08x}-{number}", self.books.tag));
        let bytes = api::create(campaign, amount(number), number, key.as_deref(), self.waits);
        let answer = wire.call(&bytes).await.map_err(|error| Outcome::Failed(error.to_string()))?;
        match api::outcome(&answer, 201) {
            Outcome::Done => {}
            other => return Err(other),
        }
        api::gift(answer.text()).ok_or_else(|| Outcome::Wrong("a 201 without a donation".to_owned()))
    }
}

/// Comes again for as long as it is asked to come later: what is prepared must all be there when it is measured.
async fn insist<T>(mut attempt: impl AsyncFnMut() -> Result<T, Outcome>) -> Result<T, Outcome> {
    let deadline = Instant::now() + INSISTING;
    loop {
        match attempt().await {
            Err(Outcome::Refused(_)) if Instant::now() < deadline => sleep(AGAIN).await,
            Err(Outcome::Refused(Refusal { status, .. })) => {
                let seconds = INSISTING.as_secs();
                return Err(Outcome::Failed(format!("status {status} for {seconds} s, whenever it came again")));
            }
            ended => return ended,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Five to a hundred euros, so that sums are not multiples of one gift.
pub fn amount(number: u64) -> u64 {
    500 + number * 37 % 9500
}

impl Scenario for Create {
    type Seat = ();

    fn series(&self) -> &'static [&'static str] {
        if self.waits { &["create, with its intent"] } else { &["create"] }
    }

    fn seat(&self, _: usize) {}

    async fn fire(&self, (): &mut (), wire: &mut Wire, turn: Turn<'_>) -> (usize, Outcome) {
        match self.give(wire, turn.number).await {
            Ok(_) => (0, Outcome::Done),
            Err(outcome) => (0, outcome),
        }
    }
}

/// Runs it.
pub async fn run(session: &Session, bounds: &Bounds) -> Result<Run, String> {
    let campaigns = session.campaigns(bounds.campaigns).await?;
    let create = Create::new(session, campaigns, bounds.with_keys);
    let scenario = Arc::new(if bounds.waits { create } else { create.not_waiting() });
    let promise =
        if bounds.waits { Promise { picture_p95_ms: PROMISE.picture_p95_ms, ..Promise::default() } } else { PROMISE };
    session.load(Kind::Create.name(), bounds.plan(Kind::Create), &scenario, |_| promise).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Outcome = Outcome::Refused(Refusal { status: 503, retry_after: true });

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_to_come_later_while_preparing_comes_again_until_it_is_done_and_not_for_ever() {
        let mut attempts = 0;
        let done = insist(async || {
            attempts += 1;
            if attempts < 4 { Err(BUSY) } else { Ok(attempts) }
        });
        assert_eq!(done.await, Ok(4));
        let wrong = Outcome::Wrong("a 201 without a donation".to_owned());
        assert_eq!(insist(async || Err::<(), _>(wrong.clone())).await, Err(wrong));
        let began = Instant::now();
        assert!(matches!(insist(async || Err::<(), _>(BUSY)).await, Err(Outcome::Failed(_))));
        assert!((INSISTING..INSISTING + AGAIN * 2).contains(&began.elapsed()));
    }
}
