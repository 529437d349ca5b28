//! A donor's own donations, and the mails with links to them.
//!
//! A donor is an address, without regard to case. Deliberately absent: accounts; whoever reads the mailbox is the donor.

use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::pool::{query, query_opt};
use super::{Store, StoreError};
use crate::domain::ids::NoticeId;
use crate::domain::notice::receipt_label;

const LIST: &str = include_str!("../../sql/queries/donors/list_donations.sql");
const LOCK: &str = include_str!("../../sql/queries/donors/lock_address.sql");
const ENQUEUE: &str = include_str!("../../sql/queries/donors/enqueue_link.sql");
const FIND: &str = include_str!("../../sql/queries/donors/find_link.sql");

/// Mails with links that one address is sent in an hour at most: nobody's mailbox is filled by strangers.
const LINKS_AN_HOUR: i64 = 3;

/// A donation in its donor's list.
#[derive(Clone, Serialize)]
pub struct OwnDonation {
    /// Its identifier.
    pub id: Uuid,
    /// What it is for.
    pub campaign: OwnCampaign,
    amount_minor: i64,
    currency: String,
    status: String,
    receipt_number: Option<String>,
    refunded_minor: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// The campaign of a donation in a list.
#[derive(Clone, Serialize)]
pub struct OwnCampaign {
    id: Uuid,
    slug: String,
    title: String,
}

/// A mail with a link.
pub struct DonorLink {
    /// Whom it went to.
    pub address: String,
    /// When it was recorded.
    pub created_at: OffsetDateTime,
}

impl Store {
    /// Makes a mail due with a link to the donations of `address`; `false` where there are none, or enough links were
    /// sent lately.
    pub async fn enqueue_donor_link(
        &self,
        address: &str,
        notice: NoticeId,
        traceparent: &str,
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let mut client = self.pools.reader().await?;
        let transaction = client.transaction().await?;
        let lock = transaction.prepare_cached(LOCK).await?;
        transaction.execute(&lock, &[&address]).await?;
        let enqueue = transaction.prepare_cached(ENQUEUE).await?;
        let made =
            transaction.execute(&enqueue, &[&notice.uuid(), &address, &now, &traceparent, &LINKS_AN_HOUR]).await?;
        transaction.commit().await?;
        Ok(made > 0)
    }

    /// The mail with a link that `notice` names.
    pub async fn find_donor_link(&self, notice: NoticeId) -> Result<Option<DonorLink>, StoreError> {
        let client = self.pools.reader().await?;
        let row = query_opt(&client, FIND, &[&notice.uuid()]).await?;
        Ok(row.map(|row| DonorLink { address: row.get("recipient"), created_at: row.get("created_at") }))
    }

    /// At most `limit` donations of `address`, newest first, after the one that `cursor` names.
    pub async fn list_own_donations(
        &self,
        address: &str,
        cursor: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<OwnDonation>, StoreError> {
        let client = self.pools.reader().await?;
        Ok(query(&client, LIST, &[&address, &cursor, &limit]).await?.iter().map(own_donation).collect())
    }
}

fn own_donation(row: &Row) -> OwnDonation {
    OwnDonation {
        id: row.get("id"),
        campaign: OwnCampaign { id: row.get("campaign_id"), slug: row.get("slug"), title: row.get("title") },
        amount_minor: row.get("amount_minor"),
        currency: row.get("currency"),
        status: row.get("status"),
        receipt_number: row.get::<_, Option<i64>>("receipt_number").map(receipt_label),
        refunded_minor: row.get("refunded_minor"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}
