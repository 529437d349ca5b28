//! The Stripe client: one code path for Stripe itself and for the sandbox, told apart by the base address alone.
//!
//! In reading order: [`settings`], `connection`, `call` (what is sent), `transport` (breaker, attempts, deadline),
//! `answer` (what a failure means), [`policy`] (whether to try again), `json`, `objects` and `snapshot` (what comes
//! back), `intents`, `refunds` and `backfill` (what can be asked), [`event`] (webhook bodies).
//!
//! Deliberately absent: decisions about payments (the payment machine), webhook signatures (`gateways::signature`), and
//! Stripe's own SDK types: of some hundred fields we read twenty.

mod answer;
mod backfill;
mod call;
mod connection;
pub mod event;
mod intents;
mod json;
mod objects;
pub mod policy;
mod refunds;
pub mod settings;
mod snapshot;
#[cfg(test)]
mod testing;
mod transport;

pub use backfill::{EventPage, EventQuery, ListedEvent, MAXIMUM_PAGE};
pub use event::{MalformedEvent, WebhookEvent};
pub use intents::NewIntent;
pub use json::ShapeError;
pub use policy::CallPolicy;
pub use settings::{SettingsError, StripeSettings, is_live_key};

use self::call::Call;
use self::transport::Transport;
use super::breaker::BreakerState;
use super::error::GatewayError;

/// The version of Stripe's API that every request asks for. From this one on, a partial capture or a cancellation no
/// longer leaves a Refund object and an `amount_refunded` for money that was never captured
/// (<https://docs.stripe.com/changelog/basil>, "no longer creates a Refund"); with an older one, net = captured − refunded would be wrong after every partial capture.
pub const API_VERSION: &str = "2025-03-31.basil";

/// A Stripe account, as we use it. Cheap to clone; clones share the connections and the circuit breaker.
#[derive(Clone, Debug)]
pub struct Stripe {
    transport: Transport,
}

impl Stripe {
    /// A client with the standard [`CallPolicy`]. Connects to nothing yet.
    pub fn new(settings: StripeSettings) -> Result<Self, SettingsError> {
        Self::with_policy(settings, CallPolicy::default())
    }

    /// A client with other retries, deadlines or breaker limits.
    pub fn with_policy(settings: StripeSettings, policy: CallPolicy) -> Result<Self, SettingsError> {
        Ok(Self { transport: Transport::new(&settings, policy)? })
    }

    /// Whether Stripe answers and knows the key, by reading the account's balance; nothing of it is kept.
    pub async fn ping(&self) -> Result<(), GatewayError> {
        self.transport.send(&Call::get("balance")).await.map(drop)
    }

    /// The circuit breaker's state, for metrics.
    pub fn breaker_state(&self) -> BreakerState {
        self.transport.breaker_state()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{FakeStripe, Reply};
    use super::*;

    #[actix_web::test]
    async fn ping_says_who_we_are_and_which_api_we_speak() {
        let server = FakeStripe::start([Reply::json(200, r#"{"object":"balance"}"#)]).await;
        server.client().ping().await.unwrap();
        let seen = server.seen().remove(0);
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/sandbox/stripe/v1/balance"));
        assert_eq!(seen.header("authorization"), Some("Bearer sk_test_123"));
        assert_eq!(seen.header("stripe-version"), Some(API_VERSION));
        assert!(seen.header("user-agent").unwrap().starts_with("CareForAll/"));
        assert_eq!(seen.header("idempotency-key"), None);
    }

    #[actix_web::test]
    async fn a_wrong_key_is_told_as_stripe_tells_it_without_the_key() {
        let refusal = r#"{"error":{"type":"invalid_request_error","message":"Invalid API Key provided: sk_test_123"}}"#;
        let server = FakeStripe::start([Reply::json(401, refusal)]).await;
        let error = server.client().ping().await.unwrap_err();
        assert_eq!(
            error,
            GatewayError::Permanent {
                status: 401,
                code: None,
                message: "Invalid API Key provided: [redacted]".into(),
                kind: Some("invalid_request_error".into()),
            }
        );
        assert_eq!(server.seen().len(), 1);
    }

    #[test]
    fn the_client_never_shows_its_key() {
        testing::install_crypto();
        let stripe = Stripe::new(StripeSettings::new("sk_test_secret", "https://api.stripe.com")).unwrap();
        assert!(!format!("{stripe:?}").contains("sk_test_secret"));
    }
}
