//! What the payment provider tells us, in our own words: the events that it sends and the snapshots that it answers with.
//!
//! Deliberately absent: JSON and HTTP (the Stripe gateway translates), and any decision (the payment machine decides).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One event of the provider, as far as we act on it. Serialised it is what a decision needs of it; what the history has
/// in columns of its own is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderEvent {
    /// The provider's id of the event (`evt_…`): the key by which deliveries of one event are recognised.
    #[serde(skip)]
    pub id: String,
    /// The provider's name of the event, such as `payment_intent.succeeded`.
    #[serde(skip)]
    pub kind: String,
    /// When the provider made it, in whole seconds since the Unix epoch. Many events share a second.
    pub created: i64,
    /// The provider's id of the payment (`pi_…`), where the event names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// Our payment, where the event carries the `payment_id` that we put into the intent's metadata.
    #[serde(skip)]
    pub payment_id: Option<Uuid>,
    /// The W3C `traceparent` that we put into the intent's metadata, if it came back.
    #[serde(skip)]
    pub traceparent: Option<String>,
    /// What it says.
    pub change: ProviderChange,
}

/// What an event says happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderChange {
    /// `payment_intent.processing`: the bank is at work; this can take days.
    Processing,
    /// `payment_intent.payment_failed`: one attempt was declined; the same intent may be tried again.
    AttemptFailed {
        /// The provider's code, such as `card_declined` or `insufficient_funds`.
        code: Option<String>,
    },
    /// `payment_intent.amount_capturable_updated`: the money is reserved and waits for our capture.
    Authorized {
        /// How much may be captured, in minor units.
        capturable_minor: i64,
        /// Upper-case ISO 4217 code.
        currency: String,
    },
    /// `payment_intent.succeeded`: money moved to us.
    Captured {
        /// Stripe's `amount_received`, in minor units.
        received_minor: i64,
        /// Upper-case ISO 4217 code.
        currency: String,
    },
    /// `payment_intent.canceled`.
    Canceled,
    /// `charge.refunded` with `captured: false`: the authorization was released without money having moved.
    Released,
    /// `charge.expired`: the authorization ran out.
    Expired,
    /// `charge.refunded` with `captured: true`: some refunds exist; they are told apart only by their own ids.
    RefundedInTotal {
        /// Stripe's cumulative `amount_refunded`, in minor units.
        total_minor: i64,
        /// The refunds that the event itself lists, where it does.
        refunds: Vec<RefundFact>,
    },
    /// `refund.created`, `refund.updated`, `refund.failed`, `charge.refund.updated`.
    Refund(RefundFact),
    /// `charge.dispute.*`.
    Dispute(DisputeFact),
}

/// One refund as the provider describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundFact {
    /// The provider's id (`re_…`).
    pub id: String,
    /// In minor units of the payment's currency.
    pub amount_minor: i64,
    /// Where it stands.
    pub status: RefundStatus,
}

/// A refund's status (<https://docs.stripe.com/api/refunds/object#refund_object-status>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RefundStatus {
    /// On its way.
    Pending,
    /// Waits for the customer.
    RequiresAction,
    /// The customer has it.
    Succeeded,
    /// It came back: the money is ours again. May follow `Succeeded`.
    Failed,
    /// Called off: the money is ours again.
    Canceled,
}

/// One dispute as the provider describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisputeFact {
    /// The provider's id (`du_…` or `dp_…`).
    pub id: String,
    /// In minor units of the payment's currency.
    pub amount_minor: i64,
    /// Where it stands: the only thing about a dispute that is believed, never an event's name.
    pub status: DisputeStatus,
}

/// A dispute's status (<https://docs.stripe.com/api/disputes/object#dispute_object-status>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DisputeStatus {
    /// An inquiry: no money has moved.
    WarningNeedsResponse,
    /// An inquiry under review: no money has moved.
    WarningUnderReview,
    /// An inquiry that ended without a dispute.
    WarningClosed,
    /// The money is withheld; evidence is wanted.
    NeedsResponse,
    /// The money is withheld; the bank decides.
    UnderReview,
    /// The money came back to us.
    Won,
    /// The money is gone.
    Lost,
    /// Resolved before it became a dispute.
    Prevented,
}

/// A payment as the provider shows it when asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentSnapshot {
    /// The provider's id (`pi_…`).
    pub id: String,
    /// The secret with which the donor's browser confirms; the provider sends it on create and retrieve.
    /// It is never serialised.
    #[serde(skip)]
    pub client_secret: Option<String>,
    /// Where it stands.
    pub status: IntentStatus,
    /// What we asked for, in minor units.
    pub amount_minor: i64,
    /// What moved to us, in minor units.
    pub received_minor: i64,
    /// What may be captured, in minor units.
    pub capturable_minor: i64,
    /// Upper-case ISO 4217 code.
    pub currency: String,
    /// The code of the last declined attempt (`last_payment_error`), if there was one.
    pub last_error: Option<String>,
    /// Every refund of the latest charge.
    pub refunds: Vec<RefundFact>,
    /// Every dispute of the latest charge.
    pub disputes: Vec<DisputeFact>,
}

/// A PaymentIntent's status (<https://docs.stripe.com/payments/paymentintents/lifecycle>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentStatus {
    /// New, or after a declined attempt.
    RequiresPaymentMethod,
    /// Has a payment method and waits to be confirmed.
    RequiresConfirmation,
    /// The donor must authenticate.
    RequiresAction,
    /// The bank is at work.
    Processing,
    /// Authorized, waits for our capture.
    RequiresCapture,
    /// Final.
    Canceled,
    /// Final: money moved.
    Succeeded,
}

impl IntentStatus {
    /// The status as the provider writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::RequiresConfirmation => "requires_confirmation",
            Self::RequiresAction => "requires_action",
            Self::Processing => "processing",
            Self::RequiresCapture => "requires_capture",
            Self::Canceled => "canceled",
            Self::Succeeded => "succeeded",
        }
    }
}
