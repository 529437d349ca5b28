//! The levels below memory: Redis, and the database's view or ledger.

use super::TotalsError;
use crate::clock::Clock;
use crate::domain::ids::CampaignId;
use crate::domain::totals::{Source, Totals};
use crate::metrics::METRICS;
use crate::store::Store;
use crate::store::cache::Cache;

/// Lines that neither view nor checkpoint had seen, after which the sums are written down anew: a millisecond's worth.
const CHECKPOINT_LINES: i64 = 1000;

/// What a read found.
pub(super) struct Found {
    pub(super) totals: Totals,
    pub(super) source: Source,
    /// Whether Redis holds nothing older now.
    pub(super) is_in_redis: bool,
    /// Whether the next read would be cheaper with a checkpoint.
    pub(super) wants_checkpoint: bool,
}

#[derive(Clone)]
pub(super) struct Levels {
    pub(super) store: Store,
    pub(super) cache: Cache,
    pub(super) clock: Clock,
}

impl Levels {
    /// The first level that is at least `min_version`; `exact` skips Redis.
    pub(super) async fn read(&self, id: CampaignId, min_version: i64, exact: bool) -> Result<Found, TotalsError> {
        if !exact && let Some(totals) = self.cache.load_totals(id).await.filter(|it| it.version >= min_version) {
            return Ok(Found { totals, source: Source::Redis, is_in_redis: true, wants_checkpoint: false });
        }
        let read = self.store.read_totals(id, self.clock.now()).await?.ok_or(TotalsError::NotFound)?;
        let is_in_redis = self.cache.store_totals(&read.totals).await;
        let wants_checkpoint = read.unseen_lines > CHECKPOINT_LINES;
        Ok(Found { totals: read.totals, source: read.source, is_in_redis, wants_checkpoint })
    }

    /// Without a checkpoint the next read is as exact, and slower.
    pub(super) async fn write_checkpoint(&self, id: CampaignId) {
        let outcome = match self.store.write_checkpoint(id, self.clock.now()).await {
            Ok(()) => "written",
            Err(error) => {
                tracing::warn!(%error, "a checkpoint of the ledger cannot be written; answers stay exact");
                "failed"
            }
        };
        METRICS.totals_checkpoints.with_label_values(&[outcome]).inc();
    }

    /// Refreshes the view, unless another process is at it.
    pub(super) async fn refresh_view(&self) {
        let outcome = match self.store.refresh_totals_view().await {
            Ok(true) => "refreshed",
            Ok(false) => "elsewhere",
            Err(error) => {
                tracing::warn!(%error, "the view of totals cannot be refreshed; answers stay exact");
                "failed"
            }
        };
        METRICS.totals_refreshes.with_label_values(&[outcome]).inc();
    }
}
