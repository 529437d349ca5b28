//! What an operator may ask of a payment, and when: refused here, before the provider is troubled.
//!
//! Deliberately absent: what the provider answers; that is taken over by [`adopt`](super::decide::adopt) like any news.

use thiserror::Error;

use super::{Payment, PaymentStatus};

/// Why a command is refused.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The payment does not stand where the command makes sense.
    #[error("a payment that is {} cannot be {verb}", status.as_str())]
    WrongStatus {
        /// Where it stands.
        status: PaymentStatus,
        /// What was asked, as a participle.
        verb: &'static str,
    },
    /// The provider does not know the payment yet.
    #[error("the payment has not reached the provider yet")]
    NotOpened,
    /// More than there is.
    #[error("at most {available_minor} minor units are available")]
    TooMuch {
        /// What there is, in minor units.
        available_minor: i64,
    },
    /// Zero or below.
    #[error("amount_minor must be greater than zero")]
    NotPositive,
}

impl Payment {
    /// The amount to capture, in minor units: all that was authorized, unless less is asked for.
    pub fn check_capture(&self, amount_minor: Option<i64>) -> Result<i64, Refusal> {
        if self.status != PaymentStatus::Authorized {
            return Err(Refusal::WrongStatus { status: self.status, verb: "captured" });
        }
        self.intent_id.as_ref().ok_or(Refusal::NotOpened)?;
        check_amount(amount_minor, self.amount_minor)
    }

    /// Whether the payment can be called off.
    pub fn check_cancel(&self) -> Result<(), Refusal> {
        if !self.status.is_open() {
            return Err(Refusal::WrongStatus { status: self.status, verb: "canceled" });
        }
        Ok(())
    }

    /// The amount to refund, in minor units: all that is left, unless less is asked for.
    pub fn check_refund(&self, amount_minor: Option<i64>) -> Result<i64, Refusal> {
        if self.status != PaymentStatus::Captured {
            return Err(Refusal::WrongStatus { status: self.status, verb: "refunded" });
        }
        self.intent_id.as_ref().ok_or(Refusal::NotOpened)?;
        check_amount(amount_minor, self.refundable_minor())
    }
}

fn check_amount(asked_minor: Option<i64>, available_minor: i64) -> Result<i64, Refusal> {
    match asked_minor {
        None => Ok(available_minor),
        Some(asked) if asked <= 0 => Err(Refusal::NotPositive),
        Some(asked) if asked > available_minor => Err(Refusal::TooMuch { available_minor }),
        Some(asked) => Ok(asked),
    }
}
