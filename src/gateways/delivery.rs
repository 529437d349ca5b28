//! What every way out for messages answers: mail, text message and webhook alike.
//!
//! An error is classified once, where it is caught; a courier needs to know no channel to decide what comes next.
//! Deliberately absent: schedules (`domain::retry`) and any donor's data: addresses, bodies, keys, and URLs that may
//! hold one.

pub(super) mod http;
#[cfg(test)]
pub(crate) mod testing;

use std::time::Duration;

use thiserror::Error;

use super::breaker::Permit;

/// The longest detail that is kept, in characters.
pub const MAXIMUM_DETAIL_CHARS: usize = 500;
/// The longest name or code of a provider's that is kept, in characters.
const MAXIMUM_ID_CHARS: usize = 300;

/// The receipt of whoever took the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The provider's own name for it, or the file that was written.
    pub provider_id: Option<String>,
    /// The reply's code: an HTTP status, or SMTP's.
    pub code: Option<String>,
}

impl Accepted {
    /// A receipt, its texts bounded.
    pub(super) fn new(provider_id: Option<&str>, code: impl ToString) -> Self {
        let bounded = |text: &str| text.chars().take(MAXIMUM_ID_CHARS).collect();
        Self { provider_id: provider_id.map(bounded), code: Some(bounded(&code.to_string())) }
    }
}

/// Why an address takes nothing, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRefusal {
    /// There is no such mailbox, or the phone takes no text messages.
    Unreachable,
    /// Its owner wants none: STOP was answered.
    OptedOut,
}

/// Why a message did not arrive, and with that what may be done next.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeliveryError {
    /// It may arrive at another time: the provider is away, busy, or said so. It has not arrived.
    #[error("{detail} ({code})")]
    Transient {
        /// The provider's code or status, or one of ours: `connection`, `timeout`, `tls`, `dns`, `address`, `relay`,
        /// `file`.
        code: String,
        /// For the delivery log, at most [`MAXIMUM_DETAIL_CHARS`].
        detail: String,
        /// The wait that the provider asked for, where it did; never above a day.
        retry_after: Option<Duration>,
    },
    /// It may have arrived: the provider had all of it and gave no answer that decides. Trying again may double it.
    #[error("it may have arrived: {detail} ({code})")]
    Unknown {
        /// As of a transient error.
        code: String,
        /// For the delivery log, at most [`MAXIMUM_DETAIL_CHARS`].
        detail: String,
        /// The wait that the provider asked for, where it did; never above a day.
        retry_after: Option<Duration>,
    },
    /// It will never arrive as it is.
    #[error("{detail} ({code})")]
    Permanent {
        /// The provider's code or status, or one of ours: `address`, `header`, `message`, `settings`, `url`.
        code: String,
        /// For the delivery log, at most [`MAXIMUM_DETAIL_CHARS`].
        detail: String,
    },
    /// Neither will anything else at that address.
    #[error("{detail} ({code})")]
    Refused {
        /// Why.
        refusal: AddressRefusal,
        /// The provider's code or status.
        code: String,
        /// For the delivery log, at most [`MAXIMUM_DETAIL_CHARS`].
        detail: String,
    },
    /// The recipient wants nothing any more (HTTP 410): disable the endpoint.
    #[error("the endpoint is gone for good (410)")]
    Gone,
}

impl DeliveryError {
    pub(super) fn transient(code: impl ToString, detail: impl ToString) -> Self {
        Self::Transient { code: short_code(code), detail: short_detail(detail), retry_after: None }
    }

    pub(super) fn unknown(code: impl ToString, detail: impl ToString) -> Self {
        Self::Unknown { code: short_code(code), detail: short_detail(detail), retry_after: None }
    }

    pub(super) fn refused(refusal: AddressRefusal, code: impl ToString, detail: impl ToString) -> Self {
        Self::Refused { refusal, code: short_code(code), detail: short_detail(detail) }
    }

    pub(super) fn permanent(code: impl ToString, detail: impl ToString) -> Self {
        Self::Permanent { code: short_code(code), detail: short_detail(detail) }
    }

    /// The same, with the wait that the provider asked for; only what is tried again has one.
    pub(super) fn after(self, wait: Option<Duration>) -> Self {
        match self {
            Self::Transient { code, detail, .. } => Self::Transient { code, detail, retry_after: wait },
            Self::Unknown { code, detail, .. } => Self::Unknown { code, detail, retry_after: wait },
            other @ (Self::Permanent { .. } | Self::Refused { .. } | Self::Gone) => other,
        }
    }

    /// The wait that the provider asked for.
    pub fn asked_to_wait(&self) -> Option<Duration> {
        match self {
            Self::Transient { retry_after, .. } | Self::Unknown { retry_after, .. } => *retry_after,
            Self::Permanent { .. } | Self::Refused { .. } | Self::Gone => None,
        }
    }

    /// Why nothing else should go to that address, if that is what it says.
    pub fn refusal(&self) -> Option<AddressRefusal> {
        match self {
            Self::Refused { refusal, .. } => Some(*refusal),
            Self::Transient { .. } | Self::Unknown { .. } | Self::Permanent { .. } | Self::Gone => None,
        }
    }

    /// The provider's code or status, or one of ours.
    pub fn code(&self) -> &str {
        match self {
            Self::Transient { code, .. }
            | Self::Unknown { code, .. }
            | Self::Permanent { code, .. }
            | Self::Refused { code, .. } => code,
            Self::Gone => "410",
        }
    }

    /// A short constant name for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Transient { .. } => "transient",
            Self::Unknown { .. } => "unknown",
            Self::Permanent { .. } => "permanent",
            Self::Refused { .. } => "refused",
            Self::Gone => "gone",
        }
    }

    /// Whether the fault lies with the provider as a whole rather than with this one message: it counts for the
    /// circuit breaker. A greylisted mailbox (SMTP 450) and a refused number do not; silence, 421, 429 and 5xx do.
    pub fn blames_provider(&self) -> bool {
        match self {
            Self::Transient { code, .. } | Self::Unknown { code, .. } => match code.parse::<u16>() {
                Ok(status) => matches!(status, 421 | 429 | 500..=599),
                Err(_) => true,
            },
            Self::Permanent { .. } | Self::Refused { .. } | Self::Gone => false,
        }
    }
}

/// Tells the breaker how a delivery that it let through went.
pub fn settle<T>(permit: Permit, delivered: &Result<T, DeliveryError>) {
    if delivered.as_ref().is_err_and(DeliveryError::blames_provider) {
        permit.fail();
    } else {
        permit.succeed();
    }
}

fn short_code(code: impl ToString) -> String {
    code.to_string().chars().take(MAXIMUM_ID_CHARS).collect()
}

fn short_detail(detail: impl ToString) -> String {
    detail.to_string().chars().take(MAXIMUM_DETAIL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::super::breaker::{Breaker, BreakerState};
    use super::*;

    #[test]
    fn what_is_kept_is_bounded() {
        let endless = "é".repeat(5_000);
        let error = DeliveryError::transient(&endless, &endless);
        assert_eq!(error.code().chars().count(), MAXIMUM_ID_CHARS);
        let DeliveryError::Transient { detail, .. } = error else { panic!("not transient") };
        assert_eq!(detail.chars().count(), MAXIMUM_DETAIL_CHARS);
        let accepted = Accepted::new(Some(&endless), 250);
        assert_eq!(accepted.provider_id.unwrap().chars().count(), MAXIMUM_ID_CHARS);
    }

    #[test]
    fn only_what_concerns_every_message_counts_against_the_provider() {
        for (error, blamed) in [
            (DeliveryError::transient("timeout", ""), true),
            (DeliveryError::transient("connection", ""), true),
            (DeliveryError::unknown("timeout", ""), true),
            (DeliveryError::unknown("503", ""), true),
            (DeliveryError::transient("421", ""), true),
            (DeliveryError::transient("429", ""), true),
            (DeliveryError::transient("503", ""), true),
            (DeliveryError::transient("535", ""), true),
            (DeliveryError::transient("450", ""), false),
            (DeliveryError::transient("404", ""), false),
            (DeliveryError::permanent("550", ""), false),
            (DeliveryError::refused(AddressRefusal::Unreachable, "550", ""), false),
            (DeliveryError::Gone, false),
        ] {
            assert_eq!(error.blames_provider(), blamed, "{error:?}");
            let breaker = Breaker::new(1, Duration::from_secs(60));
            settle::<()>(breaker.admit().unwrap(), &Err(error));
            assert_eq!(breaker.state() == BreakerState::Open, blamed);
        }
    }

    #[test]
    fn only_what_is_tried_again_asks_to_wait() {
        let wait = Some(Duration::from_secs(7));
        for again in [DeliveryError::transient("429", "busy"), DeliveryError::unknown("503", "busy")] {
            assert_eq!((again.asked_to_wait(), again.after(wait).asked_to_wait()), (None, wait));
        }
        assert_eq!(DeliveryError::Gone.after(wait), DeliveryError::Gone);
    }
}
