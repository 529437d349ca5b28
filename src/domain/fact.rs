//! Facts: what we tell others after it is committed, in a CloudEvents 1.0 envelope
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
//!
//! Deliberately absent: donor data. Whoever needs a donor's address reads it by the donation's id.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ids::{CampaignId, DonationId, EventId, PaymentId};
use super::money::Currency;
use super::payment::{Payment, PaymentStatus};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FactKind {
    /// A donation and its payment were recorded.
    #[serde(rename = "donation.created")]
    DonationCreated,
    /// The money is reserved.
    #[serde(rename = "payment.authorized")]
    PaymentAuthorized,
    /// The money is ours.
    #[serde(rename = "payment.completed")]
    PaymentCompleted,
    /// An attempt was declined.
    #[serde(rename = "payment.failed")]
    PaymentFailed,
    /// Called off, released or expired.
    #[serde(rename = "payment.canceled")]
    PaymentCanceled,
    /// Money went back to the donor.
    #[serde(rename = "payment.refunded")]
    PaymentRefunded,
    /// A refund came back to us.
    #[serde(rename = "payment.refund_failed")]
    PaymentRefundFailed,
    /// A dispute withholds money.
    #[serde(rename = "payment.dispute_opened")]
    PaymentDisputeOpened,
    /// A dispute gave money back.
    #[serde(rename = "payment.dispute_closed")]
    PaymentDisputeClosed,
    /// A person must look at the payment.
    #[serde(rename = "payment.flagged")]
    PaymentFlagged,
}

impl FactKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::DonationCreated,
        Self::PaymentAuthorized,
        Self::PaymentCompleted,
        Self::PaymentFailed,
        Self::PaymentCanceled,
        Self::PaymentRefunded,
        Self::PaymentRefundFailed,
        Self::PaymentDisputeOpened,
        Self::PaymentDisputeClosed,
        Self::PaymentFlagged,
    ];

    /// The CloudEvents `type`, which is also the broker's routing key.
    pub fn event_type(self) -> &'static str {
        match self {
            Self::DonationCreated => "donation.created",
            Self::PaymentAuthorized => "payment.authorized",
            Self::PaymentCompleted => "payment.completed",
            Self::PaymentFailed => "payment.failed",
            Self::PaymentCanceled => "payment.canceled",
            Self::PaymentRefunded => "payment.refunded",
            Self::PaymentRefundFailed => "payment.refund_failed",
            Self::PaymentDisputeOpened => "payment.dispute_opened",
            Self::PaymentDisputeClosed => "payment.dispute_closed",
            Self::PaymentFlagged => "payment.flagged",
        }
    }

    /// The kind of that CloudEvents `type`.
    pub fn parse(event_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.event_type() == event_type)
    }

    /// Whether a campaign's total may differ after it.
    pub fn changes_totals(self) -> bool {
        match self {
            Self::PaymentCompleted
            | Self::PaymentRefunded
            | Self::PaymentRefundFailed
            | Self::PaymentDisputeOpened
            | Self::PaymentDisputeClosed => true,
            Self::DonationCreated
            | Self::PaymentAuthorized
            | Self::PaymentFailed
            | Self::PaymentCanceled
            | Self::PaymentFlagged => false,
        }
    }
}

/// One fact as it travels: a CloudEvents 1.0 event in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Always `1.0`.
    pub specversion: String,
    /// Unique for the fact; a second delivery carries the same.
    pub id: EventId,
    /// Always `/careforall`.
    pub source: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: FactKind,
    /// The payment's identifier: events of one subject are published in the order of `data.version`.
    pub subject: PaymentId,
    /// When it was decided.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// W3C trace context of what caused it (CloudEvents' distributed tracing extension).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The payment as it stood right after.
    pub data: FactData,
}

/// The payment as it stood right after a fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactData {
    /// The payment.
    pub payment_id: PaymentId,
    /// Its donation.
    pub donation_id: DonationId,
    /// Its campaign.
    pub campaign_id: CampaignId,
    /// Its status.
    pub status: PaymentStatus,
    /// Its version.
    pub version: i64,
    /// What the donor wanted to give, in minor units.
    pub amount_minor: i64,
    /// The currency of every amount here.
    pub currency: Currency,
    /// What this very fact moved, in minor units: captured, refunded, withheld or given back.
    pub moved_minor: i64,
    /// What moved to us, in minor units.
    pub captured_minor: i64,
    /// What went back, in minor units.
    pub refunded_minor: i64,
    /// What disputes withhold or took, in minor units.
    pub disputed_minor: i64,
    /// Why a person must look at it, if someone must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
}

impl Fact {
    /// The fact that `kind` happened to a payment that was `before` and is now `payment`.
    pub fn of(
        before: &Payment,
        payment: &Payment,
        kind: FactKind,
        now: OffsetDateTime,
        traceparent: Option<String>,
    ) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: EventId::at(now),
            source: "/careforall".to_owned(),
            kind,
            subject: payment.id,
            time: now,
            datacontenttype: "application/json".to_owned(),
            traceparent,
            data: FactData {
                payment_id: payment.id,
                donation_id: payment.donation_id,
                campaign_id: payment.campaign_id,
                status: payment.status,
                version: payment.version,
                amount_minor: payment.amount_minor,
                currency: payment.currency,
                moved_minor: moved_minor(before, payment, kind),
                captured_minor: payment.captured_minor,
                refunded_minor: payment.refunded_minor(),
                disputed_minor: payment.disputed_minor(),
                flag: payment.flag.clone(),
            },
        }
    }
}

fn moved_minor(before: &Payment, after: &Payment, kind: FactKind) -> i64 {
    match kind {
        FactKind::PaymentCompleted => after.captured_minor - before.captured_minor,
        FactKind::PaymentRefunded | FactKind::PaymentRefundFailed => {
            (after.refunded_minor() - before.refunded_minor()).abs()
        }
        FactKind::PaymentDisputeOpened | FactKind::PaymentDisputeClosed => {
            (after.disputed_minor() - before.disputed_minor()).abs()
        }
        FactKind::DonationCreated
        | FactKind::PaymentAuthorized
        | FactKind::PaymentFailed
        | FactKind::PaymentCanceled
        | FactKind::PaymentFlagged => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serialised_type_is_the_routing_key() {
        for kind in FactKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.event_type());
            assert_eq!(FactKind::parse(kind.event_type()), Some(kind));
        }
    }
}
