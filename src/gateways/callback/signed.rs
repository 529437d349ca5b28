//! The headers of one attempt: who says it, when, and the proof.
//!
//! Deliberately absent: asymmetric signatures (`v1a`).

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::{Callback, MAXIMUM_SECRETS};
use crate::gateways::delivery::DeliveryError;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const MAXIMUM_ID_BYTES: usize = 200;

pub(super) fn headers(callback: &Callback) -> Result<HeaderMap, DeliveryError> {
    // A dot is the border between the parts that are signed: an id with one could be read as another id's message.
    let is_id = |b: u8| b.is_ascii_alphanumeric() || b"-_:".contains(&b);
    if callback.id.is_empty() || callback.id.len() > MAXIMUM_ID_BYTES || !callback.id.bytes().all(is_id) {
        return Err(DeliveryError::permanent("message", "the webhook's id is not letters, digits, - _ and :"));
    }
    if callback.secrets.is_empty() || callback.secrets.len() > MAXIMUM_SECRETS {
        let detail = format!("a webhook is signed with one to {MAXIMUM_SECRETS} secrets");
        return Err(DeliveryError::permanent("settings", detail));
    }
    let timestamp = callback.at.unix_timestamp();
    let signatures: Vec<String> =
        callback.secrets.iter().map(|secret| secret.sign(&callback.id, timestamp, &callback.body)).collect();
    Ok(HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (WEBHOOK_ID, value(&callback.id)?),
        (WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp)),
        (WEBHOOK_SIGNATURE, value(&signatures.join(" "))?),
    ]))
}

fn value(text: &str) -> Result<HeaderValue, DeliveryError> {
    HeaderValue::from_str(text).map_err(|_| DeliveryError::permanent("message", "a header cannot be written"))
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::super::EndpointSecret;
    use super::*;

    fn callback(id: &str, secrets: usize) -> Callback {
        Callback {
            url: "https://partner.example/hook".to_owned(),
            id: id.to_owned(),
            at: OffsetDateTime::UNIX_EPOCH,
            body: "{}".to_owned(),
            secrets: std::iter::repeat_with(|| EndpointSecret::generate().unwrap()).take(secrets).collect(),
        }
    }

    #[test]
    fn there_is_one_signature_for_each_secret() {
        let one = callback("msg_1", 2);
        let headers = headers(&one).unwrap();
        let signatures: Vec<&str> = headers["webhook-signature"].to_str().unwrap().split(' ').collect();
        assert_eq!(signatures, [one.secrets[0].sign("msg_1", 0, "{}"), one.secrets[1].sign("msg_1", 0, "{}")]);
        assert_eq!(
            (&headers["webhook-id"], &headers["webhook-timestamp"]),
            (&"msg_1".parse().unwrap(), &"0".parse().unwrap())
        );
    }

    #[test]
    fn an_id_that_blurs_what_is_signed_and_a_crowd_of_secrets_are_refused() {
        let long = "x".repeat(MAXIMUM_ID_BYTES + 1);
        for (id, secrets) in [("", 1), ("a.1", 1), ("a b", 1), ("a\r\nx: y", 1), (&*long, 1), ("a", 0), ("a", 5)] {
            assert_eq!(headers(&callback(id, secrets)).unwrap_err().label(), "permanent", "{id:?} {secrets}");
        }
    }
}
