//! A campaign: what donors give to, and when.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ids::CampaignId;
use super::money::Currency;

/// The longest slug, in bytes.
pub const SLUG_MAX_BYTES: usize = 80;

/// A campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Campaign {
    /// Its identifier.
    pub id: CampaignId,
    /// Its name in addresses.
    pub slug: String,
    /// Its name for people.
    pub title: String,
    /// What it is about.
    pub description: Option<String>,
    /// What is hoped for, in minor units.
    pub goal_minor: Option<i64>,
    /// The one currency of its donations.
    pub currency: Currency,
    /// Whether donations are only reserved until an operator captures them.
    pub manual_capture: bool,
    /// Whether it takes donations.
    pub status: CampaignStatus,
    /// It takes no donations before.
    #[serde(with = "time::serde::rfc3339::option")]
    pub starts_at: Option<OffsetDateTime>,
    /// It takes no donations from then on.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ends_at: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// Whether a campaign takes donations. Captures of donations made before it closed still count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CampaignStatus {
    /// It does.
    Active,
    /// Not at the moment.
    Paused,
    /// It came to its end.
    Completed,
    /// It was called off.
    Cancelled,
}

impl CampaignStatus {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Paused => "PAUSED",
            Self::Completed => "COMPLETED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Active, Self::Paused, Self::Completed, Self::Cancelled].into_iter().find(|it| it.as_str() == name)
    }
}

impl Campaign {
    /// Whether it takes donations at `now`; the error says why not.
    pub fn check_open(&self, now: OffsetDateTime) -> Result<(), &'static str> {
        match self.status {
            CampaignStatus::Paused => Err("the campaign is paused"),
            CampaignStatus::Completed => Err("the campaign is completed"),
            CampaignStatus::Cancelled => Err("the campaign was cancelled"),
            CampaignStatus::Active if self.starts_at.is_some_and(|at| now < at) => {
                Err("the campaign has not started yet")
            }
            CampaignStatus::Active if self.ends_at.is_some_and(|at| now >= at) => Err("the campaign has ended"),
            CampaignStatus::Active => Ok(()),
        }
    }
}

/// Whether `text` can be a slug: lower-case letters, digits and single hyphens between them.
pub fn is_slug(text: &str) -> bool {
    (1..=SLUG_MAX_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.split('-').all(|part| !part.is_empty())
        && text.parse::<uuid::Uuid>().is_err()
}
