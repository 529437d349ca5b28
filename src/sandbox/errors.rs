//! Stripe's error object and its HTTP statuses (<https://docs.stripe.com/api/errors>).
//!
//! Deliberately absent: localised messages and `doc_url`.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use super::ids::Id;
use super::objects::{Failure, PaymentIntent};
use super::render::IntentView;

/// Stripe's `type` of an error.
#[allow(clippy::enum_variant_names, reason = "these are Stripe's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ErrorKind {
    /// Something went wrong on Stripe's end.
    ApiError,
    /// The card was declined.
    CardError,
    /// The `Idempotency-Key` was used for something else, or is in use.
    IdempotencyError,
    /// The request is not one that can be done.
    InvalidRequestError,
}

/// An error as Stripe answers it.
#[derive(Debug)]
pub(super) struct StripeError(Box<Details>);

#[derive(Debug)]
struct Details {
    status: u16,
    kind: ErrorKind,
    code: Option<Cow<'static, str>>,
    decline_code: Option<Box<str>>,
    message: String,
    param: Option<String>,
    charge: Option<Id>,
    intent: Option<Arc<PaymentIntent>>,
    /// Whether the endpoint had begun its work, so that the answer belongs to the idempotency key.
    outcome: bool,
}

impl StripeError {
    fn new(status: u16, kind: ErrorKind, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            status,
            kind,
            code: code.map(Cow::Borrowed),
            decline_code: None,
            message: message.into(),
            param: None,
            charge: None,
            intent: None,
            outcome: false,
        }))
    }

    fn invalid(status: u16, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self::new(status, ErrorKind::InvalidRequestError, code, message)
    }

    fn param(mut self, param: &str) -> Self {
        self.0.param = Some(param.to_owned());
        self
    }

    fn outcome(mut self) -> Self {
        self.0.outcome = true;
        self
    }

    /// 401: no key, or none that is ours.
    pub fn unauthorized(message: &str) -> Self {
        Self::invalid(401, None, message)
    }

    /// 403: a publishable key where a secret one is needed.
    pub fn secret_key_required() -> Self {
        Self::invalid(
            403,
            Some("secret_key_required"),
            "This API call cannot be made with a publishable API key. Please use a secret API key.",
        )
    }

    /// 404: no such route.
    pub fn unrecognized_url(method: &str, path: &str) -> Self {
        Self::invalid(404, None, format!("Unrecognized request URL ({method}: {path})."))
    }

    /// 404: the object that the path names does not exist.
    pub fn missing(kind: &str, id: &str) -> Self {
        let param = if kind == "payment_intent" { "intent" } else { "id" };
        Self::invalid(404, Some("resource_missing"), format!("No such {kind}: '{id}'")).param(param)
    }

    /// 400: an object that a parameter names does not exist.
    pub fn missing_param(kind: &str, id: &str, param: &str) -> Self {
        Self::invalid(400, Some("resource_missing"), format!("No such {kind}: '{id}'")).param(param)
    }

    /// 400: a parameter is not what it should be, without a code of its own.
    pub fn parameter(param: &str, message: &str) -> Self {
        Self::invalid(400, None, message).param(param)
    }

    /// 400: a parameter with a code of its own.
    pub fn parameter_code(code: &'static str, param: &str, message: impl Into<String>) -> Self {
        Self::invalid(400, Some(code), message).param(param)
    }

    /// 400: a required parameter is absent.
    pub fn parameter_missing(param: &str) -> Self {
        Self::parameter_code("parameter_missing", param, format!("Missing required param: {param}."))
    }

    /// 400: the object's state does not allow this.
    pub fn state(code: &'static str, message: impl Into<String>) -> Self {
        Self::invalid(400, Some(code), message).outcome()
    }

    /// 400: the intent's state does not allow this; the error carries the intent.
    pub fn unexpected_state(intent: Arc<PaymentIntent>, verb: &str, participle: &str, only: &str) -> Self {
        let status = intent.status.as_str();
        let message = format!(
            "You cannot {verb} this PaymentIntent because it has a status of {status}. Only a PaymentIntent with one \
             of the following statuses may be {participle}: {only}."
        );
        let mut error = Self::state("payment_intent_unexpected_state", message);
        error.0.intent = Some(intent);
        error
    }

    /// 402: the attempt was declined; the error carries the intent as it stands now.
    pub fn declined(intent: Arc<PaymentIntent>, failure: &Failure) -> Self {
        let mut error = Self::new(402, ErrorKind::CardError, None, &*failure.message).outcome();
        error.0.code = Some(Cow::Owned(failure.code.to_string()));
        error.0.decline_code.clone_from(&failure.decline_code);
        error.0.charge.clone_from(&failure.charge);
        error.0.intent = Some(intent);
        error
    }

    /// 400: the key was used with other parameters.
    pub fn idempotency_mismatch(key: &str) -> Self {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try \
             using a key other than '{key}' if you meant to execute a different request."
        );
        Self::new(400, ErrorKind::IdempotencyError, None, message)
    }

    /// 400: the key is longer than Stripe takes.
    pub fn idempotency_key_too_long() -> Self {
        Self::new(400, ErrorKind::IdempotencyError, None, "Idempotency keys can be at most 255 characters.")
    }

    /// 409: a request with this key is being worked on.
    pub fn idempotency_in_flight(key: &str) -> Self {
        let message = format!(
            "There is currently another in-progress request using this Idempotent Key (that probably means you \
             submitted twice, and the other request is still going through): {key}. Please try again later."
        );
        Self::new(409, ErrorKind::IdempotencyError, Some("idempotency_key_in_use"), message)
    }

    /// 429: too many requests.
    pub fn rate_limited() -> Self {
        Self::invalid(429, Some("rate_limit"), "Request rate limit exceeded. See https://docs.stripe.com/rate-limits.")
    }

    /// 500: an error of Stripe's own.
    pub fn api_error() -> Self {
        Self::new(500, ErrorKind::ApiError, None, "An unknown error occurred")
    }

    /// 504: the answer that ends a connection which was held for long.
    pub fn gateway_timeout() -> Self {
        Self::new(504, ErrorKind::ApiError, None, "The request took too long")
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// Whether a retry with the same idempotency key is answered with this very error.
    pub fn is_outcome(&self) -> bool {
        self.0.outcome
    }

    /// The body, as JSON.
    pub fn body(&self) -> Vec<u8> {
        let details = &*self.0;
        let error = ErrorView {
            charge: details.charge.as_deref(),
            code: details.code.as_deref(),
            decline_code: details.decline_code.as_deref(),
            message: &details.message,
            param: details.param.as_deref(),
            payment_intent: details.intent.as_deref().map(IntentView::plain),
            kind: details.kind,
        };
        serde_json::to_vec(&ErrorDocument { error }).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorView<'a>,
}

#[derive(Serialize)]
struct ErrorView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    charge: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decline_code: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_intent: Option<IntentView<'a>>,
    #[serde(rename = "type")]
    kind: ErrorKind,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_as_stripe_writes_it() {
        let error = StripeError::missing("payment_intent", "pi_x");
        assert_eq!(error.status(), 404);
        let body: serde_json::Value = serde_json::from_slice(&error.body()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"error": {"type": "invalid_request_error", "code": "resource_missing",
                "message": "No such payment_intent: 'pi_x'", "param": "intent"}})
        );
    }

    #[test]
    fn only_what_came_of_real_work_is_kept_for_the_key() {
        assert!(StripeError::state("charge_already_refunded", "x").is_outcome());
        assert!(!StripeError::parameter_missing("amount").is_outcome());
        assert!(!StripeError::rate_limited().is_outcome());
    }
}
