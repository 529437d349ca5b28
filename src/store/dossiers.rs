//! Dossiers: everything that is stored of a payment, under one snapshot, for those who explain and verify it.
//!
//! Read in batches, each in a read-only transaction of its own: a snapshot that is held for long would keep dead rows
//! of the outbox alive and slow the server down. Deliberately absent: donor data, and any judgement.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};
use uuid::Uuid;

use super::pool::{query, query_opt};
use super::{Store, StoreError};
use crate::domain::ids::PaymentId;
use crate::domain::payment::evidence::Evidence;
use crate::domain::payment::replay::{RecordedMove, RecordedStep};
use crate::domain::payment::{Payment, PaymentStatus};

const LIST: &str = include_str!("../../sql/queries/dossiers/list_payments.sql");
const COUNT: &str = include_str!("../../sql/queries/dossiers/count_payments.sql");
const FIND: &str = include_str!("../../sql/queries/dossiers/find_payment.sql");
const PAYMENTS: &str = include_str!("../../sql/queries/dossiers/load_payments.sql");
const HISTORIES: &str = include_str!("../../sql/queries/dossiers/load_histories.sql");
const LINES: &str = include_str!("../../sql/queries/dossiers/load_lines.sql");
const NOTICES: &str = include_str!("../../sql/queries/dossiers/load_notices.sql");

const HISTORY_TABLE: &str = "payments.payment_state_history";

/// Which payments to walk through.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Only those of this campaign.
    pub campaign_id: Option<Uuid>,
    /// Only those that were made until then, so that a walk beside a busy server ends.
    pub until: Option<OffsetDateTime>,
    /// Only those that were made since then.
    pub since: Option<OffsetDateTime>,
    /// Only those that stand so.
    pub statuses: Option<Vec<&'static str>>,
}

/// Everything that is stored of a payment.
#[derive(Clone, Debug)]
pub struct Dossier {
    /// The payment.
    pub payment: Payment,
    /// What its row says went back, in minor units; should follow from the refunds.
    pub refunded_minor: i64,
    /// What its row says disputes withhold, in minor units; should follow from the disputes.
    pub disputed_minor: i64,
    /// The receipt's number.
    pub receipt_number: Option<i64>,
    /// When it is next checked with the provider.
    pub check_at: Option<OffsetDateTime>,
    /// Its donation, if that is there.
    pub donation: Option<StoredDonation>,
    /// Its ledger lines, in the order of their writing.
    pub lines: Vec<StoredLine>,
    /// Its history, in the order of its writing.
    pub moves: Vec<StoredMove>,
}

/// A donation as it should follow from its payment.
#[derive(Clone, Debug)]
pub struct StoredDonation {
    /// Where it stands.
    pub status: String,
    /// Its version.
    pub version: i64,
    /// In minor units.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// What it is for.
    pub campaign_id: Uuid,
    /// Its payment.
    pub payment_id: Uuid,
}

/// A line of the ledger.
#[derive(Clone, Debug, Serialize)]
pub struct StoredLine {
    /// What it is for.
    pub kind: String,
    /// Positive for money to us; minor units.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// By how much the number of gifts changes.
    pub donations_delta: i16,
    /// The payment's version that it was written with.
    pub version: i64,
    /// The campaign whose total it changes.
    pub campaign_id: Uuid,
    /// When it was written.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// One write of a payment: what caused it, what was decided, which steps it took.
#[derive(Clone, Debug)]
pub struct StoredMove {
    /// By which its rows belong together.
    pub move_id: Uuid,
    /// When it was decided.
    pub at: OffsetDateTime,
    /// The provider's event type, or the command's name.
    pub kind: String,
    /// `donor`, `webhook`, `operator` or `provider`.
    pub source: String,
    /// The provider's event.
    pub event_id: Option<String>,
    /// The provider's time of the event, in whole Unix seconds.
    pub provider_created: Option<i64>,
    /// The rule that decided.
    pub reason: String,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// What a replay needs.
    pub recorded: RecordedMove,
}

/// A message about a payment, without its address.
#[derive(Clone, Debug, Serialize)]
pub struct NoticeRow {
    /// What it is about.
    pub kind: String,
    /// How it travels.
    pub channel: String,
    /// `PENDING`, `SENT` or `DEAD`.
    pub status: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it became due.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it went out.
    #[serde(with = "time::serde::rfc3339::option")]
    pub sent_at: Option<OffsetDateTime>,
}

impl Store {
    /// The payment of that identifier: its own, its donation's, or the provider's.
    pub async fn find_payment(&self, name: &str) -> Result<Option<PaymentId>, StoreError> {
        let id: Option<Uuid> = name.parse().ok();
        let client = self.pools.reader().await?;
        Ok(query_opt(&client, FIND, &[&id, &name]).await?.map(|row| row.get::<_, Uuid>("id").into()))
    }

    /// How many payments `walk` has.
    pub async fn count_walk(&self, walk: &Walk) -> Result<i64, StoreError> {
        let client = self.pools.reader().await?;
        let row = query_opt(&client, COUNT, &[&walk.campaign_id, &walk.until, &walk.since, &walk.statuses]).await?;
        Ok(row.map_or(0, |row| row.get(0)))
    }

    /// The next payments of `walk`, at most `limit`, after the one that was seen last (nil at the beginning).
    pub async fn walk_payments(&self, walk: &Walk, after: Uuid, limit: i64) -> Result<Vec<PaymentId>, StoreError> {
        let client = self.pools.reader().await?;
        let params: [&(dyn ToSql + Sync); 6] =
            [&after, &walk.campaign_id, &walk.until, &walk.since, &walk.statuses, &limit];
        Ok(query(&client, LIST, &params).await?.iter().map(|row| row.get::<_, Uuid>("id").into()).collect())
    }

    /// The dossiers of these payments, in the order of their identifiers, all as of one moment.
    pub async fn load_dossiers(&self, ids: &[PaymentId]) -> Result<Vec<Dossier>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let mut client = self.pools.reader().await?;
        let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let transaction = snapshot.start().await?;
        let payments = rows(&transaction, PAYMENTS, &ids).await?;
        let mut moves = by_payment(&rows(&transaction, HISTORIES, &ids).await?, stored_moves)?;
        let mut lines = by_payment(&rows(&transaction, LINES, &ids).await?, |rows| {
            Ok(rows.iter().map(|row| stored_line(row)).collect())
        })?;
        transaction.commit().await?;
        let whole = |row: Row| {
            let id: Uuid = row.get("id");
            dossier(row, lines.remove(&id).unwrap_or_default(), moves.remove(&id).unwrap_or_default())
        };
        payments.into_iter().map(whole).collect()
    }

    /// The messages about a payment, oldest first, at most `limit`.
    pub async fn load_notices_of(&self, payment: &Payment, limit: i64) -> Result<Vec<NoticeRow>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, NOTICES, &[&payment.id.uuid(), &payment.donation_id.uuid(), &limit]).await?;
        Ok(rows.iter().map(notice).collect())
    }
}

async fn rows(transaction: &Transaction<'_>, sql: &str, ids: &[Uuid]) -> Result<Vec<Row>, StoreError> {
    let statement = transaction.prepare_cached(sql).await?;
    Ok(transaction.query(&statement, &[&ids]).await?)
}

/// What `read` makes of the rows of each payment; they come ordered by payment.
fn by_payment<T>(
    rows: &[Row],
    read: impl Fn(&[&Row]) -> Result<Vec<T>, StoreError>,
) -> Result<HashMap<Uuid, Vec<T>>, StoreError> {
    let mut grouped: HashMap<Uuid, Vec<&Row>> = HashMap::new();
    for row in rows {
        grouped.entry(row.get("payment_id")).or_default().push(row);
    }
    grouped.into_iter().map(|(id, rows)| Ok((id, read(&rows)?))).collect()
}

fn dossier(row: Row, lines: Vec<StoredLine>, moves: Vec<StoredMove>) -> Result<Dossier, StoreError> {
    let status: Option<String> = row.get("donation_status");
    let donation = status.map(|status| StoredDonation {
        status,
        version: row.get("donation_version"),
        amount_minor: row.get("donation_amount_minor"),
        currency: row.get("donation_currency"),
        campaign_id: row.get("donation_campaign_id"),
        payment_id: row.get("donation_payment_id"),
    });
    Ok(Dossier {
        refunded_minor: row.get("refunded_minor"),
        disputed_minor: row.get("disputed_minor"),
        receipt_number: row.get("receipt_number"),
        check_at: row.get("check_at"),
        donation,
        lines,
        moves,
        payment: Payment::try_from(row)?,
    })
}

fn stored_line(row: &Row) -> StoredLine {
    StoredLine {
        kind: row.get("kind"),
        amount_minor: row.get("amount_minor"),
        currency: row.get("currency"),
        donations_delta: row.get("donations_delta"),
        version: row.get("version"),
        campaign_id: row.get("campaign_id"),
        at: row.get("created_at"),
    }
}

/// Rows of one move stand one after the other.
fn stored_moves(rows: &[&Row]) -> Result<Vec<StoredMove>, StoreError> {
    let same_move = |one: &&Row, other: &&Row| one.get::<_, Uuid>("move_id") == other.get::<_, Uuid>("move_id");
    rows.chunk_by(same_move).map(stored_move).collect()
}

fn stored_move(rows: &[&Row]) -> Result<StoredMove, StoreError> {
    let first = rows[0]; // `chunk_by` makes no empty chunk
    let detail: Option<&str> = first.get("detail");
    Ok(StoredMove {
        move_id: first.get("move_id"),
        at: first.get("at"),
        kind: first.get("kind"),
        source: first.get("source"),
        event_id: first.get("event_id"),
        provider_created: first.get("provider_created"),
        reason: first.get("reason"),
        traceparent: first.get("traceparent"),
        recorded: RecordedMove {
            verdict: first.get("verdict"),
            steps: rows.iter().map(|row| step(row)).collect::<Result<_, _>>()?,
            // What cannot be read is a finding of whoever replays it, not the end of the reading.
            evidence: detail.and_then(|detail| serde_json::from_str::<Evidence>(detail).ok()),
        },
    })
}

fn step(row: &Row) -> Result<RecordedStep, StoreError> {
    let status = |name: &str| {
        PaymentStatus::parse(name).ok_or_else(|| StoreError::corrupt(HISTORY_TABLE, "from_status, to_status", name))
    };
    let from: Option<&str> = row.get("from_status");
    Ok(RecordedStep {
        from: from.map(status).transpose()?,
        to: status(row.get("to_status"))?,
        version: row.get("version"),
    })
}

fn notice(row: &Row) -> NoticeRow {
    NoticeRow {
        kind: row.get("kind"),
        channel: row.get("channel"),
        status: row.get("status"),
        attempts: row.get("attempts"),
        created_at: row.get("created_at"),
        sent_at: row.get("sent_at"),
    }
}
