//! A PaymentIntent in Stripe's JSON.

use serde::{Serialize, Serializer};

use super::charge::ChargeView;
use super::{Empty, Expandable, Lower, Null};
use crate::sandbox::cards::TestMethod;
use crate::sandbox::expand::Expanded;
use crate::sandbox::metadata::Metadata;
use crate::sandbox::objects::{CancellationReason, CaptureMethod, Failure, IntentStatus, PaymentIntent};

/// `pi_…_secret_…`.
struct ClientSecret<'a>(&'a PaymentIntent);

impl Serialize for ClientSecret<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}_secret_{}", self.0.id, self.0.secret))
    }
}

/// A PaymentIntent (<https://docs.stripe.com/api/payment_intents/object>).
#[derive(Serialize)]
pub(in crate::sandbox) struct IntentView<'a> {
    id: &'a str,
    object: &'static str,
    amount: i64,
    amount_capturable: i64,
    amount_details: AmountDetails,
    amount_received: i64,
    application: Null,
    application_fee_amount: Null,
    automatic_payment_methods: Option<AutomaticMethods>,
    canceled_at: Option<i64>,
    cancellation_reason: Option<CancellationReason>,
    capture_method: CaptureMethod,
    client_secret: ClientSecret<'a>,
    confirmation_method: &'static str,
    created: i64,
    currency: Lower,
    customer: Null,
    description: Option<&'a str>,
    invoice: Null,
    last_payment_error: Option<FailureView<'a>>,
    latest_charge: Option<Expandable<'a, ChargeView<'a>>>,
    livemode: bool,
    metadata: &'a Metadata,
    next_action: Option<NextAction>,
    on_behalf_of: Null,
    payment_method: Option<&'static str>,
    payment_method_options: Empty,
    payment_method_types: [&'static str; 1],
    processing: Null,
    receipt_email: Option<&'a str>,
    review: Null,
    setup_future_usage: Null,
    shipping: Null,
    source: Null,
    statement_descriptor: Option<&'a str>,
    statement_descriptor_suffix: Option<&'a str>,
    status: IntentStatus,
    transfer_data: Null,
    transfer_group: Option<&'a str>,
}

#[derive(Serialize)]
struct AmountDetails {
    tip: Empty,
}

#[derive(Serialize)]
struct AutomaticMethods {
    allow_redirects: &'static str,
    enabled: bool,
}

#[derive(Serialize)]
struct NextAction {
    #[serde(rename = "type")]
    kind: &'static str,
    use_stripe_sdk: SdkAction,
}

#[derive(Serialize)]
struct SdkAction {
    #[serde(rename = "type")]
    kind: &'static str,
}

impl<'a> IntentView<'a> {
    /// Without expansions.
    pub fn plain(intent: &'a PaymentIntent) -> Self {
        Self::build(intent, intent.latest_charge().map(|id| Expandable::Id(id)))
    }

    pub fn new(intent: &'a PaymentIntent, with: &'a Expanded) -> Self {
        match &with.charge {
            Some(charge) => Self::build(intent, Some(Expandable::Whole(Box::new(ChargeView::new(charge, with))))),
            None => Self::plain(intent),
        }
    }

    fn build(intent: &'a PaymentIntent, latest_charge: Option<Expandable<'a, ChargeView<'a>>>) -> Self {
        let details = intent.details.as_deref();
        let automatic = details.is_some_and(|details| details.automatic_payment_methods);
        Self {
            id: &intent.id,
            object: "payment_intent",
            amount: intent.amount,
            amount_capturable: intent.amount_capturable,
            amount_details: AmountDetails { tip: Empty {} },
            amount_received: intent.amount_received,
            application: (),
            application_fee_amount: (),
            automatic_payment_methods: automatic
                .then_some(AutomaticMethods { allow_redirects: "always", enabled: true }),
            canceled_at: intent.canceled.map(|canceled| canceled.at),
            cancellation_reason: intent.canceled.and_then(|canceled| canceled.reason),
            capture_method: intent.capture_method,
            client_secret: ClientSecret(intent),
            confirmation_method: "automatic",
            created: intent.created,
            currency: Lower(intent.currency),
            customer: (),
            description: details.and_then(|details| details.description.as_deref()),
            invoice: (),
            last_payment_error: intent.last_error.as_deref().map(FailureView::new),
            latest_charge,
            livemode: false,
            metadata: &intent.metadata,
            next_action: next_action(intent),
            on_behalf_of: (),
            payment_method: intent.method.map(TestMethod::name),
            payment_method_options: Empty {},
            payment_method_types: [intent.method.map_or("card", TestMethod::kind)],
            processing: (),
            receipt_email: details.and_then(|details| details.receipt_email.as_deref()),
            review: (),
            setup_future_usage: (),
            shipping: (),
            source: (),
            statement_descriptor: details.and_then(|details| details.statement_descriptor.as_deref()),
            statement_descriptor_suffix: details.and_then(|details| details.statement_descriptor_suffix.as_deref()),
            status: intent.status,
            transfer_data: (),
            transfer_group: details.and_then(|details| details.transfer_group.as_deref()),
        }
    }
}

fn next_action(intent: &PaymentIntent) -> Option<NextAction> {
    let action = NextAction { kind: "use_stripe_sdk", use_stripe_sdk: SdkAction { kind: "three_d_secure_redirect" } };
    (intent.status == IntentStatus::RequiresAction).then_some(action)
}

#[derive(Serialize)]
struct FailureView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    charge: Option<&'a str>,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    decline_code: Option<&'a str>,
    message: &'a str,
    payment_method: MethodView,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl<'a> FailureView<'a> {
    fn new(failure: &'a Failure) -> Self {
        let is_card = failure.decline_code.is_some() || failure.method.kind() == "card";
        Self {
            charge: failure.charge.as_deref(),
            code: &failure.code,
            decline_code: failure.decline_code.as_deref(),
            message: &failure.message,
            payment_method: MethodView {
                id: failure.method.name(),
                object: "payment_method",
                kind: failure.method.kind(),
            },
            kind: if is_card { "card_error" } else { "invalid_request_error" },
        }
    }
}

#[derive(Serialize)]
struct MethodView {
    id: &'static str,
    object: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
}
