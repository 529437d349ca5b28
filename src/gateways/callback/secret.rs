//! The secret that an endpoint and we share: `whsec_` and base64 of 24 to 64 bytes.
//!
//! Deliberately absent: storage, and when the old one ends. Whoever stores it decides.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

const PREFIX: &str = "whsec_";
/// What a fresh secret has, in bytes: as many as the hash.
const FRESH_BYTES: usize = 32;
const FEWEST_BYTES: usize = 24;
const MOST_BYTES: usize = 64;

/// A secret that signs webhooks. Its `Debug` hides it.
#[derive(Clone)]
pub struct EndpointSecret {
    text: String,
    key: Hmac<Sha256>,
}

/// The text is no secret of an endpoint. It is not repeated.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a secret is whsec_ and base64 of {FEWEST_BYTES} to {MOST_BYTES} bytes")]
pub struct SecretError;

impl EndpointSecret {
    /// A fresh one, from the system's random numbers.
    ///
    /// # Errors
    /// Never in practice: 32 bytes are within the bounds that [`EndpointSecret::parse`] checks.
    pub fn generate() -> Result<Self, SecretError> {
        let bytes: [u8; FRESH_BYTES] = rand::random();
        Self::parse(&format!("{PREFIX}{}", STANDARD.encode(bytes)))
    }

    /// Reads a secret as it is shown and stored.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SecretError)?;
        if !(FEWEST_BYTES..=MOST_BYTES).contains(&bytes.len()) {
            return Err(SecretError);
        }
        let key = Hmac::new_from_slice(&bytes).map_err(|_| SecretError)?;
        Ok(Self { text: text.to_owned(), key })
    }

    /// The secret itself: to be stored, and shown once.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// `v1,` and base64 of the HMAC-SHA256 of `{id}.{timestamp}.{body}`.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let mut mac = self.key.clone();
        for part in [id, ".", &timestamp.to_string(), ".", body] {
            mac.update(part.as_bytes());
        }
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for EndpointSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointSecret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_example_is_met() {
        let secret = EndpointSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_fresh_secret_is_its_own_and_reads_back() {
        let (one, other) = (EndpointSecret::generate().unwrap(), EndpointSecret::generate().unwrap());
        assert_ne!(one.expose(), other.expose());
        let again = EndpointSecret::parse(one.expose()).unwrap();
        assert_eq!(again.sign("id", 1, "{}"), one.sign("id", 1, "{}"));
        assert_ne!(other.sign("id", 1, "{}"), one.sign("id", 1, "{}"));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_no_secret_is_shown() {
        let of = |length: usize| format!("whsec_{}", STANDARD.encode(vec![7; length]));
        for (text, good) in [
            (of(23), false),
            (of(24), true),
            (of(64), true),
            (of(65), false),
            (of(32).replace("whsec_", ""), false),
            (of(32).replace("whsec_", "whpk_"), false),
            ("whsec_".to_owned(), false),
            ("whsec_not base64 at all, and long enough".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(EndpointSecret::parse(&text).is_ok(), good, "{text}");
        }
        assert_eq!(format!("{:?}", EndpointSecret::parse(&of(32)).unwrap()), "EndpointSecret(redacted)");
    }
}
