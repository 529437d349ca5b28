//! A charge in Stripe's JSON.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::dispute::DisputeView;
use super::intent::IntentView;
use super::refund::RefundView;
use super::{Empty, Expandable, ListView, Lower, Null, intent_or_id};
use crate::sandbox::cards::TestMethod;
use crate::sandbox::expand::Expanded;
use crate::sandbox::metadata::Metadata;
use crate::sandbox::objects::{Charge, ChargeStatus, PaymentIntent, Refund};

/// A charge (<https://docs.stripe.com/api/charges/object>); `refunds` is there only when expanded.
#[derive(Serialize)]
pub(in crate::sandbox) struct ChargeView<'a> {
    id: &'a str,
    object: &'static str,
    amount: i64,
    amount_captured: i64,
    amount_refunded: i64,
    application: Null,
    application_fee: Null,
    application_fee_amount: Null,
    balance_transaction: Null,
    billing_details: BillingDetails,
    captured: bool,
    created: i64,
    currency: Lower,
    customer: Null,
    description: Null,
    dispute: Option<Expandable<'a, DisputeView<'a>>>,
    disputed: bool,
    failure_balance_transaction: Null,
    failure_code: Option<&'a str>,
    failure_message: Option<&'a str>,
    fraud_details: Empty,
    invoice: Null,
    livemode: bool,
    metadata: &'a Metadata,
    on_behalf_of: Null,
    outcome: Outcome<'a>,
    paid: bool,
    payment_intent: Expandable<'a, IntentView<'a>>,
    payment_method: &'static str,
    payment_method_details: MethodDetails,
    receipt_email: Null,
    receipt_number: Null,
    receipt_url: Null,
    refunded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    refunds: Option<Refunds<'a>>,
    review: Null,
    shipping: Null,
    source_transfer: Null,
    statement_descriptor: Null,
    statement_descriptor_suffix: Null,
    status: ChargeStatus,
    transfer_data: Null,
    transfer_group: Null,
}

#[derive(Serialize)]
struct BillingDetails {
    address: Null,
    email: Null,
    name: Null,
    phone: Null,
}

#[derive(Serialize)]
struct Outcome<'a> {
    network_status: &'static str,
    reason: Option<&'a str>,
    risk_level: &'static str,
    seller_message: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct MethodDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<CardDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    us_bank_account: Option<BankDetails>,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct CardDetails {
    brand: &'static str,
    country: &'static str,
    exp_month: u8,
    exp_year: u16,
    funding: &'static str,
    last4: &'static str,
    network: &'static str,
}

#[derive(Serialize)]
struct BankDetails {
    account_holder_type: &'static str,
    account_type: &'static str,
    bank_name: &'static str,
    last4: &'static str,
}

/// The refunds of a charge, newest first.
struct Refunds<'a>(&'a Charge, &'a [Arc<Refund>]);

impl Serialize for Refunds<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let url = format!("/v1/charges/{}/refunds", self.0.id);
        let data: Vec<_> = self.1.iter().map(|refund| RefundView::plain(refund)).collect();
        ListView::new(&url, data, false).serialize(serializer)
    }
}

impl<'a> ChargeView<'a> {
    pub fn new(charge: &'a Charge, with: &'a Expanded) -> Self {
        let dispute = match &with.dispute {
            Some(dispute) => Some(Expandable::Whole(Box::new(DisputeView::plain(dispute)))),
            None => charge.dispute.as_deref().map(Expandable::Id),
        };
        let refunds = with.refunds.as_deref().map(|refunds| Refunds(charge, refunds));
        Self::build(charge, dispute, refunds, with.intent.as_deref())
    }

    pub fn plain(charge: &'a Charge) -> Self {
        Self::build(charge, charge.dispute.as_deref().map(Expandable::Id), None, None)
    }

    fn build(
        charge: &'a Charge,
        dispute: Option<Expandable<'a, DisputeView<'a>>>,
        refunds: Option<Refunds<'a>>,
        intent: Option<&'a PaymentIntent>,
    ) -> Self {
        Self {
            id: &charge.id,
            object: "charge",
            amount: charge.amount,
            amount_captured: charge.amount_captured,
            amount_refunded: charge.amount_refunded,
            application: (),
            application_fee: (),
            application_fee_amount: (),
            balance_transaction: (),
            billing_details: BillingDetails { address: (), email: (), name: (), phone: () },
            captured: charge.captured,
            created: charge.created,
            currency: Lower(charge.currency),
            customer: (),
            description: (),
            dispute,
            disputed: charge.dispute.is_some(),
            failure_balance_transaction: (),
            failure_code: charge.failure.as_deref().map(|failure| &*failure.code),
            failure_message: charge.failure.as_deref().map(|failure| &*failure.message),
            fraud_details: Empty {},
            invoice: (),
            livemode: false,
            metadata: &charge.metadata,
            on_behalf_of: (),
            outcome: outcome(charge),
            paid: charge.status == ChargeStatus::Succeeded,
            payment_intent: intent_or_id(&charge.intent, intent),
            payment_method: charge.method.name(),
            payment_method_details: method_details(charge.method),
            receipt_email: (),
            receipt_number: (),
            receipt_url: (),
            refunded: charge.refunded(),
            refunds,
            review: (),
            shipping: (),
            source_transfer: (),
            statement_descriptor: (),
            statement_descriptor_suffix: (),
            status: charge.status,
            transfer_data: (),
            transfer_group: (),
        }
    }
}

fn outcome(charge: &Charge) -> Outcome<'_> {
    let base = Outcome {
        network_status: "approved_by_network",
        reason: None,
        risk_level: "normal",
        seller_message: "Payment complete.",
        kind: "authorized",
    };
    match charge.failure.as_deref() {
        None => base,
        Some(failure) => Outcome {
            network_status: "declined_by_network",
            reason: Some(failure.decline_code.as_deref().unwrap_or(&failure.code)),
            seller_message: "The bank did not return any further details with this decline.",
            kind: "issuer_declined",
            ..base
        },
    }
}

fn method_details(method: TestMethod) -> MethodDetails {
    let is_card = method.kind() == "card";
    let card = CardDetails {
        brand: method.brand(),
        country: "US",
        exp_month: 12,
        exp_year: 2034,
        funding: "credit",
        last4: method.last4(),
        network: method.brand(),
    };
    let bank = BankDetails {
        account_holder_type: "individual",
        account_type: "checking",
        bank_name: "STRIPE TEST BANK",
        last4: method.last4(),
    };
    MethodDetails { card: is_card.then_some(card), us_bank_account: (!is_card).then_some(bank), kind: method.kind() }
}
