//! Refunds: made through the API, turned by their test card or by the control (<https://docs.stripe.com/api/refunds>).
//!
//! Deliberately absent: updates, refunds to a balance, and the cancel endpoint (the control does it).

use std::sync::Arc;

use super::cards::Behaviour;
use super::errors::StripeError;
use super::events::EventKind;
use super::form::Form;
use super::ids::object_id;
use super::objects::{Charge, ChargeStatus, Refund, RefundStatus};
use super::work::{Work, previously};

const CREATE_PARAMETERS: &[&str] = &[
    "amount",
    "charge",
    "currency",
    "customer",
    "instructions_email",
    "metadata",
    "origin",
    "payment_intent",
    "reason",
    "refund_application_fee",
    "reverse_transfer",
];

/// `POST /v1/refunds`.
pub(super) fn create(work: &mut Work<'_>, form: &Form) -> Result<Arc<Refund>, StripeError> {
    form.allow(CREATE_PARAMETERS)?;
    let asked = form.amount("amount")?;
    let reason = form.choice("reason", "duplicate, fraudulent, or requested_by_customer")?;
    let metadata = form.metadata()?;
    let charge = charge_to_refund(work, form)?;
    let amount = asked.unwrap_or(charge.refundable());
    check_refundable(work, &charge, amount)?;
    let (status, planned) = match charge.method.behaviour() {
        Behaviour::Refunds(first, then) => (*first, Some(*then)),
        _ => (RefundStatus::Succeeded, None),
    };
    let refund = Refund {
        id: object_id("re_"),
        charge: charge.id.clone(),
        intent: charge.intent.clone(),
        amount,
        currency: charge.currency,
        created: work.now(),
        status,
        reason,
        metadata,
        planned,
    };
    Ok(give_back(work, Charge::clone(&charge), refund))
}

fn give_back(work: &mut Work<'_>, mut charge: Charge, refund: Refund) -> Arc<Refund> {
    let before = charge.amount_refunded;
    charge.amount_refunded += refund.amount;
    charge.refunds.push(refund.id.clone());
    let refund = work.put(refund);
    let charge = work.put(charge);
    work.emit(EventKind::RefundCreated, &refund.id);
    work.emit_change(EventKind::ChargeRefunded, &charge.id, previously("amount_refunded", before));
    refund
}

fn charge_to_refund(work: &Work<'_>, form: &Form) -> Result<Arc<Charge>, StripeError> {
    if let Some(id) = form.get("charge") {
        return work.find_charge(id).ok_or_else(|| StripeError::missing_param("charge", id, "charge"));
    }
    let Some(id) = form.get("payment_intent") else {
        let message = "One of the following params should be provided for this request: payment_intent or charge.";
        return Err(StripeError::parameter_code("parameter_missing", "payment_intent", message));
    };
    let missing = || StripeError::missing_param("payment_intent", id, "payment_intent");
    let intent = work.find_intent(id).ok_or_else(missing)?;
    intent.latest_charge().and_then(|id| work.find_charge(id)).ok_or_else(|| no_successful_charge(id))
}

fn no_successful_charge(intent: &str) -> StripeError {
    let message = format!("This PaymentIntent ({intent}) does not have a successful charge to refund.");
    StripeError::state("payment_intent_unexpected_state", message)
}

fn check_refundable(work: &Work<'_>, charge: &Charge, amount: i64) -> Result<(), StripeError> {
    if charge.status != ChargeStatus::Succeeded || !charge.captured {
        return Err(no_successful_charge(&charge.intent));
    }
    if is_charged_back(work, charge) {
        let message = format!("Charge {} has been charged back; cannot issue a refund.", charge.id);
        return Err(StripeError::state("charge_disputed", message));
    }
    if charge.refundable() <= 0 {
        let message = format!("Charge {} has already been refunded.", charge.id);
        return Err(StripeError::state("charge_already_refunded", message));
    }
    if amount > charge.refundable() {
        let message = format!(
            "Refund amount ({}) is greater than unrefunded amount on charge ({})",
            charge.currency.format(amount),
            charge.currency.format(charge.refundable())
        );
        return Err(StripeError::parameter_code("amount_too_large", "amount", message));
    }
    Ok(())
}

fn is_charged_back(work: &Work<'_>, charge: &Charge) -> bool {
    let dispute = charge.dispute.as_deref().and_then(|id| work.dispute(id).ok());
    dispute.is_some_and(|dispute| dispute.status.withholds())
}

/// Turns a refund into another status; one that failed or was called off gives the money back to the charge.
pub(super) fn turn(work: &mut Work<'_>, id: &str, status: RefundStatus) -> Result<Arc<Refund>, StripeError> {
    let before = work.refund(id)?;
    if !before.status.counts() || before.status == status {
        return Err(StripeError::state("refund_unexpected_state", "This refund's status does not change any more."));
    }
    if !status.counts() {
        take_back(work, &before)?;
    }
    let refund = work.put(Refund { status, planned: None, ..Refund::clone(&before) });
    let previous = serde_json::to_value(before.status).ok().and_then(|status| previously("status", status));
    work.emit_change(EventKind::RefundUpdated, &refund.id, previous.clone());
    work.emit_change(EventKind::ChargeRefundUpdated, &refund.id, previous);
    if status == RefundStatus::Failed {
        work.emit(EventKind::RefundFailed, &refund.id);
    }
    Ok(refund)
}

fn take_back(work: &mut Work<'_>, refund: &Refund) -> Result<(), StripeError> {
    let mut charge = Charge::clone(&*work.charge(&refund.charge)?);
    charge.amount_refunded -= refund.amount;
    work.put(charge);
    Ok(())
}
