//! The caller's own key-value pairs on an object, shared between its versions and copied from an intent to its charge.
//!
//! Deliberately absent: updates. Metadata is set when an object is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::errors::StripeError;

/// Stripe's limits (<https://docs.stripe.com/api/metadata>).
const MAX_PAIRS: usize = 50;
const MAX_KEY_CHARS: usize = 40;
const MAX_VALUE_CHARS: usize = 500;

/// Sorted pairs; a clone shares them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Metadata(Arc<[(Box<str>, Box<str>)]>);

impl Metadata {
    /// Takes the pairs as the form named them; empty values unset a key, as in Stripe.
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, StripeError> {
        let pairs: BTreeMap<&str, &str> = pairs.filter(|(_, value)| !value.is_empty()).collect();
        if pairs.len() > MAX_PAIRS {
            return Err(StripeError::parameter("metadata", "Metadata can have at most 50 keys."));
        }
        for (key, value) in &pairs {
            check_chars("Metadata keys", "40", key.chars().count() <= MAX_KEY_CHARS, key)?;
            check_chars("Metadata values", "500", value.chars().count() <= MAX_VALUE_CHARS, key)?;
        }
        Ok(Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()))
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn check_chars(what: &str, maximum: &str, fits: bool, key: &str) -> Result<(), StripeError> {
    if fits {
        return Ok(());
    }
    let message = format!("{what} can have up to {maximum} characters.");
    Err(StripeError::parameter(&format!("metadata[{key}]"), &message))
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = BTreeMap::<Box<str>, Box<str>>::deserialize(deserializer)?;
        Ok(Self(pairs.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_keeps_to_stripes_limits() {
        assert!(Metadata::from_pairs([("payment_id", "x"), ("gone", "")].into_iter()).is_ok_and(|m| m.0.len() == 1));
        assert!(Metadata::from_pairs([("k".repeat(41).as_str(), "x")].into_iter()).is_err());
        assert!(Metadata::from_pairs([("k", "x".repeat(501).as_str())].into_iter()).is_err());
    }
}
