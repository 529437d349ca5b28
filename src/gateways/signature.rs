//! Stripe's webhook signature: `Stripe-Signature: t=1495999758,v1=<hex>,v1=<hex>,v0=<hex>`, an HMAC-SHA256 of
//! `{t}.{raw body}` under the whole `whsec_…` text (<https://docs.stripe.com/webhooks#verify-manually>).
//!
//! Deliberately absent: the body's meaning (`stripe::event`) and the clock: the caller passes the time.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

/// How old a signature may be, and how far ahead of our clock before that is worth an alarm, in seconds.
pub const TOLERANCE_SECONDS: i64 = 300;
/// The longest header that is looked at, in bytes. Stripe's own are below 300.
pub const MAXIMUM_HEADER_LENGTH: usize = 2048;
/// The most `v1` signatures that are compared: one for each live secret of an endpoint, and Stripe keeps few.
pub const MAXIMUM_SIGNATURES: usize = 8;

const DIGEST_LENGTH: usize = 32;
type Digest = [u8; DIGEST_LENGTH];

/// One endpoint secret (`whsec_…`), kept as the keyed hash alone: the text is not stored and never shown.
#[derive(Clone)]
pub struct WebhookSecret(Hmac<Sha256>);

/// A webhook secret was empty.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a webhook secret is empty")]
pub struct EmptySecret;

impl WebhookSecret {
    /// Takes the secret as Stripe shows it, prefix included.
    pub fn new(text: &str) -> Result<Self, EmptySecret> {
        if text.is_empty() {
            return Err(EmptySecret);
        }
        Hmac::new_from_slice(text.as_bytes()).map(Self).map_err(|_| EmptySecret)
    }

    /// Reads the comma-separated list of a setting; while a secret is rolled, two are live.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, EmptySecret> {
        text.split(',').map(|secret| Self::new(secret.trim())).collect()
    }

    fn digest(&self, parts: &[&[u8]]) -> Digest {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(redacted)")
    }
}

/// A signature that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// When the provider signed, in seconds since the Unix epoch.
    pub timestamp: i64,
    /// Signed more than [`TOLERANCE_SECONDS`] ahead of our clock. Our clock is the likelier fault: accept, and raise an
    /// alarm.
    pub ahead: bool,
}

/// Why a signature does not hold. Every one is a 400.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SignatureError {
    /// Longer than [`MAXIMUM_HEADER_LENGTH`].
    #[error("the signature header is too long")]
    HeaderTooLong,
    /// There is no `t=`.
    #[error("the signature header has no timestamp")]
    MissingTimestamp,
    /// `t=` is not a whole number of seconds.
    #[error("the signature's timestamp is not a number of seconds")]
    InvalidTimestamp,
    /// There is no `v1=` of 64 hexadecimal digits.
    #[error("the signature header has no v1 signature")]
    NoSignature,
    /// More than [`MAXIMUM_SIGNATURES`].
    #[error("the signature header has too many v1 signatures")]
    TooManySignatures,
    /// No signature matches under any secret.
    #[error("no signature matches the body")]
    Mismatch,
    /// It holds, but was made more than [`TOLERANCE_SECONDS`] ago: a replay, or our clock is ahead.
    #[error("the signature is {age_seconds} s old")]
    TooOld {
        /// Its age by our clock.
        age_seconds: i64,
    },
}

/// Checks a signature header against the raw body, byte for byte as received. Any of the secrets and any of the `v1`
/// signatures may match. Age is judged last, so that [`SignatureError::TooOld`] means an authentic signature.
pub fn verify(header: &str, body: &[u8], secrets: &[WebhookSecret], now_unix: i64) -> Result<Verified, SignatureError> {
    let header = Header::parse(header)?;
    let signed: [&[u8]; 3] = [header.timestamp_text.as_bytes(), b".", body];
    if !secrets.iter().any(|secret| header.holds(&secret.digest(&signed))) {
        return Err(SignatureError::Mismatch);
    }
    let age_seconds = now_unix.saturating_sub(header.timestamp);
    if age_seconds > TOLERANCE_SECONDS {
        return Err(SignatureError::TooOld { age_seconds });
    }
    Ok(Verified { timestamp: header.timestamp, ahead: age_seconds < -TOLERANCE_SECONDS })
}

/// The header that [`verify`] accepts: `t={timestamp},v1={hex}`.
pub fn sign(secret: &WebhookSecret, timestamp: i64, body: &[u8]) -> String {
    let digest = secret.digest(&[timestamp.to_string().as_bytes(), b".", body]);
    format!("t={timestamp},v1={}", hex::encode(digest))
}

/// The header's parts, on the stack.
struct Header<'a> {
    /// As written: it is part of what was signed.
    timestamp_text: &'a str,
    timestamp: i64,
    signatures: [Digest; MAXIMUM_SIGNATURES],
    count: usize,
}

impl<'a> Header<'a> {
    fn parse(text: &'a str) -> Result<Self, SignatureError> {
        if text.len() > MAXIMUM_HEADER_LENGTH {
            return Err(SignatureError::HeaderTooLong);
        }
        let timestamp_text = items(text).find(|(scheme, _)| *scheme == "t").ok_or(SignatureError::MissingTimestamp)?.1;
        let timestamp = timestamp_text.parse().map_err(|_| SignatureError::InvalidTimestamp)?;
        let mut header = Self { timestamp_text, timestamp, signatures: Default::default(), count: 0 };
        items(text).filter(|(scheme, _)| *scheme == "v1").try_for_each(|(_, digits)| header.take(digits))?;
        if header.count == 0 { Err(SignatureError::NoSignature) } else { Ok(header) }
    }

    /// Adds one `v1` value; one that is not a digest in hexadecimal is passed over.
    fn take(&mut self, digits: &str) -> Result<(), SignatureError> {
        let mut digest = Digest::default();
        if hex::decode_to_slice(digits, &mut digest).is_err() {
            return Ok(());
        }
        let place = self.signatures.get_mut(self.count).ok_or(SignatureError::TooManySignatures)?;
        *place = digest;
        self.count += 1;
        Ok(())
    }

    /// Whether any signature equals `expected`, without telling by its time which one or where it differs.
    fn holds(&self, expected: &Digest) -> bool {
        let signatures = &self.signatures[..self.count];
        signatures.iter().fold(Choice::from(0), |any, signature| any | signature.ct_eq(expected)).into()
    }
}

fn items(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').filter_map(|item| item.trim().split_once('='))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_780_000_000;
    const BODY: &[u8] = br#"{"id":"evt_1","object":"event"}"#;

    fn secret(text: &str) -> WebhookSecret {
        WebhookSecret::new(text).unwrap()
    }

    fn check(header: &str) -> Result<Verified, SignatureError> {
        verify(header, BODY, &[secret("whsec_old"), secret("whsec_new")], NOW)
    }

    fn v1(secret_text: &str, timestamp: i64) -> String {
        let header = sign(&secret(secret_text), timestamp, BODY);
        header.split_once(",v1=").unwrap().1.to_owned()
    }

    #[test]
    fn the_published_vectors_are_met() {
        for (text, digest) in [
            ("", "f7f9bd47fb987337b5796fdc1fdb9ba221d0d5396814bfcaf9521f43fd8927fd"),
            (r#"{"obj1":"hello","obj2":"world"}"#, "bebb1a643997f419b315ddba19e6f5411e1ce7f810ba6d3617ce72823092f363"),
        ] {
            assert_eq!(hex::encode(secret("test_secret").digest(&[text.as_bytes()])), digest);
        }
    }

    #[test]
    fn a_signature_holds_under_any_configured_secret() {
        let good = Ok(Verified { timestamp: NOW, ahead: false });
        assert_eq!(check(&sign(&secret("whsec_old"), NOW, BODY)), good);
        assert_eq!(check(&sign(&secret("whsec_new"), NOW, BODY)), good);
        assert_eq!(check(&sign(&secret("whsec_other"), NOW, BODY)), Err(SignatureError::Mismatch));
        assert_eq!(verify(&sign(&secret("a"), NOW, BODY), BODY, &[], NOW), Err(SignatureError::Mismatch));
    }

    #[test]
    fn any_one_of_several_signatures_suffices_wherever_it_stands() {
        let (good, other) = (v1("whsec_new", NOW), v1("whsec_other", NOW));
        for header in [
            format!("t={NOW},v1={good},v1={other},v0={other}"),
            format!("t={NOW},v1={other},v1={good}"),
            format!("v0={other},v1=zz,v1=,v1={good},t={NOW},nonsense"),
            format!("t={NOW}, v1={good}"),
        ] {
            assert!(check(&header).is_ok(), "{header}");
        }
    }

    #[test]
    fn other_schemes_never_count() {
        let good = v1("whsec_new", NOW);
        assert_eq!(check(&format!("t={NOW},v0={good},v2={good}")), Err(SignatureError::NoSignature));
    }

    #[test]
    fn each_broken_header_has_its_own_error() {
        let good = v1("whsec_new", NOW);
        let crowd = format!(",v1={good}").repeat(MAXIMUM_SIGNATURES + 1);
        for (header, error) in [
            (String::new(), SignatureError::MissingTimestamp),
            (format!("v1={good}"), SignatureError::MissingTimestamp),
            (format!("t=soon,v1={good}"), SignatureError::InvalidTimestamp),
            (format!("t=99999999999999999999,v1={good}"), SignatureError::InvalidTimestamp),
            (format!("t={NOW}"), SignatureError::NoSignature),
            (format!("t={NOW},v1=abc"), SignatureError::NoSignature),
            (format!("t={NOW}{crowd}"), SignatureError::TooManySignatures),
            (",".repeat(MAXIMUM_HEADER_LENGTH + 1), SignatureError::HeaderTooLong),
        ] {
            assert_eq!(check(&header), Err(error), "{header}");
        }
    }

    #[test]
    fn old_is_refused_and_ahead_is_accepted_with_a_mark() {
        let at = |timestamp| check(&sign(&secret("whsec_new"), timestamp, BODY));
        assert_eq!(at(NOW - 300), Ok(Verified { timestamp: NOW - 300, ahead: false }));
        assert_eq!(at(NOW - 301), Err(SignatureError::TooOld { age_seconds: 301 }));
        assert_eq!(at(NOW + 300), Ok(Verified { timestamp: NOW + 300, ahead: false }));
        assert_eq!(at(NOW + 301), Ok(Verified { timestamp: NOW + 301, ahead: true }));
        assert!(matches!(at(i64::MIN), Err(SignatureError::TooOld { .. })));
        assert!(at(i64::MAX).unwrap().ahead);
    }

    #[test]
    fn age_is_judged_only_when_the_signature_holds() {
        assert_eq!(check(&sign(&secret("whsec_other"), NOW - 999, BODY)), Err(SignatureError::Mismatch));
    }

    #[test]
    fn secrets_are_read_from_a_list_and_never_shown() {
        let secrets = WebhookSecret::parse_list("whsec_a, whsec_b").unwrap();
        assert_eq!(secrets.len(), 2);
        assert!(verify(&sign(&secret("whsec_b"), NOW, BODY), BODY, &secrets, NOW).is_ok());
        assert!(!format!("{secrets:?}").contains("whsec"));
        assert_eq!(WebhookSecret::parse_list("whsec_a,").unwrap_err(), EmptySecret);
    }

    proptest! {
        #[test]
        fn any_changed_byte_of_the_body_fails(
            body in prop::collection::vec(any::<u8>(), 1..200),
            at: prop::sample::Index,
            flip in 1..=u8::MAX,
        ) {
            let secrets = [secret("whsec_new")];
            let header = sign(&secrets[0], NOW, &body);
            prop_assert!(verify(&header, &body, &secrets, NOW).is_ok());
            let mut changed = body.clone();
            changed[at.index(body.len())] ^= flip;
            prop_assert_eq!(verify(&header, &changed, &secrets, NOW), Err(SignatureError::Mismatch));
        }

        #[test]
        fn any_changed_digit_of_the_header_fails(at: prop::sample::Index, digit in "[0-9a-f]") {
            let secrets = [secret("whsec_new")];
            let header = sign(&secrets[0], NOW, BODY);
            let mut changed = header.clone();
            let at = at.index(header.len());
            changed.replace_range(at..=at, &digit);
            prop_assert_eq!(verify(&changed, BODY, &secrets, NOW).is_ok(), changed == header);
        }

        #[test]
        fn no_header_panics(header in "\\PC{0,300}") {
            prop_assert!(check(&header).is_err());
        }
    }
}
