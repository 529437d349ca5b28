//! Addresses that nothing is sent to any more, for operators: look at them, and let messages go there again.
//!
//! Deliberately absent: adding one. Providers and donors say so themselves, and a mailbox that an operator would rather not
//! write to is not in the donors' table either.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use super::AppState;
use super::access::operator;
use super::campaigns::Page;
use super::extract::{limit, query};
use super::problem::{FieldError, Problem};
use crate::domain::notice::Channel;
use crate::store::suppressions::SuppressionReason;

/// The longest address, in bytes.
const ADDRESS_MAX_BYTES: usize = 254;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<i64>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LiftQuery {
    channel: String,
    address: String,
    reason: Option<String>,
}

/// `GET /suppressions`: by channel and address.
pub async fn list(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    operator(&request, &state, "notifications:read").await?;
    let asked: ListQuery = query(&request)?;
    let limit = limit(asked.limit)?;
    let cursor = asked.cursor.as_deref().map(place).transpose()?;
    let items = state.store.list_suppressions(cursor, limit + 1).await?;
    let name = |it: &crate::store::suppressions::SuppressionRow| format!("{}:{}:{}", it.channel, it.reason, it.address);
    Ok(HttpResponse::Ok().json(Page::of(items, limit, name)))
}

/// `DELETE /suppressions`: messages go there again; for one reason, or for all of them.
pub async fn lift(request: HttpRequest, state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, &state, "notifications:write").await?;
    let asked: LiftQuery = query(&request)?;
    let mut errors = Vec::new();
    let channel = Channel::parse(&asked.channel);
    if channel.is_none() {
        errors.push(FieldError::new("/channel", "must be EMAIL or SMS"));
    }
    if asked.address.len() > ADDRESS_MAX_BYTES || asked.address.contains('\0') {
        errors.push(FieldError::new("/address", "must be a mail address or a phone number"));
    }
    let reason = asked.reason.as_deref().map(SuppressionReason::parse);
    if reason == Some(None) {
        errors.push(FieldError::new("/reason", "must be BOUNCE, COMPLAINT or UNSUBSCRIBE"));
    }
    let Some(channel) = channel.filter(|_| errors.is_empty()) else { return Err(Problem::invalid(errors)) };
    if !state.store.lift_suppression(channel, &asked.address, reason.flatten()).await? {
        return Err(Problem::not_found("suppression"));
    }
    tracing::info!(operator = operator.name, channel = channel.as_str(), "an address is suppressed no more");
    Ok(HttpResponse::NoContent().finish())
}

/// Channel, address and reason of a cursor; only the address may hold a colon.
fn place(cursor: &str) -> Result<(&str, &str, &str), Problem> {
    let parts = cursor.split_once(':').and_then(|(channel, rest)| Some((channel, rest.split_once(':')?)));
    match parts.filter(|_| !cursor.contains('\0')) {
        Some((channel, (reason, address))) => Ok((channel, address, reason)),
        None => Err(Problem::malformed(vec![FieldError::new("/cursor", "is none of ours")])),
    }
}
