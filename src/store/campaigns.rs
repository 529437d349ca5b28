//! Campaigns.

use deadpool_postgres::GenericClient;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::pool::{execute, query, query_opt};
use super::{Store, StoreError};
use crate::domain::campaign::{Campaign, CampaignStatus};
use crate::domain::money::Currency;

const CREATE: &str = include_str!("../../sql/queries/campaigns/create_campaign.sql");
const LOAD: &str = include_str!("../../sql/queries/campaigns/load_campaign.sql");
const LIST: &str = include_str!("../../sql/queries/campaigns/list_campaigns.sql");
const UPDATE: &str = include_str!("../../sql/queries/campaigns/update_campaign.sql");

const TABLE: &str = "donations.campaigns";

impl Store {
    /// Records a campaign; `false` where its slug is taken.
    pub async fn create_campaign(&self, it: &Campaign) -> Result<bool, StoreError> {
        create_campaign(&self.pools.reader().await?, it).await
    }

    /// The campaign with that identifier or slug.
    pub async fn load_campaign(&self, id_or_slug: &str) -> Result<Option<Campaign>, StoreError> {
        let client = self.pools.reader().await?;
        let id: Option<Uuid> = id_or_slug.parse().ok();
        query_opt(&client, LOAD, &[&id, &id_or_slug]).await?.map(Campaign::try_from).transpose()
    }

    /// At most `limit` campaigns, newest first, after the one that `cursor` names.
    pub async fn list_campaigns(
        &self,
        status: Option<CampaignStatus>,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Campaign>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, LIST, &[&cursor, &status.map(CampaignStatus::as_str), &limit]).await?;
        rows.into_iter().map(Campaign::try_from).collect()
    }

    /// Writes a campaign's changeable details; `false` where it is not any more what was read with `read_at` as its
    /// `updated_at`.
    pub async fn update_campaign(&self, it: &Campaign, read_at: OffsetDateTime) -> Result<bool, StoreError> {
        let client = self.pools.reader().await?;
        let updated = execute(
            &client,
            UPDATE,
            &[
                &it.id.uuid(),
                &it.title,
                &it.description,
                &it.goal_minor,
                &it.status.as_str(),
                &it.starts_at,
                &it.ends_at,
                &it.updated_at,
                &read_at,
            ],
        )
        .await?;
        Ok(updated == 1)
    }
}

/// Records a campaign, by itself or within a transaction; `false` where its slug is taken.
pub async fn create_campaign<C: GenericClient + Sync>(client: &C, it: &Campaign) -> Result<bool, StoreError> {
    let statement = client.prepare_cached(CREATE).await?;
    let params: [&(dyn ToSql + Sync); 11] = [
        &it.id.uuid(),
        &it.slug,
        &it.title,
        &it.description,
        &it.goal_minor,
        &it.currency.code(),
        &it.manual_capture,
        &it.status.as_str(),
        &it.starts_at,
        &it.ends_at,
        &it.created_at,
    ];
    Ok(client.execute(&statement, &params).await? == 1)
}

impl TryFrom<Row> for Campaign {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let currency: &str = row.get("currency");
        let status: &str = row.get("status");
        Ok(Self {
            id: row.get::<_, Uuid>("id").into(),
            slug: row.get("slug"),
            title: row.get("title"),
            description: row.get("description"),
            goal_minor: row.get("goal_minor"),
            currency: Currency::parse(currency).ok_or_else(|| StoreError::corrupt(TABLE, "currency", currency))?,
            manual_capture: row.get("manual_capture"),
            status: CampaignStatus::parse(status).ok_or_else(|| StoreError::corrupt(TABLE, "status", status))?,
            starts_at: row.get("starts_at"),
            ends_at: row.get("ends_at"),
            created_at: row.get("created_at"),
            updated_at: row.get("updated_at"),
        })
    }
}
