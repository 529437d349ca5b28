//! What operators see of messages and do with them: list, show, send once more, replay and discard what is dead.

use deadpool_postgres::Transaction;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::domain::ids::NoticeId;
use crate::domain::notice::{CallbackKind, Channel, NoticeKind, NoticeStatus, test_body};
use crate::store::dead_letters::Chosen;
use crate::store::pool::{query, query_opt, query_planned_anew};
use crate::store::{Store, StoreError};

const LIST: &str = include_str!("../../../sql/queries/notices/list_notices.sql");
pub(super) const LOAD: &str = include_str!("../../../sql/queries/notices/load_notice.sql");
const ATTEMPTS: &str = include_str!("../../../sql/queries/notices/list_attempts.sql");
const RESEND: &str = include_str!("../../../sql/queries/notices/resend_notice.sql");
const REPLAY: &str = include_str!("../../../sql/queries/notices/replay_dead.sql");
const DISCARD: &str = include_str!("../../../sql/queries/notices/discard_dead.sql");
const ENQUEUE_TEST: &str = include_str!("../../../sql/queries/notices/enqueue_test.sql");

/// Attempts of one message that are shown at most: above every schedule, replays included for a while.
const ATTEMPTS_SHOWN: i64 = 200;

/// What operators ask for in a list of messages.
#[derive(Clone, Debug, Default)]
pub struct NoticeFilter {
    /// Only this status.
    pub status: Option<NoticeStatus>,
    /// Only this channel.
    pub channel: Option<Channel>,
    /// Only this kind, by its name in the database.
    pub kind: Option<String>,
    /// Only those about this donation.
    pub donation_id: Option<Uuid>,
    /// Only those about this payment.
    pub payment_id: Option<Uuid>,
    /// Only those to this address, in any case.
    pub recipient: Option<String>,
    /// Only those to this endpoint.
    pub endpoint_id: Option<Uuid>,
}

/// A message as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct NoticeRow {
    /// Its identifier.
    pub id: Uuid,
    event_id: Uuid,
    /// What it is about.
    pub kind: String,
    /// How it travels.
    pub channel: String,
    recipient: String,
    endpoint_id: Option<Uuid>,
    donation_id: Option<Uuid>,
    payment_id: Option<Uuid>,
    duplicate_of: Option<Uuid>,
    /// How far it is.
    pub status: String,
    attempts: i32,
    #[serde(with = "time::serde::rfc3339::option")]
    next_attempt_at: Option<OffsetDateTime>,
    provider_id: Option<String>,
    provider_status: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    provider_at: Option<OffsetDateTime>,
    /// What its last attempt said, without donor data.
    pub last_error: Option<String>,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    sent_at: Option<OffsetDateTime>,
}

/// One attempt to deliver a message.
#[derive(Clone, Debug, Serialize)]
pub struct AttemptRow {
    attempt: i32,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    settled_at: Option<OffsetDateTime>,
    outcome: String,
    code: Option<String>,
    detail: Option<String>,
    duration_ms: Option<i32>,
    provider_id: Option<String>,
}

impl Store {
    /// At most `limit` messages, newest first, after the one that `cursor` names.
    pub async fn list_notices(
        &self,
        filter: &NoticeFilter,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<NoticeRow>, StoreError> {
        let mut client = self.pools.reader().await?;
        let status = filter.status.map(NoticeStatus::as_str);
        let channel = filter.channel.map(Channel::as_str);
        let rows = query_planned_anew(
            &mut client,
            LIST,
            &[
                &cursor,
                &status,
                &channel,
                &filter.kind,
                &filter.donation_id,
                &filter.payment_id,
                &filter.recipient,
                &filter.endpoint_id,
                &limit,
            ],
        )
        .await?;
        Ok(rows.iter().map(notice_row).collect())
    }

    /// One message with its attempts, oldest first.
    pub async fn load_notice(&self, id: NoticeId) -> Result<Option<(NoticeRow, Vec<AttemptRow>)>, StoreError> {
        let client = self.pools.reader().await?;
        let Some(row) = query_opt(&client, LOAD, &[&id.uuid()]).await? else { return Ok(None) };
        let attempts = query(&client, ATTEMPTS, &[&id.uuid(), &ATTEMPTS_SHOWN]).await?;
        Ok(Some((notice_row(&row), attempts.iter().map(attempt_row).collect())))
    }

    /// Lets dead messages begin their schedule again; returns those that did. A webhook does only when its endpoint is
    /// enabled.
    pub async fn replay_notices(&self, chosen: Chosen<'_, Uuid>, now: OffsetDateTime) -> Result<Vec<Uuid>, StoreError> {
        let client = self.pools.reader().await?;
        let (ids, limit) = chosen.columns();
        Ok(query(&client, REPLAY, &[&ids, &now, &limit]).await?.iter().map(|row| row.get("id")).collect())
    }

    /// Gives dead messages up for good; returns those that were.
    pub async fn discard_notices(&self, chosen: Chosen<'_, Uuid>) -> Result<Vec<Uuid>, StoreError> {
        let client = self.pools.reader().await?;
        let (ids, limit) = chosen.columns();
        Ok(query(&client, DISCARD, &[&ids, &limit]).await?.iter().map(|row| row.get("id")).collect())
    }
}

/// Why a message is not sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResendRefusal {
    /// There is no such message.
    NotFound,
    /// It is on its way still.
    Pending,
    /// Its address takes or wants nothing.
    Suppressed,
    /// Its endpoint is disabled or gone.
    EndpointDisabled,
}

/// Sends a message once more, as the message `duplicate` of its own that is marked as a duplicate.
pub async fn resend_notice(
    transaction: &Transaction<'_>,
    id: NoticeId,
    duplicate: NoticeId,
    now: OffsetDateTime,
    traceparent: &str,
) -> Result<Result<NoticeRow, ResendRefusal>, StoreError> {
    let statement = transaction.prepare_cached(RESEND).await?;
    let courtesies: Vec<&str> =
        NoticeKind::ALL.into_iter().filter(|kind| kind.is_courtesy()).map(NoticeKind::as_str).collect();
    let params: [&(dyn ToSql + Sync); 6] =
        [&id.uuid(), &duplicate.uuid(), &now, &courtesies, &traceparent, &super::feedback::spared()];
    let Some(row) = transaction.query_opt(&statement, &params).await? else {
        return Ok(Err(ResendRefusal::NotFound));
    };
    if row.get("is_resent") {
        return Ok(Ok(notice_row(&row)));
    }
    Ok(Err(if row.get::<_, &str>("found_status") == NoticeStatus::Pending.as_str() {
        ResendRefusal::Pending
    } else if row.get("endpoint_disabled") {
        ResendRefusal::EndpointDisabled
    } else {
        ResendRefusal::Suppressed
    }))
}

/// Makes a webhook due that tests an endpoint; its attempts show how it went. Nothing unless the endpoint is enabled.
pub async fn enqueue_test(
    transaction: &Transaction<'_>,
    endpoint_id: Uuid,
    notice: NoticeId,
    now: OffsetDateTime,
    traceparent: &str,
) -> Result<Option<NoticeRow>, StoreError> {
    let statement = transaction.prepare_cached(ENQUEUE_TEST).await?;
    let (kind, body) = (CallbackKind::Test.as_str(), test_body(endpoint_id, now));
    let params: [&(dyn ToSql + Sync); 6] = [&endpoint_id, &notice.uuid(), &kind, &body, &now, &traceparent];
    Ok(transaction.query_opt(&statement, &params).await?.as_ref().map(notice_row))
}

fn notice_row(row: &Row) -> NoticeRow {
    NoticeRow {
        id: row.get("id"),
        event_id: row.get("event_id"),
        kind: row.get("kind"),
        channel: row.get("channel"),
        recipient: row.get("recipient"),
        endpoint_id: row.get("endpoint_id"),
        donation_id: row.get("donation_id"),
        payment_id: row.get("payment_id"),
        duplicate_of: row.get("duplicate_of"),
        status: row.get("status"),
        attempts: row.get("attempts"),
        next_attempt_at: row.get("next_attempt_at"),
        provider_id: row.get("provider_id"),
        provider_status: row.get("provider_status"),
        provider_at: row.get("provider_at"),
        last_error: row.get("last_error"),
        created_at: row.get("created_at"),
        sent_at: row.get("sent_at"),
    }
}

fn attempt_row(row: &Row) -> AttemptRow {
    AttemptRow {
        attempt: row.get("attempt"),
        at: row.get("at"),
        settled_at: row.get("settled_at"),
        outcome: row.get("outcome"),
        code: row.get("code"),
        detail: row.get("detail"),
        duration_ms: row.get("duration_ms"),
        provider_id: row.get("provider_id"),
    }
}
