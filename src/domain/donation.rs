//! One gift: who, how much, for what.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::donor::Donor;
use super::ids::{CampaignId, DonationId, PaymentId};
use super::money::Currency;
use super::payment::PaymentStatus;

/// A donation that was parsed and may be recorded.
#[derive(Clone, Debug)]
pub struct NewDonation {
    /// Its identifier.
    pub id: DonationId,
    /// The identifier of its payment.
    pub payment_id: PaymentId,
    /// What it is for.
    pub campaign_id: CampaignId,
    /// In minor units.
    pub amount_minor: i64,
    /// The campaign's currency.
    pub currency: Currency,
    /// Who gives.
    pub donor: Donor,
    /// Whether the public wall keeps the name back.
    pub anonymous: bool,
    /// A word to the public.
    pub message: Option<String>,
    /// When it was accepted.
    pub created_at: OffsetDateTime,
}

/// Where a donation stands, as donors are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DonationStatus {
    /// The money has not moved.
    Pending,
    /// The money arrived.
    Completed,
    /// The last attempt was declined.
    Failed,
    /// All of the money went back.
    Refunded,
    /// Called off.
    Cancelled,
}

impl DonationStatus {
    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Refunded => "REFUNDED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl From<PaymentStatus> for DonationStatus {
    fn from(status: PaymentStatus) -> Self {
        match status {
            PaymentStatus::Initiated | PaymentStatus::Processing | PaymentStatus::Authorized => Self::Pending,
            PaymentStatus::Captured => Self::Completed,
            PaymentStatus::Failed => Self::Failed,
            PaymentStatus::Refunded => Self::Refunded,
            PaymentStatus::Canceled => Self::Cancelled,
        }
    }
}
