//! Stripe's objects, as far as webhooks tell of them, and their translation into the domain's words. Text is borrowed
//! from the body where it can be; unknown fields are skipped without being built.
//!
//! Deliberately absent: events (`event`), answers with expanded objects (`snapshot`), and any decision.

use serde::Deserialize;
use uuid::Uuid;

use super::json::{List, ShapeError, Text, amount, required, unknown};
use crate::domain::provider::{DisputeFact, DisputeStatus, IntentStatus, RefundFact, RefundStatus};

/// The length of a version 00 `traceparent` (<https://www.w3.org/TR/trace-context/>).
const TRACEPARENT_LENGTH: usize = 55;

/// What we wrote into an intent's metadata, as it comes back. Somebody else's values under our names are no error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    payment_id: Option<Text<'a>>,
    #[serde(borrow)]
    traceparent: Option<Text<'a>>,
}

impl Metadata<'_> {
    pub fn payment_id(&self) -> Option<Uuid> {
        Uuid::try_parse(self.payment_id.as_ref()?.as_str()).ok()
    }

    pub fn traceparent(&self) -> Option<String> {
        let text = self.traceparent.as_ref()?.as_str();
        let plain = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        (text.len() == TRACEPARENT_LENGTH && plain).then(|| text.to_owned())
    }
}

/// The intent that a charge, refund or dispute belongs to.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum IntentReference<'a> {
    #[serde(borrow)]
    Id(Text<'a>),
    Object {
        #[serde(borrow)]
        id: Text<'a>,
    },
}

impl IntentReference<'_> {
    pub fn identifier(&self) -> Result<String, ShapeError> {
        let (Self::Id(id) | Self::Object { id }) = self;
        id.identifier("payment_intent")
    }
}

/// <https://docs.stripe.com/api/payment_intents/object>
#[derive(Debug, Deserialize)]
pub(super) struct Intent<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    pub client_secret: Option<Text<'a>>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    pub amount: Option<i64>,
    amount_received: Option<i64>,
    amount_capturable: Option<i64>,
    #[serde(borrow)]
    currency: Option<Text<'a>>,
    #[serde(borrow)]
    last_payment_error: Option<PaymentError<'a>>,
    #[serde(borrow)]
    pub metadata: Option<Metadata<'a>>,
}

#[derive(Debug, Deserialize)]
struct PaymentError<'a> {
    #[serde(borrow)]
    code: Option<Text<'a>>,
    #[serde(borrow)]
    decline_code: Option<Text<'a>>,
}

impl Intent<'_> {
    pub fn id(&self) -> Result<String, ShapeError> {
        required(self.id.as_ref(), "id")?.identifier("id")
    }

    /// Upper case.
    pub fn currency(&self) -> Result<String, ShapeError> {
        let code = required(self.currency.as_ref(), "currency")?.as_str();
        let usable = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_alphabetic());
        if usable { Ok(code.to_ascii_uppercase()) } else { Err(ShapeError::Identifier("currency")) }
    }

    pub fn received_minor(&self) -> Result<i64, ShapeError> {
        amount(self.amount_received, "amount_received")
    }

    pub fn capturable_minor(&self) -> Result<i64, ShapeError> {
        amount(self.amount_capturable, "amount_capturable")
    }

    /// The bank's own reason (`insufficient_funds`) where it gave one, otherwise Stripe's code (`card_declined`).
    pub fn last_error(&self) -> Option<String> {
        let error = self.last_payment_error.as_ref()?;
        let told = error.decline_code.as_ref().filter(|code| code.as_str() != "generic_decline");
        told.or(error.code.as_ref())?.identifier("last_payment_error").ok()
    }

    pub fn status(&self) -> Result<IntentStatus, ShapeError> {
        let status = required(self.status.as_ref(), "status")?.as_str();
        Ok(match status {
            "requires_payment_method" => IntentStatus::RequiresPaymentMethod,
            "requires_confirmation" => IntentStatus::RequiresConfirmation,
            "requires_action" => IntentStatus::RequiresAction,
            "processing" => IntentStatus::Processing,
            "requires_capture" => IntentStatus::RequiresCapture,
            "canceled" => IntentStatus::Canceled,
            "succeeded" => IntentStatus::Succeeded,
            other => return Err(unknown("status", other)),
        })
    }
}

/// <https://docs.stripe.com/api/charges/object>
#[derive(Debug, Deserialize)]
pub(super) struct Charge<'a> {
    #[serde(borrow)]
    pub payment_intent: Option<IntentReference<'a>>,
    #[serde(borrow)]
    pub metadata: Option<Metadata<'a>>,
    captured: Option<bool>,
    amount_refunded: Option<i64>,
    #[serde(borrow)]
    refunds: Option<List<Refund<'a>>>,
}

impl Charge<'_> {
    pub fn captured(&self) -> Result<bool, ShapeError> {
        required(self.captured, "captured")
    }

    /// Cumulative over all refunds of the charge.
    pub fn refunded_minor(&self) -> Result<i64, ShapeError> {
        amount(self.amount_refunded, "amount_refunded")
    }

    /// The refunds that the charge lists; since 2022-11-15 a charge in an event lists none.
    pub fn refunds(&self) -> Result<Vec<RefundFact>, ShapeError> {
        self.refunds.as_ref().map(refund_facts).transpose().map(Option::unwrap_or_default)
    }
}

/// <https://docs.stripe.com/api/refunds/object>
#[derive(Debug, Deserialize)]
pub(super) struct Refund<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    amount: Option<i64>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    pub payment_intent: Option<IntentReference<'a>>,
    #[serde(borrow)]
    pub metadata: Option<Metadata<'a>>,
}

impl Refund<'_> {
    pub fn fact(&self) -> Result<RefundFact, ShapeError> {
        let status = required(self.status.as_ref(), "refund.status")?.as_str();
        Ok(RefundFact {
            id: required(self.id.as_ref(), "refund.id")?.identifier("refund.id")?,
            amount_minor: amount(self.amount, "refund.amount")?,
            status: refund_status(status).ok_or_else(|| unknown("refund.status", status))?,
        })
    }
}

pub(super) fn refund_facts(list: &List<Refund<'_>>) -> Result<Vec<RefundFact>, ShapeError> {
    list.data.iter().map(Refund::fact).collect()
}

fn refund_status(text: &str) -> Option<RefundStatus> {
    Some(match text {
        "pending" => RefundStatus::Pending,
        "requires_action" => RefundStatus::RequiresAction,
        "succeeded" => RefundStatus::Succeeded,
        "failed" => RefundStatus::Failed,
        "canceled" => RefundStatus::Canceled,
        _ => return None,
    })
}

/// <https://docs.stripe.com/api/disputes/object>
#[derive(Debug, Deserialize)]
pub(super) struct Dispute<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    amount: Option<i64>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    pub payment_intent: Option<IntentReference<'a>>,
    #[serde(borrow)]
    pub metadata: Option<Metadata<'a>>,
}

impl Dispute<'_> {
    pub fn fact(&self) -> Result<DisputeFact, ShapeError> {
        let status = required(self.status.as_ref(), "dispute.status")?.as_str();
        Ok(DisputeFact {
            id: required(self.id.as_ref(), "dispute.id")?.identifier("dispute.id")?,
            amount_minor: amount(self.amount, "dispute.amount")?,
            status: dispute_status(status).ok_or_else(|| unknown("dispute.status", status))?,
        })
    }
}

fn dispute_status(text: &str) -> Option<DisputeStatus> {
    Some(match text {
        "warning_needs_response" => DisputeStatus::WarningNeedsResponse,
        "warning_under_review" => DisputeStatus::WarningUnderReview,
        "warning_closed" => DisputeStatus::WarningClosed,
        "needs_response" => DisputeStatus::NeedsResponse,
        "under_review" => DisputeStatus::UnderReview,
        "won" => DisputeStatus::Won,
        "lost" => DisputeStatus::Lost,
        "prevented" => DisputeStatus::Prevented,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_somebody_else_is_no_error() {
        let parse = |text| serde_json::from_str::<Metadata<'_>>(text).unwrap();
        assert_eq!(parse("[]").payment_id(), None);
        assert_eq!(parse(r#"{"payment_id":"42","traceparent":"x","order":"7"}"#).payment_id(), None);
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let ours = format!(r#"{{"payment_id":"01980000-0000-7000-8000-000000000001","traceparent":"{trace}"}}"#);
        let ours: Metadata<'_> = serde_json::from_str(&ours).unwrap();
        assert_eq!(ours.payment_id().unwrap().to_string(), "01980000-0000-7000-8000-000000000001");
        assert_eq!(ours.traceparent().as_deref(), Some(trace));
        assert_eq!(parse(r#"{"traceparent":"x\u0000"}"#).traceparent(), None);
    }
}
