//! Totals, levels 2 and 3: the materialized view, or the ledger from its last checkpoint, with what neither has seen.

use time::OffsetDateTime;
use tokio_postgres::Row;

use super::pool::{execute, query_opt};
use super::{Store, StoreError};
use crate::domain::ids::CampaignId;
use crate::domain::money::Currency;
use crate::domain::totals::{Source, Totals};

const READ: &str = include_str!("../../sql/queries/totals/read_totals.sql");
const CHECKPOINT: &str = include_str!("../../sql/queries/totals/write_checkpoint.sql");
const REFRESH: &str = include_str!("../../sql/queries/totals/refresh_view.sql");
/// A long ledger takes longer than a request may.
const LONG_STATEMENT: &str = "set local statement_timeout = '10min'; set local enable_seqscan = on";
const LOCK_REFRESH: &str = include_str!("../../sql/queries/totals/lock_refresh.sql");

/// Totals that were read from the database.
#[derive(Clone, Debug)]
pub struct TotalsRead {
    /// The totals.
    pub totals: Totals,
    /// The view, or the ledger from its last checkpoint.
    pub source: Source,
    /// How many lines the view or the checkpoint had not seen: the price of the read.
    pub unseen_lines: i64,
}

impl Store {
    /// Levels 2 and 3; `None` where there is no such campaign.
    pub async fn read_totals(&self, id: CampaignId, now: OffsetDateTime) -> Result<Option<TotalsRead>, StoreError> {
        let client = self.pools.reader().await?;
        query_opt(&client, READ, &[&id.uuid()]).await?.map(|row| totals_read(&row, id, now)).transpose()
    }

    /// Writes a campaign's sums down, so that the next read of the ledger begins there.
    pub async fn write_checkpoint(&self, id: CampaignId, now: OffsetDateTime) -> Result<(), StoreError> {
        let client = self.pools.reader().await?;
        execute(&client, CHECKPOINT, &[&id.uuid(), &now]).await.map(drop)
    }

    /// Refreshes the view, unless another process is at it; returns whether it did. Lock and settings are the transaction's: they
    /// end with it, whatever becomes of us.
    pub async fn refresh_totals_view(&self) -> Result<bool, StoreError> {
        let mut client = self.pools.reader().await?;
        let transaction = client.transaction().await?;
        let is_ours: bool = transaction.query_one(LOCK_REFRESH, &[]).await?.get(0);
        if is_ours {
            transaction.batch_execute(LONG_STATEMENT).await?;
            transaction.batch_execute(REFRESH).await?;
        }
        transaction.commit().await?;
        Ok(is_ours)
    }
}

fn totals_read(row: &Row, id: CampaignId, now: OffsetDateTime) -> Result<TotalsRead, StoreError> {
    let currency: &str = row.get("currency");
    let totals = Totals {
        campaign_id: id,
        currency: Currency::parse(currency)
            .ok_or_else(|| StoreError::corrupt("donations.campaigns", "currency", currency))?,
        raised_minor: row.get("raised_minor"),
        donation_count: row.get("donation_count"),
        donor_count: row.get("donor_count"),
        goal_minor: row.get("goal_minor"),
        version: row.get("version"),
        as_of: now,
    };
    let source = if row.get::<_, &str>("source") == Source::View.as_str() { Source::View } else { Source::Realtime };
    Ok(TotalsRead { totals, source, unseen_lines: row.get("unseen_lines") })
}
