//! Moves of payments: many in one statement, each whole or not at all.
//!
//! Deliberately absent: the decision. A move is decided by the payment's actor against one version, and is written only
//! while the row still has that version.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Object;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, ToSql};
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

struct HistoryRow<'a> {
    of: &'a Move,
    step: Step,
    evidence: Option<&'a Evidence>,
}

struct AmountRow<'a> {
    move_id: Uuid,
    id: &'a str,
    amount_minor: i64,
    status: &'static str,
}

struct FactRow<'a> {
    of: &'a Move,
    fact: &'a Fact,
    body: String,
}

/// One parameter: an array of what each row has there.
type Column<'a> = Box<dyn ToSql + Sync + Send + 'a>;

fn column<'a, R, T: ToSql + Sync + Send + 'a>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Column<'a> {
    Box::new(rows.iter().map(of).collect::<Vec<T>>())
}

/// Writes all of `batch` in one statement. At most one move of each payment may be in it.
pub async fn move_payments(client: &Object, batch: &[Move]) -> Result<Vec<MoveOutcome>, StoreError> {
    let history: Vec<HistoryRow<'_>> = batch.iter().flat_map(history_rows).collect();
    let refunds: Vec<AmountRow<'_>> = batch.iter().flat_map(refund_rows).collect();
    let disputes: Vec<AmountRow<'_>> = batch.iter().flat_map(dispute_rows).collect();
    let lines: Vec<(Uuid, &LedgerLine)> =
        batch.iter().flat_map(|it| it.lines.iter().map(|line| (it.id.uuid(), line))).collect();
    let facts = batch.iter().flat_map(fact_rows).collect::<Result<Vec<FactRow<'_>>, StoreError>>()?;
    let mut columns = item_columns(batch);
    columns.extend(history_columns(&history));
    columns.extend(amount_columns(&refunds));
    columns.extend(amount_columns(&disputes));
    columns.extend(line_columns(&lines));
    columns.extend(fact_columns(&facts));
    let params: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|it| &**it as &(dyn ToSql + Sync)).collect();
    let rows = query(client, MOVE, &params).await?;
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

/// $1 to $22.
fn item_columns(batch: &[Move]) -> Vec<Column<'_>> {
    fn answer<'a, T>(of: impl Fn(&'a Answer) -> T) -> impl Fn(&'a Move) -> Option<T> {
        move |it| it.answer.as_ref().map(&of)
    }
    vec![
        column(batch, |it| it.after.id.uuid()),
        column(batch, |it| it.id.uuid()),
        column(batch, |it| it.at),
        column(batch, |it| it.expected_version),
        column(batch, |it| it.after.version),
        column(batch, |it| it.after.status.as_str()),
        column(batch, |it| DonationStatus::from(it.after.status).as_str()),
        column(batch, |it| it.after.provider_at),
        column(batch, |it| it.after.intent_id.as_deref()),
        column(batch, |it| it.after.client_secret.as_deref()),
        column(batch, |it| it.after.captured_minor),
        column(batch, |it| it.after.refunded_minor()),
        column(batch, |it| it.after.disputed_minor()),
        column(batch, |it| it.after.flag.as_deref()),
        column(batch, |it| it.after.checks),
        column(batch, |it| it.check_at),
        column(batch, answer(|it| it.key.scope.as_str())),
        column(batch, answer(|it| it.key.key.as_str())),
        column(batch, answer(|it| &it.key.fingerprint[..])),
        column(batch, answer(|it| it.status)),
        column(batch, answer(|it| it.body.as_str())),
        column(batch, answer(|it| it.expires_at)),
    ]
}

/// One for each step; one where nothing changed.
fn history_rows(it: &Move) -> Vec<HistoryRow<'_>> {
    let unmoved = [Step { from: it.after.status, to: it.after.status, version: it.after.version }];
    let steps = if it.steps.is_empty() { &unmoved[..] } else { &it.steps[..] };
    // Once for a move, however many steps it has.
    let evidence = |ord| it.cause.evidence.as_ref().filter(|_| ord == 0);
    steps.iter().enumerate().map(|(ord, step)| HistoryRow { of: it, step: *step, evidence: evidence(ord) }).collect()
}

/// $23 to $36.
fn history_columns<'a>(rows: &'a [HistoryRow<'a>]) -> Vec<Column<'a>> {
    vec![
        column(rows, |row| row.of.after.id.uuid()),
        column(rows, |row| row.of.id.uuid()),
        column(rows, |row| row.of.at),
        column(rows, |row| row.of.cause.kind.as_str()),
        column(rows, |row| row.of.cause.source),
        column(rows, |row| row.of.cause.event_id.as_deref()),
        column(rows, |row| row.of.cause.verdict.as_str()),
        column(rows, |row| row.of.cause.reason.as_str()),
        column(rows, |row| row.step.from.as_str()),
        column(rows, |row| row.step.to.as_str()),
        column(rows, |row| row.step.version),
        column(rows, |row| row.of.cause.provider_created),
        column(rows, |row| row.of.cause.traceparent.as_deref()),
        column(rows, |row| row.evidence.map(Json)),
    ]
}

fn refund_rows(it: &Move) -> impl Iterator<Item = AmountRow<'_>> {
    it.refunds.iter().map(|refund| AmountRow {
        move_id: it.id.uuid(),
        id: &refund.id,
        amount_minor: refund.amount_minor,
        status: refund.status.as_str(),
    })
}

fn dispute_rows(it: &Move) -> impl Iterator<Item = AmountRow<'_>> {
    it.disputes.iter().map(|dispute| AmountRow {
        move_id: it.id.uuid(),
        id: &dispute.id,
        amount_minor: dispute.amount_minor,
        status: dispute.status.as_str(),
    })
}

/// $37 to $40, and $41 to $44.
fn amount_columns<'a>(rows: &'a [AmountRow<'a>]) -> Vec<Column<'a>> {
    vec![
        column(rows, |row| row.move_id),
        column(rows, |row| row.id),
        column(rows, |row| row.amount_minor),
        column(rows, |row| row.status),
    ]
}

/// $45 to $48.
fn line_columns<'a>(rows: &'a [(Uuid, &'a LedgerLine)]) -> Vec<Column<'a>> {
    vec![
        column(rows, |(move_id, _)| *move_id),
        column(rows, |(_, line)| line.kind.as_str()),
        column(rows, |(_, line)| line.amount_minor),
        column(rows, |(_, line)| line.donations_delta),
    ]
}

fn fact_rows(it: &Move) -> impl Iterator<Item = Result<FactRow<'_>, StoreError>> {
    it.facts.iter().map(move |fact| Ok(FactRow { of: it, fact, body: fact_body(fact)? }))
}

/// $49 to $56.
fn fact_columns<'a>(rows: &'a [FactRow<'a>]) -> Vec<Column<'a>> {
    vec![
        column(rows, |row| row.of.id.uuid()),
        column(rows, |row| row.fact.subject.uuid()),
        column(rows, |row| row.fact.id.uuid()),
        column(rows, |row| partition(row.fact.subject.uuid())),
        column(rows, |row| row.fact.kind.event_type()),
        column(rows, |row| row.body.as_str()),
        column(rows, |row| row.fact.traceparent.as_deref()),
        column(rows, |row| row.of.at),
    ]
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
