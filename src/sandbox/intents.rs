//! PaymentIntents: create, confirm, capture, cancel, and what the control makes happen to them
//! (<https://docs.stripe.com/api/payment_intents>).
//!
//! Deliberately absent: update, incremental authorization, several captures, customers and saved methods.

use std::sync::Arc;

use super::attempt::{attempt, fail_authentication, fail_debit, pay, settle_debit};
use super::cards::TestMethod;
use super::errors::StripeError;
use super::events::EventKind;
use super::form::Form;
use super::ids::{object_id, secret};
use super::objects::{
    Cancellation, CancellationReason, Charge, ChargeStatus, IntentDetails, IntentStatus, PaymentIntent,
};
use super::work::{Work, previously};

/// What Stripe takes on create; what nothing here acts on is taken and left alone.
const CREATE_PARAMETERS: &[&str] = &[
    "amount",
    "application_fee_amount",
    "automatic_payment_methods",
    "capture_method",
    "confirm",
    "confirmation_method",
    "currency",
    "customer",
    "description",
    "error_on_requires_action",
    "mandate",
    "mandate_data",
    "metadata",
    "off_session",
    "on_behalf_of",
    "payment_method",
    "payment_method_configuration",
    "payment_method_data",
    "payment_method_options",
    "payment_method_types",
    "radar_options",
    "receipt_email",
    "return_url",
    "setup_future_usage",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
    "use_stripe_sdk",
];
const CONFIRM_PARAMETERS: &[&str] = &[
    "capture_method",
    "client_secret",
    "confirmation_token",
    "error_on_requires_action",
    "key",
    "mandate",
    "mandate_data",
    "off_session",
    "payment_method",
    "payment_method_data",
    "payment_method_options",
    "payment_method_types",
    "radar_options",
    "receipt_email",
    "return_url",
    "setup_future_usage",
    "shipping",
    "use_stripe_sdk",
];
const CAPTURE_PARAMETERS: &[&str] = &[
    "amount_to_capture",
    "application_fee_amount",
    "final_capture",
    "metadata",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
];
const CANCEL_PARAMETERS: &[&str] = &["cancellation_reason"];

const CONFIRMABLE: &str = "requires_payment_method, requires_confirmation, requires_action";
const CANCELABLE: &str =
    "requires_payment_method, requires_capture, requires_confirmation, requires_action, processing";

/// `POST /v1/payment_intents`.
pub(super) fn create(work: &mut Work<'_>, form: &Form) -> Result<Arc<PaymentIntent>, StripeError> {
    form.allow(CREATE_PARAMETERS)?;
    let (amount, currency) = form.charge_amount()?;
    let method = payment_method(form)?;
    let confirm = form.flag("confirm")?.unwrap_or(false);
    if confirm && method.is_none() {
        return Err(StripeError::parameter_missing("payment_method"));
    }
    let capture_method = form.choice("capture_method", "automatic, automatic_async, or manual")?.unwrap_or_default();
    let status =
        if method.is_some() { IntentStatus::RequiresConfirmation } else { IntentStatus::RequiresPaymentMethod };
    let intent = work.put(PaymentIntent {
        id: object_id("pi_"),
        secret: secret(),
        amount,
        currency,
        status,
        capture_method,
        created: work.now(),
        amount_capturable: 0,
        amount_received: 0,
        metadata: form.metadata()?,
        method,
        charges: Vec::new(),
        last_error: None,
        canceled: None,
        details: details(form)?,
    });
    work.emit(EventKind::IntentCreated, &intent.id);
    match method.filter(|_| confirm) {
        Some(method) => attempt(work, &intent, method),
        None => Ok(intent),
    }
}

fn details(form: &Form) -> Result<Option<Arc<IntentDetails>>, StripeError> {
    let details = IntentDetails {
        description: form.text("description"),
        receipt_email: form.text("receipt_email"),
        statement_descriptor: form.text("statement_descriptor"),
        statement_descriptor_suffix: form.text("statement_descriptor_suffix"),
        transfer_group: form.text("transfer_group"),
        automatic_payment_methods: form.flag("automatic_payment_methods[enabled]")?.unwrap_or(false),
    };
    Ok((details != IntentDetails::default()).then(|| Arc::new(details)))
}

/// The test method that a form names.
pub(super) fn payment_method(form: &Form) -> Result<Option<TestMethod>, StripeError> {
    let Some(name) = form.get("payment_method") else { return Ok(None) };
    let missing = || StripeError::missing_param("PaymentMethod", name, "payment_method");
    TestMethod::parse(name).map(Some).ok_or_else(missing)
}

/// `POST /v1/payment_intents/{id}/confirm`.
pub(super) fn confirm(work: &mut Work<'_>, id: &str, form: &Form) -> Result<Arc<PaymentIntent>, StripeError> {
    form.allow(CONFIRM_PARAMETERS)?;
    let intent = work.intent(id)?;
    if !is_confirmable(intent.status) {
        return Err(StripeError::unexpected_state(intent, "confirm", "confirmed", CONFIRMABLE));
    }
    let method = payment_method(form)?.or(intent.method).ok_or_else(|| {
        StripeError::state(
            "payment_intent_unexpected_state",
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the \
             PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a \
             payment method.",
        )
    })?;
    attempt(work, &intent, method)
}

fn is_confirmable(status: IntentStatus) -> bool {
    matches!(
        status,
        IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresConfirmation | IntentStatus::RequiresAction
    )
}

/// `POST /v1/payment_intents/{id}/capture`. What is left of a partial capture is released.
pub(super) fn capture(work: &mut Work<'_>, id: &str, form: &Form) -> Result<Arc<PaymentIntent>, StripeError> {
    form.allow(CAPTURE_PARAMETERS)?;
    let intent = work.intent(id)?;
    if intent.status != IntentStatus::RequiresCapture {
        return Err(StripeError::unexpected_state(intent, "capture", "captured", "requires_capture"));
    }
    let amount = form.amount("amount_to_capture")?.unwrap_or(intent.amount_capturable);
    if amount > intent.amount_capturable {
        let message = format!(
            "The requested capture amount is greater than the amount you can capture for this charge ({}).",
            intent.amount_capturable
        );
        return Err(StripeError::parameter_code("amount_too_large", "amount_to_capture", message));
    }
    let mut charge = latest_charge(work, &intent)?;
    charge.captured = true;
    charge.amount_captured = amount;
    let mut intent = PaymentIntent::clone(&intent);
    intent.status = IntentStatus::Succeeded;
    intent.amount_capturable = 0;
    intent.amount_received = amount;
    let charge = work.put(charge);
    let intent = work.put(intent);
    work.emit(EventKind::ChargeCaptured, &charge.id);
    work.emit(EventKind::IntentSucceeded, &intent.id);
    Ok(intent)
}

/// `POST /v1/payment_intents/{id}/cancel`. An authorization is released.
pub(super) fn cancel(work: &mut Work<'_>, id: &str, form: &Form) -> Result<Arc<PaymentIntent>, StripeError> {
    form.allow(CANCEL_PARAMETERS)?;
    let intent = work.intent(id)?;
    if matches!(intent.status, IntentStatus::Succeeded | IntentStatus::Canceled) {
        return Err(StripeError::unexpected_state(intent, "cancel", "canceled", CANCELABLE));
    }
    let reason = cancellation_reason(form)?;
    let released = match intent.status {
        IntentStatus::RequiresCapture => Some(release(work, &intent)?),
        IntentStatus::Processing => {
            call_off_debit(work, &intent)?;
            None
        }
        _ => None,
    };
    let intent = end(work, &intent, reason);
    if let Some(charge) = released {
        work.emit_change(EventKind::ChargeRefunded, &charge.id, previously("amount_refunded", 0));
    }
    Ok(intent)
}

fn cancellation_reason(form: &Form) -> Result<Option<CancellationReason>, StripeError> {
    let words = "duplicate, fraudulent, requested_by_customer, or abandoned";
    match form.choice("cancellation_reason", words)? {
        Some(CancellationReason::Automatic | CancellationReason::Expired) => Err(StripeError::parameter(
            "cancellation_reason",
            &format!("Invalid cancellation_reason: must be one of {words}"),
        )),
        reason => Ok(reason),
    }
}

/// Gives the authorized money free: Stripe writes that as a refund of a charge that was never captured.
fn release(work: &mut Work<'_>, intent: &PaymentIntent) -> Result<Arc<Charge>, StripeError> {
    let mut charge = latest_charge(work, intent)?;
    charge.amount_refunded = charge.amount;
    Ok(work.put(charge))
}

fn call_off_debit(work: &mut Work<'_>, intent: &PaymentIntent) -> Result<(), StripeError> {
    let mut charge = latest_charge(work, intent)?;
    charge.status = ChargeStatus::Failed;
    work.put(charge);
    Ok(())
}

fn end(work: &mut Work<'_>, intent: &PaymentIntent, reason: Option<CancellationReason>) -> Arc<PaymentIntent> {
    let mut intent = intent.clone();
    intent.status = IntentStatus::Canceled;
    intent.amount_capturable = 0;
    intent.canceled = Some(Cancellation { at: work.now(), reason });
    let intent = work.put(intent);
    work.emit(EventKind::IntentCanceled, &intent.id);
    intent
}

/// The authorization runs out without having been captured.
pub(super) fn expire(work: &mut Work<'_>, id: &str) -> Result<Arc<PaymentIntent>, StripeError> {
    let intent = work.intent(id)?;
    if intent.status != IntentStatus::RequiresCapture {
        return Err(StripeError::unexpected_state(intent, "expire", "expired", "requires_capture"));
    }
    let charge = release(work, &intent)?;
    work.emit(EventKind::ChargeExpired, &charge.id);
    Ok(end(work, &intent, Some(CancellationReason::Automatic)))
}

/// The donor authenticates, or fails to.
pub(super) fn authenticate(work: &mut Work<'_>, id: &str, passes: bool) -> Result<Arc<PaymentIntent>, StripeError> {
    let intent = work.intent(id)?;
    match intent.method.filter(|_| intent.status == IntentStatus::RequiresAction) {
        None => Err(StripeError::unexpected_state(intent, "authenticate", "authenticated", "requires_action")),
        Some(method) if passes => Ok(pay(work, PaymentIntent::clone(&intent), method)),
        Some(method) => Ok(fail_authentication(work, PaymentIntent::clone(&intent), method)),
    }
}

/// The bank decides about a debit.
pub(super) fn process(work: &mut Work<'_>, id: &str, pays: bool) -> Result<Arc<PaymentIntent>, StripeError> {
    let intent = work.intent(id)?;
    if intent.status != IntentStatus::Processing {
        return Err(StripeError::unexpected_state(intent, "process", "processed", "processing"));
    }
    let charge = latest_charge(work, &intent)?;
    let intent = PaymentIntent::clone(&intent);
    Ok(if pays { settle_debit(work, intent, charge) } else { fail_debit(work, intent, charge) })
}

fn latest_charge(work: &Work<'_>, intent: &PaymentIntent) -> Result<Charge, StripeError> {
    let id = intent.latest_charge().map_or("", |id| id);
    work.charge(id).map(|charge| Charge::clone(&charge))
}
