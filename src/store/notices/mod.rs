//! Messages: recorded once for each fact and recipient, claimed by living processes, logged with every attempt.
//!
//! Reading order: this file (recording), `delivery` (claim, settle, free), `feedback` (what providers say), `operations`
//! (what operators see and do), `measure`. Deliberately absent: when to try again, which the couriers decide.

mod delivery;
mod feedback;
mod measure;
mod operations;

use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

pub use self::delivery::{Callback, Claim, Content, Letter, Room, Settled};
pub use self::feedback::{Feedback, Named};
pub use self::measure::ChannelMeasure;
pub use self::operations::{AttemptRow, NoticeFilter, NoticeRow, ResendRefusal, enqueue_test, resend_notice};
use super::pool::execute;
use super::{Store, StoreError};
use crate::domain::ids::NoticeId;
use crate::domain::money::Currency;
use crate::domain::notice::{Due, NoticeKind};

const RECORD: &str = include_str!("../../../sql/queries/notices/record_notices.sql");

/// Messages that anybody can set off ([`NoticeKind::anybody_can_cause`]), to one address in an hour.
pub const UNASKED_AN_HOUR: i64 = 20;

const TABLE: &str = "notifications.notifications";

/// A message that a fact gives rise to.
#[derive(Clone, Debug)]
pub struct NewNotice {
    /// Its identifier.
    pub id: NoticeId,
    /// The fact.
    pub event_id: Uuid,
    /// What, how and to whom.
    pub due: Due,
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

/// No UUIDv7 that was made at `at` or later is smaller.
fn first_uuid_at(at: OffsetDateTime) -> Uuid {
    let milliseconds = u128::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    Uuid::from_u128(milliseconds << 80)
}

impl Store {
    /// Records what facts give rise to, once each, all of it or nothing; returns how many were new. What would be too much
    /// for an address ([`UNASKED_AN_HOUR`]) is on record as suppressed.
    pub async fn record_notices(&self, notices: &[NewNotice]) -> Result<u64, StoreError> {
        if notices.is_empty() {
            return Ok(0);
        }
        let ids: Vec<Uuid> = notices.iter().map(|it| it.id.uuid()).collect();
        let events: Vec<Uuid> = notices.iter().map(|it| it.event_id).collect();
        let kinds: Vec<&str> = notices.iter().map(|it| it.due.kind).collect();
        let channels: Vec<&str> = notices.iter().map(|it| it.due.channel.as_str()).collect();
        let recipients: Vec<Option<&str>> = notices.iter().map(|it| it.due.recipient.as_deref()).collect();
        let endpoints: Vec<Option<Uuid>> = notices.iter().map(|it| it.due.endpoint_id).collect();
        let payloads: Vec<Option<&str>> = notices.iter().map(|it| it.due.payload.as_deref()).collect();
        let donations: Vec<Uuid> = notices.iter().map(|it| it.donation_id).collect();
        let payments: Vec<Uuid> = notices.iter().map(|it| it.payment_id).collect();
        let amounts: Vec<i64> = notices.iter().map(|it| it.amount_minor).collect();
        let currencies: Vec<&str> = notices.iter().map(|it| it.currency.code()).collect();
        let traces: Vec<Option<&str>> = notices.iter().map(|it| it.traceparent.as_deref()).collect();
        let created: Vec<OffsetDateTime> = notices.iter().map(|it| it.created_at).collect();
        let bounded: Vec<&str> =
            NoticeKind::ALL.into_iter().filter(|kind| kind.anybody_can_cause()).map(NoticeKind::as_str).collect();
        let since = notices[0].created_at - time::Duration::HOUR;
        let params: [&(dyn ToSql + Sync); 17] = [
            &ids,
            &events,
            &kinds,
            &channels,
            &recipients,
            &endpoints,
            &payloads,
            &donations,
            &payments,
            &amounts,
            &currencies,
            &traces,
            &created,
            &bounded,
            &UNASKED_AN_HOUR,
            &first_uuid_at(since),
            &since,
        ];
        let client = self.pools.reader().await?;
        execute(&client, RECORD, &params).await
    }
}
