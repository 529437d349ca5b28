//! Operators' API keys, hashed at rest, and the secrets that replicas share.

use serde::Serialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::pool::{execute, query, query_opt};
use super::{Store, StoreError};
use crate::domain::ids::ApiKeyId;

const CREATE: &str = include_str!("../../sql/queries/api_keys/create_key.sql");
const FIND: &str = include_str!("../../sql/queries/api_keys/find_key.sql");
const LIST: &str = include_str!("../../sql/queries/api_keys/list_keys.sql");
const REVOKE: &str = include_str!("../../sql/queries/api_keys/revoke_key.sql");
const REVOKE_OTHERS: &str = include_str!("../../sql/queries/api_keys/revoke_others.sql");
const COUNT: &str = include_str!("../../sql/queries/api_keys/count_keys.sql");
const SHARE_SECRET: &str = include_str!("../../sql/queries/secrets/share_secret.sql");

/// How often a shared secret is asked for again when two processes make it at the same moment.
const SHARE_TRIES: usize = 3;

/// An operator's key, without the key.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKey {
    /// Its identifier.
    pub id: Uuid,
    /// Whose it is.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
}

/// A key in a list.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKeyRow {
    /// The key.
    #[serde(flatten)]
    pub key: ApiKey,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Since when it opens nothing.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// Keys have at least 128 random bits, so a plain hash is enough: there is nothing to guess.
fn hash(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

impl Store {
    /// Records a key by its hash; `false` where it is known already.
    pub async fn create_api_key(
        &self,
        name: &str,
        key: &str,
        scopes: &[&str],
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        let id = ApiKeyId::at(now).uuid();
        Ok(execute(&client, CREATE, &[&id, &name, &hash(key), &scopes, &now]).await? == 1)
    }

    /// The key, if it is known and not revoked.
    pub async fn find_api_key(&self, key: &str) -> Result<Option<ApiKey>, StoreError> {
        let client = self.pools.reader().await?;
        let row = query_opt(&client, FIND, &[&hash(key)]).await?;
        Ok(row.map(|row| ApiKey { id: row.get("id"), name: row.get("name"), scopes: row.get("scopes") }))
    }

    /// Every key, oldest first.
    pub async fn list_api_keys(&self) -> Result<Vec<ApiKeyRow>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, LIST, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| ApiKeyRow {
                key: ApiKey { id: row.get("id"), name: row.get("name"), scopes: row.get("scopes") },
                created_at: row.get("created_at"),
                revoked_at: row.get("revoked_at"),
            })
            .collect())
    }

    /// Makes a key open nothing from now on; `false` where it is unknown or revoked already.
    pub async fn revoke_api_key(&self, id: Uuid, now: OffsetDateTime) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        Ok(execute(&client, REVOKE, &[&id, &now]).await? == 1)
    }

    /// Makes every key of that name but this one open nothing; returns how many did.
    pub async fn revoke_other_api_keys(&self, name: &str, key: &str, now: OffsetDateTime) -> Result<u64, StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, REVOKE_OTHERS, &[&name, &hash(key), &now]).await
    }

    /// How many keys open something.
    pub async fn count_api_keys(&self) -> Result<i64, StoreError> {
        let client = self.pools.reader().await?;
        Ok(query_opt(&client, COUNT, &[]).await?.map_or(0, |row| row.get(0)))
    }

    /// The secret `name` that all processes share: `fresh`, or what another process made before.
    pub async fn share_secret(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>, StoreError> {
        let client = self.pools.reader().await?;
        for _ in 0..SHARE_TRIES {
            if let Some(row) = query_opt(&client, SHARE_SECRET, &[&name, &fresh]).await? {
                return Ok(row.get(0));
            }
        }
        Err(StoreError::Busy("the shared secret is being made".to_owned()))
    }
}
