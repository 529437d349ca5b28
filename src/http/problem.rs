//! Problem documents (RFC 9457): every error that leaves this process, by an exhaustive mapping.
//!
//! Details of faults of ours are logged once, here, and never sent.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;

use crate::actors::committer::CommitError;
use crate::actors::payment::PaymentError;
use crate::actors::totals::TotalsError;
use crate::domain::payment::command::Refusal;
use crate::gateways::error::GatewayError;
use crate::store::StoreError;

/// How long a caller should wait when we have no better guess, in seconds.
const RETRY_AFTER_S: u64 = 1;
/// When somebody who found no room is to come again.
const RETRY_AFTER_OVERLOAD_S: u64 = 3;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON Pointer (RFC 6901) to it.
    pub pointer: String,
    /// What is wrong.
    pub detail: String,
}

impl FieldError {
    /// Something wrong at `pointer`.
    pub fn new(pointer: &str, detail: impl ToString) -> Self {
        Self { pointer: pointer.to_owned(), detail: detail.to_string() }
    }
}

/// A problem document.
#[derive(Debug, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip)]
    retry_after_s: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    /// A problem of the kind `slug`.
    pub fn new(status: StatusCode, slug: &str, title: &'static str, detail: impl ToString) -> Self {
        Self {
            kind: format!("urn:careforall:problem:{slug}"),
            title,
            status,
            detail: detail.to_string(),
            errors: Vec::new(),
            code: None,
            retry_after_s: None,
        }
    }

    /// The same, to be tried again after some seconds.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    fn with_code(mut self, code: Option<String>) -> Self {
        self.code = code;
        self
    }

    /// The request cannot be read.
    pub fn malformed(errors: Vec<FieldError>) -> Self {
        let detail = "The request cannot be read.";
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, "malformed-request", "Malformed request", detail) }
    }

    /// The request can be read, but what it says is not allowed.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = "The request says something that is not allowed.";
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation", "Validation failed", detail) }
    }

    /// There is no such thing.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", format!("There is no such {what}."))
    }

    /// It contradicts the state of things.
    pub fn conflict(slug: &str, detail: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, slug, "Conflict", detail)
    }

    /// No or an unusable credential.
    pub fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
    }

    /// A credential that does not open this.
    pub fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    /// Not now.
    pub fn unavailable(reason: impl fmt::Display) -> Self {
        tracing::warn!(%reason, "a request is answered with 503");
        let detail =
            "The service cannot do this right now; the same request may be repeated with the same Idempotency-Key.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Service unavailable", detail)
            .retry_after(RETRY_AFTER_S)
    }

    /// More came than can be done; nothing was begun. Not logged: that would cost more than the answer.
    pub fn overloaded() -> Self {
        let detail = "More comes than can be done at the moment; nothing was begun. The same request may be repeated.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Service unavailable", detail)
            .retry_after(RETRY_AFTER_OVERLOAD_S)
    }

    /// More than a client may have.
    pub fn too_many(detail: impl ToString, retry_after_s: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests", detail).retry_after(retry_after_s)
    }

    /// A fault of ours.
    pub fn internal(reason: impl fmt::Display) -> Self {
        tracing::error!(%reason, "a request is answered with 500");
        let detail = "Something went wrong on our side.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal server error", detail)
    }
}

/// What is answered where no route is.
pub async fn no_such_route() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found("route"))
}

/// What is answered where a route is, but not for this method; `allow` lists those that there are.
pub async fn no_such_method(allow: String) -> HttpResponse {
    let detail = format!("This can be done here: {allow}.");
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail);
    let mut response = problem.error_response();
    // Made of the names of methods: it cannot fail to be a header.
    if let Ok(allow) = header::HeaderValue::try_from(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.title, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/problem+json");
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        // A problem has only strings and numbers in it: it cannot fail to serialise.
        response.body(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_) | StoreError::Busy(_) | StoreError::Locked(_) => Self::unavailable(error),
            StoreError::Corrupt { .. } | StoreError::Refused(_) => Self::internal(error),
        }
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        match &error {
            CommitError::Overloaded | CommitError::Unavailable(_) => Self::unavailable(error),
            CommitError::Refused(_) => Self::internal(error),
        }
    }
}

impl From<TotalsError> for Problem {
    fn from(error: TotalsError) -> Self {
        match &error {
            TotalsError::NotFound => Self::not_found("campaign"),
            TotalsError::Behind { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "totals-behind",
                "Service unavailable",
                format!("The totals that were asked for are not known here: {error}."),
            )
            .retry_after(RETRY_AFTER_S),
            TotalsError::Unavailable(_) => Self::unavailable(error),
            TotalsError::Internal(detail) => Self::internal(detail),
        }
    }
}

impl From<PaymentError> for Problem {
    fn from(error: PaymentError) -> Self {
        match &error {
            PaymentError::NotFound => Self::not_found("payment"),
            PaymentError::Refused(refusal) => refusal.into(),
            PaymentError::KeyMismatch => Self::key_mismatch(),
            PaymentError::UnderWay => Self::conflict("order-under-way", error),
            PaymentError::Unavailable(_) | PaymentError::Contended => Self::unavailable(error),
            PaymentError::Provider(error) => error.as_ref().into(),
            PaymentError::Internal(detail) => Self::internal(detail),
        }
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::WrongStatus { .. } | Refusal::NotOpened => Self::conflict("wrong-status", refusal),
            Refusal::TooMuch { .. } | Refusal::NotPositive => {
                Self::invalid(vec![FieldError::new("/amount_minor", refusal)])
            }
        }
    }
}

impl From<&GatewayError> for Problem {
    fn from(error: &GatewayError) -> Self {
        tracing::warn!(%error, "the payment provider did not do what was asked");
        let (status, slug, detail) = match error {
            GatewayError::Permanent { .. } => {
                (StatusCode::BAD_GATEWAY, "provider-refused", "The payment provider refused.")
            }
            GatewayError::Transient { .. } | GatewayError::CircuitOpen { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "provider-away",
                "The payment provider was not reached; nothing happened there.",
            ),
            GatewayError::Unknown { .. } => (
                StatusCode::GATEWAY_TIMEOUT,
                "provider-outcome-unknown",
                "The payment provider did not answer; whether it acted is found out by itself. Repeat with the same Idempotency-Key.",
            ),
        };
        let code = match error {
            GatewayError::Permanent { code, .. } => code.clone(),
            GatewayError::Transient { .. } | GatewayError::Unknown { .. } | GatewayError::CircuitOpen { .. } => None,
        };
        let problem = Self::new(status, slug, "Payment provider", detail).with_code(code);
        if status == StatusCode::BAD_GATEWAY {
            return problem;
        }
        let seconds = error.retry_after().map_or(RETRY_AFTER_S, |wait| wait.as_secs().max(RETRY_AFTER_S));
        problem.retry_after(seconds)
    }
}

impl Problem {
    /// The key was used for another request (draft-ietf-httpapi-idempotency-key-header, section 2.7).
    pub fn key_mismatch() -> Self {
        let detail = "This Idempotency-Key was used for another request.";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", "Idempotency-Key is already used", detail)
    }

    /// The first request with this key is not answered yet.
    pub fn key_in_flight() -> Self {
        let detail = "A request with this Idempotency-Key is in flight.";
        Self::conflict("idempotency-key-in-flight", detail).retry_after(RETRY_AFTER_S)
    }
}
