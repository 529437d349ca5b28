//! Stripe's events as Stripe would post them, and their signature.
//!
//! <https://docs.stripe.com/api/events/object>, <https://docs.stripe.com/webhooks#verify-manually>. Deliberately absent: any
//! event but the one of a payment that succeeded.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::api::CURRENCY;
use crate::clock::unix_seconds;

/// The secret of the sandbox, with which a server without settings verifies.
pub const SANDBOX_WEBHOOK_SECRET: &str = "whsec_sandbox";
/// The server takes signatures that are up to 300 s old.
pub const SIGNATURE_LASTS_S: i64 = 240;

/// The name of event `number` of the run `tag`.
pub fn event_id(tag: u32, number: u64) -> String {
    format!("evt_lt{tag:08x}{number:010x}")
}

/// The event that an intent's whole amount was received.
pub fn succeeded(event_id: &str, intent_id: &str, payment_id: Uuid, amount_minor: u64) -> String {
    let created = unix_seconds();
    let currency = CURRENCY.to_lowercase();
    format!(
        r#"{{"id":"{event_id}","object":"event","api_version":"2025-03-31.basil","created":{created},"data":{{"object":{{"id":"{intent_id}","object":"payment_intent","amount":{amount_minor},"amount_capturable":0,"amount_received":{amount_minor},"capture_method":"automatic","currency":"{currency}","livemode":false,"metadata":{{"payment_id":"{payment_id}"}},"payment_method_types":["card"],"status":"succeeded"}}}},"livemode":false,"pending_webhooks":1,"request":{{"id":null,"idempotency_key":null}},"type":"payment_intent.succeeded"}}"#
    )
}

/// The `Stripe-Signature` header of `body`, made now.
pub fn sign(secret: &str, body: &str) -> Result<String, String> {
    let timestamp = unix_seconds();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|error| error.to_string())?;
    mac.update(format!("{timestamp}.").as_bytes());
    mac.update(body.as_bytes());
    Ok(format!("t={timestamp},v1={}", hex::encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_with_what_finds_the_payment() {
        let payment = Uuid::nil();
        let event: serde_json::Value = serde_json::from_str(&succeeded("evt_1", "pi_1", payment, 2500)).unwrap();
        assert_eq!((&event["id"], &event["type"]), (&"evt_1".into(), &"payment_intent.succeeded".into()));
        let intent = &event["data"]["object"];
        assert_eq!((&intent["amount_received"], &intent["currency"]), (&2500.into(), &"eur".into()));
        assert_eq!(intent["metadata"]["payment_id"], payment.to_string());
    }

    #[test]
    fn events_of_two_runs_never_share_a_name() {
        assert_ne!(event_id(1, 0), event_id(2, 0));
        assert_ne!(event_id(1, 0x10), event_id(1, 0x1));
        assert_eq!(event_id(0xabcd, 31), "evt_lt0000abcd000000001f");
    }
}
