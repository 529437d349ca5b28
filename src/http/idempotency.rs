//! The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header): read, composed with its caller, replayed.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use deadpool_postgres::Transaction;
use sha2::{Digest, Sha256};

use super::AppState;
use super::problem::{FieldError, Problem};
use crate::store::idempotency::Once;
use crate::store::{ClaimedKey, StoreError};

/// The longest key, in bytes; Stripe's limit too.
const KEY_MAX_BYTES: usize = 255;

/// The request's key, composed with `caller`; `None` where it has none.
pub fn claimed_key(request: &HttpRequest, caller: &str, body: &[u8]) -> Result<Option<ClaimedKey>, Problem> {
    let Some(header) = request.headers().get("idempotency-key") else { return Ok(None) };
    let text = header.to_str().ok().map(unquote).filter(|key| is_key(key)).ok_or_else(|| {
        let detail = format!("must be 1 to {KEY_MAX_BYTES} visible ASCII characters");
        Problem::malformed(vec![FieldError::new("/headers/Idempotency-Key", detail)])
    })?;
    Ok(Some(ClaimedKey {
        scope: format!("api:{caller}"),
        key: text.to_owned(),
        fingerprint: fingerprint(request, body),
    }))
}

/// The draft wants a quoted structured-field string; most callers send a bare one.
fn unquote(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

fn is_key(text: &str) -> bool {
    (1..=KEY_MAX_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// SHA-256 of method, path and canonical body: white space and the order of fields do not make another request.
fn fingerprint(request: &HttpRequest, body: &[u8]) -> [u8; 32] {
    let canonical = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|value| serde_json::to_vec(&value).ok())
        .unwrap_or_else(|| body.to_vec());
    let mut hash = Sha256::new();
    for part in [request.method().as_str().as_bytes(), request.path().as_bytes(), &canonical] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// An answer as it is sent the first time and every time after.
pub fn answer(status: u16, body: String, replayed: bool) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut response = HttpResponse::build(status);
    response.content_type("application/json");
    if replayed {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    response.body(body)
}

/// Does something once for its key, and answers with `status` and what `effect` says; a repetition gets the stored answer.
/// The `bool` tells whether it is one.
pub async fn once<R: Into<Problem>>(
    state: &AppState,
    key: Option<&ClaimedKey>,
    status: i16,
    effect: impl AsyncFnOnce(&Transaction<'_>) -> Result<Result<String, R>, StoreError>,
) -> Result<(String, bool), Problem> {
    match state.store.once(key, status, state.clock.now(), effect).await? {
        Once::Done(body) => Ok((body, false)),
        Once::Refused(refusal) => Err(refusal.into()),
        Once::Known(known) if key.is_none_or(|key| known.fingerprint != key.fingerprint) => {
            Err(Problem::key_mismatch())
        }
        Once::Known(known) => match known.answer {
            Some((_, body)) => Ok((body, true)),
            None => Err(Problem::unavailable("the first request with this key is not answered yet")),
        },
    }
}
