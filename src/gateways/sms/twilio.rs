//! Twilio's status callbacks: is it from Twilio, and what became of the message?
//!
//! `X-Twilio-Signature` is base64 of an HMAC-SHA1, under the account's auth token, of the callback's whole URL followed by
//! every field of the form, name and value, sorted by name
//! (<https://www.twilio.com/docs/usage/security#validating-requests>).
//!
//! Deliberately absent: a check of age, for Twilio signs no time. A replay says what was said before, and statuses only
//! move forward.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::gateways::delivery::AddressRefusal;

/// The most fields of a callback that are looked at; Twilio sends some ten.
const MAXIMUM_FIELDS: usize = 100;

/// Whether `header` is Twilio's signature of a form that it posted to `url`: the address exactly as we gave it, with its
/// query. Compared in constant time.
pub fn check_signature(auth_token: &str, url: &str, params: &[(String, String)], header: &str) -> bool {
    if auth_token.is_empty() || params.len() > MAXIMUM_FIELDS {
        return false;
    }
    let Ok(signature) = STANDARD.decode(header.trim()) else { return false };
    // Twilio's name says it: ring has SHA-1 for protocols that know nothing better.
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, auth_token.as_bytes());
    hmac::verify(&key, signed_text(url, params).as_bytes(), &signature).is_ok()
}

/// As Twilio's own libraries do it, a field that comes twice with one value counts once.
fn signed_text(url: &str, params: &[(String, String)]) -> String {
    let mut sorted: Vec<&(String, String)> = params.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted.into_iter().fold(url.to_owned(), |text, (name, value)| text + name + value)
}

/// What a status callback says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextReport {
    /// The message's SID: the receipt of its delivery.
    pub message_sid: String,
    /// What became of it.
    pub status: TextStatus,
    /// Why not, as `30005` (<https://www.twilio.com/docs/api/errors>).
    pub error_code: Option<String>,
}

/// How far a message got; the last three are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextStatus {
    /// Twilio has it.
    Queued,
    /// A carrier has it.
    Sent,
    /// The phone has it, as far as the carrier says.
    Delivered,
    /// The carrier could not deliver it.
    Undelivered,
    /// Twilio could not send it.
    Failed,
}

impl TextStatus {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
            Self::Failed => "failed",
        }
    }
}

impl TextReport {
    /// Reads the form of a status callback; `None` for any other form, and for a status that Twilio invents after us.
    pub fn parse(params: &[(String, String)]) -> Option<Self> {
        let field = |name: &str| {
            let found = params.iter().take(MAXIMUM_FIELDS).find(|(one, _)| one == name);
            found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty() && value.len() <= 100)
        };
        let status = match field("MessageStatus").or_else(|| field("SmsStatus"))? {
            "accepted" | "scheduled" | "queued" | "sending" => TextStatus::Queued,
            "sent" => TextStatus::Sent,
            "delivered" | "read" => TextStatus::Delivered,
            "undelivered" => TextStatus::Undelivered,
            "failed" | "canceled" => TextStatus::Failed,
            _ => return None,
        };
        let message_sid = field("MessageSid").or_else(|| field("SmsSid"))?.to_owned();
        Some(Self { message_sid, status, error_code: field("ErrorCode").map(str::to_owned) })
    }

    /// Why nothing more should be sent to that phone, if that is what it says. Codes that a phone without power gets too
    /// (30003, 30005) say nothing for good.
    pub fn refusal(&self) -> Option<AddressRefusal> {
        match self.error_code.as_deref()? {
            "21610" => Some(AddressRefusal::OptedOut),
            "21614" | "30006" => Some(AddressRefusal::Unreachable),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://mycompany.com/myapp.php?foo=1&bar=2";

    fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn published() -> Vec<(String, String)> {
        fields(&[
            ("CallSid", "CA1234567890ABCDE"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
            ("Caller", "+14158675309"),
        ])
    }

    #[test]
    fn twilios_published_vector_is_met() {
        assert!(check_signature("12345", URL, &published(), "RSOYDt4T1cUTdK1PDd93/VVr8B8="));
    }

    #[test]
    fn any_change_and_any_broken_header_fails() {
        let good = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
        let mut more = published();
        more.push(("Digits".into(), "5678".into()));
        let mut same_twice = published();
        same_twice.push(("Digits".into(), "1234".into()));
        assert!(check_signature("12345", URL, &same_twice, good));
        assert!(!check_signature("12345", URL, &more, good));
        assert!(!check_signature("12346", URL, &published(), good));
        assert!(!check_signature("", URL, &published(), good));
        assert!(!check_signature("12345", "https://mycompany.com/myapp.php?foo=1", &published(), good));
        for header in ["", "nonsense!", "RSOYDt4T1cUTdK1PDd93", "AAAA", "RSOYDt4T1cUTdK1PDd93/VVr8B8"] {
            assert!(!check_signature("12345", URL, &published(), header), "{header}");
        }
        let crowd: Vec<_> = (0..=MAXIMUM_FIELDS).map(|n| (n.to_string(), String::new())).collect();
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345");
        let authentic = STANDARD.encode(hmac::sign(&key, signed_text(URL, &crowd).as_bytes()));
        assert!(!check_signature("12345", URL, &crowd, &authentic));
    }

    #[test]
    fn every_status_of_twilios_is_one_of_ours() {
        for (said, status) in [
            ("accepted", Some(TextStatus::Queued)),
            ("queued", Some(TextStatus::Queued)),
            ("sending", Some(TextStatus::Queued)),
            ("sent", Some(TextStatus::Sent)),
            ("delivered", Some(TextStatus::Delivered)),
            ("read", Some(TextStatus::Delivered)),
            ("undelivered", Some(TextStatus::Undelivered)),
            ("failed", Some(TextStatus::Failed)),
            ("canceled", Some(TextStatus::Failed)),
            ("teleported", None),
            ("", None),
        ] {
            let report = TextReport::parse(&fields(&[("MessageSid", "SM1"), ("MessageStatus", said)]));
            assert_eq!(report.map(|it| it.status), status, "{said}");
        }
    }

    #[test]
    fn a_report_has_its_message_and_its_reason() {
        let form = fields(&[("MessageSid", "SM1"), ("MessageStatus", "undelivered"), ("ErrorCode", "30005")]);
        let report = TextReport::parse(&form).unwrap();
        assert_eq!((report.message_sid.as_str(), report.error_code.as_deref()), ("SM1", Some("30005")));
        assert_eq!(TextReport::parse(&form[1..]), None);
    }

    #[test]
    fn only_codes_that_hold_for_good_silence_a_phone() {
        for (code, refusal) in [
            ("21610", Some(AddressRefusal::OptedOut)),
            ("21614", Some(AddressRefusal::Unreachable)),
            ("30006", Some(AddressRefusal::Unreachable)),
            ("30003", None),
            ("30005", None),
        ] {
            let form = fields(&[("MessageSid", "SM1"), ("MessageStatus", "failed"), ("ErrorCode", code)]);
            assert_eq!(TextReport::parse(&form).unwrap().refusal(), refusal, "{code}");
        }
    }
}
