//! What a campaign has raised.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ids::CampaignId;
use super::money::Currency;

/// A campaign's totals, exact as of one database snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The campaign.
    pub campaign_id: CampaignId,
    /// Its currency.
    pub currency: Currency,
    /// Captured minus refunded minus disputed, in minor units.
    pub raised_minor: i64,
    /// Gifts that were captured and not refunded in full.
    pub donation_count: i64,
    /// Donors with at least one such gift.
    pub donor_count: i64,
    /// What is hoped for, in minor units.
    pub goal_minor: Option<i64>,
    /// How many ledger lines these totals hold. The ledger only grows, so a greater version is a later state.
    pub version: i64,
    /// When they were read from the database.
    #[serde(with = "time::serde::rfc3339")]
    pub as_of: OffsetDateTime,
}

/// The level that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Level 0: this process's memory.
    Memory,
    /// Level 1: Redis.
    Redis,
    /// Level 2: the materialized view, plus the ledger lines that its snapshot did not see.
    View,
    /// Level 3: the ledger itself.
    Realtime,
}

impl Source {
    /// The name in the API and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::View => "view",
            Self::Realtime => "realtime",
        }
    }
}
