//! The notification consumer: turns facts into due messages, exactly once each, by the unique key that a message has.
//!
//! A batch of facts is one statement: all its messages are due, or none, and the batch is taken again. Deliberately
//! absent: delivery; the couriers do that, from the database and not from here.

use actix::prelude::*;

use super::facts::{Take, TakeError, Wake, guarded};
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
        Box::pin(guarded(async move {
            let subscriptions: Vec<Subscription> = store.list_subscriptions().await?;
            let roads = Roads { operators: &operators, sms, subscriptions: &subscriptions };
            let notices: Vec<NewNotice> = facts.iter().flat_map(|fact| notices(fact, roads, &clock)).collect();
            if store.record_notices(&notices).await? > 0 {
                for courier in &couriers {
                    let _ = courier.try_send(Wake); // a full mailbox has a wake in it already
                }
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::actors::testing::World;
    use crate::domain::fact::FactKind;
    use crate::domain::ids::NoticeId;
    use crate::store::endpoints::NewEndpoint;
    use crate::store::notices::UNASKED_AN_HOUR;

    async fn partner(store: &Store, clock: &Clock) {
        let now = clock.now();
        let endpoint = NewEndpoint {
            id: NoticeId::at(now).uuid(),
            url: "https://partner.example/hook".to_owned(),
            description: None,
            event_types: Vec::new(),
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
            created_at: now,
        };
        assert!(store.create_endpoint(&endpoint).await.unwrap());
    }

    #[actix::test]
    async fn an_address_that_nobody_verified_gets_so_many_messages_in_an_hour_and_every_receipt() {
        let world = World::new().await;
        let (store, clock) = (world.tools.store.clone(), world.tools.clock.clone());
        let consumer = Notification::new(store, clock.clone(), "ops@example.org".to_owned(), true, Vec::new()).start();
        let mut payments = Vec::new();
        for _ in 0..UNASKED_AN_HOUR + 5 {
            payments.push(world.payment().await);
        }
        let take = async |kind: FactKind| {
            // In two batches: what was recorded counts, and what comes with it.
            let facts: Vec<Fact> = payments.iter().map(|it| Fact::of(it, it, kind, clock.now(), None)).collect();
            for part in facts.chunks(15) {
                consumer.send(Take(part.to_vec())).await.unwrap().unwrap();
            }
        };
        let count = async |kind: &str, status: &str| {
            let what = format!("kind = '{kind}' and status = '{status}'");
            world.count(&format!("select count(*) from notifications.notifications where {what}")).await
        };
        take(FactKind::DonationCreated).await;
        assert_eq!(count("DONATION_RECEIVED", "PENDING").await, UNASKED_AN_HOUR);
        assert_eq!(count("DONATION_RECEIVED", "SUPPRESSED").await, 5);
        take(FactKind::PaymentFailed).await;
        assert_eq!(count("PAYMENT_FAILED", "PENDING").await, 0, "both kinds count together");
        take(FactKind::PaymentCompleted).await;
        take(FactKind::PaymentRefunded).await;
        assert_eq!(count("PAYMENT_CONFIRMED", "PENDING").await, UNASKED_AN_HOUR + 5);
        assert_eq!(count("REFUNDED", "PENDING").await, UNASKED_AN_HOUR + 5);
        let told =
            "select count(*) from notifications.notifications where status = 'SUPPRESSED' and last_error is null";
        assert_eq!(world.count(told).await, 0);
    }

    #[actix::test]
    async fn facts_that_come_twice_at_once_are_due_once() {
        let world = World::new().await;
        let (store, clock) = (world.tools.store.clone(), world.tools.clock.clone());
        partner(&store, &clock).await;
        partner(&store, &clock).await;
        let payments = [world.payment().await, world.payment().await];
        let facts: Vec<Fact> = payments
            .iter()
            .flat_map(|it| FactKind::ALL.map(|kind| Fact::of(it, it, kind, clock.now(), None)))
            .collect();
        let consumer = Notification::new(store, clock, "ops@example.org".to_owned(), true, Vec::new()).start();
        // Whole, in halves and turned round, all at once, as two processes and a broker that repeats would have it.
        let turned: Vec<Fact> = facts.iter().rev().cloned().collect();
        let batches = [facts.clone(), facts[..7].to_vec(), facts[5..].to_vec(), turned, facts];
        for taken in join_all(batches.map(|batch| consumer.send(Take(batch)))).await {
            taken.unwrap().unwrap();
        }
        let count = async |what: &str| {
            world.count(&format!("select count(*) from notifications.notifications where {what}")).await
        };
        assert_eq!(count("channel = 'EMAIL'").await, 12, "six kinds of each payment");
        assert_eq!(count("channel = 'SMS'").await, 0, "nobody gave a phone");
        assert_eq!(count("channel = 'WEBHOOK'").await, 40, "every fact to both partners");
    }
}
