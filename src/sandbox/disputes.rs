//! Disputes: opened by their test card or by the control, closed through the API or by the control
//! (<https://docs.stripe.com/api/disputes>).
//!
//! Deliberately absent: evidence. The control says how a dispute ends.

use std::sync::Arc;

use super::errors::StripeError;
use super::events::EventKind;
use super::form::Form;
use super::ids::{Id, object_id};
use super::objects::{Charge, Dispute, DisputeStatus};
use super::work::{Work, previously};

/// Opens a dispute about all that was captured and not refunded.
pub(super) fn open(work: &mut Work<'_>, charge: &str, status: DisputeStatus) -> Result<Arc<Dispute>, StripeError> {
    let charge = work.charge(charge)?;
    if charge.dispute.is_some() || charge.refundable() <= 0 {
        return Err(StripeError::state("charge_disputed", "This charge has nothing left to dispute."));
    }
    let dispute = work.put(Dispute {
        id: object_id("du_"),
        charge: charge.id.clone(),
        intent: charge.intent.clone(),
        amount: charge.refundable(),
        currency: charge.currency,
        created: work.now(),
        status,
    });
    work.put(Charge { dispute: Some(dispute.id.clone()), ..Charge::clone(&charge) });
    work.emit(EventKind::DisputeCreated, &dispute.id);
    emit_funds(work, &dispute.id, false, status.withholds());
    Ok(dispute)
}

/// Opens a dispute about the latest charge of an intent.
pub(super) fn open_for_intent(
    work: &mut Work<'_>,
    intent: &str,
    status: DisputeStatus,
) -> Result<Arc<Dispute>, StripeError> {
    let intent = work.intent(intent)?;
    let charge = intent.latest_charge().map_or("", |id| id);
    open(work, charge, status)
}

/// `POST /v1/disputes/{id}/close`: we accept it, so it is lost.
pub(super) fn close(work: &mut Work<'_>, id: &str, form: &Form) -> Result<Arc<Dispute>, StripeError> {
    form.allow(&[])?;
    turn(work, id, DisputeStatus::Lost)
}

/// Moves a dispute on. Money moves when the new status withholds it and the old one did not, or the reverse.
pub(super) fn turn(work: &mut Work<'_>, id: &str, status: DisputeStatus) -> Result<Arc<Dispute>, StripeError> {
    let before = work.dispute(id)?;
    if before.status.is_final() || before.status == status {
        return Err(StripeError::state("dispute_unexpected_state", "This dispute's status does not change any more."));
    }
    let dispute = work.put(Dispute { status, ..Dispute::clone(&before) });
    let kind = if status.is_final() { EventKind::DisputeClosed } else { EventKind::DisputeUpdated };
    let previous = serde_json::to_value(before.status).ok().and_then(|status| previously("status", status));
    work.emit_change(kind, &dispute.id, previous);
    emit_funds(work, &dispute.id, before.status.withholds(), status.withholds());
    Ok(dispute)
}

fn emit_funds(work: &mut Work<'_>, dispute: &Id, before: bool, after: bool) {
    match (before, after) {
        (false, true) => work.emit(EventKind::DisputeFundsWithdrawn, dispute),
        (true, false) => work.emit(EventKind::DisputeFundsReinstated, dispute),
        _ => {}
    }
}
