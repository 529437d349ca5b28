//! The notification consumer: turns facts into due messages, exactly once each, by the unique key that a message has.
//!
//! Deliberately absent: delivery; the couriers do that, from the database and not from here.

use actix::prelude::*;

use super::facts::{Take, TakeError, Wake};
use crate::clock::Clock;
use crate::domain::fact::{Fact, FactKind};
use crate::domain::ids::NoticeId;
use crate::domain::notice::{Audience, NoticeKind};
use crate::store::Store;
use crate::store::notices::NewNotice;

/// The actor.
pub struct Notification {
    store: Store,
    clock: Clock,
    operators: String,
    courier: Recipient<Wake>,
}

impl Notification {
    /// A consumer that wakes `courier`; messages to the charity go to the address `operators`.
    pub fn new(store: Store, clock: Clock, operators: String, courier: Recipient<Wake>) -> Self {
        Self { store, clock, operators, courier }
    }

    fn notice(&self, fact: &Fact) -> Option<NewNotice> {
        let kind = NoticeKind::due_for(fact)?;
        let now = self.clock.now();
        Some(NewNotice {
            id: NoticeId::at(now),
            event_id: fact.id.uuid(),
            kind,
            recipient: match kind.audience() {
                Audience::Donor => None,
                Audience::Operators => Some(self.operators.clone()),
            },
            donation_id: fact.data.donation_id.uuid(),
            payment_id: fact.data.payment_id.uuid(),
            amount_minor: amount_minor(fact),
            currency: fact.data.currency,
            traceparent: fact.traceparent.clone(),
            created_at: now,
        })
    }
}

/// What the message speaks of: what moved, or what was to move.
fn amount_minor(fact: &Fact) -> i64 {
    match fact.kind {
        FactKind::PaymentCompleted
        | FactKind::PaymentRefunded
        | FactKind::PaymentRefundFailed
        | FactKind::PaymentDisputeOpened
        | FactKind::PaymentDisputeClosed => fact.data.moved_minor,
        FactKind::DonationCreated
        | FactKind::PaymentAuthorized
        | FactKind::PaymentFailed
        | FactKind::PaymentCanceled
        | FactKind::PaymentFlagged => fact.data.amount_minor,
    }
}

impl Actor for Notification {
    type Context = Context<Self>;
}

impl Supervised for Notification {}

impl Handler<Take> for Notification {
    type Result = ResponseFuture<Result<(), TakeError>>;

    fn handle(&mut self, Take(facts): Take, _ctx: &mut Self::Context) -> Self::Result {
        let notices: Vec<NewNotice> = facts.iter().filter_map(|fact| self.notice(fact)).collect();
        let (store, courier) = (self.store.clone(), self.courier.clone());
        Box::pin(async move {
            if store.record_notices(&notices).await? > 0 {
                let _ = courier.try_send(Wake); // a full mailbox has a wake in it already
            }
            Ok(())
        })
    }
}
