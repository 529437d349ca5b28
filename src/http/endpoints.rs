//! Webhook endpoints, for operators: partners that are told of facts.
//!
//! A secret is in two answers and nowhere else: in the first one to a creation and in the first one to a rotation. The
//! answer that is kept for a repetition leaves it out (`null`), so that it lies in no second table for a day; whoever lost
//! the first answer rotates. Deliberately absent: delivery, and the disabling of endpoints that fail; the courier does.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use time::Duration;

use super::AppState;
use super::access::operator;
use super::campaigns::{Page, checked};
use super::extract::{Json, path_id, traceparent};
use super::idempotency::{answer, claimed_key, once};
use super::notifications::{as_body, wake_couriers};
use super::problem::{FieldError, Problem};
use crate::domain::donor::paragraph;
use crate::domain::fact::FactKind;
use crate::domain::ids::NoticeId;
use crate::gateways::callback::{Callbacks, EndpointSecret};
use crate::store::endpoints::{
    ENDPOINTS_MAX, EndpointChange, EndpointRow, EndpointStatus, NewEndpoint, create_endpoint, rotate_secret,
};
use crate::store::notices::enqueue_test;

const DESCRIPTION_MAX_CHARS: usize = 500;
/// How long both secrets sign after a rotation, unless the operator says otherwise.
const OVERLAP_HOURS: i64 = 24;
/// How long they may: a week.
const OVERLAP_MAX_HOURS: i64 = 7 * 24;

/// The body of `POST /webhook-endpoints`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRequest {
    url: String,
    description: Option<String>,
    #[serde(default)]
    event_types: Vec<String>,
}

/// The body of `PATCH /webhook-endpoints/{id}`; what is not named stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointPatch {
    url: Option<String>,
    description: Option<String>,
    event_types: Option<Vec<String>>,
    status: Option<String>,
}

/// The body of `POST /webhook-endpoints/{id}/rotate`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    overlap_hours: Option<i64>,
}

/// The body of `POST /webhook-endpoints/{id}/test`: nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestRequest {}

/// An endpoint as it is shown to whoever made its secret.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    endpoint: &'a EndpointRow,
    secret: Option<&'a str>,
}

/// Why nothing is done to an endpoint.
enum Refusal {
    TooMany,
    NotFound,
    Disabled,
}

/// `GET /webhook-endpoints`: all of them, oldest first; they are few.
pub async fn list(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "webhooks:read").await?;
    let items = state.store.list_endpoints().await?;
    Ok(HttpResponse::Ok().json(Page { items, next_cursor: None }))
}

/// `GET /webhook-endpoints/{id}`
pub async fn show(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "webhooks:read").await?;
    let found = state.store.load_endpoint(path_id(&request)?).await?;
    Ok(HttpResponse::Ok().json(found.ok_or(Refusal::NotFound)?))
}

/// `POST /webhook-endpoints`
pub async fn create(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<EndpointRequest>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, "webhooks:write").await?;
    let key = claimed_key(&request, &operator.id.to_string(), &body.raw)?;
    let (url, description, event_types) = body.value.check(&state.channels.callbacks)?;
    let secret = EndpointSecret::generate().map_err(Problem::internal)?;
    let now = state.clock.now();
    let (id, secret) = (NoticeId::at(now).uuid(), secret.expose());
    let endpoint = NewEndpoint { id, url, description, event_types, secret: secret.to_owned(), created_at: now };
    let mut made = None;
    let (kept, replayed) = once(&state, key.as_ref(), 201, async |transaction| {
        let Some(row) = create_endpoint(transaction, &endpoint).await? else { return Ok(Err(Refusal::TooMany)) };
        let kept = as_body(&Shown { endpoint: &row, secret: None })?;
        made = Some(row);
        Ok(Ok(kept))
    })
    .await?;
    if made.is_some() {
        tracing::info!(operator = operator.name, endpoint = %id, "a webhook endpoint was made");
    }
    reveal(201, kept, replayed, made.as_ref(), secret)
}

/// `PATCH /webhook-endpoints/{id}`
pub async fn change(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<EndpointPatch>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, "webhooks:write").await?;
    let id = path_id(&request)?;
    let change = body.value.check(&state.channels.callbacks)?;
    let changed = state.store.update_endpoint(id, &change, state.clock.now()).await?.ok_or(Refusal::NotFound)?;
    tracing::info!(operator = operator.name, endpoint = %id, status = changed.status, "a webhook endpoint was changed");
    Ok(HttpResponse::Ok().json(changed))
}

/// `DELETE /webhook-endpoints/{id}`: what waits for it becomes dead.
pub async fn delete(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, "webhooks:write").await?;
    let id = path_id(&request)?;
    if !state.store.delete_endpoint(id).await? {
        return Err(Refusal::NotFound.into());
    }
    tracing::info!(operator = operator.name, endpoint = %id, "a webhook endpoint was deleted");
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /webhook-endpoints/{id}/rotate`: a new secret; for a while the one before signs too.
pub async fn rotate(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<RotateRequest>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, "webhooks:write").await?;
    let key = claimed_key(&request, &operator.id.to_string(), &body.raw)?;
    let id = path_id(&request)?;
    let overlap_hours = body.value.overlap_hours.unwrap_or(OVERLAP_HOURS);
    if !(0..=OVERLAP_MAX_HOURS).contains(&overlap_hours) {
        let detail = format!("must be from 0 to {OVERLAP_MAX_HOURS} hours");
        return Err(Problem::invalid(vec![FieldError::new("/overlap_hours", detail)]));
    }
    let fresh = EndpointSecret::generate().map_err(Problem::internal)?;
    let now = state.clock.now();
    let mut rotated = None;
    let (kept, replayed) = once(&state, key.as_ref(), 200, async |transaction| {
        let until = now + Duration::hours(overlap_hours);
        let row = rotate_secret(transaction, id, fresh.expose(), until, now).await?;
        let Some(row) = row else { return Ok(Err(Refusal::NotFound)) };
        let kept = as_body(&Shown { endpoint: &row, secret: None })?;
        rotated = Some(row);
        Ok(Ok(kept))
    })
    .await?;
    if rotated.is_some() {
        tracing::info!(operator = operator.name, endpoint = %id, overlap_hours, "a webhook secret was rotated");
    }
    reveal(200, kept, replayed, rotated.as_ref(), fresh.expose())
}

/// `POST /webhook-endpoints/{id}/test`: a webhook of type `webhook.test`, tried once. The answer is the message; its
/// attempt shows how it went.
pub async fn test(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<TestRequest>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, "webhooks:write").await?;
    let key = claimed_key(&request, &operator.id.to_string(), &body.raw)?;
    let (id, now, trace) = (path_id(&request)?, state.clock.now(), traceparent());
    let known = state.store.load_endpoint(id).await?.is_some();
    let (body, replayed) = once(&state, key.as_ref(), 202, async |transaction| {
        match enqueue_test(transaction, id, NoticeId::at(now), now, &trace).await? {
            Some(notice) => as_body(&notice).map(Ok),
            None => Ok(Err(if known { Refusal::Disabled } else { Refusal::NotFound })),
        }
    })
    .await?;
    if !replayed {
        wake_couriers(&state);
    }
    Ok(answer(202, body, replayed))
}

/// The answer with the secret, where it was made just now; otherwise the one that was kept.
fn reveal(
    status: u16,
    kept: String,
    replayed: bool,
    made: Option<&EndpointRow>,
    secret: &str,
) -> Result<HttpResponse, Problem> {
    let body = match made {
        Some(endpoint) => as_body(&Shown { endpoint, secret: Some(secret) })?,
        None => kept,
    };
    let mut response = answer(status, body, replayed);
    let no_store = actix_web::http::header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

impl EndpointRequest {
    fn check(self, callbacks: &Callbacks) -> Result<(String, Option<String>, Vec<String>), Problem> {
        let mut errors = Vec::new();
        let url = url(&mut errors, callbacks, &self.url);
        let description = self.description.filter(|text| !text.trim().is_empty());
        let description =
            description.and_then(|text| checked(&mut errors, "/description", paragraph(&text, DESCRIPTION_MAX_CHARS)));
        let event_types = event_types(&mut errors, self.event_types);
        match url {
            Some(url) if errors.is_empty() => Ok((url, description, event_types)),
            _ => Err(Problem::invalid(errors)),
        }
    }
}

impl EndpointPatch {
    fn check(self, callbacks: &Callbacks) -> Result<EndpointChange, Problem> {
        let mut errors = Vec::new();
        let change = EndpointChange {
            url: self.url.and_then(|text| url(&mut errors, callbacks, &text)),
            description: self.description.and_then(|text| match text.trim() {
                "" => Some(String::new()),
                text => checked(&mut errors, "/description", paragraph(text, DESCRIPTION_MAX_CHARS)),
            }),
            event_types: self.event_types.map(|types| event_types(&mut errors, types)),
            status: self.status.and_then(|name| {
                let status = EndpointStatus::parse(&name).ok_or("must be ENABLED or DISABLED");
                checked(&mut errors, "/status", status)
            }),
        };
        if errors.is_empty() { Ok(change) } else { Err(Problem::invalid(errors)) }
    }
}

fn url(errors: &mut Vec<FieldError>, callbacks: &Callbacks, text: &str) -> Option<String> {
    checked(errors, "/url", callbacks.endpoint(text)).map(|_| text.to_owned())
}

/// Each once, in the order of the facts; none stands for all.
fn event_types(errors: &mut Vec<FieldError>, asked: Vec<String>) -> Vec<String> {
    for (index, _) in asked.iter().enumerate().filter(|(_, name)| FactKind::parse(name).is_none()) {
        let known = FactKind::ALL.map(FactKind::event_type).join(", ");
        errors.push(FieldError::new(&format!("/event_types/{index}"), format!("must be one of {known}")));
        // Whoever sends more than there are is told of some.
        if errors.len() > FactKind::ALL.len() {
            break;
        }
    }
    let names = FactKind::ALL.map(FactKind::event_type).into_iter();
    names.filter(|name| asked.iter().any(|it| it == name)).map(str::to_owned).collect()
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooMany => {
                let detail = format!("There are {ENDPOINTS_MAX} endpoints already; delete one first.");
                Self::conflict("too-many-endpoints", detail)
            }
            Refusal::NotFound => Self::not_found("webhook endpoint"),
            Refusal::Disabled => Self::conflict("endpoint-disabled", "The endpoint is disabled; enable it first."),
        }
    }
}
