//! Totals, levels 2 and 3: the materialized view with what its snapshot did not see, and the ledger itself.

use time::OffsetDateTime;
use tokio_postgres::Row;

use super::pool::{execute, query_opt};
use super::{Store, StoreError};
use crate::domain::ids::CampaignId;
use crate::domain::money::Currency;
use crate::domain::totals::Totals;

const READ_VIEW: &str = include_str!("../../sql/queries/totals/read_view.sql");
const READ_LEDGER: &str = include_str!("../../sql/queries/totals/read_ledger.sql");
const REFRESH: &str = include_str!("../../sql/queries/totals/refresh_view.sql");
/// A long ledger takes longer than a request may.
const REFRESH_TIMEOUT: &str = "set statement_timeout = '10min'";
const LOCK_REFRESH: &str = include_str!("../../sql/queries/totals/lock_refresh.sql");
const UNLOCK_REFRESH: &str = include_str!("../../sql/queries/totals/unlock_refresh.sql");

impl Store {
    /// Level 2; `None` where the view does not know the campaign yet.
    pub async fn read_totals_view(&self, id: CampaignId, now: OffsetDateTime) -> Result<Option<Totals>, StoreError> {
        let client = self.pools.reader().await?;
        query_opt(&client, READ_VIEW, &[&id.uuid()]).await?.map(|row| totals(&row, id, now)).transpose()
    }

    /// Level 3; `None` where there is no such campaign.
    pub async fn read_totals_ledger(&self, id: CampaignId, now: OffsetDateTime) -> Result<Option<Totals>, StoreError> {
        let client = self.pools.reader().await?;
        query_opt(&client, READ_LEDGER, &[&id.uuid()]).await?.map(|row| totals(&row, id, now)).transpose()
    }

    /// Refreshes the view, unless another process is at it; returns whether it did.
    pub async fn refresh_totals_view(&self) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        let locked = query_opt(&client, LOCK_REFRESH, &[]).await?.is_some_and(|row| row.get(0));
        if !locked {
            return Ok(false);
        }
        client.batch_execute(REFRESH_TIMEOUT).await?;
        let refreshed = execute(&client, REFRESH, &[]).await;
        client.batch_execute("reset statement_timeout").await?;
        query_opt(&client, UNLOCK_REFRESH, &[]).await?;
        refreshed.map(|_| true)
    }
}

fn totals(row: &Row, id: CampaignId, now: OffsetDateTime) -> Result<Totals, StoreError> {
    let currency: &str = row.get("currency");
    Ok(Totals {
        campaign_id: id,
        currency: Currency::parse(currency)
            .ok_or_else(|| StoreError::corrupt("donations.campaigns", "currency", currency))?,
        raised_minor: row.get("raised_minor"),
        donation_count: row.get("donation_count"),
        donor_count: row.get("donor_count"),
        goal_minor: row.get("goal_minor"),
        version: row.get("version"),
        as_of: now,
    })
}
