//! A refund in Stripe's JSON.

use serde::Serialize;

use super::charge::ChargeView;
use super::intent::IntentView;
use super::{Expandable, Lower, Null, charge_or_id, intent_or_id};
use crate::sandbox::expand::Expanded;
use crate::sandbox::metadata::Metadata;
use crate::sandbox::objects::{Charge, PaymentIntent, Refund, RefundReason, RefundStatus};

/// A refund (<https://docs.stripe.com/api/refunds/object>).
#[derive(Serialize)]
pub(in crate::sandbox) struct RefundView<'a> {
    id: &'a str,
    object: &'static str,
    amount: i64,
    balance_transaction: Null,
    charge: Expandable<'a, ChargeView<'a>>,
    created: i64,
    currency: Lower,
    destination_details: DestinationDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_reason: Option<&'static str>,
    metadata: &'a Metadata,
    payment_intent: Expandable<'a, IntentView<'a>>,
    reason: Option<RefundReason>,
    receipt_number: Null,
    source_transfer_reversal: Null,
    status: RefundStatus,
    transfer_reversal: Null,
}

#[derive(Serialize)]
struct DestinationDetails {
    #[serde(rename = "type")]
    kind: &'static str,
}

impl<'a> RefundView<'a> {
    pub fn new(refund: &'a Refund, with: &'a Expanded) -> Self {
        Self::build(refund, with.charge.as_deref(), with.intent.as_deref())
    }

    pub fn plain(refund: &'a Refund) -> Self {
        Self::build(refund, None, None)
    }

    fn build(refund: &'a Refund, charge: Option<&'a Charge>, intent: Option<&'a PaymentIntent>) -> Self {
        Self {
            id: &refund.id,
            object: "refund",
            amount: refund.amount,
            balance_transaction: (),
            charge: charge_or_id(&refund.charge, charge),
            created: refund.created,
            currency: Lower(refund.currency),
            destination_details: DestinationDetails { kind: "card" },
            failure_reason: (refund.status == RefundStatus::Failed).then_some("unknown"),
            metadata: &refund.metadata,
            payment_intent: intent_or_id(&refund.intent, intent),
            reason: refund.reason,
            receipt_number: (),
            source_transfer_reversal: (),
            status: refund.status,
            transfer_reversal: (),
        }
    }
}
