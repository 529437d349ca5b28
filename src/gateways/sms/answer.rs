//! What Twilio's answers mean: every failure of a request is classified here, once
//! (<https://www.twilio.com/docs/api/errors>).
//!
//! Deliberately absent: the fate of a message after it was taken; that comes by status callback (`twilio`).

use reqwest::StatusCode;
use serde::Deserialize;

use crate::gateways::delivery::{Accepted, AddressRefusal, DeliveryError, http};

/// The recipient answered STOP.
const OPTED_OUT: u32 = 21610;
/// To is not a mobile number.
const NO_MOBILE_NUMBER: u32 = 21614;
/// The message itself, or whom it is for: the same one will be refused for ever.
const ABOUT_THE_MESSAGE: [u32; 15] = [
    21211, // To is not a valid number
    21214, // To cannot be reached
    21217, // To does not look like one
    21219, // To is not verified (trial accounts)
    21265, // To is a short code
    21408, // the account may not send to that region
    21602, // no body
    21604, // no To
    21612, // no route from From to To
    21617, // the body is too long
    21635, // To is a landline
    30003, // the handset is away for good
    30005, // unknown handset
    30006, // landline or unreachable carrier
    30007, // filtered by the carrier
];
/// Our account or our sender: every message meets it until somebody mends the settings, and none may die of it.
const ABOUT_OUR_ACCOUNT: [u32; 14] = [
    20003, // wrong credentials
    20005, // the account is not active
    20404, // no such account
    21212, // From is not a valid number
    21603, // no From
    21606, // From cannot send texts
    21607, // From is not verified (trial accounts)
    21609, // the status callback is not a URL
    21611, // From's queue is full
    21659, // From is not ours
    21660, // From belongs to another account
    21701, // no such messaging service
    21703, // the messaging service has no number
    30002, // the account is suspended
];
const TOO_MANY_REQUESTS: u32 = 20429;

/// What Twilio says of the message that it took.
pub(super) fn accepted(status: StatusCode, body: &[u8]) -> Accepted {
    #[derive(Default, Deserialize)]
    struct Created {
        sid: Option<String>,
    }
    let created: Created = serde_json::from_slice(body).unwrap_or_default();
    Accepted::new(created.sid.as_deref(), status.as_u16())
}

/// Twilio said no.
pub(super) fn refused(status: StatusCode, body: &[u8]) -> DeliveryError {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let detail = problem.detail(status);
    match problem.code {
        Some(TOO_MANY_REQUESTS) => DeliveryError::transient(StatusCode::TOO_MANY_REQUESTS.as_u16(), detail),
        Some(OPTED_OUT) => DeliveryError::refused(AddressRefusal::OptedOut, OPTED_OUT, detail),
        Some(NO_MOBILE_NUMBER) => DeliveryError::refused(AddressRefusal::Unreachable, NO_MOBILE_NUMBER, detail),
        Some(code) if ABOUT_THE_MESSAGE.contains(&code) => DeliveryError::permanent(code, detail),
        Some(code) if ABOUT_OUR_ACCOUNT.contains(&code) => DeliveryError::transient("settings", detail),
        code => match status.as_u16() {
            400 | 422 => DeliveryError::permanent(code.unwrap_or(u32::from(status.as_u16())), detail),
            401 | 403 | 404 => DeliveryError::transient("settings", detail),
            // A fault of its own says nothing of how far it came: Twilio has no key by which it would know a repetition.
            status @ 500.. => DeliveryError::unknown(status, detail),
            other => DeliveryError::transient(other, detail),
        },
    }
}

/// No answer came. Where a connection was made, nobody knows whether the message was taken.
pub(super) fn unanswered(error: &reqwest::Error) -> DeliveryError {
    if error.is_builder() {
        return DeliveryError::permanent("message", "the request cannot be written as HTTP");
    }
    if error.is_connect() {
        let detail = format!("Twilio could not be reached: {}", http::cause(error));
        return DeliveryError::transient(http::unreached(error), detail);
    }
    let code = if error.is_timeout() { "timeout" } else { "connection" };
    DeliveryError::unknown(code, format!("Twilio did not answer: {}", http::cause(error)))
}

/// Twilio's error object, as far as we keep it.
#[derive(Debug, Default, Deserialize)]
struct Problem {
    code: Option<u32>,
    message: Option<String>,
}

impl Problem {
    /// Twilio's words without numbers of phones, which it likes to repeat.
    fn detail(&self, status: StatusCode) -> String {
        let code = self.code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
        let said = self.message.as_deref().unwrap_or("no message");
        let masked: Vec<&str> =
            said.split_whitespace().map(|word| if is_number(word) { "<number>" } else { word }).collect();
        format!("Twilio answered {} ({code}): {}", status.as_u16(), masked.join(" "))
    }
}

fn is_number(word: &str) -> bool {
    word.bytes().filter(u8::is_ascii_digit).count() >= 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> DeliveryError {
        refused(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn each_answer_has_its_class() {
        for (status, body, label, code) in [
            (400, r#"{"code":21211,"message":"no","status":400}"#, "permanent", "21211"),
            (400, r#"{"code":21610}"#, "refused", "21610"),
            (400, r#"{"code":21614}"#, "refused", "21614"),
            (403, r#"{"code":21408}"#, "permanent", "21408"),
            (400, r#"{"code":29999}"#, "permanent", "29999"),
            (400, "<html>", "permanent", "400"),
            (429, r#"{"code":20429}"#, "transient", "429"),
            (400, r#"{"code":20429}"#, "transient", "429"),
            (429, "", "transient", "429"),
            (401, r#"{"code":20003}"#, "transient", "settings"),
            (400, r#"{"code":21606}"#, "transient", "settings"),
            (404, "", "transient", "settings"),
            (302, "", "transient", "302"),
            (500, "", "unknown", "500"),
            (503, r#"{"code":20503}"#, "unknown", "503"),
        ] {
            let error = refusal(status, body);
            assert_eq!((error.label(), error.code()), (label, code), "{status} {body}");
        }
    }

    #[test]
    fn a_phone_number_never_survives_into_a_detail() {
        let body = r#"{"code":21211,"message":"The 'To' number +491711234567 is not a valid phone number."}"#;
        let text = refusal(400, body).to_string();
        assert_eq!(text, "Twilio answered 400 (21211): The 'To' number <number> is not a valid phone number. (21211)");
    }

    #[test]
    fn a_taken_message_without_a_readable_answer_is_taken_all_the_same() {
        let taken = |body: &str| accepted(StatusCode::CREATED, body.as_bytes());
        assert_eq!(taken(r#"{"sid":"SM1","status":"queued"}"#).provider_id.as_deref(), Some("SM1"));
        assert_eq!(taken(r#"{"sid":"SM"#), Accepted { provider_id: None, code: Some("201".into()) });
    }
}
