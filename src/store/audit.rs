//! The audit log: every fact, written down once.

use time::OffsetDateTime;
use uuid::Uuid;

use super::pool::execute;
use super::{Store, StoreError};
use crate::domain::fact::Fact;

const RECORD: &str = include_str!("../../sql/queries/audit/record_facts.sql");

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
}
