//! What a decision is made upon: the provider's event, its answer to an order, its own view when asked.
//!
//! It is kept with every verdict, so that whoever doubts one can decide again: live, [`replay`](super::replay) and
//! `careforall explain` all come to a verdict by [`Evidence::decide`] and by nothing else. Deliberately absent: donor
//! data, and the client secret, which is never serialised and decides nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::decide::{Decision, Verdict, adopt, decide};
use super::{Payment, PaymentStatus};
use crate::domain::provider::{IntentSnapshot, ProviderChange, ProviderEvent, RefundFact};

/// What a decision was made upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The provider's event.
    Event {
        /// What it says.
        event: Arc<ProviderEvent>,
        /// The provider's own view, where events alone could not decide.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Box<IntentSnapshot>>,
    },
    /// The provider's own view: we checked, or it answered an order.
    Intent(Box<IntentSnapshot>),
    /// The refund that an operator ordered.
    Refund(RefundFact),
    /// The provider created the intent.
    Opened {
        /// Its identifier.
        intent_id: String,
        /// The secret with which the donor's browser confirms.
        #[serde(skip)]
        client_secret: Option<String>,
    },
    /// The provider never created an intent, and will not.
    Unopened {
        /// Where the payment ends.
        target: PaymentStatus,
        /// Why; a person must look at it.
        reason: String,
    },
}

impl Evidence {
    /// What it does to a payment that stands as `before`.
    pub fn decide(&self, before: &Payment) -> Decision {
        match self {
            Self::Event { event, answer } => judge(before, event, answer.as_deref()),
            Self::Intent(snapshot) => adopt(before, snapshot, None),
            Self::Refund(refund) => decide(before, &as_event(refund), None),
            Self::Opened { intent_id, client_secret } => opened(before, intent_id, client_secret.as_ref()),
            Self::Unopened { target, reason } => unopened(before, *target, reason),
        }
    }
}

fn judge(before: &Payment, event: &ProviderEvent, answer: Option<&IntentSnapshot>) -> Decision {
    let before = with_intent_of(before, event);
    if event.intent_id.is_some() && before.intent_id != event.intent_id {
        return Decision::Settled {
            verdict: Verdict::Rejected,
            reason: "the event names another intent than this payment's".to_owned(),
            change: None,
        };
    }
    decide(&before, event, answer)
}

/// An event may come before our own commit of the intent: then it tells us which intent it is.
fn with_intent_of(payment: &Payment, event: &ProviderEvent) -> Payment {
    let mut payment = payment.clone();
    if payment.intent_id.is_none() {
        payment.intent_id.clone_from(&event.intent_id);
    }
    payment
}

/// A refund that the provider answered with says the same as the event that it will send.
fn as_event(refund: &RefundFact) -> ProviderEvent {
    ProviderEvent {
        id: String::new(),
        kind: "refund".to_owned(),
        created: 0,
        intent_id: None,
        payment_id: None,
        traceparent: None,
        change: ProviderChange::Refund(refund.clone()),
    }
}

fn opened(before: &Payment, intent_id: &str, client_secret: Option<&String>) -> Decision {
    let after =
        Payment { intent_id: Some(intent_id.to_owned()), client_secret: client_secret.cloned(), ..before.clone() };
    applied("the provider created the intent", Change::between(before, after, None))
}

fn unopened(before: &Payment, target: PaymentStatus, reason: &str) -> Decision {
    let after = Payment { flag: Some(reason.to_owned()), ..before.clone() };
    applied(reason, Change::between(before, after, Some(target)))
}

fn applied(reason: &str, change: Option<Change>) -> Decision {
    Decision::Settled { verdict: Verdict::Applied, reason: reason.to_owned(), change: change.map(Box::new) }
}
