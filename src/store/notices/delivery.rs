//! Delivery: claim what is due, settle how attempts ended, free what dead processes held.
//!
//! A claim names the process by its number, whose advisory lock lives as long as the process (`presence`); the attempt is
//! written down in the same statement, before anything is sent. So a crash frees its claims at once, a slow process keeps
//! them, and an attempt of which nobody knows the end is on record. Deliberately absent: leases by time.

use std::collections::HashMap;

use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::TABLE;
use crate::domain::ids::NoticeId;
use crate::domain::money::Currency;
use crate::domain::notice::{CallbackKind, Channel, NoticeContext, NoticeKind};
use crate::store::pool::{execute, query, query_opt};
use crate::store::{Store, StoreError};

const CLAIM_MESSAGES: &str = include_str!("../../../sql/queries/notices/claim_messages.sql");
const FIND_DUE_ENDPOINTS: &str = include_str!("../../../sql/queries/notices/find_due_endpoints.sql");
const CLAIM_CALLBACKS: &str = include_str!("../../../sql/queries/notices/claim_callbacks.sql");
const SETTLE: &str = include_str!("../../../sql/queries/notices/settle_attempts.sql");
const FREE_NUMBERS: &str = include_str!("../../../sql/queries/notices/find_free_numbers.sql");
const RELEASE: &str = include_str!("../../../sql/queries/notices/release_claims.sql");
const RELEASE_STRAYS: &str = include_str!("../../../sql/queries/notices/release_strays.sql");
const BURY: &str = include_str!("../../../sql/queries/notices/bury_undeliverable.sql");

/// How often a message is tried, all attempts of unknown end included, before it is dead: above every schedule, so that
/// only a message that ends processes gets there.
const TRIES_MAX: i32 = 32;

/// A message that this process alone may send now.
pub struct Claim {
    /// Its identifier.
    pub id: NoticeId,
    /// Which attempt this is; the first is 1.
    pub attempt: i32,
    /// Which try of the schedule this is; the first is 1. A replay begins again.
    pub tries: i32,
    /// What to send, unless the row is corrupt.
    pub content: Result<Content, StoreError>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// When it was recorded.
    pub created_at: OffsetDateTime,
}

/// What to send.
pub enum Content {
    /// To a person.
    Letter(Letter),
    /// To a partner's program.
    Callback(Callback),
}

/// A mail or a text message.
pub struct Letter {
    /// What it is about.
    pub kind: NoticeKind,
    /// A mail address, or a phone number in E.164.
    pub recipient: String,
    /// What its words are made from.
    pub context: NoticeContext,
}

/// A webhook.
pub struct Callback {
    /// What it is about.
    pub kind: CallbackKind,
    /// Whose it is.
    pub endpoint_id: Uuid,
    /// Where it goes.
    pub url: String,
    /// The same at every try, and when it is sent once more by order.
    pub message_id: Uuid,
    /// The same bytes at every try.
    pub body: String,
    /// Each of them signs; the newest comes first.
    pub secrets: Vec<String>,
}

/// How much of an endpoint's queue may be claimed.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// So many at most.
    pub room: i64,
}

/// How one attempt ended.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The message.
    pub id: NoticeId,
    /// Which attempt.
    pub attempt: i32,
    /// When it ended.
    pub at: OffsetDateTime,
    /// `ACCEPTED`, `TRANSIENT` or `PERMANENT`.
    pub outcome: &'static str,
    /// The provider's code.
    pub code: Option<String>,
    /// The provider's words, without donor data.
    pub detail: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: i32,
    /// The provider's identifier of the message.
    pub provider_id: Option<String>,
    /// The message's state from now on: `SENT`, `PENDING` or `DEAD`.
    pub status: &'static str,
    /// When to try again.
    pub next_attempt_at: Option<OffsetDateTime>,
}

impl Settled {
    /// What is left where the database refuses the rest: that it ended, and how.
    pub fn bare(&self) -> Self {
        let detail = Some("what was said of this attempt cannot be stored".to_owned());
        Self { code: None, detail, provider_id: None, ..self.clone() }
    }
}

impl Store {
    /// Due mails or text messages, at most `limit`, claimed for the process `number`; and how many more were found whose
    /// address is suppressed, and ended.
    pub async fn claim_messages(
        &self,
        channel: Channel,
        number: i32,
        now: OffsetDateTime,
        limit: i64,
    ) -> Result<(Vec<Claim>, u64), StoreError> {
        let courtesies: Vec<&str> =
            NoticeKind::ALL.into_iter().filter(|kind| kind.is_courtesy()).map(NoticeKind::as_str).collect();
        let client = self.pools.reader().await?;
        let params: [&(dyn ToSql + Sync); 6] =
            [&channel.as_str(), &number, &now, &limit, &courtesies, &super::feedback::spared()];
        let rows = query(&client, CLAIM_MESSAGES, &params).await?;
        let (silenced, claimed): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.get("suppressed"));
        Ok((
            claimed.into_iter().map(|row| claim(row, letter(row).map(Content::Letter))).collect(),
            silenced.len() as u64,
        ))
    }

    /// Enabled endpoints with something due.
    pub async fn find_due_endpoints(&self, now: OffsetDateTime) -> Result<Vec<Uuid>, StoreError> {
        let client = self.pools.reader().await?;
        Ok(query(&client, FIND_DUE_ENDPOINTS, &[&now]).await?.iter().map(|row| row.get("id")).collect())
    }

    /// Due webhooks, of each endpoint as many as there is room, claimed for the process `number`.
    pub async fn claim_callbacks(
        &self,
        rooms: &[Room],
        number: i32,
        now: OffsetDateTime,
    ) -> Result<Vec<Claim>, StoreError> {
        let endpoints: Vec<Uuid> = rooms.iter().map(|it| it.endpoint_id).collect();
        let room: Vec<i64> = rooms.iter().map(|it| it.room).collect();
        let client = self.pools.reader().await?;
        let rows = query(&client, CLAIM_CALLBACKS, &[&endpoints, &room, &number, &now]).await?;
        Ok(rows.iter().map(|row| claim(row, callback(row).map(Content::Callback))).collect())
    }

    /// Writes down how attempts ended, all of them or none; writing it twice changes nothing.
    pub async fn settle_attempts(&self, settled: &[Settled]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = settled.iter().map(|it| it.id.uuid()).collect();
        let attempts: Vec<i32> = settled.iter().map(|it| it.attempt).collect();
        let at: Vec<OffsetDateTime> = settled.iter().map(|it| it.at).collect();
        let outcomes: Vec<&str> = settled.iter().map(|it| it.outcome).collect();
        let codes: Vec<Option<&str>> = settled.iter().map(|it| it.code.as_deref()).collect();
        let details: Vec<Option<&str>> = settled.iter().map(|it| it.detail.as_deref()).collect();
        let durations: Vec<i32> = settled.iter().map(|it| it.duration_ms).collect();
        let provider_ids: Vec<Option<&str>> = settled.iter().map(|it| it.provider_id.as_deref()).collect();
        let statuses: Vec<&str> = settled.iter().map(|it| it.status).collect();
        let next: Vec<Option<OffsetDateTime>> = settled.iter().map(|it| it.next_attempt_at).collect();
        let params: [&(dyn ToSql + Sync); 10] =
            [&ids, &attempts, &at, &outcomes, &codes, &details, &durations, &provider_ids, &statuses, &next];
        let client = self.pools.reader().await?;
        execute(&client, SETTLE, &params).await.map(drop)
    }

    /// Numbers other than `number` that hold claims of the channel, and whose process is not to be seen at the moment.
    pub async fn find_free_numbers(&self, channel: Channel, number: i32) -> Result<Vec<i32>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, FREE_NUMBERS, &[&channel.as_str(), &number]).await?;
        Ok(rows.iter().map(|row| row.get("number")).collect())
    }

    /// Frees what these processes were sending when they ended; returns of how many messages nobody knows whether they
    /// arrived.
    pub async fn release_claims(
        &self,
        channel: Channel,
        numbers: &[i32],
        now: OffsetDateTime,
    ) -> Result<i64, StoreError> {
        let client = self.pools.reader().await?;
        let row = query_opt(&client, RELEASE, &[&channel.as_str(), &numbers, &now, &TRIES_MAX]).await?;
        Ok(row.map_or(0, |row| row.get(0)))
    }

    /// Frees what the process `number` claimed without hearing of it: all that it holds and is not `sending`. Returns how
    /// many.
    pub async fn release_strays(
        &self,
        channel: Channel,
        number: i32,
        sending: &[Uuid],
        now: OffsetDateTime,
    ) -> Result<i64, StoreError> {
        let client = self.pools.reader().await?;
        let row = query_opt(&client, RELEASE_STRAYS, &[&channel.as_str(), &number, &sending, &now]).await?;
        Ok(row.map_or(0, |row| row.get(0)))
    }

    /// Ends webhooks whose endpoint is disabled (dead) or deleted (discarded, dead ones too); returns how many.
    pub async fn bury_undeliverable(&self) -> Result<u64, StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, BURY, &[]).await
    }
}

/// Endpoints' rooms out of a count for each.
impl From<(Uuid, usize)> for Room {
    fn from((endpoint_id, room): (Uuid, usize)) -> Self {
        Self { endpoint_id, room: i64::try_from(room).unwrap_or(i64::MAX) }
    }
}

impl Room {
    /// The rooms that these permits, one entry each, add up to.
    pub fn of(endpoints: impl IntoIterator<Item = Uuid>) -> Vec<Self> {
        let mut counts: HashMap<Uuid, usize> = HashMap::new();
        for endpoint in endpoints {
            *counts.entry(endpoint).or_default() += 1;
        }
        counts.into_iter().map(Self::from).collect()
    }
}

fn claim(row: &Row, content: Result<Content, StoreError>) -> Claim {
    Claim {
        id: row.get::<_, Uuid>("id").into(),
        attempt: row.get("attempts"),
        tries: row.get("tries"),
        content,
        traceparent: row.get("traceparent"),
        created_at: row.get("created_at"),
    }
}

/// A column that must not be null here.
fn present<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: &'static str) -> Result<T, StoreError> {
    row.get::<_, Option<T>>(column).ok_or_else(|| StoreError::corrupt(TABLE, column, "nothing is there"))
}

fn letter(row: &Row) -> Result<Letter, StoreError> {
    let kind: &str = present(row, "kind")?;
    let code: &str = present(row, "currency")?;
    let currency = Currency::parse(code).ok_or_else(|| StoreError::corrupt(TABLE, "currency", code))?;
    Ok(Letter {
        kind: NoticeKind::parse(kind).ok_or_else(|| StoreError::corrupt(TABLE, "kind", kind))?,
        recipient: present(row, "recipient")?,
        context: NoticeContext {
            donor_name: present(row, "donor_name")?,
            campaign_title: present(row, "campaign_title")?,
            amount: currency.format(present(row, "amount_minor")?),
            receipt_number: row.get("receipt_number"),
            donation_id: present::<Uuid>(row, "donation_id")?.to_string(),
            intent_id: row.get("intent_id"),
            happened_at: present(row, "happened_at")?,
            is_duplicate: row.get::<_, Option<Uuid>>("duplicate_of").is_some(),
        },
    })
}

fn callback(row: &Row) -> Result<Callback, StoreError> {
    let kind: &str = present(row, "kind")?;
    let previous: Option<String> = row.get("previous_secret");
    Ok(Callback {
        kind: CallbackKind::parse(kind).ok_or_else(|| StoreError::corrupt(TABLE, "kind", kind))?,
        endpoint_id: present(row, "endpoint_id")?,
        url: present(row, "url")?,
        message_id: present(row, "message_id")?,
        body: present(row, "payload")?,
        secrets: std::iter::once(present(row, "secret")?).chain(previous).collect(),
    })
}
