//! A webhook's raw body → what it says: one of the events that we act on, one that is none of ours, or one that we
//! cannot read.
//!
//! The envelope is read first and its object only where the type is known, both borrowing from the body. Unknown fields
//! and unknown `api_version`s are no concern; an unknown shape or status of a known type is
//! [`WebhookEvent::Malformed`], for the caller to count and to raise an alarm.
//!
//! Deliberately absent: the signature (`gateways::signature`), the body's size limit (HTTP), and verdicts (the
//! machine).

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::json::{ShapeError, Text, decode, required};
use super::objects::{Charge, Dispute, Intent, IntentReference, Metadata, Refund};
use crate::domain::provider::{ProviderChange, ProviderEvent};

/// Every type that we act on: the `types[]` of a back-fill, and what a webhook endpoint should be subscribed to.
pub const KNOWN_KINDS: [&str; 16] = [
    "payment_intent.processing",
    "payment_intent.payment_failed",
    "payment_intent.amount_capturable_updated",
    "payment_intent.succeeded",
    "payment_intent.canceled",
    "charge.refunded",
    "charge.expired",
    "charge.refund.updated",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
];

/// What a webhook's body turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookEvent {
    /// One that we act on.
    Known(ProviderEvent),
    /// Well-formed, but of a type that we do not act on.
    Unrelated {
        /// `evt_…`
        id: String,
        /// Such as `charge.succeeded`.
        kind: String,
        /// In whole seconds since the Unix epoch.
        created: i64,
    },
    /// Not an event, or a known type in a shape that we do not know.
    Malformed(MalformedEvent),
}

impl WebhookEvent {
    /// The provider's id, where the body has a usable one.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Known(event) => Some(&event.id),
            Self::Unrelated { id, .. } => Some(id),
            Self::Malformed(event) => event.id.as_deref(),
        }
    }
}

/// As much of an unreadable event as could be read, and what was wrong. Holds no donor data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedEvent {
    /// `evt_…`
    pub id: Option<String>,
    /// Such as `charge.dispute.created`.
    pub kind: Option<String>,
    /// What was wrong.
    pub reason: ShapeError,
}

/// <https://docs.stripe.com/api/events/object>
#[derive(Debug, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    created: Option<i64>,
    #[serde(borrow)]
    data: Option<Data<'a>>,
}

#[derive(Debug, Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

/// Reads one event. Never panics, whatever the bytes.
pub fn parse(body: &[u8]) -> WebhookEvent {
    match decode::<Envelope<'_>>(body) {
        Ok(envelope) => envelope.read().unwrap_or_else(|reason| envelope.malformed(reason)),
        Err(reason) => WebhookEvent::Malformed(MalformedEvent { id: None, kind: None, reason }),
    }
}

impl Envelope<'_> {
    fn read(&self) -> Result<WebhookEvent, ShapeError> {
        let id = required(self.id.as_ref(), "id")?.identifier("id")?;
        let kind = required(self.kind.as_ref(), "type")?.identifier("type")?;
        let created = required(self.created, "created")?;
        let Some(read) = reader(&kind) else { return Ok(WebhookEvent::Unrelated { id, kind, created }) };
        let object = required(self.data.as_ref().and_then(|data| data.object), "data.object")?;
        let Facts { intent_id, payment_id, traceparent, change } = read(object.get().as_bytes())?;
        Ok(WebhookEvent::Known(ProviderEvent { id, kind, created, intent_id, payment_id, traceparent, change }))
    }

    fn malformed(&self, reason: ShapeError) -> WebhookEvent {
        let id = self.id.as_ref().and_then(|id| id.identifier("id").ok());
        let kind = self.kind.as_ref().and_then(|kind| kind.identifier("type").ok());
        WebhookEvent::Malformed(MalformedEvent { id, kind, reason })
    }
}

/// What an event's object tells, whatever kind of object it is.
struct Facts {
    intent_id: Option<String>,
    payment_id: Option<Uuid>,
    traceparent: Option<String>,
    change: ProviderChange,
}

impl Facts {
    fn new(intent_id: Option<String>, metadata: Option<&Metadata<'_>>, change: ProviderChange) -> Self {
        let payment_id = metadata.and_then(Metadata::payment_id);
        let traceparent = metadata.and_then(Metadata::traceparent);
        Self { intent_id, payment_id, traceparent, change }
    }
}

type Reader = fn(&[u8]) -> Result<Facts, ShapeError>;

/// How to read the object of a type that we act on. All dispute events are read alike, also ones to come: only the
/// dispute's own status counts.
fn reader(kind: &str) -> Option<Reader> {
    Some(match kind {
        "payment_intent.processing" => |json| intent(json, |_| Ok(ProviderChange::Processing)),
        "payment_intent.payment_failed" => |json| intent(json, attempt_failed),
        "payment_intent.amount_capturable_updated" => |json| intent(json, authorized),
        "payment_intent.succeeded" => |json| intent(json, captured),
        "payment_intent.canceled" => |json| intent(json, |_| Ok(ProviderChange::Canceled)),
        "charge.refunded" => |json| charge(json, refunded),
        "charge.expired" => |json| charge(json, |_| Ok(ProviderChange::Expired)),
        "charge.refund.updated" | "refund.created" | "refund.updated" | "refund.failed" => refund,
        kind if kind.starts_with("charge.dispute.") => dispute,
        _ => return None,
    })
}

fn intent(json: &[u8], change: fn(&Intent<'_>) -> Result<ProviderChange, ShapeError>) -> Result<Facts, ShapeError> {
    let intent: Intent<'_> = decode(json)?;
    Ok(Facts::new(Some(intent.id()?), intent.metadata.as_ref(), change(&intent)?))
}

fn attempt_failed(intent: &Intent<'_>) -> Result<ProviderChange, ShapeError> {
    Ok(ProviderChange::AttemptFailed { code: intent.last_error() })
}

fn authorized(intent: &Intent<'_>) -> Result<ProviderChange, ShapeError> {
    Ok(ProviderChange::Authorized { capturable_minor: intent.capturable_minor()?, currency: intent.currency()? })
}

fn captured(intent: &Intent<'_>) -> Result<ProviderChange, ShapeError> {
    Ok(ProviderChange::Captured { received_minor: intent.received_minor()?, currency: intent.currency()? })
}

fn charge(json: &[u8], change: fn(&Charge<'_>) -> Result<ProviderChange, ShapeError>) -> Result<Facts, ShapeError> {
    let charge: Charge<'_> = decode(json)?;
    Ok(Facts::new(owner(charge.payment_intent.as_ref())?, charge.metadata.as_ref(), change(&charge)?))
}

fn refunded(charge: &Charge<'_>) -> Result<ProviderChange, ShapeError> {
    if !charge.captured()? {
        return Ok(ProviderChange::Released);
    }
    Ok(ProviderChange::RefundedInTotal { total_minor: charge.refunded_minor()?, refunds: charge.refunds()? })
}

fn refund(json: &[u8]) -> Result<Facts, ShapeError> {
    let refund: Refund<'_> = decode(json)?;
    let change = ProviderChange::Refund(refund.fact()?);
    Ok(Facts::new(owner(refund.payment_intent.as_ref())?, refund.metadata.as_ref(), change))
}

fn dispute(json: &[u8]) -> Result<Facts, ShapeError> {
    let dispute: Dispute<'_> = decode(json)?;
    let change = ProviderChange::Dispute(dispute.fact()?);
    Ok(Facts::new(owner(dispute.payment_intent.as_ref())?, dispute.metadata.as_ref(), change))
}

fn owner(reference: Option<&IntentReference<'_>>) -> Result<Option<String>, ShapeError> {
    reference.map(IntentReference::identifier).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::provider::{DisputeFact, DisputeStatus, RefundFact, RefundStatus};

    const PAYMENT: &str = "01980000-0000-7000-8000-000000000001";
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const INTENT: &str = "pi_3PX8kN2eZvKYlo2C1QJm0vTn";

    fn event(kind: &str, object: &Value) -> Vec<u8> {
        let event = json!({
            "id": "evt_3PX8kN2eZvKYlo2C1sYVqQ0L", "object": "event", "api_version": "2024-06-20",
            "created": 1_719_850_321, "data": { "object": object, "previous_attributes": {} }, "livemode": false,
            "pending_webhooks": 1, "request": { "id": "req_a1", "idempotency_key": PAYMENT }, "type": kind,
        });
        serde_json::to_vec_pretty(&event).unwrap()
    }

    fn intent_object() -> Value {
        json!({
            "id": INTENT, "object": "payment_intent", "amount": 2500, "amount_capturable": 2500,
            "amount_details": { "tip": {} }, "amount_received": 2400, "application": null,
            "automatic_payment_methods": { "allow_redirects": "always", "enabled": true }, "canceled_at": null,
            "cancellation_reason": null, "capture_method": "automatic_async",
            "client_secret": "pi_3PX8kN2eZvKYlo2C1QJm0vTn_secret_Yb", "confirmation_method": "automatic",
            "created": 1_719_850_300, "currency": "eur", "customer": null, "description": "Clean water — für alle",
            "last_payment_error": {
                "charge": "ch_3PX8kN", "code": "card_declined", "decline_code": "insufficient_funds",
                "message": "Your card has insufficient funds.", "type": "card_error",
                "payment_method": { "id": "pm_1PX8", "billing_details": { "email": "ada@example.org" } }
            },
            "latest_charge": "ch_3PX8kN2eZvKYlo2C1LLHyFNY", "livemode": false,
            "metadata": { "payment_id": PAYMENT, "donation_id": PAYMENT, "campaign_id": PAYMENT, "traceparent": TRACE },
            "next_action": null, "payment_method": "pm_1PX8", "payment_method_types": ["card", "link"],
            "status": "succeeded", "transfer_data": null
        })
    }

    fn charge_object(captured: bool, refunded: i64) -> Value {
        json!({
            "id": "ch_3PX8kN2eZvKYlo2C1LLHyFNY", "object": "charge", "amount": 2500, "amount_captured": 2500,
            "amount_refunded": refunded, "balance_transaction": "txn_1",
            "billing_details": { "email": "ada@example.org" },
            "captured": captured, "created": 1_719_850_310, "currency": "eur", "disputed": false,
            "fraud_details": {}, "metadata": { "payment_id": PAYMENT }, "outcome": { "risk_score": 7 }, "paid": true,
            "payment_intent": INTENT, "payment_method_details": { "card": { "last4": "4242" }, "type": "card" },
            "refunded": false, "status": "succeeded"
        })
    }

    fn refund_object(status: &str) -> Value {
        json!({
            "id": "re_3PX8kN2eZvKYlo2C1kIwW5xX", "object": "refund", "amount": 700, "charge": "ch_3PX8kN",
            "created": 1_719_850_400, "currency": "eur", "destination_details": { "type": "card" }, "metadata": {},
            "payment_intent": INTENT, "reason": "requested_by_customer", "receipt_number": null, "status": status
        })
    }

    fn dispute_object(status: &str) -> Value {
        json!({
            "id": "du_1PX8tE2eZvKYlo2Cj6oZ", "object": "dispute", "amount": 2500, "balance_transactions": [],
            "charge": "ch_3PX8kN", "created": 1_719_850_500, "currency": "eur", "evidence": { "receipt": null },
            "evidence_details": { "due_by": 1_720_569_599, "has_evidence": false }, "is_charge_refundable": false,
            "metadata": {}, "payment_intent": INTENT, "reason": "fraudulent", "status": status
        })
    }

    fn object_for(kind: &str) -> Value {
        match kind {
            _ if kind.starts_with("payment_intent.") => intent_object(),
            _ if kind.starts_with("charge.dispute.") => dispute_object("needs_response"),
            _ if kind.contains("refund.") => refund_object("succeeded"),
            _ => charge_object(true, 700),
        }
    }

    fn known(body: &[u8]) -> ProviderEvent {
        match parse(body) {
            WebhookEvent::Known(event) => event,
            other => panic!("not known: {other:?}"),
        }
    }

    fn malformed(body: &[u8]) -> MalformedEvent {
        match parse(body) {
            WebhookEvent::Malformed(event) => event,
            other => panic!("not malformed: {other:?}"),
        }
    }

    fn change(kind: &str, object: &Value) -> ProviderChange {
        known(&event(kind, object)).change
    }

    #[test]
    fn an_intents_event_carries_everything_that_finds_the_payment() {
        let event = known(&event("payment_intent.succeeded", &intent_object()));
        assert_eq!((event.id.as_str(), event.created), ("evt_3PX8kN2eZvKYlo2C1sYVqQ0L", 1_719_850_321));
        assert_eq!(event.kind, "payment_intent.succeeded");
        assert_eq!(event.intent_id.as_deref(), Some(INTENT));
        assert_eq!(event.payment_id.unwrap().to_string(), PAYMENT);
        assert_eq!(event.traceparent.as_deref(), Some(TRACE));
        assert_eq!(event.change, ProviderChange::Captured { received_minor: 2400, currency: "EUR".into() });
    }

    #[test]
    fn each_intent_event_says_what_happened() {
        let intent = intent_object();
        assert_eq!(change("payment_intent.processing", &intent), ProviderChange::Processing);
        assert_eq!(change("payment_intent.canceled", &intent), ProviderChange::Canceled);
        let authorized = ProviderChange::Authorized { capturable_minor: 2500, currency: "EUR".into() };
        assert_eq!(change("payment_intent.amount_capturable_updated", &intent), authorized);
        let failed = ProviderChange::AttemptFailed { code: Some("insufficient_funds".into()) };
        assert_eq!(change("payment_intent.payment_failed", &intent), failed);
    }

    #[test]
    fn a_refunded_charge_is_told_from_a_released_one() {
        let total = ProviderChange::RefundedInTotal { total_minor: 700, refunds: Vec::new() };
        assert_eq!(change("charge.refunded", &charge_object(true, 700)), total);
        assert_eq!(change("charge.refunded", &charge_object(false, 2500)), ProviderChange::Released);
        assert_eq!(change("charge.expired", &charge_object(false, 2500)), ProviderChange::Expired);
        let event = known(&event("charge.refunded", &charge_object(true, 700)));
        assert_eq!(event.intent_id.as_deref(), Some(INTENT));
        assert_eq!(event.payment_id.unwrap().to_string(), PAYMENT);
    }

    #[test]
    fn the_refunds_that_an_older_charge_lists_are_taken() {
        let mut charge = charge_object(true, 700);
        charge["refunds"] = json!({ "object": "list", "data": [refund_object("pending")], "has_more": false });
        let refund =
            RefundFact { id: "re_3PX8kN2eZvKYlo2C1kIwW5xX".into(), amount_minor: 700, status: RefundStatus::Pending };
        let total = ProviderChange::RefundedInTotal { total_minor: 700, refunds: vec![refund] };
        assert_eq!(change("charge.refunded", &charge), total);
    }

    #[test]
    fn every_refund_event_carries_the_refunds_own_status() {
        for kind in ["charge.refund.updated", "refund.created", "refund.updated", "refund.failed"] {
            let ProviderChange::Refund(fact) = change(kind, &refund_object("failed")) else { panic!("{kind}") };
            assert_eq!((fact.amount_minor, fact.status), (700, RefundStatus::Failed), "{kind}");
        }
    }

    #[test]
    fn every_dispute_event_carries_the_disputes_own_status_whatever_its_name() {
        for (kind, status, expected) in [
            ("charge.dispute.created", "needs_response", DisputeStatus::NeedsResponse),
            ("charge.dispute.closed", "won", DisputeStatus::Won),
            ("charge.dispute.funds_reinstated", "lost", DisputeStatus::Lost),
            ("charge.dispute.something_new", "warning_closed", DisputeStatus::WarningClosed),
        ] {
            let fact = DisputeFact { id: "du_1PX8tE2eZvKYlo2Cj6oZ".into(), amount_minor: 2500, status: expected };
            assert_eq!(change(kind, &dispute_object(status)), ProviderChange::Dispute(fact), "{kind}");
        }
    }

    #[test]
    fn every_listed_kind_is_read() {
        for kind in KNOWN_KINDS {
            assert_eq!(known(&event(kind, &object_for(kind))).intent_id.as_deref(), Some(INTENT), "{kind}");
        }
    }

    #[test]
    fn other_kinds_are_unrelated_whatever_they_carry() {
        for kind in
            ["payment_intent.created", "payment_intent.requires_action", "charge.succeeded", "charge.captured", "x"]
        {
            let id = "evt_3PX8kN2eZvKYlo2C1sYVqQ0L".to_owned();
            let unrelated = WebhookEvent::Unrelated { id, kind: kind.to_owned(), created: 1_719_850_321 };
            assert_eq!(parse(&event(kind, &json!([1, "two"]))), unrelated);
        }
    }

    #[test]
    fn an_unknown_status_of_a_known_kind_is_malformed_with_its_name() {
        let event = malformed(&event("charge.dispute.updated", &dispute_object("escalated")));
        assert_eq!(event.id.as_deref(), Some("evt_3PX8kN2eZvKYlo2C1sYVqQ0L"));
        assert_eq!(event.kind.as_deref(), Some("charge.dispute.updated"));
        assert_eq!(event.reason.to_string(), "`dispute.status` has the unknown value \"escalated\"");
    }

    #[test]
    fn each_missing_or_wrong_part_is_named() {
        let without = |kind: &str, field: &str| {
            let mut object = object_for(kind);
            object.as_object_mut().unwrap().remove(field);
            malformed(&event(kind, &object)).reason
        };
        assert_eq!(without("payment_intent.succeeded", "amount_received"), ShapeError::Missing("amount_received"));
        assert_eq!(without("payment_intent.succeeded", "currency"), ShapeError::Missing("currency"));
        assert_eq!(without("payment_intent.canceled", "id"), ShapeError::Missing("id"));
        assert_eq!(without("charge.refunded", "captured"), ShapeError::Missing("captured"));
        assert_eq!(without("refund.created", "status"), ShapeError::Missing("refund.status"));
        let mut negative = charge_object(true, -1);
        assert_eq!(malformed(&event("charge.refunded", &negative)).reason, ShapeError::Negative("amount_refunded"));
        negative["payment_intent"] = json!("pi_\u{0}");
        assert_eq!(malformed(&event("charge.expired", &negative)).reason, ShapeError::Identifier("payment_intent"));
        assert_eq!(malformed(&event("charge.expired", &Value::Null)).reason, ShapeError::Missing("data.object"));
    }

    #[test]
    fn what_is_no_event_is_malformed() {
        for body in ["", "null", "[]", "{", "{} {}", "<xml/>", "\u{0}", r#"{"id":7}"#] {
            assert!(malformed(body.as_bytes()).id.is_none(), "{body}");
        }
        assert_eq!(malformed(b"{}").reason, ShapeError::Missing("id"));
        assert_eq!(malformed(br#"{"id":"evt_1"}"#).reason, ShapeError::Missing("type"));
        assert_eq!(malformed(br#"{"id":"evt_1","type":"x"}"#).reason, ShapeError::Missing("created"));
        assert_eq!(malformed(br#"{"id":"evt 1","type":"x","created":1}"#).reason, ShapeError::Identifier("id"));
        assert!(matches!(malformed(b"\xff\xfe{}").reason, ShapeError::Json { .. }));
    }

    #[test]
    fn deep_nesting_is_skipped_without_recursion() {
        let depth = 200_000;
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let body = format!(
            r#"{{"id":"evt_1","type":"payment_intent.canceled","created":1,"extra":{deep},
            "data":{{"object":{{"id":"pi_1","strange":{deep}}}}}}}"#
        );
        assert_eq!(known(body.as_bytes()).change, ProviderChange::Canceled);
    }

    #[test]
    fn an_event_of_a_charge_without_an_intent_is_read() {
        let mut charge = charge_object(true, 700);
        charge["payment_intent"] = Value::Null;
        charge["metadata"] = json!({ "payment_id": "not ours" });
        let event = known(&event("charge.refunded", &charge));
        assert_eq!((event.intent_id, event.payment_id), (None, None));
    }

    #[test]
    fn an_expanded_intent_is_as_good_as_its_id() {
        let mut charge = charge_object(true, 700);
        charge["payment_intent"] = intent_object();
        assert_eq!(known(&event("charge.refunded", &charge)).intent_id.as_deref(), Some(INTENT));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(matches!(parse(&body), WebhookEvent::Malformed(_)));
        }

        #[test]
        fn no_mutilated_event_panics(
            kind in prop::sample::select(KNOWN_KINDS.to_vec()),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let mut body = event(kind, &object_for(kind));
            let at = at.index(body.len());
            body[at] = byte;
            parse(&body);
        }
    }
}
