//! The books that no single payment shows: campaigns, donors, the view, and what belongs to nothing.
//!
//! Each statement is one snapshot. They read whole tables, so they may take longer than a request may. Deliberately
//! absent: payments one by one (`dossiers` reads them, whoever verifies replays them).

use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::pool::query;
use super::{Store, StoreError};

const COMPARE: &str = include_str!("../../sql/queries/verify/compare_campaigns.sql");
const STRAYS: &str = include_str!("../../sql/queries/verify/count_strays.sql");
const LONG_STATEMENTS: &str = "set statement_timeout = '30min'; set enable_seqscan = on";
const USUAL_STATEMENTS: &str = "reset statement_timeout; reset enable_seqscan";

/// What a campaign has raised, by one way of counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// In minor units.
    pub raised_minor: i64,
    /// Gifts.
    pub donations: i64,
    /// Donors, each once.
    pub donors: i64,
}

/// A campaign whose books disagree.
#[derive(Clone, Copy, Debug)]
pub struct CampaignBooks {
    /// The campaign.
    pub id: Uuid,
    /// By the ledger.
    pub ledger: Sum,
    /// By the payments themselves.
    pub payments: Sum,
    /// By the view with what its snapshot did not see; `None` where the view does not know the campaign yet.
    pub shown: Option<Sum>,
    /// By the ledger's checkpoint with what its snapshot did not see; `None` where there is none yet.
    pub reckoned: Option<Sum>,
    /// Donors whose number of gifts is not the number of their captured payments.
    pub miscounted_donors: i64,
}

/// What belongs to nothing, waits for nobody, or was set aside: numbers of rows.
#[derive(Clone, Copy, Debug)]
pub struct Strays {
    /// Campaigns there are; no fault.
    pub campaigns: i64,
    /// Events in the outbox that were set aside.
    pub dead_facts: i64,
    /// Parked events whose payment is here.
    pub parked_late: i64,
    /// Parked events of payments that are not ours; no fault.
    pub parked_strange: i64,
    /// Donations without their payment.
    pub lone_donations: i64,
    /// Rows of histories without a payment.
    pub lone_history: i64,
    /// Ledger lines without a payment.
    pub lone_lines: i64,
    /// Refunds without a payment.
    pub lone_refunds: i64,
    /// Disputes without a payment.
    pub lone_disputes: i64,
    /// Receipt numbers that were given twice.
    pub repeated_receipts: i64,
}

impl Store {
    /// Campaigns whose books disagree, at most `limit`, and how many there are.
    pub async fn compare_campaigns(
        &self,
        campaign: Option<Uuid>,
        limit: i64,
    ) -> Result<(Vec<CampaignBooks>, i64), StoreError> {
        let client = self.pools.reader().await?;
        client.batch_execute(LONG_STATEMENTS).await?;
        let rows = query(&client, COMPARE, &[&campaign, &limit]).await;
        client.batch_execute(USUAL_STATEMENTS).await?;
        let rows = rows?;
        Ok((rows.iter().map(books).collect(), rows.first().map_or(0, |row| row.get("differing"))))
    }

    /// What belongs to nothing. Events that were parked before `late` should have been taken up.
    pub async fn count_strays(&self, late: OffsetDateTime) -> Result<Strays, StoreError> {
        let client = self.pools.reader().await?;
        client.batch_execute(LONG_STATEMENTS).await?;
        let rows = query(&client, STRAYS, &[&late]).await;
        client.batch_execute(USUAL_STATEMENTS).await?;
        let rows = rows?;
        let row = rows.first().ok_or_else(|| StoreError::corrupt("count_strays", "all", "no row"))?;
        Ok(Strays {
            campaigns: row.get("campaigns"),
            dead_facts: row.get("dead_facts"),
            parked_late: row.get("parked_late"),
            parked_strange: row.get("parked_strange"),
            lone_donations: row.get("lone_donations"),
            lone_history: row.get("lone_history"),
            lone_lines: row.get("lone_lines"),
            lone_refunds: row.get("lone_refunds"),
            lone_disputes: row.get("lone_disputes"),
            repeated_receipts: row.get("repeated_receipts"),
        })
    }
}

fn books(row: &Row) -> CampaignBooks {
    let sum = |raised: &str, donations: &str, donors: &str| Sum {
        raised_minor: row.get(raised),
        donations: row.get(donations),
        donors: row.get(donors),
    };
    CampaignBooks {
        id: row.get("id"),
        ledger: sum("ledger_raised", "ledger_donations", "ledger_donors"),
        payments: sum("paid_raised", "paid_donations", "paid_donors"),
        shown: row.get::<_, bool>("is_shown").then(|| sum("shown_raised", "shown_donations", "shown_donors")),
        reckoned: row
            .get::<_, bool>("is_reckoned")
            .then(|| sum("reckoned_raised", "reckoned_donations", "reckoned_donors")),
        miscounted_donors: row.get("miscounted_donors"),
    }
}
