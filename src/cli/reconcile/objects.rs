//! Our payments against Stripe's intents, one by one.
//!
//! Compared by [`Evidence::decide`], the rule that the server itself adopts an answer of Stripe's by, and then by what
//! that rule never changes back. Deliberately absent: canceled payments, of which nothing more can come.

use futures::StreamExt;
use time::Duration;
use uuid::Uuid;

use super::{Report, SIDE_BY_SIDE, Tools};
use crate::actors::payment::wants_opening;
use crate::cli::progress::Progress;
use crate::domain::ids::PaymentId;
use crate::domain::payment::change::Change;
use crate::domain::payment::decide::Decision;
use crate::domain::payment::evidence::Evidence;
use crate::domain::payment::{Payment, PaymentStatus};
use crate::domain::provider::{IntentSnapshot, IntentStatus};
use crate::store::StoreError;
use crate::store::dossiers::Walk;

/// Payments in one read of ours.
const BATCH: i64 = 500;
/// After so many failures in a row Stripe, or Postgres, is away: it is better to come back later.
const GIVE_UP_AFTER: usize = 20;
/// A payment this young is still being opened by the server.
const OPENING: Duration = Duration::minutes(1);

/// How one payment compares.
enum Outcome {
    Same,
    /// It differs: mended, or it would be.
    Differs(String),
    /// The rule does not take it over.
    ForAPerson(String),
    Failed(String),
}

/// Compares payments that are open or captured, and mends those that differ; only looks, if there are no hands.
pub async fn compare(tools: &Tools, report: &mut Report) -> Result<(), String> {
    let statuses = PaymentStatus::ALL.into_iter().filter(|status| *status != PaymentStatus::Canceled);
    let walk = Walk {
        since: Some(tools.since),
        until: Some(tools.now),
        statuses: Some(statuses.map(PaymentStatus::as_str).collect()),
        campaign_id: None,
    };
    let away = |error: StoreError| error.to_string();
    let mut progress = Progress::of("payments", tools.store.count_walk(&walk).await.map_err(away)?);
    let (mut last, mut failures) = (Uuid::nil(), 0);
    loop {
        let ids = tools.store.walk_payments(&walk, last, BATCH).await.map_err(away)?;
        let Some(end) = ids.last() else { return Ok(()) };
        last = end.uuid();
        let outcomes = futures::stream::iter(ids).map(async |id| (id, outcome(tools, id).await));
        let mut outcomes = std::pin::pin!(outcomes.buffer_unordered(SIDE_BY_SIDE));
        while let Some((id, outcome)) = outcomes.next().await {
            failures = if matches!(outcome, Outcome::Failed(_)) { failures + 1 } else { 0 };
            book(report, id, outcome);
            progress.add(1, || report.so_far());
            if failures == GIVE_UP_AFTER {
                return Err(format!(
                    "{failures} failures in a row, {} payments compared: try again later",
                    report.compared
                ));
            }
        }
    }
}

fn book(report: &mut Report, id: PaymentId, outcome: Outcome) {
    report.compared += 1;
    match outcome {
        Outcome::Same => {}
        Outcome::Differs(what) => {
            report.differed += 1;
            report.tell(report.differed, &format!("payment {id}: {what}"));
        }
        Outcome::ForAPerson(what) => {
            report.for_a_person += 1;
            report.tell(report.for_a_person, &format!("payment {id}: a person must look at it: {what}"));
        }
        Outcome::Failed(what) => {
            report.failed += 1;
            report.tell(report.failed, &format!("payment {id}: failed: {what}"));
        }
    }
}

async fn outcome(tools: &Tools, id: PaymentId) -> Outcome {
    match look_at(tools, id).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(error),
    }
}

async fn look_at(tools: &Tools, id: PaymentId) -> Result<Outcome, String> {
    let Some(payment) = load(tools, id).await? else { return Ok(Outcome::Same) };
    let Some(intent) = payment.intent_id.clone() else { return unopened(tools, payment).await };
    let snapshot = tools.pace.ask(async || tools.stripe.retrieve_intent(&intent).await).await;
    let snapshot = snapshot.map_err(|error| format!("Stripe does not show {intent}: {error}"))?;
    if compared(&payment, &snapshot).is_none() {
        return Ok(Outcome::Same);
    }
    // It may have moved while Stripe was asked.
    let Some(payment) = load(tools, id).await? else { return Ok(Outcome::Same) };
    let Some(difference) = compared(&payment, &snapshot) else { return Ok(Outcome::Same) };
    let Difference::Takes(what) = difference else { return Ok(difference.into()) };
    let Some(hands) = &tools.hands else { return Ok(Outcome::Differs(what)) };
    tools.pace.turn().await;
    let mended = hands.check(id).await.map_err(|error| format!("{what}; {error}"))?;
    Ok(match compared(&mended, &snapshot) {
        None => Outcome::Differs(format!("{what}: mended")),
        Some(Difference::Takes(left)) => Outcome::Failed(left),
        Some(Difference::Leaves(left)) => Outcome::ForAPerson(left),
    })
}

async fn load(tools: &Tools, id: PaymentId) -> Result<Option<Payment>, String> {
    tools.store.load_payment(id).await.map_err(|error| error.to_string())
}

/// A payment that Stripe was never told of, or that we did not hear was created.
async fn unopened(tools: &Tools, payment: Payment) -> Result<Outcome, String> {
    if !wants_opening(&payment) || tools.now - payment.updated_at < OPENING {
        return Ok(Outcome::Same);
    }
    let what = "Stripe has not created its intent yet".to_owned();
    let Some(hands) = &tools.hands else { return Ok(Outcome::Differs(what)) };
    tools.pace.turn().await;
    let after = hands.check(payment.id).await.map_err(|error| format!("{what}; {error}"))?;
    Ok(match after.intent_id {
        Some(_) => Outcome::Differs(format!("{what}: opened")),
        None if after.version > payment.version => Outcome::ForAPerson(format!("{what}: given up")),
        None => Outcome::Failed(what),
    })
}

/// How a payment differs from what Stripe shows.
enum Difference {
    /// The rule takes this over.
    Takes(String),
    /// The rule leaves this as it is.
    Leaves(String),
}

impl From<Difference> for Outcome {
    fn from(difference: Difference) -> Self {
        match difference {
            Difference::Takes(what) => Self::Differs(what),
            Difference::Leaves(what) => Self::ForAPerson(what),
        }
    }
}

fn compared(payment: &Payment, snapshot: &IntentSnapshot) -> Option<Difference> {
    match Evidence::Intent(Box::new(snapshot.clone())).decide(payment) {
        Decision::Settled { change: Some(change), reason, .. } => {
            Some(Difference::Takes(format!("{}; {reason}", news(payment, &change))))
        }
        Decision::Settled { change: None, .. } | Decision::AskProvider => {
            residue(payment, snapshot).map(Difference::Leaves)
        }
    }
}

/// What the change brings.
fn news(before: &Payment, change: &Change) -> String {
    let after = &change.after;
    let shown = |amount_minor: i64| before.currency.format(amount_minor);
    let mut words = Vec::new();
    if after.status != before.status {
        words.push(format!("{} → {}", before.status.as_str(), after.status.as_str()));
    }
    for (what, before_minor, after_minor) in [
        ("captured", before.captured_minor, after.captured_minor),
        ("refunded", before.refunded_minor(), after.refunded_minor()),
        ("disputed", before.disputed_minor(), after.disputed_minor()),
    ] {
        if before_minor != after_minor {
            words.push(format!("{what} {} → {}", shown(before_minor), shown(after_minor)));
        }
    }
    words.extend(after.flag.iter().filter(|_| after.flag != before.flag).map(|flag| format!("flagged: {flag}")));
    if words.is_empty() {
        words.push("a refund or a dispute stands otherwise".to_owned());
    }
    words.join(", ")
}

/// What is different though the rule takes nothing over: money that we counted and Stripe does not show, or the reverse.
fn residue(payment: &Payment, snapshot: &IntentSnapshot) -> Option<String> {
    let shown = |amount_minor: i64| payment.currency.format(amount_minor);
    let received = if snapshot.status == IntentStatus::Succeeded { snapshot.received_minor } else { 0 };
    if received != payment.captured_minor {
        return Some(format!("captured {} here, {} at Stripe", shown(payment.captured_minor), shown(received)));
    }
    let refunded: i64 = snapshot.refunds.iter().filter(|it| it.status.stands()).map(|it| it.amount_minor).sum();
    if refunded != payment.standing_refunds_minor() {
        let ours = payment.standing_refunds_minor();
        return Some(format!("refunded {} here, {} at Stripe", shown(ours), shown(refunded)));
    }
    snapshot.disputes.iter().find_map(|theirs| {
        let ours = payment.disputes.iter().find(|ours| ours.id == theirs.id && ours.status != theirs.status)?;
        Some(format!("dispute {} is {} here, {} at Stripe", ours.id, ours.status.as_str(), theirs.status.as_str()))
    })
}
