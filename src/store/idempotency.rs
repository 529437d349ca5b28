//! Idempotency keys and their answers (draft-ietf-httpapi-idempotency-key-header), and the verdicts on events that touch
//! no payment of ours. Postgres decides; whatever else remembers answers only remembers what was committed here.

use deadpool_postgres::{Object, Transaction};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::pool::{execute, query_opt};
use super::{Answer, ClaimedKey, Store, StoreError};

const LOAD: &str = include_str!("../../sql/queries/idempotency/load_answer.sql");
const STORE: &str = include_str!("../../sql/queries/idempotency/store_answers.sql");
const RECORD: &str = include_str!("../../sql/queries/idempotency/record_answers.sql");
const TAKE_OVER: &str = include_str!("../../sql/queries/idempotency/take_over.sql");
const CLAIM: &str = include_str!("../../sql/queries/idempotency/claim_key.sql");
const HOLD: &str = include_str!("../../sql/queries/idempotency/hold_key.sql");
const RELEASE: &str = include_str!("../../sql/queries/idempotency/release_key.sql");
const PURGE: &str = include_str!("../../sql/queries/idempotency/purge_expired.sql");

/// What is known of a key.
#[derive(Clone, Debug)]
pub struct KnownKey {
    /// SHA-256 of what it was first used for.
    pub fingerprint: Vec<u8>,
    /// What was made under it.
    pub resource_id: Option<Uuid>,
    /// The stored answer: HTTP status and body. `None` while its first request is in flight.
    pub answer: Option<(u16, String)>,
    /// What was ordered under it, where an order was claimed and is not answered yet.
    pub ordered: Option<String>,
    /// Until when the first request holds it.
    pub locked_until: Option<OffsetDateTime>,
}

/// What became of something that is done once for its key.
#[derive(Debug)]
pub enum Once<R> {
    /// It is done; this is the answer.
    Done(String),
    /// It was not done, for this reason. The key is free.
    Refused(R),
    /// The key was used before.
    Known(KnownKey),
}

/// How long an answer is kept for the repetition of its request.
pub const ANSWER_LIFETIME: time::Duration = time::Duration::hours(24);

/// Completes keys that were claimed together with a creation.
pub async fn store_answers(client: &Object, answers: &[Answer]) -> Result<(), StoreError> {
    let scopes: Vec<&str> = answers.iter().map(|it| it.key.scope.as_str()).collect();
    let keys: Vec<&str> = answers.iter().map(|it| it.key.key.as_str()).collect();
    let statuses: Vec<i16> = answers.iter().map(|it| it.status).collect();
    let bodies: Vec<&str> = answers.iter().map(|it| it.body.as_str()).collect();
    execute(client, STORE, &[&scopes, &keys, &statuses, &bodies]).await.map(drop)
}

/// Keeps the answers to events that touch no payment of ours.
pub async fn record_answers(client: &Object, answers: &[Answer], now: OffsetDateTime) -> Result<(), StoreError> {
    let scopes: Vec<&str> = answers.iter().map(|it| it.key.scope.as_str()).collect();
    let keys: Vec<&str> = answers.iter().map(|it| it.key.key.as_str()).collect();
    let fingerprints: Vec<&[u8]> = answers.iter().map(|it| &it.key.fingerprint[..]).collect();
    let statuses: Vec<i16> = answers.iter().map(|it| it.status).collect();
    let bodies: Vec<&str> = answers.iter().map(|it| it.body.as_str()).collect();
    let created: Vec<OffsetDateTime> = answers.iter().map(|_| now).collect();
    let expires: Vec<OffsetDateTime> = answers.iter().map(|it| it.expires_at).collect();
    let params: [&(dyn ToSql + Sync); 7] = [&scopes, &keys, &fingerprints, &statuses, &bodies, &created, &expires];
    execute(client, RECORD, &params).await.map(drop)
}

impl Store {
    /// What is known of a key.
    pub async fn load_answer(&self, scope: &str, key: &str) -> Result<Option<KnownKey>, StoreError> {
        let client = self.pools.reader().await?;
        query_opt(&client, LOAD, &[&scope, &key]).await?.as_ref().map(known_key).transpose()
    }

    /// Carries out `effect`, and keeps the answer that it makes with the key, in one transaction: all of it or nothing. A
    /// request with the same key that comes meanwhile waits for it. Nothing may be waited for in `effect` but the database.
    pub async fn once<R>(
        &self,
        key: Option<&ClaimedKey>,
        status: i16,
        now: OffsetDateTime,
        effect: impl AsyncFnOnce(&Transaction<'_>) -> Result<Result<String, R>, StoreError>,
    ) -> Result<Once<R>, StoreError> {
        let mut client = self.pools.reader().await?;
        let transaction = client.transaction().await?;
        if let Some(key) = key
            && !claim(&transaction, key, now).await?
        {
            let load = transaction.prepare_cached(LOAD).await?;
            let row = transaction.query_opt(&load, &[&key.scope, &key.key]).await?;
            // Expired and forgotten between two statements: the next try has it.
            let row = row.ok_or_else(|| StoreError::Busy("the key is being forgotten".to_owned()))?;
            return known_key(&row).map(Once::Known);
        }
        let answer = match effect(&transaction).await? {
            Ok(answer) => answer,
            // Not committed: what was claimed is free again.
            Err(refusal) => return Ok(Once::Refused(refusal)),
        };
        if let Some(key) = key {
            let store = transaction.prepare_cached(STORE).await?;
            let (scopes, keys) = ([key.scope.as_str()], [key.key.as_str()]);
            let (statuses, bodies) = ([status], [answer.as_str()]);
            let params: [&(dyn ToSql + Sync); 4] = [&&scopes[..], &&keys[..], &&statuses[..], &&bodies[..]];
            transaction.execute(&store, &params).await?;
        }
        transaction.commit().await?;
        Ok(Once::Done(answer))
    }

    /// Claims a key for an order before it is carried out; what is claimed already stays as it is.
    pub async fn claim_key(
        &self,
        key: &ClaimedKey,
        resource: Uuid,
        ordered: &str,
        now: OffsetDateTime,
        expires_at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let client = self.pools.reader().await?;
        let fingerprint = &key.fingerprint[..];
        let params: [&(dyn ToSql + Sync); 7] =
            [&key.scope, &key.key, &fingerprint, &resource, &ordered, &now, &expires_at];
        execute(&client, CLAIM, &params).await.map(drop)
    }

    /// Holds a key until a time unless somebody else does; whether it is ours now. What was held longer is free. Its fingerprint
    /// says who holds it.
    pub async fn hold_key(
        &self,
        key: &ClaimedKey,
        resource: Uuid,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        let fingerprint = &key.fingerprint[..];
        let params: [&(dyn ToSql + Sync); 6] = [&key.scope, &key.key, &fingerprint, &resource, &now, &until];
        Ok(execute(&client, HOLD, &params).await? == 1)
    }

    /// Frees a key under which nothing happened, if it is still held with this fingerprint.
    pub async fn release_key(&self, key: &ClaimedKey) -> Result<(), StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, RELEASE, &[&key.scope, &key.key, &&key.fingerprint[..]]).await.map(drop)
    }

    /// Takes over a key whose first request never answered; `true` for the one caller that may go on.
    pub async fn take_over_key(&self, key: &ClaimedKey, now: OffsetDateTime) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        Ok(execute(&client, TAKE_OVER, &[&key.scope, &key.key, &now]).await? == 1)
    }

    /// Forgets at most `limit` keys that have expired; returns how many.
    pub async fn purge_expired_keys(&self, now: OffsetDateTime, limit: i64) -> Result<u64, StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, PURGE, &[&now, &limit]).await
    }
}

/// Whether the key is ours to use: nobody has it, also nobody who is at work at the same time.
async fn claim(transaction: &Transaction<'_>, key: &ClaimedKey, now: OffsetDateTime) -> Result<bool, StoreError> {
    let statement = transaction.prepare_cached(CLAIM).await?;
    let (nothing, unsaid): (Option<Uuid>, Option<&str>) = (None, None);
    let (fingerprint, expires_at) = (&key.fingerprint[..], now + ANSWER_LIFETIME);
    let params: [&(dyn ToSql + Sync); 7] = [&key.scope, &key.key, &fingerprint, &nothing, &unsaid, &now, &expires_at];
    Ok(transaction.execute(&statement, &params).await? > 0)
}

fn known_key(row: &Row) -> Result<KnownKey, StoreError> {
    let status: Option<i16> = row.get("status");
    let body: Option<String> = row.get("body");
    let ordered = if status.is_none() { body.clone() } else { None };
    let answer = match (status, body) {
        (Some(status), Some(body)) => {
            let status = u16::try_from(status)
                .map_err(|error| StoreError::corrupt("payments.idempotency_keys", "status", error))?;
            Some((status, body))
        }
        _ => None,
    };
    Ok(KnownKey {
        fingerprint: row.get("fingerprint"),
        resource_id: row.get("resource_id"),
        answer,
        ordered,
        locked_until: row.get("locked_until"),
    })
}
