//! Everything the sandbox knows, changed only by whole commits: the same way live and when the journal is replayed.
//!
//! Deliberately absent: decisions. What a request does to the objects is decided before, in a [`super::work::Work`].

use std::sync::Arc;

use super::books::Books;
use super::collection::{Collection, Identified};
use super::commit::{Commit, Record};
use super::events::{Delivery, Event};
use super::idempotency::Keys;
use super::ids::Id;
use super::objects::{Charge, Dispute, Object, PaymentIntent, Refund};
use super::rules::WebhookRules;

/// How much is remembered; beyond it the oldest is forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Payment intents, each with its charges, refunds and disputes (about 1 KB each).
    pub intents: usize,
    /// Events (about 0.3 KB each, plus the object versions that they alone still hold).
    pub events: usize,
    /// Answered idempotency keys (about 0.2 KB each).
    pub keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { intents: 1_000_000, events: 200_000, keys: 500_000 }
    }
}

/// The sandbox's memory.
#[derive(Debug)]
pub(super) struct State {
    pub intents: Collection<PaymentIntent>,
    pub charges: Collection<Charge>,
    pub refunds: Collection<Refund>,
    pub disputes: Collection<Dispute>,
    pub events: Collection<Event>,
    pub keys: Keys,
    /// The books of the intents that were forgotten.
    pub forgotten: Books,
    /// Not kept over a restart.
    pub rules: WebhookRules,
    /// How many events the endpoint wanted so far: by it every n-th is lost.
    pub wanted_events: u64,
    limits: Limits,
}

impl State {
    /// Knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            intents: Collection::default(),
            charges: Collection::default(),
            refunds: Collection::default(),
            disputes: Collection::default(),
            events: Collection::default(),
            keys: Keys::new(limits.keys),
            forgotten: Books::default(),
            rules: WebhookRules::default(),
            wanted_events: 0,
            limits,
        }
    }

    /// Takes one line of the journal.
    pub fn replay(&mut self, record: Record) {
        match record {
            Record::Commit(mut commit) => {
                let answer = commit.take_answer();
                self.apply(&commit);
                if let Some((key, fingerprint, answer)) = answer {
                    self.keys.answer(key, fingerprint, answer);
                }
            }
            Record::Event(event) => self.add_event(Arc::new(event)),
            Record::Delivery { event, delivery } => self.set_delivery(&event, delivery),
            Record::Forgotten(books) => self.forgotten = books,
        }
    }

    /// Takes the objects and events of a commit.
    pub fn apply(&mut self, commit: &Commit) {
        commit.objects.iter().for_each(|object| self.upsert(object));
        commit.events().for_each(|event| self.add_event(Arc::new(event)));
        while self.intents.len() > self.limits.intents {
            self.forget_oldest();
        }
    }

    fn upsert(&mut self, object: &Object) {
        match object {
            Object::PaymentIntent(intent) => self.intents.upsert(intent.clone()),
            Object::Charge(charge) => self.charges.upsert(charge.clone()),
            Object::Refund(refund) => self.refunds.upsert(refund.clone()),
            Object::Dispute(dispute) => self.disputes.upsert(dispute.clone()),
        }
    }

    fn add_event(&mut self, event: Arc<Event>) {
        self.events.upsert(event);
        if self.events.len() > self.limits.events
            && let Some(oldest) = self.events.oldest().map(|event| event.id.clone())
        {
            self.events.remove(&oldest);
        }
    }

    /// Writes down where the endpoint stands with an event.
    pub fn set_delivery(&mut self, id: &str, delivery: Delivery) {
        if let Some(event) = self.events.get(id).filter(|event| event.delivery != delivery) {
            let changed = Event { delivery, ..Event::clone(event) };
            self.events.upsert(Arc::new(changed));
        }
    }

    /// The ids of all events in one of these deliveries, oldest first.
    pub fn events_in(&self, wanted: impl Fn(Delivery) -> bool) -> Vec<Id> {
        self.events.iter().filter(|event| wanted(event.delivery)).map(|event| event.id.clone()).collect()
    }

    /// The books of all that was ever done.
    pub fn books(&self) -> Books {
        let mut books = self.forgotten.clone();
        books.add_all(&self.intents, &self.charges, &self.refunds, &self.disputes);
        books
    }

    fn forget_oldest(&mut self) {
        let Some(id) = self.intents.oldest().map(|intent| intent.id().clone()) else { return };
        let Some(intent) = self.intents.remove(&id) else { return };
        self.forgotten.add_intent(&intent);
        for charge in &intent.charges {
            self.forget_charge(charge);
        }
    }

    fn forget_charge(&mut self, id: &str) {
        let Some(charge) = self.charges.remove(id) else { return };
        self.forgotten.add_charge(&charge);
        for refund in charge.refunds.iter().filter_map(|id| self.refunds.remove(id)) {
            self.forgotten.add_refund(&refund);
        }
        if let Some(dispute) = charge.dispute.as_deref().and_then(|id| self.disputes.remove(id)) {
            self.forgotten.add_dispute(&dispute);
        }
    }

    /// The whole state as journal records, for compaction.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let forgotten = std::iter::once(Record::Forgotten(self.forgotten.clone()));
        let objects = (self.intents.iter().map(|o| Object::from(o.clone())))
            .chain(self.charges.iter().map(|o| o.clone().into()))
            .chain(self.refunds.iter().map(|o| o.clone().into()))
            .chain(self.disputes.iter().map(|o| o.clone().into()));
        let objects = objects.map(|object| Record::Commit(Commit::of_object(object)));
        let events = self.events.iter().map(|event| Record::Event(Event::clone(event)));
        let answers = (self.keys.iter())
            .map(|(key, fingerprint, answer)| Record::Commit(Commit::of_answer(key, fingerprint, answer)));
        forgotten.chain(objects).chain(events).chain(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::Origin;
    use super::super::form::Form;
    use super::super::work::Work;
    use super::super::{intents, refunds};
    use super::*;

    fn do_one(state: &mut State, effect: impl FnOnce(&mut Work<'_>) -> Id) -> Id {
        let mut work = Work::new(state, 1_700_000_000, Origin::default());
        let id = effect(&mut work);
        let commit = work.into_commit();
        state.apply(&commit);
        id
    }

    fn pay_and_refund(state: &mut State) -> Id {
        let form = Form::parse(b"amount=500&currency=eur&confirm=true&payment_method=pm_card_visa").unwrap();
        let intent = do_one(state, |work| intents::create(work, &form).unwrap().id.clone());
        let form = Form::parse(format!("amount=200&payment_intent={intent}").as_bytes()).unwrap();
        do_one(state, |work| refunds::create(work, &form).unwrap().id.clone());
        intent
    }

    fn small() -> State {
        State::new(Limits { intents: 2, events: 3, keys: 2 })
    }

    #[test]
    fn the_oldest_intents_go_but_the_books_remember_them() {
        let mut state = small();
        let first = pay_and_refund(&mut state);
        pay_and_refund(&mut state);
        let before = serde_json::to_value(state.books()).unwrap();
        pay_and_refund(&mut state);
        assert!(state.intents.get(&first).is_none());
        assert_eq!((state.intents.len(), state.charges.len(), state.refunds.len()), (2, 2, 2));
        assert_eq!(state.events.len(), 3);
        assert_eq!(before["EUR"]["net_minor"], 600);
        assert_eq!(serde_json::to_value(state.books()).unwrap()["EUR"]["net_minor"], 900);
    }

    #[test]
    fn a_replayed_journal_gives_the_same_state() {
        let mut state = small();
        (0..3).for_each(|_| drop(pay_and_refund(&mut state)));
        let mut other = small();
        for record in state.records() {
            let line = serde_json::to_vec(&record).unwrap();
            other.replay(serde_json::from_slice(&line).unwrap());
        }
        let written = |state: &State| state.records().map(|r| serde_json::to_string(&r).unwrap()).collect::<Vec<_>>();
        assert_eq!(written(&other), written(&state));
        assert_eq!(other.books(), state.books());
    }
}
