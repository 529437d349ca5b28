//! The outbox: committed events on their way to the broker.
//!
//! One relay at a time holds a partition, by an advisory lock that lives as long as the relay's transaction, so events of
//! one payment leave in the order of their versions whatever the number of processes. A relay that hangs loses its
//! transaction, and with it the lock, to `idle_in_transaction_session_timeout`. Deliberately absent: `id > last`.

use deadpool_postgres::Transaction;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::dead_letters::Chosen;
use super::donations::OUTBOX_PARTITIONS;
use super::loan::LOOK;
use super::pool::{query, query_opt};
use super::{Store, StoreError};

const LOCK: &str = include_str!("../../sql/queries/outbox/lock_partitions.sql");
const CLAIM: &str = include_str!("../../sql/queries/outbox/claim_events.sql");
const DELETE: &str = include_str!("../../sql/queries/outbox/delete_published.sql");
const POSTPONE: &str = include_str!("../../sql/queries/outbox/postpone.sql");
const LIST_DEAD: &str = include_str!("../../sql/queries/outbox/list_dead.sql");
const REPLAY: &str = include_str!("../../sql/queries/outbox/replay_events.sql");
const DISCARD: &str = include_str!("../../sql/queries/outbox/discard_events.sql");
const MEASURE: &str = include_str!("../../sql/queries/outbox/measure.sql");

/// A committed event that is not published yet.
#[derive(Clone, Debug)]
pub struct OutboxEvent {
    /// Its place: rises in commit order within one payment.
    pub seq: i64,
    /// The fact's identifier.
    pub id: Uuid,
    /// The payment: its events leave in the order of their places.
    pub aggregate_id: Uuid,
    /// Its CloudEvents type.
    pub event_type: String,
    /// The CloudEvents envelope in JSON.
    pub body: String,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// How often it was refused.
    pub attempts: i32,
    /// When it was committed.
    pub created_at: OffsetDateTime,
}

/// What becomes of an event that was refused.
#[derive(Clone, Debug)]
pub struct Postponed {
    /// Its place.
    pub seq: i64,
    /// When to try again.
    pub next_attempt_at: Option<OffsetDateTime>,
    /// Since when it is set aside, if it is.
    pub dead_at: Option<OffsetDateTime>,
    /// Why.
    pub error: String,
}

/// An event that is set aside, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct DeadEvent {
    /// Its place, by which it is named.
    pub seq: i64,
    id: Uuid,
    aggregate_id: Uuid,
    /// Its CloudEvents type.
    pub event_type: String,
    attempts: i32,
    /// Since when it is set aside.
    #[serde(with = "time::serde::rfc3339")]
    pub dead_at: OffsetDateTime,
    /// Why.
    pub last_error: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

/// What waits in the outbox.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutboxMeasure {
    /// Rows, those set aside included.
    pub waiting: i64,
    /// Rows that are set aside.
    pub dead: i64,
    /// Since when the oldest row could have left: not one that is set aside, nor one that is put off or held back.
    pub oldest: Option<OffsetDateTime>,
}

/// The oldest due events of the partitions that nobody else holds, at most `limit`. They stay claimed until the
/// transaction ends.
pub async fn claim_events(
    transaction: &Transaction<'_>,
    now: OffsetDateTime,
    limit: i64,
) -> Result<Vec<OutboxEvent>, StoreError> {
    let lock = transaction.prepare_cached(LOCK).await?;
    let partitions: Vec<i16> =
        transaction.query(&lock, &[&i32::from(OUTBOX_PARTITIONS)]).await?.iter().map(|row| row.get(0)).collect();
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let claim = transaction.prepare_cached(CLAIM).await?;
    Ok(transaction.query(&claim, &[&partitions, &now, &limit]).await?.iter().map(event).collect())
}

/// Forgets published events.
pub async fn delete_published(transaction: &Transaction<'_>, seqs: &[i64]) -> Result<(), StoreError> {
    let statement = transaction.prepare_cached(DELETE).await?;
    transaction.execute(&statement, &[&seqs]).await?;
    Ok(())
}

/// Puts events that were refused off to a later time, or aside.
pub async fn postpone(transaction: &Transaction<'_>, events: &[Postponed]) -> Result<(), StoreError> {
    let seqs: Vec<i64> = events.iter().map(|it| it.seq).collect();
    let next: Vec<Option<OffsetDateTime>> = events.iter().map(|it| it.next_attempt_at).collect();
    let dead: Vec<Option<OffsetDateTime>> = events.iter().map(|it| it.dead_at).collect();
    let errors: Vec<&str> = events.iter().map(|it| it.error.as_str()).collect();
    let statement = transaction.prepare_cached(POSTPONE).await?;
    transaction.execute(&statement, &[&seqs, &next, &dead, &errors]).await?;
    Ok(())
}

fn event(row: &Row) -> OutboxEvent {
    OutboxEvent {
        seq: row.get("seq"),
        id: row.get("id"),
        aggregate_id: row.get("aggregate_id"),
        event_type: row.get("event_type"),
        body: row.get("body"),
        traceparent: row.get("traceparent"),
        attempts: row.get("attempts"),
        created_at: row.get("created_at"),
    }
}

fn dead_event(row: &Row) -> DeadEvent {
    DeadEvent {
        seq: row.get("seq"),
        id: row.get("id"),
        aggregate_id: row.get("aggregate_id"),
        event_type: row.get("event_type"),
        attempts: row.get("attempts"),
        dead_at: row.get("dead_at"),
        last_error: row.get("last_error"),
        created_at: row.get("created_at"),
    }
}

impl Store {
    /// At most `limit` events that are set aside, oldest first, after the place `after`.
    pub async fn list_dead_events(&self, after: i64, limit: i64) -> Result<Vec<DeadEvent>, StoreError> {
        let client = self.pools.reader().await?;
        Ok(query(&client, LIST_DEAD, &[&after, &limit]).await?.iter().map(dead_event).collect())
    }

    /// Lets events that are set aside be published again, before those that they held back; returns which.
    pub async fn replay_events(&self, chosen: Chosen<'_, i64>) -> Result<Vec<i64>, StoreError> {
        let client = self.pools.reader().await?;
        let (seqs, limit) = chosen.columns();
        Ok(query(&client, REPLAY, &[&seqs, &limit]).await?.iter().map(|row| row.get("seq")).collect())
    }

    /// Forgets events that are set aside, and writes into the audit log what was lost and by whose order; returns which.
    /// By name only: a fact that is discarded never reaches who waits for it.
    pub async fn discard_events(
        &self,
        seqs: &[i64],
        operator: &str,
        now: OffsetDateTime,
    ) -> Result<Vec<i64>, StoreError> {
        let client = self.pools.reader().await?;
        Ok(query(&client, DISCARD, &[&seqs, &now, &operator]).await?.iter().map(|row| row.get("seq")).collect())
    }

    /// What waits in the outbox.
    pub async fn measure_outbox(&self) -> Result<OutboxMeasure, StoreError> {
        let row = self.pools.within(LOOK, async |client| query_opt(client, MEASURE, &[]).await).await?;
        Ok(row
            .map(|row| OutboxMeasure { waiting: row.get("waiting"), dead: row.get("dead"), oldest: row.get("oldest") })
            .unwrap_or_default())
    }
}
