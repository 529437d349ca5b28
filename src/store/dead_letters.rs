//! What lies dead in the database, counted; and which of it an order is about.
//!
//! Deliberately absent: the dead letters of the broker's queues, which the broker's gateway counts.

use time::OffsetDateTime;

use super::pool::query_opt;
use super::{Store, StoreError};

const MEASURE: &str = include_str!("../../sql/queries/dead_letters/measure_dead_letters.sql");

/// Dead letters that one order replays or discards, at most.
pub const DEAD_LETTERS_AT_ONCE: i64 = 1000;

/// Which dead letters an order is about.
#[derive(Clone, Copy, Debug)]
pub enum Chosen<'a, T> {
    /// Those, where they are dead.
    These(&'a [T]),
    /// So many of the oldest, at most.
    Oldest(i64),
}

impl<'a, T> Chosen<'a, T> {
    /// The names, where there are any, and how many it may be at most.
    pub(super) fn columns(self) -> (Option<&'a [T]>, i64) {
        match self {
            Self::These(ids) => (Some(ids), DEAD_LETTERS_AT_ONCE),
            Self::Oldest(limit) => (None, limit.min(DEAD_LETTERS_AT_ONCE)),
        }
    }
}

/// What lies dead in the database.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeadMeasure {
    /// Messages.
    pub notices: i64,
    /// When the oldest of them was made.
    pub oldest_notice: Option<OffsetDateTime>,
    /// Events that are set aside in the outbox.
    pub events: i64,
    /// When the first of them was set aside.
    pub oldest_event: Option<OffsetDateTime>,
}

impl Store {
    /// What lies dead in the database.
    pub async fn measure_dead_letters(&self) -> Result<DeadMeasure, StoreError> {
        let client = self.pools.reader().await?;
        let row = query_opt(&client, MEASURE, &[]).await?;
        Ok(row
            .map(|row| DeadMeasure {
                notices: row.get("notices"),
                oldest_notice: row.get("oldest_notice"),
                events: row.get("events"),
                oldest_event: row.get("oldest_event"),
            })
            .unwrap_or_default())
    }
}
