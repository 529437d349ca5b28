//! SendGrid's signed Event Webhook: is it from SendGrid, and what became of our mails?
//! (<https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features>)
//!
//! Deliberately absent: the age of a signature (SendGrid repeats a batch for a day under its first timestamp, and statuses
//! only move forward), and a bound on the number of events: a batch's bytes are bounded, and to refuse a batch for what
//! SendGrid put into it would only bring it back.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;
use time::OffsetDateTime;

/// The longest reason that is kept, in characters.
const MAXIMUM_REASON_CHARS: usize = 500;
/// The longest id or address that is believed to be one, in bytes.
const MAXIMUM_ID_BYTES: usize = 400;
/// `SubjectPublicKeyInfo` of an uncompressed point on P-256 (RFC 5480): everything before the point itself.
const P256_HEADER: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Whether `signature_b64` (`X-Twilio-Email-Event-Webhook-Signature`) is the key's over `timestamp`
/// (`X-Twilio-Email-Event-Webhook-Timestamp`) and the raw body. The key is the one that SendGrid's settings show: base64
/// of a DER `SubjectPublicKeyInfo`.
pub fn check_signature(public_key_b64_der: &str, timestamp: &str, body: &[u8], signature_b64: &str) -> bool {
    let Some(point) = public_point(public_key_b64_der) else { return false };
    let Ok(signature) = STANDARD.decode(signature_b64.trim()) else { return false };
    let signed = [timestamp.as_bytes(), body].concat();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&signed, &signature).is_ok()
}

/// Whether `text` is a key that [`check_signature`] can use: for whoever checks the settings.
pub fn is_public_key(text: &str) -> bool {
    public_point(text).is_some()
}

fn public_point(text: &str) -> Option<Vec<u8>> {
    let der = STANDARD.decode(text.trim()).ok()?;
    let point = der.strip_prefix(&P256_HEADER)?;
    (point.len() == 65 && point.starts_with(&[4])).then(|| point.to_vec())
}

/// One thing that became of one mail. Its `Debug` hides the address.
#[derive(Clone, PartialEq, Eq)]
pub struct MailEvent {
    /// The mail's `Message-ID` without brackets: as [`super::mailer::message_id`] made it, or another that SendGrid gave it.
    pub smtp_id: Option<String>,
    /// SendGrid's own id up to the first dot, which is what its relay called the mail when it took it.
    pub sg_id: Option<String>,
    /// Whom the mail was for.
    pub email: String,
    /// What became of it.
    pub event: MailEventKind,
    /// Why, in the words of the recipient's server.
    pub reason: Option<String>,
    /// When.
    pub at: OffsetDateTime,
}

impl fmt::Debug for MailEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { smtp_id, sg_id, event, at, .. } = self;
        let mut shown = f.debug_struct("MailEvent");
        shown.field("smtp_id", smtp_id).field("sg_id", sg_id).field("event", event).field("at", at).finish()
    }
}

/// What can become of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailEventKind {
    /// SendGrid has it.
    Processed,
    /// The recipient's server asked to come again.
    Deferred,
    /// The recipient's server has it.
    Delivered,
    /// The recipient's server refused it for now, or refused SendGrid: the address may be good.
    Blocked,
    /// The address does not take mails.
    Bounce,
    /// SendGrid did not send it, for the address bounced or complained before.
    Dropped,
    /// The recipient called it spam.
    SpamReport,
    /// The recipient wants no more.
    Unsubscribe,
    /// It was opened.
    Open,
    /// A link in it was followed.
    Click,
}

impl MailEventKind {
    /// SendGrid's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Deferred => "deferred",
            Self::Delivered => "delivered",
            Self::Blocked => "blocked",
            Self::Bounce => "bounce",
            Self::Dropped => "dropped",
            Self::SpamReport => "spamreport",
            Self::Unsubscribe => "unsubscribe",
            Self::Open => "open",
            Self::Click => "click",
        }
    }
}

/// A body that is no batch of events.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the body is not a list of events")]
pub struct NoEvents;

/// Reads a batch. Events of a kind that we do not know, or that name no mail, are passed over: SendGrid may invent some.
///
/// # Errors
/// The body as a whole is none.
pub fn parse_events(body: &[u8]) -> Result<Vec<MailEvent>, NoEvents> {
    let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(|_| NoEvents)?;
    Ok(items.into_iter().filter_map(|item| serde_json::from_str::<Item>(item.get()).ok()?.event()).collect())
}

#[derive(Deserialize)]
struct Item {
    event: String,
    email: String,
    timestamp: i64,
    #[serde(rename = "smtp-id")]
    smtp_id: Option<String>,
    sg_message_id: Option<String>,
    reason: Option<String>,
    response: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Item {
    fn event(self) -> Option<MailEvent> {
        let event = self.kind()?;
        let reason = self.reason.or(self.response);
        let smtp_id = self.smtp_id.as_deref().map(|id| id.trim().trim_start_matches('<').trim_end_matches('>'));
        let sg_id = self.sg_message_id.as_deref().and_then(|id| id.split('.').next());
        let event = MailEvent {
            smtp_id: smtp_id.filter(|id| is_id(id)).map(str::to_owned),
            sg_id: sg_id.filter(|id| is_id(id)).map(str::to_owned),
            email: self.email,
            event,
            reason: reason.map(|reason| reason.chars().take(MAXIMUM_REASON_CHARS).collect()),
            at: OffsetDateTime::from_unix_timestamp(self.timestamp).ok()?,
        };
        let names_a_mail = event.smtp_id.is_some() || event.sg_id.is_some();
        (names_a_mail && event.email.len() <= MAXIMUM_ID_BYTES && event.email.contains('@')).then_some(event)
    }

    fn kind(&self) -> Option<MailEventKind> {
        Some(match self.event.as_str() {
            "processed" => MailEventKind::Processed,
            "deferred" => MailEventKind::Deferred,
            "delivered" => MailEventKind::Delivered,
            "bounce" if self.kind.as_deref() == Some("blocked") => MailEventKind::Blocked,
            "bounce" => MailEventKind::Bounce,
            "dropped" => MailEventKind::Dropped,
            "spamreport" => MailEventKind::SpamReport,
            "unsubscribe" | "group_unsubscribe" => MailEventKind::Unsubscribe,
            "open" => MailEventKind::Open,
            "click" => MailEventKind::Click,
            _ => return None,
        })
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAXIMUM_ID_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    /// The vector of SendGrid's own libraries (`sendgrid-go`, `helpers/eventwebhook/eventwebhook_test.go`).
    const PUBLIC_KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
    const SIGNATURE: &str =
        "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=";
    const TIMESTAMP: &str = "1600112502";
    const BODY: &str = "[{\"email\":\"hello@world.com\",\"event\":\"dropped\",\"reason\":\"Bounced Address\",\"sg_event_id\":\"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA\",\"sg_message_id\":\"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0\",\"smtp-id\":\"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>\",\"timestamp\":1600112492}]\r\n";

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap())
        }

        fn public_key(&self) -> String {
            STANDARD.encode([&P256_HEADER[..], self.0.public_key().as_ref()].concat())
        }

        fn sign(&self, timestamp: &str, body: &[u8]) -> String {
            let signed = [timestamp.as_bytes(), body].concat();
            STANDARD.encode(self.0.sign(&SystemRandom::new(), &signed).unwrap())
        }
    }

    #[test]
    fn sendgrids_own_vector_is_met() {
        assert!(check_signature(PUBLIC_KEY, TIMESTAMP, BODY.as_bytes(), SIGNATURE));
        assert!(!check_signature(PUBLIC_KEY, "1600112503", BODY.as_bytes(), SIGNATURE));
        assert!(!check_signature(PUBLIC_KEY, TIMESTAMP, BODY.trim_end().as_bytes(), SIGNATURE));
        let events = parse_events(BODY.as_bytes()).unwrap();
        assert_eq!(events[0].event, MailEventKind::Dropped);
        let ids = (events[0].smtp_id.as_deref(), events[0].sg_id.as_deref());
        let theirs = "LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net";
        assert_eq!(ids, (Some(theirs), Some("LRzXl_NHStOGhQ4kofSm_A")), "either may be the name that we know");
    }

    #[test]
    fn a_key_or_a_signature_that_is_none_fails() {
        let signer = Signer::new();
        let (key, good) = (signer.public_key(), signer.sign("1", b"[]"));
        assert!(check_signature(&key, "1", b"[]", &good) && is_public_key(&key));
        assert!(!check_signature(&Signer::new().public_key(), "1", b"[]", &good));
        let short = STANDARD.encode(&STANDARD.decode(&key).unwrap()[..80]);
        for key in ["", "nonsense", &short, &key[4..]] {
            assert!(!check_signature(key, "1", b"[]", &good) && !is_public_key(key), "{key}");
        }
        for signature in ["", "nonsense!", "AAAA", &good[..20]] {
            assert!(!check_signature(&key, "1", b"[]", signature), "{signature}");
        }
    }

    #[test]
    fn each_event_is_read_by_its_name_and_strange_ones_are_passed_over() {
        let kinds = [
            ("processed", Some(MailEventKind::Processed)),
            ("deferred", Some(MailEventKind::Deferred)),
            ("delivered", Some(MailEventKind::Delivered)),
            ("bounce", Some(MailEventKind::Bounce)),
            ("dropped", Some(MailEventKind::Dropped)),
            ("spamreport", Some(MailEventKind::SpamReport)),
            ("unsubscribe", Some(MailEventKind::Unsubscribe)),
            ("group_unsubscribe", Some(MailEventKind::Unsubscribe)),
            ("open", Some(MailEventKind::Open)),
            ("click", Some(MailEventKind::Click)),
            ("group_resubscribe", None),
        ];
        for (name, kind) in kinds {
            let body = json!([{"event": name, "email": "a@b.example", "timestamp": 1, "smtp-id": "<x@y>"}]).to_string();
            let events = parse_events(body.as_bytes()).unwrap();
            assert_eq!(events.first().map(|event| event.event), kind, "{name}");
        }
        let blocked =
            json!([{"event": "bounce", "type": "blocked", "email": "a@b", "timestamp": 1, "smtp-id": "<x@y>"}]);
        assert_eq!(parse_events(blocked.to_string().as_bytes()).unwrap()[0].event, MailEventKind::Blocked);
    }

    #[test]
    fn one_broken_event_does_not_take_the_others_with_it() {
        let body = json!([
            {"event": "delivered", "email": "a@b.example", "timestamp": 1_600_112_492, "sg_message_id": "abc.filter1.0",
             "response": "250 OK"},
            {"event": "delivered", "email": "a@b.example", "timestamp": "soon", "smtp-id": "<x@y>"},
            {"event": "delivered", "email": "a@b.example", "timestamp": i64::MAX, "smtp-id": "<x@y>"},
            {"event": "delivered", "email": "nobody", "timestamp": 1, "smtp-id": "<x@y>"},
            {"event": "delivered", "email": "a@b.example", "timestamp": 1},
            {"event": "delivered", "timestamp": 1, "smtp-id": "<x@y>"},
            7, null, [],
        ]);
        let events = parse_events(body.to_string().as_bytes()).unwrap();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((events[0].sg_id.as_deref(), events[0].reason.as_deref()), (Some("abc"), Some("250 OK")));
        assert_eq!(events[0].at.unix_timestamp(), 1_600_112_492);
        assert!(!format!("{events:?}").contains("a@b.example"));
    }

    #[test]
    fn a_body_that_is_no_list_is_refused_and_a_long_list_is_not() {
        let event = r#"{"event":"open","email":"a@b","timestamp":1,"smtp-id":"<x@y>"}"#;
        assert_eq!(parse_events(format!("[{}]", [event; 5_000].join(",")).as_bytes()).unwrap().len(), 5_000);
        for body in ["", "{}", "[", "null", "\"x\""] {
            assert_eq!(parse_events(body.as_bytes()), Err(NoEvents), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_body_and_no_signature_panics(body in "\\PC{0,200}", key in "\\PC{0,100}", signature in "\\PC{0,100}") {
            prop_assert!(!check_signature(&key, "1", body.as_bytes(), &signature));
            drop(parse_events(body.as_bytes()));
        }
    }
}
