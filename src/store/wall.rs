//! The public wall of a campaign: who gave what, as far as the public may know.

use time::OffsetDateTime;
use uuid::Uuid;

use super::pool::query;
use super::{Store, StoreError};
use crate::domain::ids::CampaignId;

const LIST: &str = include_str!("../../sql/queries/donations/list_wall.sql");

/// A paid donation, without what only donor and operators may know.
#[derive(Clone, Debug)]
pub struct WallDonation {
    /// By which the next page begins.
    pub id: Uuid,
    /// What is given of it now, in minor units.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// Whether the donor wants no name here.
    pub anonymous: bool,
    /// The donor's whole name; `None` where it is kept back.
    pub donor_name: Option<String>,
    /// A word to the public.
    pub message: Option<String>,
    /// When the donation was made.
    pub created_at: OffsetDateTime,
}

impl Store {
    /// At most `limit` paid donations of a campaign, newest first, after the one that `cursor` names.
    pub async fn list_wall(
        &self,
        id: CampaignId,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<WallDonation>, StoreError> {
        let client = self.pools.reader().await?;
        let rows = query(&client, LIST, &[&id.uuid(), &cursor, &limit]).await?;
        let donation = |row: &tokio_postgres::Row| WallDonation {
            id: row.get("id"),
            amount_minor: row.get("amount_minor"),
            currency: row.get("currency"),
            anonymous: row.get("anonymous"),
            donor_name: row.get("donor_name"),
            message: row.get("message"),
            created_at: row.get("created_at"),
        };
        Ok(rows.iter().map(donation).collect())
    }
}
