//! One attempt to move the money of an intent: the payment method decides what comes of it.
//!
//! Deliberately absent: whether an attempt is allowed now (see `intents`).

use std::sync::Arc;

use super::cards::{Behaviour, TestMethod};
use super::errors::StripeError;
use super::events::EventKind;
use super::ids::object_id;
use super::objects::{CaptureMethod, Charge, ChargeStatus, Failure, IntentStatus, PaymentIntent};
use super::work::Work;

/// Charges `method` for the whole amount. A declined attempt is kept and answered as an error.
pub(super) fn attempt(
    work: &mut Work<'_>,
    intent: &PaymentIntent,
    method: TestMethod,
) -> Result<Arc<PaymentIntent>, StripeError> {
    let mut intent = intent.clone();
    intent.method = Some(method);
    intent.last_error = None;
    match method.behaviour() {
        Behaviour::Pays | Behaviour::PaysSlowly | Behaviour::Disputes(_) | Behaviour::Refunds(..) => {
            Ok(pay(work, intent, method))
        }
        Behaviour::Declines { code, decline_code, message } => {
            let failure = failure(method, code, Some(decline_code), message);
            Err(decline(work, intent, failure))
        }
        Behaviour::WantsAuthentication => Ok(want_authentication(work, intent)),
        Behaviour::DebitSettles | Behaviour::DebitStays | Behaviour::DebitFails { .. } => {
            Ok(debit(work, intent, method))
        }
    }
}

/// Pays: captured at once, or authorized when the intent is captured by hand.
pub(super) fn pay(work: &mut Work<'_>, mut intent: PaymentIntent, method: TestMethod) -> Arc<PaymentIntent> {
    let mut charge = new_charge(work, &intent, method, ChargeStatus::Succeeded);
    intent.charges.push(charge.id.clone());
    let kind = if intent.capture_method == CaptureMethod::Manual {
        intent.status = IntentStatus::RequiresCapture;
        intent.amount_capturable = intent.amount;
        EventKind::IntentCapturable
    } else {
        capture_whole(&mut intent, &mut charge);
        EventKind::IntentSucceeded
    };
    let charge = work.put(charge);
    let intent = work.put(intent);
    work.emit(EventKind::ChargeSucceeded, &charge.id);
    work.emit(kind, &intent.id);
    intent
}

fn capture_whole(intent: &mut PaymentIntent, charge: &mut Charge) {
    intent.status = IntentStatus::Succeeded;
    intent.amount_received = intent.amount;
    charge.captured = true;
    charge.amount_captured = charge.amount;
}

fn decline(work: &mut Work<'_>, mut intent: PaymentIntent, mut failure: Failure) -> StripeError {
    let mut charge = new_charge(work, &intent, failure.method, ChargeStatus::Failed);
    failure.charge = Some(charge.id.clone());
    let failure = Arc::new(failure);
    charge.failure = Some(failure.clone());
    intent.charges.push(charge.id.clone());
    let charge = work.put(charge);
    work.emit(EventKind::ChargeFailed, &charge.id);
    let intent = fail_attempt(work, intent, failure.clone());
    StripeError::declined(intent, &failure)
}

/// Puts the intent back to where another attempt can be made.
fn fail_attempt(work: &mut Work<'_>, mut intent: PaymentIntent, failure: Arc<Failure>) -> Arc<PaymentIntent> {
    intent.status = IntentStatus::RequiresPaymentMethod;
    intent.method = None;
    intent.last_error = Some(failure);
    let intent = work.put(intent);
    work.emit(EventKind::IntentPaymentFailed, &intent.id);
    intent
}

fn want_authentication(work: &mut Work<'_>, mut intent: PaymentIntent) -> Arc<PaymentIntent> {
    intent.status = IntentStatus::RequiresAction;
    let intent = work.put(intent);
    work.emit(EventKind::IntentRequiresAction, &intent.id);
    intent
}

/// The donor failed to authenticate.
pub(super) fn fail_authentication(
    work: &mut Work<'_>,
    intent: PaymentIntent,
    method: TestMethod,
) -> Arc<PaymentIntent> {
    let code = "payment_intent_authentication_failure";
    let message = "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new \
                   PaymentMethod to attempt to fulfill this PaymentIntent again.";
    fail_attempt(work, intent, Arc::new(failure(method, code, None, message)))
}

fn debit(work: &mut Work<'_>, mut intent: PaymentIntent, method: TestMethod) -> Arc<PaymentIntent> {
    let charge = new_charge(work, &intent, method, ChargeStatus::Pending);
    intent.charges.push(charge.id.clone());
    intent.status = IntentStatus::Processing;
    let charge = work.put(charge);
    let intent = work.put(intent);
    work.emit(EventKind::ChargePending, &charge.id);
    work.emit(EventKind::IntentProcessing, &intent.id);
    intent
}

/// A bank debit in `processing` is paid.
pub(super) fn settle_debit(work: &mut Work<'_>, mut intent: PaymentIntent, mut charge: Charge) -> Arc<PaymentIntent> {
    capture_whole(&mut intent, &mut charge);
    charge.status = ChargeStatus::Succeeded;
    let charge = work.put(charge);
    let intent = work.put(intent);
    work.emit(EventKind::ChargeSucceeded, &charge.id);
    work.emit(EventKind::IntentSucceeded, &intent.id);
    intent
}

/// A bank debit in `processing` came back.
pub(super) fn fail_debit(work: &mut Work<'_>, intent: PaymentIntent, mut charge: Charge) -> Arc<PaymentIntent> {
    let (code, message) = match charge.method.behaviour() {
        Behaviour::DebitFails { code, message } => (*code, *message),
        _ => ("payment_method_provider_decline", "The bank returned the debit."),
    };
    let mut failure = failure(charge.method, code, None, message);
    failure.charge = Some(charge.id.clone());
    let failure = Arc::new(failure);
    charge.status = ChargeStatus::Failed;
    charge.failure = Some(failure.clone());
    let charge = work.put(charge);
    work.emit(EventKind::ChargeFailed, &charge.id);
    fail_attempt(work, intent, failure)
}

fn failure(method: TestMethod, code: &str, decline_code: Option<&str>, message: &str) -> Failure {
    let decline_code = decline_code.map(Box::from);
    Failure { code: code.into(), decline_code, message: message.into(), charge: None, method }
}

fn new_charge(work: &Work<'_>, intent: &PaymentIntent, method: TestMethod, status: ChargeStatus) -> Charge {
    Charge {
        id: object_id(if method.kind() == "card" { "ch_" } else { "py_" }),
        intent: intent.id.clone(),
        amount: intent.amount,
        currency: intent.currency,
        created: work.now(),
        status,
        captured: false,
        amount_captured: 0,
        amount_refunded: 0,
        metadata: intent.metadata.clone(),
        method,
        failure: None,
        refunds: Vec::new(),
        dispute: None,
    }
}
