//! The objects that the sandbox keeps, typed and compact; each version is immutable and shared.
//!
//! Deliberately absent: Stripe's JSON (see `render`), rules (see `intents`, `refunds`, `disputes`) and customers,
//! payment methods, balance transactions and payouts, which the product never reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cards::TestMethod;
use super::collection::Identified;
use super::ids::Id;
use super::metadata::Metadata;
use crate::domain::money::Currency;

/// A PaymentIntent's status (<https://docs.stripe.com/payments/paymentintents/lifecycle>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum IntentStatus {
    RequiresPaymentMethod,
    RequiresConfirmation,
    RequiresAction,
    Processing,
    RequiresCapture,
    Canceled,
    Succeeded,
}

impl IntentStatus {
    /// The status as Stripe writes it.
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

/// When the money moves: at once, or by a capture of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CaptureMethod {
    #[default]
    Automatic,
    AutomaticAsync,
    Manual,
}

/// Why an attempt failed; the last one of an intent is its `last_payment_error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub code: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decline_code: Option<Box<str>>,
    pub message: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charge: Option<Id>,
    pub method: TestMethod,
}

/// A PaymentIntent. Amounts are in minor units, times in seconds since the Unix epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PaymentIntent {
    pub id: Id,
    /// The random tail of the client secret.
    pub secret: Id,
    pub amount: i64,
    pub currency: Currency,
    pub status: IntentStatus,
    pub capture_method: CaptureMethod,
    pub created: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub amount_capturable: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub amount_received: i64,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<TestMethod>,
    /// Every attempt's charge, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charges: Vec<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Arc<Failure>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canceled: Option<Cancellation>,
    /// What the caller said and nothing here acts on; absent in most intents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Arc<IntentDetails>>,
}

/// When and why an intent was canceled.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Cancellation {
    pub at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CancellationReason>,
}

/// Why an intent was canceled; the last two are Stripe's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CancellationReason {
    Duplicate,
    Fraudulent,
    RequestedByCustomer,
    Abandoned,
    Automatic,
    Expired,
}

/// Texts of an intent that are only handed back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct IntentDetails {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt_email: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement_descriptor: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement_descriptor_suffix: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_group: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic_payment_methods: bool,
}

impl PaymentIntent {
    /// The charge of the latest attempt.
    pub fn latest_charge(&self) -> Option<&Id> {
        self.charges.last()
    }
}

/// A charge's status (<https://docs.stripe.com/api/charges/object#charge_object-status>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChargeStatus {
    Succeeded,
    Pending,
    Failed,
}

/// A charge: one attempt to move the money of an intent. Amounts in minor units.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Charge {
    pub id: Id,
    pub intent: Id,
    pub amount: i64,
    pub currency: Currency,
    pub created: i64,
    pub status: ChargeStatus,
    pub captured: bool,
    pub amount_captured: i64,
    /// Includes pending refunds; equals `amount` when an authorization was released.
    pub amount_refunded: i64,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    pub method: TestMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Arc<Failure>>,
    /// Every refund, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refunds: Vec<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispute: Option<Id>,
}

impl Charge {
    /// Whether nothing is left to give back.
    pub fn refunded(&self) -> bool {
        let given = if self.captured { self.amount_captured } else { self.amount };
        self.amount_refunded > 0 && self.amount_refunded >= given
    }

    /// What may still be refunded, in minor units.
    pub fn refundable(&self) -> i64 {
        self.amount_captured - self.amount_refunded
    }
}

/// A refund's status (<https://docs.stripe.com/api/refunds/object#refund_object-status>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RefundStatus {
    Pending,
    RequiresAction,
    Succeeded,
    Failed,
    Canceled,
}

impl RefundStatus {
    /// Whether the money is on its way to the donor, or there.
    pub fn counts(self) -> bool {
        !matches!(self, Self::Failed | Self::Canceled)
    }
}

/// A refund. Amounts in minor units.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Refund {
    pub id: Id,
    pub charge: Id,
    pub intent: Id,
    pub amount: i64,
    pub currency: Currency,
    pub created: i64,
    pub status: RefundStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RefundReason>,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    /// What the test card lets it become by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<RefundStatus>,
}

/// Why money is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RefundReason {
    Duplicate,
    Fraudulent,
    RequestedByCustomer,
}

/// A dispute's status (<https://docs.stripe.com/api/disputes/object#dispute_object-status>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DisputeStatus {
    WarningNeedsResponse,
    WarningUnderReview,
    WarningClosed,
    NeedsResponse,
    UnderReview,
    Won,
    Lost,
    Prevented,
}

impl DisputeStatus {
    /// Whether the disputed money is away from us.
    pub fn withholds(self) -> bool {
        matches!(self, Self::NeedsResponse | Self::UnderReview | Self::Lost)
    }

    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, Self::WarningClosed | Self::Won | Self::Lost | Self::Prevented)
    }
}

/// A dispute. Amounts in minor units.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Dispute {
    pub id: Id,
    pub charge: Id,
    pub intent: Id,
    pub amount: i64,
    pub currency: Currency,
    pub created: i64,
    pub status: DisputeStatus,
}

/// One version of one object.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Object {
    PaymentIntent(Arc<PaymentIntent>),
    Charge(Arc<Charge>),
    Refund(Arc<Refund>),
    Dispute(Arc<Dispute>),
}

impl Identified for Object {
    fn id(&self) -> &Id {
        match self {
            Self::PaymentIntent(intent) => &intent.id,
            Self::Charge(charge) => &charge.id,
            Self::Refund(refund) => &refund.id,
            Self::Dispute(dispute) => &dispute.id,
        }
    }
}

macro_rules! stored {
    ($($kind:ident as $variant:ident),*) => {$(
        impl Identified for $kind {
            fn id(&self) -> &Id {
                &self.id
            }
        }

        impl From<Arc<$kind>> for Object {
            fn from(object: Arc<$kind>) -> Self {
                Self::$variant(object)
            }
        }
    )*};
}

stored!(PaymentIntent as PaymentIntent, Charge as Charge, Refund as Refund, Dispute as Dispute);

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(amount: &i64) -> bool {
    *amount == 0
}
