//! Identifiers as Stripe makes them: a prefix that names the kind of object, then random base62.
//!
//! Deliberately absent: any order or meaning in the random part.

use std::sync::Arc;

use rand::distr::{Alphanumeric, SampleString};

/// An identifier, cheap to copy: objects, events and indexes share one allocation.
pub(super) type Id = Arc<str>;

/// How many random base62 characters follow an object's prefix (143 bits).
const OBJECT_CHARS: usize = 24;
/// How many follow `req_`.
const REQUEST_CHARS: usize = 14;
/// How many follow `_secret_` in a client secret.
const SECRET_CHARS: usize = 25;

/// A new identifier such as `pi_3MtwBwLkdIwHu7ix28a3tqPa`; the prefix includes its underscore.
pub(super) fn object_id(prefix: &str) -> Id {
    random(prefix, OBJECT_CHARS)
}

/// A new request identifier, as Stripe puts into the `Request-Id` header.
pub(super) fn request_id() -> Id {
    random("req_", REQUEST_CHARS)
}

/// The random tail of a client secret.
pub(super) fn secret() -> Id {
    random("", SECRET_CHARS)
}

fn random(prefix: &str, chars: usize) -> Id {
    let mut text = String::with_capacity(prefix.len() + chars);
    text.push_str(prefix);
    Alphanumeric.append_string(&mut rand::rng(), &mut text, chars);
    Id::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_its_prefix_and_base62() {
        let id = object_id("pi_");
        assert_eq!(id.len(), 27);
        assert!(id.starts_with("pi_"));
        assert!(id[3..].chars().all(|c| c.is_ascii_alphanumeric()));
        assert_ne!(id, object_id("pi_"));
    }
}
