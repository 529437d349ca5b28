//! What the client must be told, and the checks that refuse an unsafe setting at start.
//!
//! Deliberately absent: reading the environment or files (`config`).

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;
use thiserror::Error;

/// How long one attempt may take, to the answer's last byte.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where Stripe is and with which key to speak to it. Its `Debug` hides the key.
#[derive(Clone)]
pub struct StripeSettings {
    /// `sk_…` or a restricted `rk_…`.
    pub secret_key: String,
    /// `https://api.stripe.com`, or the sandbox's `http://127.0.0.1:8080/sandbox/stripe`; `/v1/…` is appended.
    pub api_base: String,
    /// How long one attempt may take, to the answer's last byte.
    pub request_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

impl StripeSettings {
    /// Settings with the standard timeouts.
    pub fn new(secret_key: impl Into<String>, api_base: impl Into<String>) -> Self {
        Self {
            secret_key: secret_key.into(),
            api_base: api_base.into(),
            request_timeout: REQUEST_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// The checked base address, without a trailing slash in its path.
    pub(super) fn base(&self) -> Result<Url, SettingsError> {
        let mut url = Url::parse(&self.api_base).map_err(|error| SettingsError::Address(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SettingsError::Address("it is neither http nor https".into()));
        }
        if url.scheme() == "http" && is_live_key(&self.secret_key) && !is_loopback(&url) {
            return Err(SettingsError::LiveKeyInClear);
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        url.set_query(None);
        url.set_fragment(None);
        Ok(url)
    }
}

impl fmt::Debug for StripeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripeSettings")
            .field("secret_key", &"redacted")
            .field("api_base", &self.api_base)
            .field("request_timeout", &self.request_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

/// Why a client cannot be made from its settings.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// The key is empty, or not text that a header can carry.
    #[error("the Stripe secret key is empty or has characters that no key has")]
    Key,
    /// The base address is unusable.
    #[error("the Stripe API base is unusable: {0}")]
    Address(String),
    /// A live key would cross a network unencrypted.
    #[error("a live Stripe key is sent over https only; the API base is http")]
    LiveKeyInClear,
    /// The HTTP client could not be set up (no TLS provider installed, for one).
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

/// Whether a key moves real money: `sk_live_…` or the restricted `rk_live_…`.
pub fn is_live_key(key: &str) -> bool {
    key.starts_with("sk_live_") || key.starts_with("rk_live_")
}

/// Whether the address is this machine's own.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_keys_are_told_from_test_keys() {
        assert!(is_live_key("sk_live_51abc") && is_live_key("rk_live_51abc"));
        assert!(!is_live_key("sk_test_51abc") && !is_live_key("rk_test_51abc") && !is_live_key(""));
    }

    #[test]
    fn the_key_is_never_shown() {
        let shown = format!("{:?}", StripeSettings::new("sk_test_secret", "https://api.stripe.com"));
        assert!(shown.contains("api.stripe.com") && !shown.contains("sk_test_secret"));
    }

    #[test]
    fn a_live_key_leaves_this_machine_over_https_only() {
        let base = |key, address| StripeSettings::new(key, address).base().map(|url| url.to_string());
        assert_eq!(base("sk_live_1", "http://stripe.example"), Err(SettingsError::LiveKeyInClear));
        assert!(base("sk_live_1", "https://api.stripe.com/").is_ok());
        assert!(base("sk_live_1", "http://127.0.0.1:8080/sandbox/stripe").is_ok());
        assert!(base("sk_live_1", "http://[::1]:8080").is_ok());
        assert!(base("sk_test_1", "http://stripe-mock:12111").is_ok());
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for address in ["", "api.stripe.com", "ftp://api.stripe.com", "mailto:a@b.c"] {
            let refused = StripeSettings::new("sk_test_1", address).base();
            assert!(matches!(refused, Err(SettingsError::Address(_))), "{address}");
        }
    }
}
