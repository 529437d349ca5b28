//! Which fact is worth a message, and what the message says.
//!
//! Deliberately absent: channels' protocols and retries; the couriers know those.

use super::fact::{Fact, FactKind};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// We know of your gift.
    DonationReceived,
    /// Your gift arrived; this is the receipt.
    PaymentConfirmed,
    /// The attempt was declined.
    PaymentFailed,
    /// Money went back to you.
    Refunded,
    /// To the operators: a dispute was opened.
    DisputeOpened,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The donor.
    Donor,
    /// The charity's operators.
    Operators,
}

impl NoticeKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::DonationReceived, Self::PaymentConfirmed, Self::PaymentFailed, Self::Refunded, Self::DisputeOpened];

    /// What a fact gives rise to, if anything.
    pub fn due_for(fact: &Fact) -> Option<Self> {
        match fact.kind {
            FactKind::DonationCreated => Some(Self::DonationReceived),
            FactKind::PaymentCompleted => Some(Self::PaymentConfirmed),
            FactKind::PaymentFailed => Some(Self::PaymentFailed),
            FactKind::PaymentRefunded => Some(Self::Refunded),
            FactKind::PaymentDisputeOpened => Some(Self::DisputeOpened),
            FactKind::PaymentAuthorized
            | FactKind::PaymentCanceled
            | FactKind::PaymentRefundFailed
            | FactKind::PaymentDisputeClosed
            | FactKind::PaymentFlagged => None,
        }
    }

    /// Whom it is for.
    pub fn audience(self) -> Audience {
        match self {
            Self::DonationReceived | Self::PaymentConfirmed | Self::PaymentFailed | Self::Refunded => Audience::Donor,
            Self::DisputeOpened => Audience::Operators,
        }
    }

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DonationReceived => "DONATION_RECEIVED",
            Self::PaymentConfirmed => "PAYMENT_CONFIRMED",
            Self::PaymentFailed => "PAYMENT_FAILED",
            Self::Refunded => "REFUNDED",
            Self::DisputeOpened => "DISPUTE_OPENED",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What a message is made from, read at the time it is sent.
#[derive(Clone)]
pub struct NoticeContext {
    /// The donor's name.
    pub donor_name: String,
    /// The campaign's title.
    pub campaign_title: String,
    /// The amount that the message is about, formatted with its currency.
    pub amount: String,
    /// The receipt's number, once money was captured.
    pub receipt_number: Option<i64>,
    /// The donation's identifier, by which people can ask.
    pub donation_id: String,
    /// The payment's identifier at the provider.
    pub intent_id: Option<String>,
}

/// A message's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The subject line.
    pub subject: String,
    /// The plain text.
    pub text: String,
}

impl NoticeKind {
    /// The words of this kind of message.
    pub fn words(self, about: &NoticeContext) -> Words {
        let NoticeContext { donor_name, campaign_title, amount, donation_id, .. } = about;
        let receipt = about.receipt_number.map(receipt_label).unwrap_or_else(|| "pending".to_owned());
        let intent = about.intent_id.as_deref().unwrap_or("unknown");
        let (subject, body) = match self {
            Self::DonationReceived => (
                format!("We received your donation to {campaign_title}"),
                format!(
                    "thank you for giving {amount} to \"{campaign_title}\".\n\nWe will write again when the payment is confirmed."
                ),
            ),
            Self::PaymentConfirmed => (
                format!("Receipt {receipt}: your donation to {campaign_title}"),
                format!(
                    "your donation of {amount} to \"{campaign_title}\" has arrived. Thank you!\n\nReceipt number: {receipt}"
                ),
            ),
            Self::PaymentFailed => (
                format!("Your donation to {campaign_title} could not be charged"),
                format!(
                    "your payment of {amount} to \"{campaign_title}\" was declined. Nothing was charged; you can try again on the campaign's page."
                ),
            ),
            Self::Refunded => (
                format!("Refund of your donation to {campaign_title}"),
                format!("{amount} of your donation to \"{campaign_title}\" is on its way back to you."),
            ),
            Self::DisputeOpened => (
                format!("Dispute opened: {amount} for {campaign_title}"),
                format!(
                    "a dispute over {amount} was opened for a donation to \"{campaign_title}\" (provider's payment {intent}). Evidence is due in the provider's dashboard."
                ),
            ),
        };
        let greeting = match self.audience() {
            Audience::Donor => format!("Dear {donor_name},"),
            Audience::Operators => "To the operators:".to_owned(),
        };
        Words { subject, text: format!("{greeting}\n\n{body}\n\nDonation: {donation_id}\n") }
    }
}

/// A receipt's number as people quote it.
pub fn receipt_label(number: i64) -> String {
    format!("CF-{number:06}")
}
