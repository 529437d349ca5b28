//! Messages, for operators: look at them with every attempt, send one once more.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::AppState;
use super::access::operator;
use super::campaigns::Page;
use super::extract::{Json, limit, path_id, query, traceparent};
use super::idempotency::{answer, claimed_key, once};
use super::problem::{FieldError, Problem};
use crate::actors::facts::Wake;
use crate::domain::ids::NoticeId;
use crate::domain::notice::{CallbackKind, Channel, NoticeKind, NoticeStatus};
use crate::store::StoreError;
use crate::store::notices::{AttemptRow, NoticeFilter, NoticeRow, ResendRefusal, resend_notice};

/// The longest recipient that is looked for, in bytes: an address has 254 at most.
const RECIPIENT_MAX_BYTES: usize = 254;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<i64>,
    cursor: Option<Uuid>,
    status: Option<String>,
    channel: Option<String>,
    kind: Option<String>,
    donation_id: Option<Uuid>,
    payment_id: Option<Uuid>,
    endpoint_id: Option<Uuid>,
    recipient: Option<String>,
}

/// One message with its attempts.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    notice: NoticeRow,
    /// Oldest first.
    delivery_log: Vec<AttemptRow>,
}

/// The body of `POST /notifications/{id}/resend`: nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResendRequest {}

/// `GET /notifications`: newest first.
pub async fn list(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "notifications:read").await?;
    let asked: ListQuery = query(&request)?;
    let (limit, cursor) = (limit(asked.limit)?, asked.cursor);
    let items = state.store.list_notices(&asked.filter()?, cursor, limit + 1).await?;
    Ok(HttpResponse::Ok().json(Page::of(items, limit, |notice| notice.id.to_string())))
}

/// `GET /notifications/{id}`: with every attempt.
pub async fn show(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "notifications:read").await?;
    let found = state.store.load_notice(path_id(&request)?.into()).await?;
    let (notice, delivery_log) = found.ok_or_else(|| Problem::not_found("notification"))?;
    Ok(HttpResponse::Ok().json(Shown { notice, delivery_log }))
}

/// `POST /notifications/{id}/resend`: the same message once more, marked as a duplicate.
pub async fn resend(
    request: HttpRequest,
    state: web::Data<AppState>,
    body: Json<ResendRequest>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, "notifications:write").await?;
    let key = claimed_key(&request, &operator.id.to_string(), &body.raw)?;
    let (id, now, trace) = (path_id(&request)?, state.clock.now(), traceparent());
    let (body, replayed) = once(&state, key.as_ref(), 201, async |transaction| {
        let resent = resend_notice(transaction, id.into(), NoticeId::at(now), now, &trace).await?;
        resent.map(|notice| as_body(&notice)).map_or_else(|refusal| Ok(Err(refusal)), |body| body.map(Ok))
    })
    .await?;
    if !replayed {
        tracing::info!(operator = operator.name, notice = %id, "a message is sent once more");
        wake_couriers(&state);
    }
    Ok(answer(201, body, replayed))
}

/// What an operator made due goes out at once; a full mailbox has a wake in it already.
pub fn wake_couriers(state: &AppState) {
    for courier in &state.couriers {
        let _ = courier.try_send(Wake);
    }
}

/// A row as it is answered with. It has only strings, numbers and times in it.
pub fn as_body(row: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(row).map_err(|error| StoreError::Refused(error.to_string()))
}

impl From<ResendRefusal> for Problem {
    fn from(refusal: ResendRefusal) -> Self {
        match refusal {
            ResendRefusal::NotFound => Self::not_found("notification"),
            ResendRefusal::Pending => Self::conflict("notification-pending", "This message is on its way still."),
            ResendRefusal::Suppressed => Self::conflict(
                "recipient-suppressed",
                "This address bounced, complained or unsubscribed: nothing of this kind is sent to it.",
            ),
            ResendRefusal::EndpointDisabled => {
                Self::conflict("endpoint-disabled", "The endpoint is disabled or gone; enable it first.")
            }
        }
    }
}

impl ListQuery {
    fn filter(self) -> Result<NoticeFilter, Problem> {
        let mut errors = Vec::new();
        let status = named(&mut errors, "/status", self.status, NoticeStatus::parse);
        let channel = named(&mut errors, "/channel", self.channel, Channel::parse);
        let kind = named(&mut errors, "/kind", self.kind, |name| is_kind(name).then(|| name.to_owned()));
        // No address has a NUL, and no column could be compared with one.
        let is_bad = |it: &String| it.len() > RECIPIENT_MAX_BYTES || it.contains('\0');
        if self.recipient.as_ref().is_some_and(is_bad) {
            errors.push(FieldError::new("/recipient", "must be a mail address, a phone number or an endpoint's id"));
        }
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        Ok(NoticeFilter {
            status,
            channel,
            kind,
            donation_id: self.donation_id,
            payment_id: self.payment_id,
            recipient: self.recipient,
            endpoint_id: self.endpoint_id,
        })
    }
}

fn is_kind(name: &str) -> bool {
    NoticeKind::parse(name).is_some() || CallbackKind::parse(name).is_some()
}

fn named<T>(
    errors: &mut Vec<FieldError>,
    pointer: &str,
    name: Option<String>,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let name = name?;
    let parsed = parse(&name);
    if parsed.is_none() {
        errors.push(FieldError::new(pointer, "there is none of that name"));
    }
    parsed
}
