//! What can go wrong with other people's machines, classified once, where it is caught.
//!
//! Deliberately absent: any retry (each gateway has its own schedule) and any secret: neither keys, bodies nor
//! addresses.

use std::time::Duration;

use thiserror::Error;

/// How a call to a provider failed, and with that what its caller may do next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GatewayError {
    /// The provider was not reached, or refused for now: nothing happened there, so another try is safe.
    #[error("not reached or refused for now: {reason}")]
    Transient {
        /// What was seen.
        reason: String,
        /// The wait that the provider asked for, where it did.
        retry_after: Option<Duration>,
    },
    /// The request may have taken effect, but no usable answer came: never book this as failed. Ask the provider for
    /// the object, or send the same request again under the same idempotency key.
    #[error("the outcome is not known: {reason}")]
    Unknown {
        /// What was seen.
        reason: String,
        /// The wait that the provider asked for, where it did.
        retry_after: Option<Duration>,
    },
    /// The provider answered no, and would again: the same request is not worth another try.
    #[error("refused with status {status} ({}): {message}", code.as_deref().unwrap_or("no code"))]
    Permanent {
        /// The provider's status. A request that we refused to send at all carries 400 and the code `not_sent`,
        /// an unreadable answer to a mere question 200 and `unreadable`.
        status: u16,
        /// The provider's code, such as `card_declined`.
        code: Option<String>,
        /// The provider's words, bounded and without keys.
        message: String,
        /// The provider's class of error, such as Stripe's `card_error` or `idempotency_error`.
        kind: Option<String>,
    },
    /// The circuit breaker is open: the provider was not asked at all.
    #[error("the circuit breaker is open for another {} ms", retry_after.as_millis())]
    CircuitOpen {
        /// When the breaker will let a probe through.
        retry_after: Duration,
    },
}

impl GatewayError {
    /// Whether the request may have taken effect at the provider.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// Whether the same request may succeed later. A request whose outcome is unknown is repeated under its own
    /// idempotency key only.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Permanent { .. })
    }

    /// How long to wait before the next try, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Transient { retry_after, .. } | Self::Unknown { retry_after, .. } => *retry_after,
            Self::CircuitOpen { retry_after } => Some(*retry_after),
            Self::Permanent { .. } => None,
        }
    }

    /// A short constant name for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Transient { .. } => "transient",
            Self::Unknown { .. } => "unknown",
            Self::Permanent { .. } => "permanent",
            Self::CircuitOpen { .. } => "circuit_open",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_says_whether_to_retry_and_when() {
        let wait = Some(Duration::from_secs(2));
        let transient = GatewayError::Transient { reason: "429".into(), retry_after: wait };
        let unknown = GatewayError::Unknown { reason: "timed out".into(), retry_after: None };
        let permanent = GatewayError::Permanent { status: 402, code: None, message: "no".into(), kind: None };
        let open = GatewayError::CircuitOpen { retry_after: Duration::from_secs(2) };
        let told = |error: &GatewayError| {
            (error.label(), error.is_outcome_unknown(), error.is_retryable(), error.retry_after())
        };
        assert_eq!(told(&transient), ("transient", false, true, wait));
        assert_eq!(told(&unknown), ("unknown", true, true, None));
        assert_eq!(told(&permanent), ("permanent", false, false, None));
        assert_eq!(told(&open), ("circuit_open", false, true, wait));
        assert_eq!(permanent.to_string(), "refused with status 402 (no code): no");
    }
}
