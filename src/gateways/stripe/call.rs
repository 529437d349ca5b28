//! One call: what is sent, the same for each of its attempts.
//!
//! Deliberately absent: sending it (`transport`).

use reqwest::Method;

use super::GatewayError;
use super::answer::Failure;

/// The longest idempotency key that Stripe takes, in characters.
const MAXIMUM_KEY_LENGTH: usize = 255;

/// The form or query fields of one call; nested ones as Stripe writes them, `metadata[payment_id]`.
pub(super) type Fields = Vec<(&'static str, String)>;

/// One call, the same for each of its attempts.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub method: Method,
    /// Below `/v1/`.
    pub path: String,
    pub fields: Fields,
    pub idempotency_key: Option<String>,
}

impl Call {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), fields: Fields::new(), idempotency_key: None }
    }

    pub fn post(path: impl Into<String>, idempotency_key: impl Into<String>) -> Self {
        let idempotency_key = Some(idempotency_key.into());
        Self { method: Method::POST, path: path.into(), fields: Fields::new(), idempotency_key }
    }

    pub fn with(mut self, fields: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.fields.extend(fields);
        self
    }

    /// What it does, for metrics: one of a closed set, without identifiers.
    pub fn operation(&self) -> &'static str {
        let mut parts = self.path.split('/');
        match (parts.next().unwrap_or_default(), parts.nth(1), self.changes()) {
            ("payment_intents", None, true) => "create_intent",
            ("payment_intents", None, false) => "retrieve_intent",
            ("payment_intents", Some("capture"), _) => "capture_intent",
            ("payment_intents", Some("cancel"), _) => "cancel_intent",
            ("refunds", _, true) => "create_refund",
            ("refunds", _, false) => "list_refunds",
            ("events", _, _) => "list_events",
            ("balance", _, _) => "ping",
            _ => "other",
        }
    }

    /// The path without identifiers, for traces.
    pub fn template(&self) -> String {
        let mut parts = self.path.split('/');
        let (thing, id, action) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let id = if id.is_some() { "/{id}" } else { "" };
        action.map_or_else(|| format!("/v1/{thing}{id}"), |action| format!("/v1/{thing}{id}/{action}"))
    }

    /// Whether it may have an effect at Stripe.
    pub fn changes(&self) -> bool {
        self.method != Method::GET
    }

    /// Refuses what Stripe would refuse, before it is sent.
    pub fn check(&self) -> Result<(), Failure> {
        let fits = |key: &String| !key.is_empty() && key.len() <= MAXIMUM_KEY_LENGTH;
        if self.idempotency_key.as_ref().is_none_or(fits) {
            return Ok(());
        }
        Err(Failure::not_sent("the idempotency key must have between 1 and 255 characters"))
    }
}

/// Refuses an id that could lead a path elsewhere: Stripe's are letters, digits and underscores.
pub(super) fn path_id(id: &str) -> Result<&str, GatewayError> {
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(id);
    }
    Err(Failure::not_sent("the id is not one of Stripe's").error)
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeStripe;
    use super::*;

    #[actix_web::test]
    async fn an_id_or_a_key_that_cannot_be_sent_is_refused_here() {
        for id in ["", "../balance", "pi_1/capture", "pi_1?x", ".."] {
            assert!(path_id(id).is_err(), "{id}");
        }
        for key in ["", &"k".repeat(256), "line\nbreak"] {
            let error = FakeStripe::nowhere().transport.send(&Call::post("things", key)).await.unwrap_err();
            assert_eq!(error.label(), "permanent", "{key}");
        }
    }
}
