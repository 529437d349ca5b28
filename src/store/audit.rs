//! The audit log: every fact, written down once.

use time::OffsetDateTime;
use uuid::Uuid;

use super::pool::execute;
use super::{Store, StoreError};
use crate::domain::fact::Fact;

const RECORD_DISCARDED: &str = include_str!("../../sql/queries/audit/record_discarded.sql");
const RECORD: &str = include_str!("../../sql/queries/audit/record_facts.sql");

/// A dead letter that is about to be dropped from a queue.
#[derive(Clone, Copy, Debug)]
pub struct DiscardedLetter<'a> {
    /// Who drops it.
    pub operator: &'a str,
    /// From where.
    pub queue: &'a str,
    /// The event's identifier, where it has one.
    pub message_id: Option<Uuid>,
    /// What was published.
    pub body: &'a [u8],
}

impl Store {
    /// Writes facts down; a second delivery adds nothing. Returns how many were new.
    pub async fn record_facts(&self, facts: &[Fact], now: OffsetDateTime) -> Result<u64, StoreError> {
        let ids: Vec<Uuid> = facts.iter().map(|fact| fact.id.uuid()).collect();
        let kinds: Vec<&str> = facts.iter().map(|fact| fact.kind.event_type()).collect();
        let aggregates: Vec<Uuid> = facts.iter().map(|fact| fact.subject.uuid()).collect();
        let times: Vec<OffsetDateTime> = facts.iter().map(|fact| fact.time).collect();
        let bodies = facts.iter().map(super::donations::fact_body).collect::<Result<Vec<String>, _>>()?;
        let client = self.pools.reader().await?;
        execute(&client, RECORD, &[&ids, &kinds, &aggregates, &times, &bodies, &now]).await
    }

    /// Keeps a dead letter that is about to be dropped, whatever it says. Under the payment that it is about, if it tells.
    pub async fn record_discarded(&self, it: DiscardedLetter<'_>, now: OffsetDateTime) -> Result<(), StoreError> {
        let about = serde_json::from_slice::<serde_json::Value>(it.body).ok();
        let about = about.and_then(|body| body.get("subject")?.as_str()?.parse::<Uuid>().ok()).unwrap_or(Uuid::nil());
        // Postgres keeps no NUL, and JSON no bytes that are no text.
        let body = String::from_utf8_lossy(it.body).replace('\0', "\u{FFFD}");
        let client = self.pools.reader().await?;
        execute(&client, RECORD_DISCARDED, &[&about, &now, &it.operator, &it.queue, &it.message_id, &body])
            .await
            .map(drop)
    }
}
