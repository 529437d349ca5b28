//! The HTTP client under it all: pooled connections, the headers that every request carries.
//!
//! Deliberately absent: TLS set-up; `main` installs the process's one provider.

use std::time::Duration;

use reqwest::Client;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;

use super::API_VERSION;
use super::settings::{SettingsError, StripeSettings};

/// Idle connections that are kept, as many as there may be attempts at once.
const MAXIMUM_IDLE: usize = super::transport::MAXIMUM_IN_FLIGHT;
/// An idle connection is closed before Stripe closes it under a request.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
/// Who we are.
const USER_AGENT: &str = concat!("CareForAll/", env!("CARGO_PKG_VERSION"));

/// Follows no redirects, for Stripe never sends one and the key must not follow it.
pub(super) fn client(settings: &StripeSettings, loopback: bool) -> Result<Client, SettingsError> {
    // reqwest would panic where we can still say what is wrong.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(SettingsError::Client("no TLS provider is installed".into()));
    }
    let builder = Client::builder()
        .default_headers(headers(&settings.secret_key)?)
        .user_agent(USER_AGENT)
        .connect_timeout(settings.connect_timeout)
        .pool_max_idle_per_host(MAXIMUM_IDLE)
        .pool_idle_timeout(IDLE_CONNECTION)
        .redirect(Policy::none());
    // A proxy set for the outside world cannot reach this machine's own sandbox.
    let builder = if loopback { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| SettingsError::Client(error.to_string()))
}

fn headers(secret_key: &str) -> Result<HeaderMap, SettingsError> {
    if secret_key.is_empty() || !secret_key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SettingsError::Key);
    }
    let mut bearer = HeaderValue::from_str(&format!("Bearer {secret_key}")).map_err(|_| SettingsError::Key)?;
    bearer.set_sensitive(true);
    let version = (HeaderName::from_static("stripe-version"), HeaderValue::from_static(API_VERSION));
    Ok(HeaderMap::from_iter([(AUTHORIZATION, bearer), version]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tls_provider_there_is_an_error_and_no_panic() {
        let settings = StripeSettings::new("sk_test_1", "https://api.stripe.com");
        let made = client(&settings, false).map(drop);
        // Where tests share one process, another one may have installed the provider.
        assert!(made.is_ok() || made == Err(SettingsError::Client("no TLS provider is installed".into())));
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused() {
        for key in ["", "sk test", "sk\n"] {
            assert_eq!(headers(key).unwrap_err(), SettingsError::Key);
        }
    }
}
