//! One payment: what is known of it, and what that adds up to.
//!
//! Reading order: [`status`] (the machine), this file (the state), [`mod@decide`] (what an event does to it), [`command`]
//! (what an operator may ask for), [`change`] (a decision, ready to be committed), [`evidence`] (what was decided upon,
//! kept with every verdict), [`replay`] (deciding a whole history again).
//!
//! Deliberately absent: donors, mails, HTTP. A payment knows amounts and states.

pub mod change;
pub mod command;
pub mod decide;
pub mod evidence;
#[cfg(test)]
mod model;
pub mod replay;
pub mod status;

use serde::Serialize;
use time::OffsetDateTime;

use super::ids::{CampaignId, DonationId, PaymentId};
use super::money::Currency;
use super::provider::{DisputeFact, DisputeStatus, RefundFact, RefundStatus};
pub use status::PaymentStatus;

/// Everything that a decision about a payment depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Our identifier; also the provider's idempotency key for creating the intent.
    pub id: PaymentId,
    /// The donation that it pays.
    pub donation_id: DonationId,
    /// The campaign that the donation is for.
    pub campaign_id: CampaignId,
    /// What the donor wants to give, in minor units.
    pub amount_minor: i64,
    /// The currency of every amount here.
    pub currency: Currency,
    /// Whether the money is only reserved until an operator captures it.
    pub manual_capture: bool,
    /// Where it stands.
    pub status: PaymentStatus,
    /// Rises by one with every step that is written to the history; starts at 1.
    pub version: i64,
    /// The newest provider time (whole Unix seconds) of the events that decided the status.
    pub provider_at: Option<i64>,
    /// The provider's identifier (`pi_…`), once it has one.
    pub intent_id: Option<String>,
    /// The secret with which the donor's browser confirms.
    pub client_secret: Option<String>,
    /// What moved to us, in minor units.
    pub captured_minor: i64,
    /// Every refund that we have heard of, by the provider's id.
    pub refunds: Vec<RefundFact>,
    /// Every dispute that we have heard of, by the provider's id.
    pub disputes: Vec<DisputeFact>,
    /// Why a person must look at it, if someone must.
    pub flag: Option<String>,
    /// W3C trace context of the request that made it; sent to the provider, the same at every try.
    pub traceparent: Option<String>,
    /// How often it has been checked with the provider since it last changed.
    pub checks: i32,
    /// When it was last written.
    pub updated_at: OffsetDateTime,
}

impl Payment {
    /// What went back to donors and has not come back to us, in minor units. Zero until a capture is known.
    ///
    /// Never more than was captured: while the failure of an older refund is still on its way, two refunds may overlap.
    pub fn refunded_minor(&self) -> i64 {
        self.standing_refunds_minor().min(self.captured_minor)
    }

    /// What disputes withhold or took, in minor units. Zero until a capture is known.
    pub fn disputed_minor(&self) -> i64 {
        if self.captured_minor == 0 {
            return 0;
        }
        self.disputes.iter().filter(|dispute| dispute.status.withholds()).map(|dispute| dispute.amount_minor).sum()
    }

    /// The sum of the refunds that count, whether or not a capture is known.
    pub fn standing_refunds_minor(&self) -> i64 {
        self.refunds.iter().filter(|refund| refund.status.stands()).map(|refund| refund.amount_minor).sum()
    }

    /// What may still be refunded, in minor units.
    pub fn refundable_minor(&self) -> i64 {
        self.captured_minor - self.refunded_minor()
    }

    /// Whether the money counts as given: captured, and not refunded in full.
    pub fn counts_as_gift(&self) -> bool {
        self.status == PaymentStatus::Captured
    }

    /// The payment as the API shows it.
    pub fn view(&self) -> PaymentView<'_> {
        PaymentView {
            id: self.id,
            donation_id: self.donation_id,
            campaign_id: self.campaign_id,
            intent_id: self.intent_id.as_deref(),
            status: self.status,
            amount_minor: self.amount_minor,
            currency: self.currency,
            captured_minor: self.captured_minor,
            refunded_minor: self.refunded_minor(),
            disputed_minor: self.disputed_minor(),
            flag: self.flag.as_deref(),
            version: self.version,
            updated_at: self.updated_at,
        }
    }
}

/// A payment as operators see it.
#[derive(Debug, Serialize)]
pub struct PaymentView<'a> {
    id: PaymentId,
    donation_id: DonationId,
    campaign_id: CampaignId,
    intent_id: Option<&'a str>,
    status: PaymentStatus,
    amount_minor: i64,
    currency: Currency,
    captured_minor: i64,
    refunded_minor: i64,
    disputed_minor: i64,
    flag: Option<&'a str>,
    version: i64,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl RefundStatus {
    /// Whether the money counts as gone. A refund counts from the day it is made, until it fails.
    pub fn stands(self) -> bool {
        match self {
            Self::Pending | Self::RequiresAction | Self::Succeeded => true,
            Self::Failed | Self::Canceled => false,
        }
    }

    /// A refund's status only moves to a higher rank.
    pub fn rank(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::RequiresAction => 1,
            Self::Succeeded => 2,
            Self::Canceled => 3,
            Self::Failed => 4,
        }
    }

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::RequiresAction => "REQUIRES_ACTION",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Canceled => "CANCELED",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Pending, Self::RequiresAction, Self::Succeeded, Self::Failed, Self::Canceled]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

impl DisputeStatus {
    /// Whether the disputed amount is away from us.
    pub fn withholds(self) -> bool {
        match self {
            Self::NeedsResponse | Self::UnderReview | Self::Lost => true,
            Self::WarningNeedsResponse
            | Self::WarningUnderReview
            | Self::WarningClosed
            | Self::Prevented
            | Self::Won => false,
        }
    }

    /// A dispute's status only moves to a higher rank.
    pub fn rank(self) -> u8 {
        match self {
            Self::WarningNeedsResponse => 0,
            Self::WarningUnderReview => 1,
            Self::WarningClosed => 2,
            Self::Prevented => 3,
            Self::NeedsResponse => 4,
            Self::UnderReview => 5,
            Self::Lost => 6,
            Self::Won => 7,
        }
    }

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WarningNeedsResponse => "WARNING_NEEDS_RESPONSE",
            Self::WarningUnderReview => "WARNING_UNDER_REVIEW",
            Self::WarningClosed => "WARNING_CLOSED",
            Self::NeedsResponse => "NEEDS_RESPONSE",
            Self::UnderReview => "UNDER_REVIEW",
            Self::Won => "WON",
            Self::Lost => "LOST",
            Self::Prevented => "PREVENTED",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::WarningNeedsResponse,
            Self::WarningUnderReview,
            Self::WarningClosed,
            Self::NeedsResponse,
            Self::UnderReview,
            Self::Won,
            Self::Lost,
            Self::Prevented,
        ]
        .into_iter()
        .find(|status| status.as_str() == name)
    }
}
