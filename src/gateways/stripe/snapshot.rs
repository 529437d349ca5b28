//! An intent as Stripe answers with it: with the refunds and the dispute of its latest charge expanded.
//!
//! Deliberately absent: a guess where something was not expanded; what is not told is an error, never "none".

use serde::Deserialize;

use super::json::{Expandable, List, ShapeError, amount, decode};
use super::objects::{Dispute, Intent, Refund, refund_facts};
use crate::domain::provider::{DisputeFact, IntentSnapshot};

/// An intent with its latest charge expanded, as we ask for it.
#[derive(Debug, Deserialize)]
struct WholeIntent<'a> {
    #[serde(borrow)]
    latest_charge: Option<Expandable<LatestCharge<'a>>>,
}

#[derive(Debug, Deserialize)]
struct LatestCharge<'a> {
    amount_refunded: Option<i64>,
    #[serde(borrow)]
    refunds: Option<List<Refund<'a>>>,
    #[serde(borrow)]
    dispute: Option<Expandable<Dispute<'a>>>,
}

/// A snapshot, and whether Stripe has more refunds than it lists.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub intent: IntentSnapshot,
    pub more_refunds: bool,
}

impl Snapshot {
    pub fn read(json: &[u8]) -> Result<Self, ShapeError> {
        let intent: Intent<'_> = decode(json)?;
        let whole: WholeIntent<'_> = decode(json)?;
        let charge = whole.latest_charge.as_ref().map(|charge| charge.object("latest_charge")).transpose()?;
        let refunds = charge.map(LatestCharge::refunds).transpose()?.flatten();
        let dispute = charge.map(LatestCharge::dispute).transpose()?.flatten();
        Ok(Self {
            intent: IntentSnapshot {
                id: intent.id()?,
                client_secret: intent.client_secret.as_ref().map(|secret| secret.as_str().to_owned()),
                status: intent.status()?,
                amount_minor: amount(intent.amount, "amount")?,
                received_minor: intent.received_minor()?,
                capturable_minor: intent.capturable_minor()?,
                currency: intent.currency()?,
                last_error: intent.last_error(),
                refunds: refunds.map(refund_facts).transpose()?.unwrap_or_default(),
                disputes: dispute.into_iter().collect(),
            },
            more_refunds: refunds.is_some_and(|list| list.has_more),
        })
    }
}

impl<'a> LatestCharge<'a> {
    /// Absent refunds are no refunds only where nothing was refunded.
    fn refunds(&self) -> Result<Option<&List<Refund<'a>>>, ShapeError> {
        if self.refunds.is_none() && self.amount_refunded.unwrap_or_default() > 0 {
            return Err(ShapeError::NotExpanded("latest_charge.refunds"));
        }
        Ok(self.refunds.as_ref())
    }

    fn dispute(&self) -> Result<Option<DisputeFact>, ShapeError> {
        let expanded = self.dispute.as_ref().map(|dispute| dispute.object("latest_charge.dispute")).transpose()?;
        expanded.map(Dispute::fact).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::provider::{DisputeStatus, RefundFact, RefundStatus};

    fn intent(latest_charge: &Value) -> Value {
        json!({
            "id": "pi_1", "object": "payment_intent", "amount": 2500, "amount_capturable": 0, "amount_received": 2500,
            "client_secret": "pi_1_secret_x", "currency": "eur", "last_payment_error": null, "status": "succeeded",
            "latest_charge": latest_charge, "metadata": {}, "payment_method_types": ["card"],
        })
    }

    fn read(value: &Value) -> Result<Snapshot, ShapeError> {
        Snapshot::read(value.to_string().as_bytes())
    }

    #[test]
    fn a_snapshot_has_the_refunds_and_the_dispute_of_the_expanded_charge() {
        let snapshot = read(&intent(&json!({
            "id": "ch_1", "amount_refunded": 500, "captured": true,
            "refunds": { "object": "list", "has_more": true, "data": [
                { "id": "re_2", "amount": 300, "status": "pending" },
                { "id": "re_1", "amount": 200, "status": "succeeded", "payment_intent": "pi_1" },
            ]},
            "dispute": { "id": "du_1", "amount": 2000, "status": "under_review" },
        })))
        .unwrap();
        assert!(snapshot.more_refunds);
        let intent = snapshot.intent;
        assert_eq!((intent.received_minor, intent.currency.as_str()), (2500, "EUR"));
        assert_eq!(intent.client_secret.as_deref(), Some("pi_1_secret_x"));
        let pending = RefundFact { id: "re_2".into(), amount_minor: 300, status: RefundStatus::Pending };
        assert_eq!((intent.refunds.len(), &intent.refunds[0]), (2, &pending));
        let dispute = DisputeFact { id: "du_1".into(), amount_minor: 2000, status: DisputeStatus::UnderReview };
        assert_eq!(intent.disputes, vec![dispute]);
    }

    #[test]
    fn an_intent_without_a_charge_is_whole() {
        let snapshot = read(&intent(&Value::Null)).unwrap();
        assert!(!snapshot.more_refunds && snapshot.intent.refunds.is_empty() && snapshot.intent.disputes.is_empty());
        assert!(read(&intent(&json!({ "id": "ch_1", "amount_refunded": 0 }))).is_ok());
    }

    #[test]
    fn what_was_not_expanded_is_an_error_and_not_an_absence() {
        for (charge, field) in [
            (json!("ch_1"), "latest_charge"),
            (json!({ "amount_refunded": 5 }), "latest_charge.refunds"),
            (json!({ "amount_refunded": 0, "dispute": "du_1" }), "latest_charge.dispute"),
        ] {
            assert_eq!(read(&intent(&charge)).unwrap_err(), ShapeError::NotExpanded(field));
        }
    }

    #[test]
    fn an_unknown_status_is_named() {
        let mut strange = intent(&Value::Null);
        strange["status"] = json!("requires_patience");
        let error = read(&strange).unwrap_err();
        assert_eq!(error.to_string(), "`status` has the unknown value \"requires_patience\"");
    }

    #[test]
    fn a_wrong_type_is_located_but_its_value_is_not_shown() {
        let mut strange = intent(&Value::Null);
        strange["amount"] = json!("ada@example.org");
        let error = read(&strange).unwrap_err().to_string();
        assert!(error.contains("`amount`") && !error.contains("ada"), "{error}");
    }

    #[test]
    fn the_banks_reason_is_told_before_stripes_code() {
        for (error, told) in [
            (json!({ "code": "card_declined", "decline_code": "insufficient_funds" }), Some("insufficient_funds")),
            (json!({ "code": "card_declined", "decline_code": "generic_decline" }), Some("card_declined")),
            (json!({ "code": "expired_card" }), Some("expired_card")),
            (json!({ "message": "?" }), None),
        ] {
            let mut declined = intent(&Value::Null);
            declined["last_payment_error"] = error;
            assert_eq!(read(&declined).unwrap().intent.last_error.as_deref(), told);
        }
    }
}
