//! The server's requests and what is read out of its answers.
//!
//! Answers are searched, not parsed: a field of our own server stands where it stands, and a generator that parses JSON
//! measures itself. Deliberately absent: names of donors that anybody has.

use uuid::Uuid;

use crate::client::{Answer, request};
use crate::recording::{Outcome, Refusal};

/// The key that the sandbox takes.
pub const SANDBOX_KEY: &str = "sk_test_sandbox";
/// The currency of everything here.
pub const CURRENCY: &str = "EUR";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// What a donation's answer says.
#[derive(Clone, Debug)]
pub struct Gift {
    /// The donation.
    pub id: Uuid,
    /// Its payment.
    pub payment_id: Uuid,
    /// Stripe's intent, once it is known.
    pub intent_id: Option<String>,
    /// The donor's own key to it.
    pub access_token: String,
    /// The donation's version.
    pub version: i64,
}

/// `POST /api/v1/donations`; with a key it may be sent twice; `waits` for the provider, or wants its answer right after the
/// commit.
pub fn create(campaign: Uuid, amount_minor: u64, donor: u64, key: Option<&str>, waits: bool) -> Vec<u8> {
    let body = format!(
        r#"{{"campaign_id":"{campaign}","amount_minor":{amount_minor},"currency":"{CURRENCY}","donor":{{"name":"Load Donor","email":"donor-{donor}@load.invalid"}}}}"#
    );
    let mut headers = vec![JSON];
    headers.extend(key.map(|key| ("Idempotency-Key", key)));
    headers.extend((!waits).then_some(("Prefer", "respond-async")));
    request("POST", "/api/v1/donations", &headers, Some(body.as_bytes()))
}

/// The donation in an answer to [`create`].
pub fn gift(body: &str) -> Option<Gift> {
    let payment = after(body, "\"payment\":{")?;
    Some(Gift {
        id: text(body, "\"id\":\"")?.parse().ok()?,
        payment_id: text(payment, "\"id\":\"")?.parse().ok()?,
        intent_id: text(payment, "\"intent_id\":\"").map(str::to_owned),
        access_token: text(body, "\"access_token\":\"")?.to_owned(),
        version: number(body, "\"version\":")?,
    })
}

/// Pays in the sandbox, as the donor's browser would.
pub fn confirm(intent_id: &str) -> Vec<u8> {
    let authorization = format!("Bearer {SANDBOX_KEY}");
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/x-www-form-urlencoded")];
    let path = format!("/sandbox/stripe/v1/payment_intents/{intent_id}/confirm");
    request("POST", &path, &headers, Some(b"payment_method=pm_card_visa"))
}

/// Looks at a donation; the server holds the answer until there is a newer version, or so many seconds.
pub fn poll(gift: &Gift, after_version: i64, wait_s: u64) -> Vec<u8> {
    let authorization = format!("Bearer {}", gift.access_token);
    let path = format!("/api/v1/donations/{}?after_version={after_version}&wait={wait_s}", gift.id);
    request("GET", &path, &[("Authorization", &authorization)], None)
}

/// Looks at a donation once.
pub fn show(gift: &Gift) -> Vec<u8> {
    let authorization = format!("Bearer {}", gift.access_token);
    request("GET", &format!("/api/v1/donations/{}", gift.id), &[("Authorization", &authorization)], None)
}

/// How new totals must be.
#[derive(Clone, Copy, Debug)]
pub enum Newness {
    /// As any level has them.
    Any,
    /// Of that version at least.
    AtLeast(i64),
    /// As the database has them, whatever is remembered.
    Fresh,
}

/// A campaign's totals.
pub fn totals(campaign: Uuid, newness: Newness) -> Vec<u8> {
    let path = match newness {
        Newness::Any => format!("/api/v1/campaigns/{campaign}/totals"),
        Newness::AtLeast(version) => format!("/api/v1/campaigns/{campaign}/totals?min_version={version}"),
        Newness::Fresh => format!("/api/v1/campaigns/{campaign}/totals?fresh=true"),
    };
    request("GET", &path, &[], None)
}

/// A signed event.
pub fn webhook(signature: &str, body: &str) -> Vec<u8> {
    request("POST", "/webhooks/stripe", &[JSON, ("Stripe-Signature", signature)], Some(body.as_bytes()))
}

/// `Done` for the status that is expected, `Refused` for a server that is too busy.
pub fn outcome(answer: &Answer<'_>, expected: u16) -> Outcome {
    match answer.status {
        status if status == expected => Outcome::Done,
        status @ (429 | 503) => Outcome::Refused(Refusal { status, retry_after: answer.retry_after }),
        status => Outcome::Failed(format!("status {status}: {}", detail(answer.text()))),
    }
}

/// What a problem document says, without identifiers: complaints are counted by their text.
fn detail(body: &str) -> &str {
    text(body, "\"detail\":\"").or_else(|| text(body, "\"title\":\"")).unwrap_or("no problem document")
}

/// What follows the first `mark`.
pub fn after<'a>(body: &'a str, mark: &str) -> Option<&'a str> {
    body.find(mark).map(|at| &body[at + mark.len()..])
}

/// The JSON string that follows the first `mark` (which ends with its opening quote).
pub fn text<'a>(body: &'a str, mark: &str) -> Option<&'a str> {
    let rest = after(body, mark)?;
    rest.find('"').map(|end| &rest[..end])
}

/// The whole number that follows the first `mark`.
pub fn number(body: &str, mark: &str) -> Option<i64> {
    let rest = after(body, mark)?;
    let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"id":"01a205a1-4353-786c-9422-16929076a17b","campaign_id":"01a205a1-3227-754f-a1f5-aab4c392f89f","amount_minor":2500,"currency":"EUR","status":"PENDING","version":2,"anonymous":false,"message":null,"receipt_number":null,"access_token":"7_e","payment":{"id":"01a205a1-4353-7bec-80a5-6de05aab7d48","status":"INITIATED","provider":"stripe","intent_id":"pi_kX","client_secret":"pi_kX_secret"},"created_at":"x"}"#;

    #[test]
    fn a_donations_answer_is_read() {
        let gift = gift(ANSWER).unwrap();
        assert_eq!(gift.id.to_string(), "01a205a1-4353-786c-9422-16929076a17b");
        assert_eq!(gift.payment_id.to_string(), "01a205a1-4353-7bec-80a5-6de05aab7d48");
        assert_eq!((gift.intent_id.as_deref(), &*gift.access_token, gift.version), (Some("pi_kX"), "7_e", 2));
        let pending = ANSWER.replace(r#""intent_id":"pi_kX""#, r#""intent_id":null"#);
        assert_eq!(super::gift(&pending).unwrap().intent_id, None);
        assert!(super::gift("{}").is_none());
    }

    #[test]
    fn a_busy_server_is_not_a_broken_one() {
        let answer = |status| Answer { status, retry_after: true, body: br#"{"detail":"too many"}"# };
        assert_eq!(outcome(&answer(201), 201), Outcome::Done);
        let refusal = Refusal { status: 503, retry_after: true };
        assert_eq!(outcome(&answer(503), 201), Outcome::Refused(refusal));
        assert_eq!(outcome(&answer(400), 201), Outcome::Failed("status 400: too many".to_owned()));
    }

    #[test]
    fn numbers_end_where_they_end() {
        assert_eq!(number(r#"{"version":12,"x":1}"#, "\"version\":"), Some(12));
        assert_eq!(number(r#"{"raised_minor":-5}"#, "\"raised_minor\":"), Some(-5));
        assert_eq!(number("{}", "\"version\":"), None);
    }
}
