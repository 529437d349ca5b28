//! A dispute in Stripe's JSON.

use serde::Serialize;

use super::charge::ChargeView;
use super::intent::IntentView;
use super::{Empty, Expandable, Lower, Null, charge_or_id, intent_or_id};
use crate::sandbox::expand::Expanded;
use crate::sandbox::objects::{Charge, Dispute, DisputeStatus, PaymentIntent};

/// Days that a charity has to answer a dispute, in seconds.
const EVIDENCE_DUE_SECONDS: i64 = 9 * 24 * 60 * 60;

/// A dispute (<https://docs.stripe.com/api/disputes/object>).
#[derive(Serialize)]
pub(in crate::sandbox) struct DisputeView<'a> {
    id: &'a str,
    object: &'static str,
    amount: i64,
    balance_transactions: [Null; 0],
    charge: Expandable<'a, ChargeView<'a>>,
    created: i64,
    currency: Lower,
    evidence: Empty,
    evidence_details: EvidenceDetails,
    is_charge_refundable: bool,
    livemode: bool,
    metadata: Empty,
    payment_intent: Expandable<'a, IntentView<'a>>,
    reason: &'static str,
    status: DisputeStatus,
}

#[derive(Serialize)]
struct EvidenceDetails {
    due_by: i64,
    has_evidence: bool,
    past_due: bool,
    submission_count: u8,
}

impl<'a> DisputeView<'a> {
    pub fn new(dispute: &'a Dispute, with: &'a Expanded) -> Self {
        Self::build(dispute, with.charge.as_deref(), with.intent.as_deref())
    }

    pub fn plain(dispute: &'a Dispute) -> Self {
        Self::build(dispute, None, None)
    }

    fn build(dispute: &'a Dispute, charge: Option<&'a Charge>, intent: Option<&'a PaymentIntent>) -> Self {
        Self {
            id: &dispute.id,
            object: "dispute",
            amount: dispute.amount,
            balance_transactions: [],
            charge: charge_or_id(&dispute.charge, charge),
            created: dispute.created,
            currency: Lower(dispute.currency),
            evidence: Empty {},
            evidence_details: EvidenceDetails {
                due_by: dispute.created + EVIDENCE_DUE_SECONDS,
                has_evidence: false,
                past_due: false,
                submission_count: 0,
            },
            is_charge_refundable: !dispute.status.withholds(),
            livemode: false,
            metadata: Empty {},
            payment_intent: intent_or_id(&dispute.intent, intent),
            reason: "fraudulent",
            status: dispute.status,
        }
    }
}
