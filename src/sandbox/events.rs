//! Events: what happened, when, and how each object looked at that moment.
//!
//! Deliberately absent: the sending of them (see `delivery`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::collection::Identified;
use super::errors::StripeError;
use super::form::Form;
use super::ids::Id;
use super::objects::Object;

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Stripe's event types, as far as the sandbox emits them (<https://docs.stripe.com/api/events/types>).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub(super) enum EventKind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl EventKind {
            /// The type as Stripe writes it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

event_kinds! {
    IntentCreated = "payment_intent.created",
    IntentRequiresAction = "payment_intent.requires_action",
    IntentProcessing = "payment_intent.processing",
    IntentCapturable = "payment_intent.amount_capturable_updated",
    IntentPaymentFailed = "payment_intent.payment_failed",
    IntentSucceeded = "payment_intent.succeeded",
    IntentCanceled = "payment_intent.canceled",
    ChargePending = "charge.pending",
    ChargeSucceeded = "charge.succeeded",
    ChargeFailed = "charge.failed",
    ChargeCaptured = "charge.captured",
    ChargeRefunded = "charge.refunded",
    ChargeRefundUpdated = "charge.refund.updated",
    ChargeExpired = "charge.expired",
    RefundCreated = "refund.created",
    RefundUpdated = "refund.updated",
    RefundFailed = "refund.failed",
    DisputeCreated = "charge.dispute.created",
    DisputeUpdated = "charge.dispute.updated",
    DisputeClosed = "charge.dispute.closed",
    DisputeFundsWithdrawn = "charge.dispute.funds_withdrawn",
    DisputeFundsReinstated = "charge.dispute.funds_reinstated",
}

/// Where the one webhook endpoint stands with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Delivery {
    /// The endpoint is not subscribed to this type.
    Unwanted,
    /// Waits, outside the queue: webhooks are disabled, or the queue is full.
    Held,
    /// Waits in the queue.
    Queued,
    /// The endpoint answered 2xx.
    Delivered,
    /// Given up after the last try, or lost on purpose.
    Lost,
}

impl Delivery {
    /// Whether the endpoint has yet to take it.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Held | Self::Queued)
    }
}

/// One event. Everything but `delivery` never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Event {
    pub id: Id,
    pub kind: EventKind,
    /// Whole seconds since the Unix epoch.
    pub created: i64,
    /// The object as it stood then.
    pub object: Object,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Box<Map<String, Value>>>,
    pub origin: Origin,
    pub delivery: Delivery,
}

impl Identified for Event {
    fn id(&self) -> &Id {
        &self.id
    }
}

/// The API request that made an event; nothing when it came of itself or by the control.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Origin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Id>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<Id>,
}

/// The parameters of `GET /v1/events`.
#[derive(Debug, Default)]
pub(super) struct EventFilter {
    kinds: Vec<String>,
    created: CreatedRange,
    delivered: Option<bool>,
}

#[derive(Debug, Default)]
struct CreatedRange {
    at_least: Option<i64>,
    at_most: Option<i64>,
}

impl EventFilter {
    /// Reads `type`, `types[]`, `created`, `created[gte]` and its kin, `delivery_success`.
    pub fn from_form(form: &Form) -> Result<Self, StripeError> {
        let kinds = form.get("type").into_iter().chain(form.list("types")).map(str::to_owned).collect();
        let exact = form.integer("created")?;
        let created = CreatedRange {
            at_least: exact.or(form.integer("created[gte]")?).or(form.integer("created[gt]")?.map(|at| at + 1)),
            at_most: exact.or(form.integer("created[lte]")?).or(form.integer("created[lt]")?.map(|at| at - 1)),
        };
        Ok(Self { kinds, created, delivered: form.flag("delivery_success")? })
    }

    /// Whether an event belongs to the list. A pending delivery counts as not successful, as in Stripe.
    pub fn matches(&self, event: &Event) -> bool {
        let failed = event.delivery.is_waiting() || event.delivery == Delivery::Lost;
        self.matches_kind(event.kind)
            && self.created.at_least.is_none_or(|at| event.created >= at)
            && self.created.at_most.is_none_or(|at| event.created <= at)
            && self.delivered.is_none_or(|wanted| wanted != failed)
    }

    fn matches_kind(&self, kind: EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|pattern| matches_pattern(pattern, kind.as_str()))
    }
}

/// Whether `name` fits a pattern of Stripe's: the name itself, `charge.*` or `*`.
pub(super) fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_a_prefix_with_a_star() {
        assert!(matches_pattern("*", "charge.refunded"));
        assert!(matches_pattern("charge.*", "charge.refunded"));
        assert!(matches_pattern("charge.refunded", "charge.refunded"));
        assert!(!matches_pattern("charge.refund", "charge.refunded"));
    }

    #[test]
    fn kinds_are_written_the_same_in_the_journal_and_to_the_world() {
        let text = serde_json::to_value(EventKind::DisputeFundsWithdrawn).unwrap();
        assert_eq!(text, EventKind::DisputeFundsWithdrawn.as_str());
    }
}
