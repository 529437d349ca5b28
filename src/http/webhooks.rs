//! Stripe's webhooks: the signature on the raw body first, then the intake, then the verdict with 200.
//!
//! Whatever was decided is a 200, so that Stripe stops; what could not be decided is a 503, so that Stripe comes again.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use tokio::time::timeout;

use super::extract::read_body;
use super::problem::{FieldError, Problem};
use super::{AppState, WEBHOOK_MAX_BYTES};
use crate::actors::admission::Class;
use crate::actors::payment::PaymentError;
use crate::domain::payment::decide::Verdict;
use crate::gateways::signature::{SignatureError, verify};
use crate::gateways::stripe::event::parse;
use crate::metrics::METRICS;
use crate::trace;

/// Stripe gives up after about 20 seconds; we say that it should come again before that.
const DECIDE_WAIT: Duration = Duration::from_secs(15);

/// `POST /webhooks/stripe`
pub async fn stripe(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let raw = read_body(payload.into_inner(), WEBHOOK_MAX_BYTES).await?;
    check_signature(&request, &raw, &state)?;
    // What is signed is Stripe's; what is no text cannot be an event, and no database column could keep it.
    let body = std::str::from_utf8(&raw).ok().filter(|text| !text.contains('\0'));
    let body =
        body.ok_or_else(|| Problem::malformed(vec![FieldError::new("", "the body is not UTF-8 text")]))?.to_owned();
    let event = parse(&raw);
    // Spawned: a decision that was begun is finished, though Stripe hangs up.
    let (intake, under_way) = (state.intake.clone(), state.admission.begin(Class::Webhook));
    let deciding = actix_web::rt::spawn(trace::carry(async move {
        let answer = intake.take_in(event, &body).await;
        drop(under_way);
        answer
    }));
    let answer = match timeout(DECIDE_WAIT, deciding).await {
        Ok(joined) => joined.map_err(Problem::internal)?.map_err(come_again)?,
        Err(_) => return Err(Problem::unavailable("an event was not decided in time")),
    };
    let mut response = HttpResponse::Ok();
    if answer.verdict == Verdict::Duplicate {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    Ok(response.json(answer))
}

fn check_signature(request: &HttpRequest, raw: &[u8], state: &AppState) -> Result<(), Problem> {
    let header = request.headers().get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match verify(header, raw, &state.webhook_secrets, state.clock.unix_seconds()) {
        Ok(verified) => {
            if verified.ahead {
                METRICS.webhook_clock_ahead.inc();
                tracing::error!(
                    timestamp = verified.timestamp,
                    "a webhook is from the future: check this machine's clock"
                );
            }
            Ok(())
        }
        Err(error) => {
            METRICS.webhook_signature_failures.with_label_values(&[reason(error)]).inc();
            tracing::warn!(%error, "a webhook's signature does not hold");
            Err(Problem::malformed(vec![FieldError::new("/headers/Stripe-Signature", error)]))
        }
    }
}

fn reason(error: SignatureError) -> &'static str {
    match error {
        SignatureError::HeaderTooLong => "header_too_long",
        SignatureError::MissingTimestamp => "missing_timestamp",
        SignatureError::InvalidTimestamp => "invalid_timestamp",
        SignatureError::NoSignature => "no_signature",
        SignatureError::TooManySignatures => "too_many_signatures",
        SignatureError::Mismatch => "mismatch",
        SignatureError::TooOld { .. } => "too_old",
    }
}

/// Whatever kept us from deciding, Stripe is to come again; only a fault of ours is a 500, which it repeats as well.
fn come_again(error: PaymentError) -> Problem {
    match error {
        PaymentError::Internal(detail) => Problem::internal(detail),
        PaymentError::NotFound
        | PaymentError::Refused(_)
        | PaymentError::KeyMismatch
        | PaymentError::UnderWay
        | PaymentError::Unavailable(_)
        | PaymentError::Contended
        | PaymentError::Provider(_) => Problem::unavailable(error),
    }
}
