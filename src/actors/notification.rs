//! The notification consumer: turns facts into due messages, exactly once each, by the unique key that a message has.
//!
//! A batch of facts is one statement: all its messages are due, or none, and the batch is taken again. Deliberately
//! absent: delivery; the couriers do that, from the database and not from here.

use actix::prelude::*;

use super::facts::{Take, TakeError, Wake};
use crate::clock::Clock;
use crate::domain::fact::Fact;
use crate::domain::ids::NoticeId;
use crate::domain::notice::{Roads, Subscription, amount_minor, due};
use crate::store::Store;
use crate::store::notices::NewNotice;

/// The actor.
pub struct Notification {
    store: Store,
    clock: Clock,
    operators: String,
    sms: bool,
    couriers: Vec<Recipient<Wake>>,
}

impl Notification {
    /// A consumer that wakes `couriers`; messages to the charity go to the address `operators`, messages to phones only
    /// where they can be sent (`sms`).
    pub fn new(store: Store, clock: Clock, operators: String, sms: bool, couriers: Vec<Recipient<Wake>>) -> Self {
        Self { store, clock, operators, sms, couriers }
    }
}

/// What this fact gives rise to.
fn notices(fact: &Fact, roads: Roads<'_>, clock: &Clock) -> Vec<NewNotice> {
    let now = clock.now();
    let notice = |due| NewNotice {
        id: NoticeId::at(now),
        event_id: fact.id.uuid(),
        due,
        donation_id: fact.data.donation_id.uuid(),
        payment_id: fact.data.payment_id.uuid(),
        amount_minor: amount_minor(fact),
        currency: fact.data.currency,
        traceparent: fact.traceparent.clone(),
        created_at: now,
    };
    due(fact, roads).into_iter().map(notice).collect()
}

impl Actor for Notification {
    type Context = Context<Self>;
}

impl Supervised for Notification {}

impl Handler<Take> for Notification {
    type Result = ResponseFuture<Result<(), TakeError>>;

    fn handle(&mut self, Take(facts): Take, _ctx: &mut Self::Context) -> Self::Result {
        let (store, clock, couriers) = (self.store.clone(), self.clock.clone(), self.couriers.clone());
        let (operators, sms) = (self.operators.clone(), self.sms);
        Box::pin(async move {
            let subscriptions: Vec<Subscription> = store.list_subscriptions().await?;
            let roads = Roads { operators: &operators, sms, subscriptions: &subscriptions };
            let notices: Vec<NewNotice> = facts.iter().flat_map(|fact| notices(fact, roads, &clock)).collect();
            if store.record_notices(&notices).await? > 0 {
                for courier in &couriers {
                    let _ = courier.try_send(Wake); // a full mailbox has a wake in it already
                }
            }
            Ok(())
        })
    }
}
