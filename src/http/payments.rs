//! Payments, for operators: look at them, capture, cancel, refund.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::AppState;
use super::access::operator;
use super::campaigns::Page;
use super::extract::{Json, limit, path_id, query, traceparent};
use super::idempotency::{answer, claimed_key};
use super::problem::{FieldError, Problem};
use crate::actors::payment::{Command, Order, Reply};
use crate::domain::donor::line;
use crate::domain::payment::PaymentStatus;
use crate::store::payments::PaymentFilter;

const REASON_MAX_CHARS: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<i64>,
    cursor: Option<Uuid>,
    status: Option<PaymentStatus>,
    campaign_id: Option<Uuid>,
    intent_id: Option<String>,
    flagged: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimelineQuery {
    limit: Option<i64>,
    cursor: Option<i64>,
}

/// The body of `POST /payments/{id}/capture`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    amount_minor: Option<i64>,
}

/// The body of `POST /payments/{id}/cancel`: nothing.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {}

/// The body of `POST /payments/{id}/refunds`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RefundRequest {
    amount_minor: Option<i64>,
    reason: Option<String>,
}

/// `GET /payments`
pub async fn list(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "payments:read").await?;
    let asked: ListQuery = query(&request)?;
    let limit = limit(asked.limit)?;
    // No identifier has a NUL, and no column could be compared with one.
    if asked.intent_id.as_ref().is_some_and(|intent| intent.contains('\0')) {
        return Err(Problem::invalid(vec![FieldError::new("/intent_id", "must not contain control characters")]));
    }
    let filter = PaymentFilter {
        status: asked.status,
        campaign_id: asked.campaign_id,
        intent_id: asked.intent_id,
        flagged: asked.flagged.unwrap_or(false),
    };
    let items = state.store.list_payments(&filter, asked.cursor, limit + 1).await?;
    Ok(HttpResponse::Ok().json(Page::of(items, limit, |payment| payment.id.to_string())))
}

/// `GET /payments/{id}`
pub async fn show(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "payments:read").await?;
    let id = path_id(&request)?;
    let payment = state.store.load_payment(id.into()).await?.ok_or_else(|| Problem::not_found("payment"))?;
    Ok(HttpResponse::Ok().json(payment.view()))
}

/// `GET /payments/{id}/timeline`: every event and command with its verdict, oldest first.
pub async fn timeline(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "payments:read").await?;
    let id = path_id(&request)?;
    let asked: TimelineQuery = query(&request)?;
    let limit = limit(asked.limit.or(Some(super::extract::LIMIT_MAX)))?;
    let rows = state.store.load_timeline(id.into(), asked.cursor.unwrap_or(0), limit + 1).await?;
    if rows.is_empty() && asked.cursor.is_none() {
        return Err(Problem::not_found("payment"));
    }
    Ok(HttpResponse::Ok().json(Page::of(rows, limit, |row| row.id.to_string())))
}

/// `POST /payments/{id}/capture`
pub async fn capture(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<CaptureRequest>,
) -> Result<HttpResponse, Problem> {
    let order = order(&request, &state, &body.raw).await?;
    let command = Command::Capture { amount_minor: body.value.amount_minor, order };
    carry_out(&request, &state, command, 200).await
}

/// `POST /payments/{id}/cancel`
pub async fn cancel(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<CancelRequest>,
) -> Result<HttpResponse, Problem> {
    let order = order(&request, &state, &body.raw).await?;
    carry_out(&request, &state, Command::Cancel { order }, 200).await
}

/// `POST /payments/{id}/refunds`
pub async fn refund(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<RefundRequest>,
) -> Result<HttpResponse, Problem> {
    let order = order(&request, &state, &body.raw).await?;
    let reason = body.value.reason.map(|reason| line(&reason, REASON_MAX_CHARS)).transpose();
    let reason = reason.map_err(|error| Problem::invalid(vec![FieldError::new("/reason", error)]))?;
    let command = Command::Refund { amount_minor: body.value.amount_minor, reason, order };
    carry_out(&request, &state, command, 201).await
}

async fn order(request: &HttpRequest, state: &AppState, raw: &[u8]) -> Result<Order, Problem> {
    let operator = operator(request, state, "payments:write").await?;
    let key = claimed_key(request, &operator.id.to_string(), raw)?;
    // The provider's key follows from ours, so that a repetition after a crash is the provider's repetition too.
    let provider_key = key.as_ref().map(|key| {
        let text = format!("{}\n{}\n{}", key.scope, key.key, hex::encode(key.fingerprint));
        hex::encode(Sha256::digest(text.as_bytes()))
    });
    Ok(Order { key, provider_key, operator: operator.name, traceparent: Some(traceparent()) })
}

async fn carry_out(
    request: &HttpRequest,
    state: &AppState,
    command: Command,
    status: u16,
) -> Result<HttpResponse, Problem> {
    let id = path_id(request)?;
    // Spawned: an operator who hangs up does not undo an order that was taken.
    let reply = state.payments.spawn(id.into(), command).await.map_err(Problem::internal)??;
    match reply {
        Reply::Answer { body, replayed } => Ok(answer(status, body, replayed)),
        Reply::State(_) | Reply::Verdict(_) => Err(Problem::internal("an order was not answered")),
    }
}
