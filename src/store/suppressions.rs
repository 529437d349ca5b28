//! Addresses that nothing is sent to any more, and why.
//!
//! Whether a message is silenced is decided where it is claimed (`claim_messages.sql`): an address may become suppressed
//! while a message waits. Deliberately absent: donors. An address stands here by itself, also after its donor is erased.

use serde::Serialize;
use time::OffsetDateTime;

use super::pool::{execute, query};
use super::{Store, StoreError};
use crate::domain::notice::Channel;

const SUPPRESS: &str = include_str!("../../sql/queries/suppressions/suppress.sql");
const LIST: &str = include_str!("../../sql/queries/suppressions/list_suppressions.sql");
const LIFT: &str = include_str!("../../sql/queries/suppressions/lift_suppression.sql");

/// Why nothing is sent to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SuppressionReason {
    /// It takes nothing, for good.
    Bounce,
    /// Its owner called a message spam.
    Complaint,
    /// Its owner wants none: no courtesies by mail, no text messages at all.
    Unsubscribe,
}

impl SuppressionReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Bounce, Self::Complaint, Self::Unsubscribe];

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bounce => "BOUNCE",
            Self::Complaint => "COMPLAINT",
            Self::Unsubscribe => "UNSUBSCRIBE",
        }
    }

    /// The reason of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// A suppressed address in a list.
#[derive(Clone, Serialize)]
pub struct SuppressionRow {
    /// `EMAIL` or `SMS`.
    pub channel: String,
    /// In lower case.
    pub address: String,
    /// `BOUNCE`, `COMPLAINT` or `UNSUBSCRIBE`.
    pub reason: String,
    source: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

impl Store {
    /// Nothing is sent to that address any more, or no courtesies.
    pub async fn suppress(
        &self,
        channel: Channel,
        address: &str,
        reason: SuppressionReason,
        source: &str,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, SUPPRESS, &[&channel.as_str(), &address, &reason.as_str(), &source, &now]).await.map(drop)
    }

    /// At most `limit` suppressed addresses, after the one of that channel, address and reason.
    pub async fn list_suppressions(
        &self,
        cursor: Option<(&str, &str, &str)>,
        limit: i64,
    ) -> Result<Vec<SuppressionRow>, StoreError> {
        let client = self.pools.reader().await?;
        let (channel, address, reason) = cursor
            .map_or((None, None, None), |(channel, address, reason)| (Some(channel), Some(address), Some(reason)));
        let rows = query(&client, LIST, &[&channel, &address, &reason, &limit]).await?;
        let row = |row: &tokio_postgres::Row| SuppressionRow {
            channel: row.get("channel"),
            address: row.get("address"),
            reason: row.get("reason"),
            source: row.get("source"),
            at: row.get("at"),
        };
        Ok(rows.iter().map(row).collect())
    }

    /// Messages go to that address again; returns whether it was suppressed.
    pub async fn lift_suppression(
        &self,
        channel: Channel,
        address: &str,
        reason: Option<SuppressionReason>,
    ) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        let reason = reason.map(SuppressionReason::as_str);
        Ok(execute(&client, LIFT, &[&channel.as_str(), &address, &reason]).await? > 0)
    }
}
