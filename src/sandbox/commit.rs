//! What one request changes, as one line of the journal: all of it is kept, or nothing.
//!
//! An event and an answer name their object by its place in the commit, so that each version is written once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::books::Books;
use super::events::{Delivery, Event, EventKind, Origin};
use super::idempotency::{Answer, AnswerBody};
use super::ids::Id;
use super::objects::Object;

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// A request's effect.
    Commit(Commit),
    /// An event with its object (only in a compacted journal).
    Event(Event),
    /// Where the endpoint now stands with an event.
    Delivery { event: Id, delivery: Delivery },
    /// The books of what was forgotten (only in a compacted journal).
    Forgotten(Books),
}

/// New versions of objects, the events that they caused, and the answer that the request got.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Commit {
    /// In the order of their making; a later version of an object replaces an earlier one.
    pub objects: Vec<Object>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    events: Vec<CommitEvent>,
    #[serde(default, skip_serializing_if = "origin_is_empty")]
    origin: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<CommitAnswer>,
}

fn origin_is_empty(origin: &Origin) -> bool {
    origin.request.is_none() && origin.idempotency_key.is_none()
}

#[derive(Debug, Serialize, Deserialize)]
struct CommitEvent {
    id: Id,
    kind: EventKind,
    created: i64,
    object: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Box<Map<String, Value>>>,
    delivery: Delivery,
}

#[derive(Debug, Serialize, Deserialize)]
struct CommitAnswer {
    key: Id,
    fingerprint: u64,
    status: u16,
    request: Id,
    body: CommitBody,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CommitBody {
    At(usize),
    Object(Object),
    Text(Arc<str>),
}

impl Commit {
    /// Nothing yet, for this request.
    pub fn new(origin: Origin) -> Self {
        Self { origin, ..Self::default() }
    }

    /// One object alone, for compaction.
    pub fn of_object(object: Object) -> Self {
        Self { objects: vec![object], ..Self::default() }
    }

    /// One answer alone, for compaction.
    pub fn of_answer(key: &Id, fingerprint: u64, answer: &Answer) -> Self {
        let mut commit = Self::default();
        commit.set_answer(key.clone(), fingerprint, answer);
        commit
    }

    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.answer.is_none()
    }

    /// Adds an event about the object at `object`.
    pub fn add_event(
        &mut self,
        id: Id,
        kind: EventKind,
        created: i64,
        object: usize,
        previous: Option<Map<String, Value>>,
    ) {
        let (previous, delivery) = (previous.map(Box::new), Delivery::Unwanted);
        self.events.push(CommitEvent { id, kind, created, object, previous, delivery });
    }

    /// Decides each event's first delivery.
    pub fn set_deliveries(&mut self, mut decide: impl FnMut(EventKind) -> Delivery) {
        self.events.iter_mut().for_each(|event| event.delivery = decide(event.kind));
    }

    /// The events, whole. One that names no object of the commit cannot be and is left out.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.events.iter().filter_map(|event| {
            Some(Event {
                id: event.id.clone(),
                kind: event.kind,
                created: event.created,
                object: self.objects.get(event.object)?.clone(),
                previous: event.previous.clone(),
                origin: self.origin.clone(),
                delivery: event.delivery,
            })
        })
    }

    /// The ids of the events that are to be sent.
    pub fn queued_events(&self) -> impl Iterator<Item = Id> {
        self.events.iter().filter(|event| event.delivery == Delivery::Queued).map(|event| event.id.clone())
    }

    /// Adds the answer that belongs to an idempotency key.
    pub fn set_answer(&mut self, key: Id, fingerprint: u64, answer: &Answer) {
        let body = match &answer.body {
            AnswerBody::Object(object) => self.body_of(object),
            AnswerBody::Text(text) => CommitBody::Text(text.clone()),
        };
        let (status, request) = (answer.status, answer.request.clone());
        self.answer = Some(CommitAnswer { key, fingerprint, status, request, body });
    }

    fn body_of(&self, object: &Object) -> CommitBody {
        match self.objects.iter().rposition(|other| same_version(other, object)) {
            Some(place) => CommitBody::At(place),
            None => CommitBody::Object(object.clone()),
        }
    }

    /// Takes the answer out: key, fingerprint, answer.
    pub fn take_answer(&mut self) -> Option<(Id, u64, Answer)> {
        let answer = self.answer.take()?;
        let body = match answer.body {
            CommitBody::At(place) => AnswerBody::Object(self.objects.get(place)?.clone()),
            CommitBody::Object(object) => AnswerBody::Object(object),
            CommitBody::Text(text) => AnswerBody::Text(text),
        };
        Some((answer.key, answer.fingerprint, Answer { status: answer.status, request: answer.request, body }))
    }
}

fn same_version(one: &Object, other: &Object) -> bool {
    match (one, other) {
        (Object::PaymentIntent(one), Object::PaymentIntent(other)) => Arc::ptr_eq(one, other),
        (Object::Charge(one), Object::Charge(other)) => Arc::ptr_eq(one, other),
        (Object::Refund(one), Object::Refund(other)) => Arc::ptr_eq(one, other),
        (Object::Dispute(one), Object::Dispute(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}
