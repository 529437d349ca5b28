//! Webhook endpoints: partners that are told of facts, their secrets, and how they fare.
//!
//! A secret leaves this table only to sign; it is shown once, by whoever made it. Deliberately absent: what a URL may be
//! (the gateway that would call it says so), and the making of secrets.

use deadpool_postgres::Transaction;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::pool::{execute, query, query_opt};
use super::{Store, StoreError};
use crate::domain::notice::Subscription;
use crate::domain::retry::{WEBHOOK, longest_wait_s};

const LIST: &str = include_str!("../../sql/queries/endpoints/list_endpoints.sql");
const LOAD: &str = include_str!("../../sql/queries/endpoints/load_endpoint.sql");
const SUBSCRIPTIONS: &str = include_str!("../../sql/queries/endpoints/list_subscriptions.sql");
const LOCK: &str = include_str!("../../sql/queries/endpoints/lock_endpoints.sql");
const CREATE: &str = include_str!("../../sql/queries/endpoints/create_endpoint.sql");
const UPDATE: &str = include_str!("../../sql/queries/endpoints/update_endpoint.sql");
const ROTATE: &str = include_str!("../../sql/queries/endpoints/rotate_secret.sql");
const DELETE: &str = include_str!("../../sql/queries/endpoints/delete_endpoint.sql");
const HEALTH: &str = include_str!("../../sql/queries/endpoints/record_health.sql");

/// Endpoints of one installation at most: each fact is written down once for each of them.
pub const ENDPOINTS_MAX: i64 = 50;
/// An endpoint that failed for so long, without a single success, is disabled.
pub const FAILING_MAX: time::Duration = time::Duration::days(5);

/// Failures further apart than this have nothing to do with each other: no retry waits so long, an hour for its turn
/// included.
#[expect(clippy::cast_possible_wrap, reason = "some hours")]
pub const FAILING_GAP: time::Duration = time::Duration::seconds((longest_wait_s(WEBHOOK) + 3600) as i64);

/// A new endpoint.
#[derive(Clone)]
pub struct NewEndpoint {
    /// Its identifier.
    pub id: Uuid,
    /// Where webhooks go; checked.
    pub url: String,
    /// For people.
    pub description: Option<String>,
    /// CloudEvents types; empty stands for all.
    pub event_types: Vec<String>,
    /// `whsec_…`
    pub secret: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// What an operator changes of an endpoint; what is not named stays as it is.
#[derive(Clone, Default)]
pub struct EndpointChange {
    /// Where webhooks go; checked.
    pub url: Option<String>,
    /// For people; an empty one takes it away.
    pub description: Option<String>,
    /// CloudEvents types; empty stands for all.
    pub event_types: Option<Vec<String>>,
    /// Whether it is to be told of facts.
    pub status: Option<EndpointStatus>,
}

/// Whether an endpoint is told of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointStatus {
    /// It is.
    Enabled,
    /// It is not, and what waited for it is dead.
    Disabled,
}

impl EndpointStatus {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Enabled, Self::Disabled].into_iter().find(|status| status.as_str() == name)
    }
}

/// An endpoint as operators see it: without its secret.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointRow {
    /// Its identifier.
    pub id: Uuid,
    /// Where webhooks go.
    pub url: String,
    /// For people.
    pub description: Option<String>,
    /// CloudEvents types; empty stands for all.
    pub event_types: Vec<String>,
    /// `ENABLED` or `DISABLED`.
    pub status: String,
    /// `GONE` (it answered 410), `FAILING` (for five days) or `OPERATOR`.
    pub disabled_reason: Option<String>,
    /// Since when nothing succeeded.
    #[serde(with = "time::serde::rfc3339::option")]
    pub failing_since: Option<OffsetDateTime>,
    /// Until when the secret before this one signs too.
    #[serde(with = "time::serde::rfc3339::option")]
    pub previous_until: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// How an endpoint fared.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// The endpoint.
    pub endpoint_id: Uuid,
    /// Whether one of its attempts succeeded.
    pub succeeded: bool,
    /// Whether it said that it is gone for good.
    pub gone: bool,
}

impl Store {
    /// Every endpoint; there are at most [`ENDPOINTS_MAX`].
    pub async fn list_endpoints(&self) -> Result<Vec<EndpointRow>, StoreError> {
        let client = self.pools.reader().await?;
        Ok(query(&client, LIST, &[]).await?.iter().map(endpoint_row).collect())
    }

    /// One endpoint.
    pub async fn load_endpoint(&self, id: Uuid) -> Result<Option<EndpointRow>, StoreError> {
        let client = self.pools.reader().await?;
        Ok(query_opt(&client, LOAD, &[&id]).await?.as_ref().map(endpoint_row))
    }

    /// Who is told of facts.
    pub async fn list_subscriptions(&self) -> Result<Vec<Subscription>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, SUBSCRIPTIONS, &[]).await?;
        let subscription = |row: &Row| Subscription { endpoint_id: row.get("id"), event_types: row.get("event_types") };
        Ok(rows.iter().map(subscription).collect())
    }

    /// Makes an endpoint known; `false` when there are [`ENDPOINTS_MAX`] already.
    pub async fn create_endpoint(&self, it: &NewEndpoint) -> Result<bool, StoreError> {
        let mut client = self.pools.reader().await?;
        let transaction = client.transaction().await?;
        let made = create_endpoint(&transaction, it).await?;
        transaction.commit().await?;
        Ok(made.is_some())
    }

    /// Changes an endpoint; nothing when there is none. Webhooks that wait for one that is disabled become dead.
    pub async fn update_endpoint(
        &self,
        id: Uuid,
        it: &EndpointChange,
        now: OffsetDateTime,
    ) -> Result<Option<EndpointRow>, StoreError> {
        let client = self.pools.reader().await?;
        let status = it.status.map(EndpointStatus::as_str);
        let params: [&(dyn ToSql + Sync); 6] = [&id, &it.url, &it.description, &it.event_types, &status, &now];
        Ok(query_opt(&client, UPDATE, &params).await?.as_ref().map(endpoint_row))
    }

    /// Forgets an endpoint; `false` when there is none. Webhooks that wait for it, or are dead, are discarded soon.
    pub async fn delete_endpoint(&self, id: Uuid) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        Ok(execute(&client, DELETE, &[&id]).await? > 0)
    }

    /// Writes down how endpoints fared, each once; returns those that are disabled from now on, with the reason.
    pub async fn record_endpoint_health(
        &self,
        health: &[Health],
        now: OffsetDateTime,
    ) -> Result<Vec<(Uuid, String)>, StoreError> {
        let ids: Vec<Uuid> = health.iter().map(|it| it.endpoint_id).collect();
        let succeeded: Vec<bool> = health.iter().map(|it| it.succeeded).collect();
        let gone: Vec<bool> = health.iter().map(|it| it.gone).collect();
        let client = self.pools.reader().await?;
        let (max, gap) = (FAILING_MAX.whole_seconds(), FAILING_GAP.whole_seconds());
        let rows = query(&client, HEALTH, &[&ids, &succeeded, &gone, &now, &max, &gap]).await?;
        let disabled = |row: &Row| Some((row.get("id"), row.get::<_, Option<String>>("disabled_reason")?));
        Ok(rows.iter().filter_map(disabled).collect())
    }
}

/// Makes an endpoint known; nothing when there are [`ENDPOINTS_MAX`] already.
pub async fn create_endpoint(
    transaction: &Transaction<'_>,
    it: &NewEndpoint,
) -> Result<Option<EndpointRow>, StoreError> {
    let lock = transaction.prepare_cached(LOCK).await?;
    transaction.execute(&lock, &[]).await?;
    let create = transaction.prepare_cached(CREATE).await?;
    let params: [&(dyn ToSql + Sync); 7] =
        [&it.id, &it.url, &it.description, &it.event_types, &it.secret, &it.created_at, &ENDPOINTS_MAX];
    Ok(transaction.query_opt(&create, &params).await?.as_ref().map(endpoint_row))
}

/// Gives an endpoint a new secret; until `previous_until` the one before signs too, and the one before that no more.
/// Nothing when there is no such endpoint.
pub async fn rotate_secret(
    transaction: &Transaction<'_>,
    id: Uuid,
    secret: &str,
    previous_until: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<Option<EndpointRow>, StoreError> {
    let rotate = transaction.prepare_cached(ROTATE).await?;
    let row = transaction.query_opt(&rotate, &[&id, &secret, &previous_until, &now]).await?;
    Ok(row.as_ref().map(endpoint_row))
}

fn endpoint_row(row: &Row) -> EndpointRow {
    EndpointRow {
        id: row.get("id"),
        url: row.get("url"),
        description: row.get("description"),
        event_types: row.get("event_types"),
        status: row.get("status"),
        disabled_reason: row.get("disabled_reason"),
        failing_since: row.get("failing_since"),
        previous_until: row.get("previous_until"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}
