//! Messages: recorded once for each fact and recipient, claimed by lease, settled with a log row for every attempt.

use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::pool::{execute, query};
use super::{Store, StoreError};
use crate::domain::ids::NoticeId;
use crate::domain::money::Currency;
use crate::domain::notice::{NoticeContext, NoticeKind};

const RECORD: &str = include_str!("../../sql/queries/notices/record_notices.sql");
const CLAIM: &str = include_str!("../../sql/queries/notices/claim_due.sql");
const SETTLE: &str = include_str!("../../sql/queries/notices/settle.sql");

const TABLE: &str = "notifications.notifications";

/// A message that a fact gives rise to.
#[derive(Clone, Debug)]
pub struct NewNotice {
    /// Its identifier.
    pub id: NoticeId,
    /// The fact.
    pub event_id: Uuid,
    /// What it is about.
    pub kind: NoticeKind,
    /// Where it goes; `None` for the donor's own address.
    pub recipient: Option<String>,
    /// The donation that it is about.
    pub donation_id: Uuid,
    /// Its payment.
    pub payment_id: Uuid,
    /// The amount that it speaks of, in minor units.
    pub amount_minor: i64,
    /// That amount's currency.
    pub currency: Currency,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// When it is due.
    pub created_at: OffsetDateTime,
}

/// A message that is due, leased to one courier.
#[derive(Clone)]
pub struct DueNotice {
    /// Its identifier.
    pub id: NoticeId,
    /// What it is about.
    pub kind: NoticeKind,
    /// Where it goes.
    pub recipient: String,
    /// Which attempt this is; the first is 1.
    pub attempt: i32,
    /// What its words are made from.
    pub context: NoticeContext,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// How one attempt ended.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The message.
    pub id: NoticeId,
    /// Which attempt; the first is 1.
    pub attempt: i32,
    /// When it ended.
    pub at: OffsetDateTime,
    /// `DELIVERED`, `TRANSIENT` or `PERMANENT`.
    pub outcome: &'static str,
    /// The provider's code.
    pub code: Option<String>,
    /// The provider's words, without donor data.
    pub detail: Option<String>,
    /// How long it took.
    pub duration_ms: i32,
    /// The provider's identifier of the message.
    pub provider_id: Option<String>,
    /// The message's state from now on: `SENT`, `PENDING` or `DEAD`.
    pub status: &'static str,
    /// When to try again.
    pub next_attempt_at: Option<OffsetDateTime>,
}

impl Store {
    /// Records what facts give rise to, once each; returns how many were new.
    pub async fn record_notices(&self, notices: &[NewNotice]) -> Result<u64, StoreError> {
        if notices.is_empty() {
            return Ok(0);
        }
        let ids: Vec<Uuid> = notices.iter().map(|it| it.id.uuid()).collect();
        let events: Vec<Uuid> = notices.iter().map(|it| it.event_id).collect();
        let kinds: Vec<&str> = notices.iter().map(|it| it.kind.as_str()).collect();
        let recipients: Vec<Option<&str>> = notices.iter().map(|it| it.recipient.as_deref()).collect();
        let donations: Vec<Uuid> = notices.iter().map(|it| it.donation_id).collect();
        let payments: Vec<Uuid> = notices.iter().map(|it| it.payment_id).collect();
        let amounts: Vec<i64> = notices.iter().map(|it| it.amount_minor).collect();
        let currencies: Vec<&str> = notices.iter().map(|it| it.currency.code()).collect();
        let traces: Vec<Option<&str>> = notices.iter().map(|it| it.traceparent.as_deref()).collect();
        let created: Vec<OffsetDateTime> = notices.iter().map(|it| it.created_at).collect();
        let params: [&(dyn ToSql + Sync); 10] =
            [&ids, &events, &kinds, &recipients, &donations, &payments, &amounts, &currencies, &traces, &created];
        let client = self.pools.reader().await?;
        execute(&client, RECORD, &params).await
    }

    /// Due messages of one channel, at most `limit`, each leased for `lease_s` seconds.
    pub async fn claim_due_notices(
        &self,
        channel: &str,
        now: OffsetDateTime,
        lease_s: i64,
        limit: i64,
    ) -> Result<Vec<DueNotice>, StoreError> {
        let client = self.pools.reader().await?;
        query(&client, CLAIM, &[&channel, &now, &lease_s, &limit]).await?.iter().map(due_notice).collect()
    }

    /// Writes down how an attempt ended.
    pub async fn settle_notice(&self, it: &Attempt) -> Result<(), StoreError> {
        let client = self.pools.reader().await?;
        let params: [&(dyn ToSql + Sync); 10] = [
            &it.id.uuid(),
            &it.attempt,
            &it.at,
            &it.outcome,
            &it.code,
            &it.detail,
            &it.duration_ms,
            &it.provider_id,
            &it.status,
            &it.next_attempt_at,
        ];
        execute(&client, SETTLE, &params).await.map(drop)
    }
}

fn due_notice(row: &Row) -> Result<DueNotice, StoreError> {
    let kind: &str = row.get("kind");
    let code: &str = row.get("currency");
    let currency = Currency::parse(code).ok_or_else(|| StoreError::corrupt(TABLE, "currency", code))?;
    Ok(DueNotice {
        id: row.get::<_, Uuid>("id").into(),
        kind: NoticeKind::parse(kind).ok_or_else(|| StoreError::corrupt(TABLE, "kind", kind))?,
        recipient: row.get("recipient"),
        attempt: row.get("attempts"),
        context: NoticeContext {
            donor_name: row.get("donor_name"),
            campaign_title: row.get("campaign_title"),
            amount: currency.format(row.get("amount_minor")),
            receipt_number: row.get("receipt_number"),
            donation_id: row.get::<_, Uuid>("donation_id").to_string(),
            intent_id: row.get("intent_id"),
        },
        traceparent: row.get("traceparent"),
    })
}
