//! One request's work: it reads the state through its own changes and gathers them into a commit.
//!
//! Deliberately absent: any change of the state itself. Work that is dropped has left no trace.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::collection::Identified;
use super::commit::Commit;
use super::errors::StripeError;
use super::events::{EventKind, Origin};
use super::ids::{Id, object_id};
use super::objects::{Charge, Dispute, Object, PaymentIntent, Refund};
use super::state::State;

/// The work of one request.
#[derive(Debug)]
pub(super) struct Work<'a> {
    state: &'a State,
    /// Seconds since the Unix epoch.
    now: i64,
    commit: Commit,
}

impl<'a> Work<'a> {
    /// Begins work at `now`, in seconds since the Unix epoch.
    pub fn new(state: &'a State, now: i64, origin: Origin) -> Self {
        Self { state, now, commit: Commit::new(origin) }
    }

    /// What was changed.
    pub fn into_commit(self) -> Commit {
        self.commit
    }

    /// The time of this work, in seconds since the Unix epoch.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// The intent, or 404.
    pub fn intent(&self, id: &str) -> Result<Arc<PaymentIntent>, StripeError> {
        self.find_intent(id).ok_or_else(|| StripeError::missing("payment_intent", id))
    }

    /// The charge, or 404.
    pub fn charge(&self, id: &str) -> Result<Arc<Charge>, StripeError> {
        self.find_charge(id).ok_or_else(|| StripeError::missing("charge", id))
    }

    /// The refund, or 404.
    pub fn refund(&self, id: &str) -> Result<Arc<Refund>, StripeError> {
        self.state.refunds.get(id).cloned().ok_or_else(|| StripeError::missing("refund", id))
    }

    /// The dispute, or 404.
    pub fn dispute(&self, id: &str) -> Result<Arc<Dispute>, StripeError> {
        self.state.disputes.get(id).cloned().ok_or_else(|| StripeError::missing("dispute", id))
    }

    /// The intent, if it exists.
    pub fn find_intent(&self, id: &str) -> Option<Arc<PaymentIntent>> {
        let mine = self.commit.objects.iter().rev().find_map(|object| match object {
            Object::PaymentIntent(intent) if *intent.id == *id => Some(intent),
            _ => None,
        });
        mine.or_else(|| self.state.intents.get(id)).cloned()
    }

    /// The charge, if it exists.
    pub fn find_charge(&self, id: &str) -> Option<Arc<Charge>> {
        let mine = self.commit.objects.iter().rev().find_map(|object| match object {
            Object::Charge(charge) if *charge.id == *id => Some(charge),
            _ => None,
        });
        mine.or_else(|| self.state.charges.get(id)).cloned()
    }

    /// Keeps a new version of an object and hands it back.
    pub fn put<T>(&mut self, object: T) -> Arc<T>
    where
        Object: From<Arc<T>>,
    {
        let object = Arc::new(object);
        self.commit.objects.push(Object::from(object.clone()));
        object
    }

    /// Tells the world about the version of an object that was put last.
    pub fn emit(&mut self, kind: EventKind, object: &Id) {
        self.emit_change(kind, object, None);
    }

    /// The same, with the attributes that changed and what they were before.
    pub fn emit_change(&mut self, kind: EventKind, object: &Id, previous: Option<Map<String, Value>>) {
        let Some(place) = self.commit.objects.iter().rposition(|other| other.id() == object) else { return };
        let created = if self.state.rules.same_second { self.second_of_intent(place) } else { self.now };
        self.commit.add_event(object_id("evt_"), kind, created, place, previous);
    }

    fn second_of_intent(&self, place: usize) -> i64 {
        let intent = match &self.commit.objects[place] {
            Object::PaymentIntent(intent) => return intent.created,
            Object::Charge(charge) => &charge.intent,
            Object::Refund(refund) => &refund.intent,
            Object::Dispute(dispute) => &dispute.intent,
        };
        self.find_intent(intent).map_or(self.now, |intent| intent.created)
    }
}

/// One changed attribute and its former value, for [`Work::emit_change`].
pub(super) fn previously(attribute: &str, value: impl Into<Value>) -> Option<Map<String, Value>> {
    Some(Map::from_iter([(attribute.to_owned(), value.into())]))
}
