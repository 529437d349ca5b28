//! Moves of payments: many in one statement, each whole or not at all.
//!
//! Deliberately absent: the decision. A move is decided by the payment's actor against one version, and is written only
//! while the row still has that version.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Object;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::donations::{fact_body, partition};
use super::pool::{query, query_opt};
use super::{ClaimedKey, StoreError};
use crate::domain::donation::DonationStatus;
use crate::domain::fact::Fact;
use crate::domain::ids::{MoveId, PaymentId};
use crate::domain::payment::Payment;
use crate::domain::payment::change::{LedgerLine, Step};
use crate::domain::payment::decide::Verdict;
use crate::domain::payment::evidence::Evidence;
use crate::domain::provider::{DisputeFact, RefundFact};

const MOVE: &str = include_str!("../../sql/queries/payments/move_payments.sql");
const PARKED_AMONG: &str = include_str!("../../sql/queries/payments/find_parked_among.sql");
const WAS_MOVED: &str = include_str!("../../sql/queries/payments/was_moved.sql");

/// One write of one payment. A verdict that changes nothing is a move too: its history row and its answer are kept.
#[derive(Clone, Debug)]
pub struct Move {
    /// By which a retried write recognises itself.
    pub id: MoveId,
    /// When it was decided.
    pub at: OffsetDateTime,
    /// The version that it was decided against.
    pub expected_version: i64,
    /// The state afterwards; the same version where nothing changed.
    pub after: Payment,
    /// When the payment is next checked with the provider.
    pub check_at: Option<OffsetDateTime>,
    /// What caused it, for the history.
    pub cause: Cause,
    /// Whether the payment's intent becomes known by it.
    pub gains_intent: bool,
    /// The steps, one for each version; none where nothing changed.
    pub steps: Vec<Step>,
    /// Ledger lines.
    pub lines: Vec<LedgerLine>,
    /// Refunds that are new or moved forward.
    pub refunds: Vec<RefundFact>,
    /// Disputes that are new or moved forward.
    pub disputes: Vec<DisputeFact>,
    /// What others are told.
    pub facts: Vec<Fact>,
    /// The key that is closed with it, and the answer that closes it.
    pub answer: Option<Answer>,
}

/// Why a payment moves.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The provider's event type, or the command's name.
    pub kind: String,
    /// `webhook`, `operator`, `provider` (we asked) or `system`.
    pub source: &'static str,
    /// The provider's event.
    pub event_id: Option<String>,
    /// The provider's time of the event, in whole Unix seconds.
    pub provider_created: Option<i64>,
    /// What became of it.
    pub verdict: Verdict,
    /// The rule that decided.
    pub reason: String,
    /// What it was decided upon, so that it can be decided again.
    pub evidence: Option<Evidence>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// A stored answer to a request or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The key that it answers.
    pub key: ClaimedKey,
    /// The HTTP status.
    pub status: i16,
    /// The body, byte for byte.
    pub body: String,
    /// Until when it is kept.
    pub expires_at: OffsetDateTime,
}

/// What became of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveOutcome {
    /// It is written.
    Moved {
        /// Whether events wait that were parked for want of the intent that is known now.
        has_parked: bool,
    },
    /// The payment has another version now: load it and decide again.
    Conflict,
    /// Its key was used before.
    KeyTaken,
}

impl MoveOutcome {
    /// Whether it is written.
    pub fn is_moved(self) -> bool {
        match self {
            Self::Moved { .. } => true,
            Self::Conflict | Self::KeyTaken => false,
        }
    }
}

#[derive(Serialize)]
struct ItemRow<'a> {
    payment_id: Uuid,
    move_id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    expected_version: i64,
    version: i64,
    status: &'static str,
    donation_status: &'static str,
    provider_at: Option<i64>,
    intent_id: Option<&'a str>,
    client_secret: Option<&'a str>,
    captured_minor: i64,
    refunded_minor: i64,
    disputed_minor: i64,
    flag: Option<&'a str>,
    checks: i32,
    #[serde(with = "time::serde::rfc3339::option")]
    check_at: Option<OffsetDateTime>,
    scope: Option<&'a str>,
    key: Option<&'a str>,
    fingerprint: Option<String>,
    answer_status: Option<i16>,
    answer_body: Option<&'a str>,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
}

#[derive(Serialize)]
struct HistoryRow<'a> {
    payment_id: Uuid,
    ord: usize,
    kind: &'a str,
    source: &'a str,
    event_id: Option<&'a str>,
    verdict: &'static str,
    reason: &'a str,
    from_status: &'static str,
    to_status: &'static str,
    version: i64,
    provider_created: Option<i64>,
    traceparent: Option<&'a str>,
    detail: Option<&'a Evidence>,
}

#[derive(Serialize)]
struct AmountRow<'a> {
    payment_id: Uuid,
    id: &'a str,
    amount_minor: i64,
    status: &'static str,
}

#[derive(Serialize)]
struct LineRow {
    payment_id: Uuid,
    ord: usize,
    kind: &'static str,
    amount_minor: i64,
    donations_delta: i16,
    version: i64,
}

#[derive(Serialize)]
struct FactRow<'a> {
    payment_id: Uuid,
    ord: usize,
    id: Uuid,
    partition: i16,
    event_type: &'static str,
    body: String,
    traceparent: Option<&'a str>,
}

/// Writes all of `batch` in one statement. At most one move of each payment may be in it.
pub async fn move_payments(client: &Object, batch: &[Move]) -> Result<Vec<MoveOutcome>, StoreError> {
    let items = json(batch.iter().map(item_row))?;
    let history = json(batch.iter().flat_map(history_rows))?;
    let refunds = json(batch.iter().flat_map(|it| {
        it.refunds.iter().map(|refund| amount_row(it, &refund.id, refund.amount_minor, refund.status.as_str()))
    }))?;
    let disputes = json(batch.iter().flat_map(|it| {
        it.disputes.iter().map(|dispute| amount_row(it, &dispute.id, dispute.amount_minor, dispute.status.as_str()))
    }))?;
    let lines = json(batch.iter().flat_map(line_rows))?;
    let mut fact_rows = Vec::new();
    for it in batch {
        for (ord, fact) in it.facts.iter().enumerate() {
            fact_rows.push(fact_row(ord, fact)?);
        }
    }
    let facts = json(fact_rows.iter())?;
    let rows = query(client, MOVE, &[&items, &history, &refunds, &disputes, &lines, &facts]).await?;
    let outcomes: HashMap<Uuid, MoveOutcome> = rows.iter().map(|row| (row.get("move_id"), outcome(row))).collect();
    let parked = parked_among(client, batch).await?;
    let outcome = |it: &Move| match outcomes.get(&it.id.uuid())? {
        MoveOutcome::Moved { .. } => Some(MoveOutcome::Moved { has_parked: parked.contains(&it.after.id.uuid()) }),
        other => Some(*other),
    };
    batch.iter().map(|it| outcome(it).ok_or_else(missing)).collect()
}

/// Looked for after the commit: an event that is parked later finds the payment by itself.
async fn parked_among(client: &Object, batch: &[Move]) -> Result<HashSet<Uuid>, StoreError> {
    let fresh = || batch.iter().filter(|it| it.gains_intent);
    let payments: Vec<Uuid> = fresh().map(|it| it.after.id.uuid()).collect();
    if payments.is_empty() {
        return Ok(HashSet::new());
    }
    let intents: Vec<Option<&str>> = fresh().map(|it| it.after.intent_id.as_deref()).collect();
    let rows = query(client, PARKED_AMONG, &[&payments, &intents]).await?;
    Ok(rows.iter().map(|row| row.get("payment_id")).collect())
}

/// Whether that very move is in the history: after a commit whose answer was not heard.
pub async fn was_moved(client: &Object, payment: PaymentId, id: MoveId) -> Result<bool, StoreError> {
    Ok(query_opt(client, WAS_MOVED, &[&payment.uuid(), &id.uuid()]).await?.is_some())
}

/// Parameters are declared `json` in the statement; the text is made once, here.
fn json<T: Serialize>(
    rows: impl Iterator<Item = T>,
) -> Result<tokio_postgres::types::Json<Box<serde_json::value::RawValue>>, StoreError> {
    let rows: Vec<T> = rows.collect();
    serde_json::value::to_raw_value(&rows)
        .map(tokio_postgres::types::Json)
        .map_err(|error| StoreError::Refused(error.to_string()))
}

fn item_row(it: &Move) -> ItemRow<'_> {
    let answer = it.answer.as_ref();
    ItemRow {
        payment_id: it.after.id.uuid(),
        move_id: it.id.uuid(),
        at: it.at,
        expected_version: it.expected_version,
        version: it.after.version,
        status: it.after.status.as_str(),
        donation_status: DonationStatus::from(it.after.status).as_str(),
        provider_at: it.after.provider_at,
        intent_id: it.after.intent_id.as_deref(),
        client_secret: it.after.client_secret.as_deref(),
        captured_minor: it.after.captured_minor,
        refunded_minor: it.after.refunded_minor(),
        disputed_minor: it.after.disputed_minor(),
        flag: it.after.flag.as_deref(),
        checks: it.after.checks,
        check_at: it.check_at,
        scope: answer.map(|answer| answer.key.scope.as_str()),
        key: answer.map(|answer| answer.key.key.as_str()),
        fingerprint: answer.map(|answer| hex::encode(answer.key.fingerprint)),
        answer_status: answer.map(|answer| answer.status),
        answer_body: answer.map(|answer| answer.body.as_str()),
        expires_at: answer.map(|answer| answer.expires_at),
    }
}

fn history_rows(it: &Move) -> Vec<HistoryRow<'_>> {
    let unmoved = [Step { from: it.after.status, to: it.after.status, version: it.after.version }];
    let steps = if it.steps.is_empty() { &unmoved[..] } else { &it.steps[..] };
    steps
        .iter()
        .enumerate()
        .map(|(ord, step)| HistoryRow {
            payment_id: it.after.id.uuid(),
            ord,
            kind: &it.cause.kind,
            source: it.cause.source,
            event_id: it.cause.event_id.as_deref(),
            verdict: it.cause.verdict.as_str(),
            reason: &it.cause.reason,
            from_status: step.from.as_str(),
            to_status: step.to.as_str(),
            version: step.version,
            provider_created: it.cause.provider_created,
            traceparent: it.cause.traceparent.as_deref(),
            // Once for a move, however many steps it has.
            detail: it.cause.evidence.as_ref().filter(|_| ord == 0),
        })
        .collect()
}

fn amount_row<'a>(it: &Move, id: &'a str, amount_minor: i64, status: &'static str) -> AmountRow<'a> {
    AmountRow { payment_id: it.after.id.uuid(), id, amount_minor, status }
}

fn line_rows(it: &Move) -> impl Iterator<Item = LineRow> {
    it.lines.iter().enumerate().map(|(ord, line)| LineRow {
        payment_id: it.after.id.uuid(),
        ord,
        kind: line.kind.as_str(),
        amount_minor: line.amount_minor,
        donations_delta: line.donations_delta,
        version: it.after.version,
    })
}

fn fact_row(ord: usize, fact: &Fact) -> Result<FactRow<'_>, StoreError> {
    Ok(FactRow {
        payment_id: fact.subject.uuid(),
        ord,
        id: fact.id.uuid(),
        partition: partition(fact.subject.uuid()),
        event_type: fact.kind.event_type(),
        body: fact_body(fact)?,
        traceparent: fact.traceparent.as_deref(),
    })
}

fn outcome(row: &Row) -> MoveOutcome {
    match (row.get("is_current"), row.get("is_moved")) {
        (_, true) => MoveOutcome::Moved { has_parked: false },
        (true, false) => MoveOutcome::KeyTaken,
        (false, false) => MoveOutcome::Conflict,
    }
}

fn missing() -> StoreError {
    StoreError::corrupt("move_payments", "move_id", "a move is missing in the answer")
}
