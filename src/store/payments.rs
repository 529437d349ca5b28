//! Payments: read one with everything a decision needs, list them, show their history, park what came too early.

use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::loan::LOOK;
use super::pool::{execute, query, query_opt, query_planned_anew};
use super::{Store, StoreError};
use crate::domain::ids::PaymentId;
use crate::domain::money::Currency;
use crate::domain::payment::{Payment, PaymentStatus};

const LOAD: &str = include_str!("../../sql/queries/payments/load_payment.sql");
const FIND_BY_INTENT: &str = include_str!("../../sql/queries/payments/find_by_intent.sql");
const LIST: &str = include_str!("../../sql/queries/payments/list_payments.sql");
const TIMELINE: &str = include_str!("../../sql/queries/payments/load_timeline.sql");
const MEASURE_OPEN: &str = include_str!("../../sql/queries/payments/measure_open.sql");
const CLAIM_CHECKS: &str = include_str!("../../sql/queries/payments/claim_due_checks.sql");

const TABLE: &str = "payments.payment_transactions";

/// What operators ask for in a list of payments.
#[derive(Clone, Debug, Default)]
pub struct PaymentFilter {
    /// Only this status.
    pub status: Option<PaymentStatus>,
    /// Only this campaign.
    pub campaign_id: Option<Uuid>,
    /// Only the payment of this provider's identifier.
    pub intent_id: Option<String>,
    /// Only those that a person must look at.
    pub flagged: bool,
}

/// A payment whose check is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueCheck {
    /// The payment.
    pub payment: PaymentId,
    /// The provider has not been heard to know it.
    pub is_unopened: bool,
}

/// Payments of one status that are not at their end.
#[derive(Clone, Copy, Debug)]
pub struct OpenMeasure {
    /// The status.
    pub status: PaymentStatus,
    /// How many there are.
    pub payments: i64,
    /// When the oldest of them was made of which nobody knows whether the provider has it.
    pub oldest_unknown: Option<OffsetDateTime>,
}

/// A payment in a list.
#[derive(Clone, Debug, Serialize)]
pub struct PaymentRow {
    /// Its identifier.
    pub id: Uuid,
    donation_id: Uuid,
    campaign_id: Uuid,
    intent_id: Option<String>,
    status: String,
    amount_minor: i64,
    currency: String,
    captured_minor: i64,
    refunded_minor: i64,
    disputed_minor: i64,
    flag: Option<String>,
    version: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// One row of a payment's history.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineRow {
    /// Its place: rises with time.
    #[serde(skip)]
    pub id: i64,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    kind: String,
    source: String,
    event_id: Option<String>,
    verdict: String,
    reason: String,
    from: Option<String>,
    to: String,
    version_before: i64,
    version: i64,
    traceparent: Option<String>,
}

impl Store {
    /// One payment with its refunds and disputes.
    pub async fn load_payment(&self, id: PaymentId) -> Result<Option<Payment>, StoreError> {
        let client = self.pools.reader().await?;
        query_opt(&client, LOAD, &[&id.uuid()]).await?.map(Payment::try_from).transpose()
    }

    /// The payment that the provider knows as `intent_id`.
    pub async fn find_payment_by_intent(&self, intent_id: &str) -> Result<Option<PaymentId>, StoreError> {
        let client = self.pools.reader().await?;
        Ok(query_opt(&client, FIND_BY_INTENT, &[&intent_id]).await?.map(|row| row.get::<_, Uuid>("id").into()))
    }

    /// At most `limit` payments, newest first, after the one that `cursor` names.
    pub async fn list_payments(
        &self,
        filter: &PaymentFilter,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<PaymentRow>, StoreError> {
        let mut client = self.pools.reader().await?;
        let status = filter.status.map(PaymentStatus::as_str);
        let values: [&(dyn ToSql + Sync); 6] =
            [&cursor, &status, &filter.campaign_id, &filter.intent_id, &filter.flagged, &limit];
        let rows = query_planned_anew(&mut client, LIST, &values).await?;
        Ok(rows.iter().map(payment_row).collect())
    }

    /// At most `limit` rows of a payment's history, oldest first, after the place `after`.
    pub async fn load_timeline(&self, id: PaymentId, after: i64, limit: i64) -> Result<Vec<TimelineRow>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, TIMELINE, &[&id.uuid(), &after, &limit]).await?;
        Ok(rows.iter().map(timeline_row).collect())
    }

    /// Payments whose check is due, at most `limit`, each leased for `lease_s` seconds.
    pub async fn claim_due_checks(
        &self,
        now: OffsetDateTime,
        lease_s: i64,
        limit: i64,
    ) -> Result<Vec<DueCheck>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, CLAIM_CHECKS, &[&now, &lease_s, &limit]).await?;
        let check =
            |row: &Row| DueCheck { payment: row.get::<_, Uuid>("id").into(), is_unopened: row.get("is_unopened") };
        Ok(rows.iter().map(check).collect())
    }

    /// What is open, by status; where nothing is, there is no measure.
    pub async fn measure_open_payments(&self) -> Result<Vec<OpenMeasure>, StoreError> {
        let rows = self.pools.within(LOOK, async |client| query(client, MEASURE_OPEN, &[]).await).await?;
        let measure = |row: &Row| {
            let status: &str = row.get("status");
            let status = PaymentStatus::parse(status).ok_or_else(|| StoreError::corrupt(TABLE, "status", status))?;
            Ok(OpenMeasure { status, payments: row.get("payments"), oldest_unknown: row.get("oldest_unknown") })
        };
        rows.iter().map(measure).collect()
    }
}

impl TryFrom<Row> for Payment {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let currency: &str = row.get("currency");
        let status: &str = row.get("status");
        Ok(Self {
            id: row.get::<_, Uuid>("id").into(),
            donation_id: row.get::<_, Uuid>("donation_id").into(),
            campaign_id: row.get::<_, Uuid>("campaign_id").into(),
            amount_minor: row.get("amount_minor"),
            currency: Currency::parse(currency).ok_or_else(|| StoreError::corrupt(TABLE, "currency", currency))?,
            manual_capture: row.get("manual_capture"),
            status: PaymentStatus::parse(status).ok_or_else(|| StoreError::corrupt(TABLE, "status", status))?,
            version: row.get("version"),
            provider_at: row.get("provider_at"),
            intent_id: row.get("intent_id"),
            client_secret: row.get("client_secret"),
            captured_minor: row.get("captured_minor"),
            refunds: from_json(&row, "refunds")?,
            disputes: from_json(&row, "disputes")?,
            flag: row.get("flag"),
            traceparent: row.get("traceparent"),
            checks: row.get("checks"),
            updated_at: row.get("updated_at"),
        })
    }
}

fn from_json<T: DeserializeOwned>(row: &Row, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(row.get(column)).map_err(|error| StoreError::corrupt(TABLE, column, error))
}

fn payment_row(row: &Row) -> PaymentRow {
    PaymentRow {
        id: row.get("id"),
        donation_id: row.get("donation_id"),
        campaign_id: row.get("campaign_id"),
        intent_id: row.get("intent_id"),
        status: row.get("status"),
        amount_minor: row.get("amount_minor"),
        currency: row.get("currency"),
        captured_minor: row.get("captured_minor"),
        refunded_minor: row.get("refunded_minor"),
        disputed_minor: row.get("disputed_minor"),
        flag: row.get("flag"),
        version: row.get("version"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}

fn timeline_row(row: &Row) -> TimelineRow {
    TimelineRow {
        id: row.get("id"),
        at: row.get("at"),
        kind: row.get("kind"),
        source: row.get("source"),
        event_id: row.get("event_id"),
        verdict: row.get("verdict"),
        reason: row.get("reason"),
        from: row.get("from_status"),
        to: row.get("to_status"),
        version_before: row.get("version_before"),
        version: row.get("version"),
        traceparent: row.get("traceparent"),
    }
}

/// An event that waits for its payment.
#[derive(Clone, Debug)]
pub struct ParkedEvent {
    /// The provider's id of the event.
    pub event_id: String,
    /// The raw body.
    pub body: String,
}

/// How many parked events are taken up at a time.
const PARKED_BATCH: i64 = 100;

const PARK: &str = include_str!("../../sql/queries/payments/park_event.sql");
const LOAD_PARKED: &str = include_str!("../../sql/queries/payments/load_parked.sql");
const FIND_PARKED_PAYMENTS: &str = include_str!("../../sql/queries/payments/find_parked_payments.sql");
const PURGE_PARKED: &str = include_str!("../../sql/queries/payments/purge_parked.sql");
const UNPARK: &str = include_str!("../../sql/queries/payments/unpark_event.sql");

impl Store {
    /// Keeps an event until its payment appears; `false` where it was kept before.
    pub async fn park_event(
        &self,
        event: &crate::domain::provider::ProviderEvent,
        body: &str,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&event.id, &event.intent_id, &event.payment_id, &event.kind, &event.created, &body, &now];
        Ok(execute(&client, PARK, &params).await? == 1)
    }

    /// The oldest events that wait for this payment.
    pub async fn load_parked(&self, intent_id: &str, payment: PaymentId) -> Result<Vec<ParkedEvent>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, LOAD_PARKED, &[&intent_id, &payment.uuid(), &PARKED_BATCH]).await?;
        Ok(rows.iter().map(|row| ParkedEvent { event_id: row.get("event_id"), body: row.get("body") }).collect())
    }

    /// At most `limit` payments for which an event has been parked since before `then` though they are known.
    pub async fn find_parked_payments(&self, then: OffsetDateTime, limit: i64) -> Result<Vec<PaymentId>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, FIND_PARKED_PAYMENTS, &[&then, &limit]).await?;
        Ok(rows.iter().map(|row| row.get::<_, Uuid>("id").into()).collect())
    }

    /// Forgets at most `limit` events that were parked before `then` and never found a payment; returns how many.
    pub async fn purge_parked(&self, then: OffsetDateTime, limit: i64) -> Result<u64, StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, PURGE_PARKED, &[&then, &limit]).await
    }

    /// Lets go of an event that was handled.
    pub async fn unpark_event(&self, event_id: &str) -> Result<(), StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, UNPARK, &[&event_id]).await.map(drop)
    }
}

const SCHEDULE_CHECK: &str = include_str!("../../sql/queries/payments/schedule_check.sql");

impl Store {
    /// Says when a payment is next checked, unless it has moved meanwhile; no new version.
    pub async fn schedule_check(&self, payment: &Payment, at: Option<OffsetDateTime>) -> Result<(), StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, SCHEDULE_CHECK, &[&payment.id.uuid(), &at, &payment.checks, &payment.version]).await.map(drop)
    }
}
