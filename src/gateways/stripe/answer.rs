//! What a failed attempt means: every failure of a request is classified here, once.
//!
//! Deliberately absent: pauses and counts (`policy`). See <https://docs.stripe.com/error-low-level> for the rules.

use std::error::Error as _;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use crate::gateways::error::GatewayError;

/// The longest message of the provider's that is kept, in characters.
const MAXIMUM_MESSAGE_LENGTH: usize = 500;
/// No longer `Retry-After` is believed: a caller adds it to a clock.
const LONGEST_BELIEVED_WAIT: Duration = Duration::from_secs(3600);
/// What keys and client secrets look like, wherever Stripe may quote one back.
const SECRET_MARKS: [&str; 6] = ["sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_", "_secret_"];

/// One failed attempt.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// What the caller is told if this was the last attempt.
    pub error: GatewayError,
    /// Whether the same request under the same key may be sent again right away.
    pub worth_retry: bool,
    /// Whether the provider proved to be alive: such a failure does not count for the breaker.
    pub alive: bool,
}

impl Failure {
    /// No answer came. A read has no effect, so its failure is always safe to repeat; `changes` says that this was
    /// none.
    pub fn unanswered(error: &reqwest::Error, changes: bool) -> Self {
        if error.is_builder() {
            return Self::not_sent("the request cannot be written as HTTP");
        }
        let reason = describe(error);
        let error = if changes && !error.is_connect() { unknown(reason, None) } else { transient(reason, None) };
        Self { error, worth_retry: true, alive: false }
    }

    /// The provider answered with another status than success.
    pub fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8], changes: bool) -> Self {
        let problem = Problem::read(body);
        let retry_after = seconds(headers, "retry-after");
        let key_in_use = problem.code.as_deref() == Some("idempotency_key_in_use");
        let error = match status.as_u16() {
            500.. if changes => unknown(problem.reason(status), retry_after),
            409 if key_in_use && changes => unknown(problem.reason(status), retry_after),
            408 | 409 | 429 | 500.. => transient(problem.reason(status), retry_after),
            _ => problem.permanent(status),
        };
        let worth_retry = should_retry(headers).unwrap_or(error.is_retryable());
        let alive = !(status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS);
        Self { error, worth_retry, alive }
    }

    /// The provider said yes, but its answer is of no use to us; asking again would bring the same one.
    pub fn unreadable(reason: String, changes: bool) -> Self {
        let error = if changes {
            unknown(reason, None)
        } else {
            GatewayError::Permanent { status: 200, code: Some("unreadable".into()), message: reason, kind: None }
        };
        Self { error, worth_retry: false, alive: true }
    }

    /// We refused to send it.
    pub fn not_sent(reason: &str) -> Self {
        let code = Some("not_sent".to_owned());
        let error = GatewayError::Permanent { status: 400, code, message: reason.to_owned(), kind: None };
        Self { error, worth_retry: false, alive: true }
    }

    /// No connection became free in time.
    pub fn busy() -> Self {
        Self { error: transient("every connection is busy".into(), None), worth_retry: false, alive: true }
    }
}

fn transient(reason: String, retry_after: Option<Duration>) -> GatewayError {
    GatewayError::Transient { reason, retry_after }
}

fn unknown(reason: String, retry_after: Option<Duration>) -> GatewayError {
    GatewayError::Unknown { reason, retry_after }
}

/// Stripe's error object, as far as we keep it (<https://docs.stripe.com/api/errors>).
#[derive(Debug, Default, Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<String>,
    message: Option<String>,
}

impl Problem {
    fn read(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Envelope {
            error: Problem,
        }
        serde_json::from_slice(body).map(|Envelope { error }| error).unwrap_or_default()
    }

    fn reason(&self, status: StatusCode) -> String {
        let code = self.code.as_deref().or(self.kind.as_deref()).unwrap_or("no code");
        format!("status {} ({})", status.as_u16(), without_secrets(code))
    }

    fn permanent(self, status: StatusCode) -> GatewayError {
        let message = self.message.as_deref().map(without_secrets).unwrap_or_else(|| "no message".into());
        GatewayError::Permanent { status: status.as_u16(), code: self.code, message, kind: self.kind }
    }
}

/// `Stripe-Should-Retry` knows better than the status, in both directions.
fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match headers.get("stripe-should-retry")?.as_bytes() {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

fn seconds(headers: &HeaderMap, name: &str) -> Option<Duration> {
    let seconds = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_BELIEVED_WAIT))
}

/// Bounded, and with every word that looks like a key taken out.
fn without_secrets(text: &str) -> String {
    let shown = |word: &'_ str| SECRET_MARKS.iter().all(|mark| !word.contains(mark));
    let words: Vec<&str> = text.split(' ').map(|word| if shown(word) { word } else { "[redacted]" }).collect();
    words.join(" ").chars().take(MAXIMUM_MESSAGE_LENGTH).collect()
}

/// The kind of failure and its innermost cause; the address is left out, for it may hold ids.
fn describe(error: &reqwest::Error) -> String {
    let kind = match error {
        error if error.is_connect() => "could not connect",
        error if error.is_timeout() => "timed out",
        error if error.is_body() || error.is_decode() => "the answer broke off",
        _ => "the connection failed",
    };
    let innermost = std::iter::successors(error.source(), |&cause| cause.source()).last();
    innermost.map_or_else(|| kind.to_owned(), |cause| format!("{kind}: {}", without_secrets(&cause.to_string())))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn refused(status: u16, body: &str) -> Failure {
        Failure::refused(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes(), true)
    }

    #[test]
    fn each_status_of_a_changing_request_has_its_class() {
        let in_use = r#"{"error":{"type":"idempotency_error","code":"idempotency_key_in_use"}}"#;
        let locked = r#"{"error":{"type":"invalid_request_error","code":"lock_timeout"}}"#;
        for (status, body, label, worth_retry, alive) in [
            (400, "", "permanent", false, true),
            (402, "", "permanent", false, true),
            (302, "", "permanent", false, true),
            (409, in_use, "unknown", true, true),
            (409, locked, "transient", true, true),
            (429, locked, "transient", true, false),
            (500, "<html>", "unknown", true, false),
            (503, "", "unknown", true, false),
        ] {
            let failure = refused(status, body);
            let told = (failure.error.label(), failure.worth_retry, failure.alive);
            assert_eq!(told, (label, worth_retry, alive), "{status} {body}");
        }
    }

    #[test]
    fn a_failed_read_is_never_of_unknown_outcome() {
        let failure = Failure::refused(StatusCode::BAD_GATEWAY, &HeaderMap::new(), b"", false);
        assert_eq!(failure.error.label(), "transient");
    }

    #[test]
    fn stripe_should_retry_overrules_the_status() {
        for (status, header, worth_retry) in [(500, "false", false), (400, "true", true), (500, "maybe", true)] {
            let headers =
                HeaderMap::from_iter([("stripe-should-retry".parse().unwrap(), HeaderValue::from_static(header))]);
            let failure = Failure::refused(StatusCode::from_u16(status).unwrap(), &headers, b"", true);
            assert_eq!(failure.worth_retry, worth_retry, "{status} {header}");
        }
    }

    #[test]
    fn an_absurd_retry_after_is_bounded_and_a_strange_one_passed_over() {
        for (header, seconds) in [("7", Some(7)), ("18446744073709551615", Some(3600)), ("-1", None), ("soon", None)] {
            let headers = HeaderMap::from_iter([("retry-after".parse().unwrap(), HeaderValue::from_static(header))]);
            let failure = Failure::refused(StatusCode::TOO_MANY_REQUESTS, &headers, b"", true);
            assert_eq!(failure.error.retry_after(), seconds.map(Duration::from_secs), "{header}");
        }
    }

    #[test]
    fn keys_never_survive_into_a_message() {
        let body =
            r#"{"error":{"message":"No such key: 'sk_live_abc', secret pi_1_secret_2 or whsec_3 in risk_score"}}"#;
        let text = refused(401, body).error.to_string();
        assert!(text.ends_with("No such key: [redacted] secret [redacted] or [redacted] in risk_score"), "{text}");
    }

    #[test]
    fn a_message_is_bounded() {
        let body = format!(r#"{{"error":{{"message":"{}"}}}}"#, "é".repeat(5_000));
        let GatewayError::Permanent { message, .. } = refused(400, &body).error else { panic!("not permanent") };
        assert_eq!(message.chars().count(), MAXIMUM_MESSAGE_LENGTH);
    }
}
