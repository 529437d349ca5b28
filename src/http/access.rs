//! Who may: operators by API keys with scopes, donors by a token that belongs to one donation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::HttpRequest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::AppState;
use super::extract::bearer;
use super::problem::Problem;
use crate::domain::ids::DonationId;
use crate::store::StoreError;
use crate::store::api_keys::ApiKey;

/// Every scope there is.
pub const SCOPES: &[&str] = &[
    "campaigns:write",
    "dead_letters:read",
    "dead_letters:write",
    "donations:read",
    "notifications:read",
    "notifications:write",
    "payments:read",
    "payments:write",
    "webhooks:read",
    "webhooks:write",
];

/// How long a checked key is believed: a revoked one opens nothing after that.
const KEY_TTL: Duration = Duration::from_secs(5);
/// Checked keys in memory at most.
const KEYS_MAX: usize = 1000;

/// Donors' tokens: an HMAC of the donation's identifier, so that nothing has to be stored or looked up.
#[derive(Clone)]
pub struct AccessTokens(Hmac<Sha256>);

impl AccessTokens {
    /// Tokens under a secret that all replicas share.
    pub fn new(secret: &[u8]) -> Option<Self> {
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    /// The token that opens one donation.
    pub fn issue(&self, id: DonationId) -> String {
        let mut mac = self.0.clone();
        mac.update(id.uuid().as_bytes());
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }

    fn opens(&self, id: DonationId, token: &str) -> bool {
        self.issue(id).as_bytes().ct_eq(token.as_bytes()).into()
    }
}

/// Checked operator keys.
#[derive(Clone, Default)]
pub struct Operators(Arc<Mutex<HashMap<String, (ApiKey, Instant)>>>);

impl Operators {
    /// Whether this very key was checked a moment ago.
    pub fn is_known(&self, token: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(token).is_some_and(|(_, since)| since.elapsed() < KEY_TTL)
    }

    async fn find(&self, state: &AppState, token: &str) -> Result<Option<ApiKey>, StoreError> {
        if let Some((key, since)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(token)
            && since.elapsed() < KEY_TTL
        {
            return Ok(Some(key.clone()));
        }
        let found = state.store.find_api_key(token).await?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Some(key) => {
                if known.len() >= KEYS_MAX {
                    known.clear();
                }
                known.insert(token.to_owned(), (key.clone(), Instant::now()));
            }
            None => drop(known.remove(token)),
        }
        Ok(found)
    }
}

/// The operator behind a request, if its key has the scope.
pub async fn operator(request: &HttpRequest, state: &AppState, scope: &str) -> Result<ApiKey, Problem> {
    let token = bearer(request).ok_or_else(|| Problem::unauthorized("Send an operator's key as a bearer token."))?;
    let key = state.operators.find(state, token).await?;
    let key = key.ok_or_else(|| Problem::unauthorized("This key is unknown or revoked."))?;
    if key.scopes.iter().any(|known| known == scope) {
        return Ok(key);
    }
    Err(Problem::forbidden(&format!("This key lacks the scope {scope}.")))
}

/// Whether the request may see the donation: by the donation's own token, or by an operator's key.
pub async fn may_see(request: &HttpRequest, state: &AppState, id: DonationId) -> Result<(), Problem> {
    let token = bearer(request).ok_or_else(|| {
        Problem::unauthorized("Send the donation's access_token, or an operator's key, as a bearer token.")
    })?;
    if state.access.opens(id, token) {
        return Ok(());
    }
    operator(request, state, "donations:read").await.map(drop)
}
