//! The bridge: from the broker's queues to the consumers, and the consumers' word back to the broker. Beside the queues that
//! all replicas share, every process hears for itself of facts that change totals.
//!
//! Reconnects for ever (the gateway does). A batch is acknowledged only after its consumer took it. Deliberately absent:
//! what facts mean.

use actix::prelude::*;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::facts::{Take, TakeError, hand_to};
use super::totals::{DropTotals, HearsFacts};
use crate::domain::fact::Fact;
use crate::gateways::broker::{BrokerSettings, Consumer, Delivery, Settle};
use crate::gateways::topology::ConsumerQueue;
use crate::metrics::METRICS;
use crate::trace;

/// A queue and who takes what comes out of it.
pub struct Road {
    /// The queue.
    pub queue: ConsumerQueue,
    /// The consumer.
    pub consumer: Recipient<Take>,
}

/// Who is told of changed totals, and whether they are heard of at all.
pub struct News {
    /// Which campaigns changed.
    pub changes: Recipient<DropTotals>,
    /// Whether news come in.
    pub hears: Recipient<HearsFacts>,
}

/// The actor.
pub struct Bridge {
    settings: BrokerSettings,
    roads: Vec<Road>,
    news: News,
    shutdown: watch::Sender<bool>,
    connected: Vec<watch::Receiver<bool>>,
    reading: Vec<JoinHandle<()>>,
}

impl Bridge {
    /// A bridge over `roads`, with an ear for `news`.
    pub fn new(settings: BrokerSettings, roads: Vec<Road>, news: News) -> Self {
        Self { settings, roads, news, shutdown: watch::Sender::new(false), connected: Vec::new(), reading: Vec::new() }
    }
}

/// Asks whether every queue is being read.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct IsConnected;

/// Closes, and answers when what is being handled is finished and said to the broker. The consumers' own patience bounds it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Close;

impl Actor for Bridge {
    type Context = Context<Self>;

    fn started(&mut self, _ctx: &mut Self::Context) {
        for road in &self.roads {
            let consumer = Consumer::new(self.settings.clone(), road.queue);
            self.connected.push(consumer.connected());
            let (recipient, queue, shutdown) = (road.consumer.clone(), road.queue, self.shutdown.subscribe());
            self.reading.push(actix_rt::spawn(async move {
                let handler = |batch| take_batch(recipient.clone(), queue, batch);
                consumer.run(handler, shutdown).await;
            }));
        }
        let consumer = Consumer::of_news(self.settings.clone());
        self.connected.push(consumer.connected());
        actix_rt::spawn(tell_of_hearing(self.news.hears.clone(), consumer.connected()));
        let (changes, shutdown) = (self.news.changes.clone(), self.shutdown.subscribe());
        self.reading.push(actix_rt::spawn(async move {
            consumer.run(|batch| take_news(changes.clone(), batch), shutdown).await;
        }));
    }
}

/// Says at once that nothing is heard yet, and then whatever changes.
async fn tell_of_hearing(hears: Recipient<HearsFacts>, mut connected: watch::Receiver<bool>) {
    loop {
        let is_hearing = *connected.borrow_and_update();
        // Delivered in any case: it is rare, and what follows from it must not be left out.
        hears.do_send(HearsFacts(is_hearing));
        if connected.changed().await.is_err() {
            return;
        }
    }
}

/// News are never refused: whoever missed one is right again when memory expires.
async fn take_news(changes: Recipient<DropTotals>, batch: Vec<Delivery>) -> Vec<Settle> {
    let facts: Vec<Fact> = batch.iter().filter_map(|delivery| parse(delivery, "news")).collect();
    let _ = changes.send(DropTotals::by(&facts)).await;
    METRICS.consumer_events.with_label_values(&["news", "taken"]).inc_by(facts.len() as u64);
    vec![Settle::Ack; batch.len()]
}

impl Supervised for Bridge {
    fn restarting(&mut self, _ctx: &mut Self::Context) {
        self.shutdown.send_replace(true);
        self.shutdown = watch::Sender::new(false);
        self.connected.clear();
        self.reading.clear();
    }
}

impl Handler<IsConnected> for Bridge {
    type Result = bool;

    fn handle(&mut self, _: IsConnected, _ctx: &mut Self::Context) -> bool {
        self.connected.iter().all(|connected| *connected.borrow())
    }
}

impl Handler<Close> for Bridge {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Close, _ctx: &mut Self::Context) -> Self::Result {
        self.shutdown.send_replace(true);
        let reading = std::mem::take(&mut self.reading);
        Box::pin(async move {
            join_all(reading).await;
        })
    }
}

fn name(queue: ConsumerQueue) -> &'static str {
    match queue {
        ConsumerQueue::Totals => "totals",
        ConsumerQueue::Notifications => "notifications",
        ConsumerQueue::Audit => "audit",
    }
}

async fn take_batch(consumer: Recipient<Take>, queue: ConsumerQueue, batch: Vec<Delivery>) -> Vec<Settle> {
    let name = name(queue);
    let parsed: Vec<Option<Fact>> = batch.iter().map(|delivery| parse(delivery, name)).collect();
    let facts: Vec<Fact> = parsed.iter().flatten().cloned().collect();
    let taken = take(&consumer, queue, facts).await;
    let mut settles = Vec::with_capacity(batch.len());
    for fact in parsed {
        let settle = match (fact, &taken) {
            (None, _) => Settle::DeadLetter,
            (Some(_), Ok(())) => Settle::Ack,
            (Some(_), Err(TakeError::Passing(_))) => Settle::Hold,
            // Somebody in the batch is at fault: one by one shows who.
            (Some(fact), Err(TakeError::Refused(_))) => settle_one(take(&consumer, queue, vec![fact]).await, name),
        };
        METRICS.consumer_events.with_label_values(&[name, outcome(settle)]).inc();
        settles.push(settle);
    }
    settles
}

async fn take(consumer: &Recipient<Take>, queue: ConsumerQueue, facts: Vec<Fact>) -> Result<(), TakeError> {
    if facts.is_empty() {
        return Ok(());
    }
    hand_to(consumer, queue, facts).await
}

fn parse(delivery: &Delivery, name: &str) -> Option<Fact> {
    serde_json::from_slice(&delivery.body)
        .map(|fact: Fact| Fact { traceparent: travelled(delivery, fact.traceparent), ..fact })
        .inspect_err(|error| {
            // Its words would repeat what is in the message, which may be anything.
            let (kind, column, message) = (error.classify(), error.column(), delivery.message_id);
            tracing::error!(?kind, column, queue = name, message_id = ?message, "not a fact; it becomes a dead letter");
        })
        .ok()
}

/// The body says what caused a fact, the header where its publishing stands in that trace.
fn travelled(delivery: &Delivery, caused: Option<String>) -> Option<String> {
    delivery.traceparent.clone().filter(|it| trace::is_on() && trace::ids(it).is_some()).or(caused)
}

fn settle_one(taken: Result<(), TakeError>, name: &str) -> Settle {
    match taken {
        Ok(()) => Settle::Ack,
        Err(TakeError::Passing(_)) => Settle::Hold,
        Err(TakeError::Refused(error)) => {
            tracing::error!(error, queue = name, "a fact is refused; it goes back to its queue");
            Settle::Retry
        }
    }
}

fn outcome(settle: Settle) -> &'static str {
    match settle {
        Settle::Ack => "taken",
        Settle::Retry => "retried",
        Settle::DeadLetter => "dead_lettered",
        Settle::Hold => "held",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::domain::fact::FactKind;
    use crate::gateways::broker::Outgoing;
    use crate::gateways::broker::stage::{Stage, event, eventually};

    /// A consumer that has a batch in hand until it is told to finish.
    struct Slow {
        went: Arc<Mutex<Vec<&'static str>>>,
        finish: watch::Receiver<bool>,
    }

    impl Actor for Slow {
        type Context = Context<Self>;
    }

    impl Handler<Take> for Slow {
        type Result = ResponseFuture<Result<(), TakeError>>;

        fn handle(&mut self, _: Take, _ctx: &mut Self::Context) -> Self::Result {
            let (went, mut finish) = (Arc::clone(&self.went), self.finish.clone());
            went.lock().unwrap().push("in hand");
            Box::pin(async move {
                let _ = finish.wait_for(|finish| *finish).await;
                went.lock().unwrap().push("taken");
                Ok(())
            })
        }
    }

    /// Nobody who would hear of anything.
    struct Deaf;

    impl Actor for Deaf {
        type Context = Context<Self>;
    }

    impl Handler<DropTotals> for Deaf {
        type Result = ();

        fn handle(&mut self, _: DropTotals, _ctx: &mut Self::Context) {}
    }

    impl Handler<HearsFacts> for Deaf {
        type Result = ();

        fn handle(&mut self, _: HearsFacts, _ctx: &mut Self::Context) {}
    }

    #[actix::test]
    async fn closing_waits_for_the_batch_in_hand_and_the_broker_has_its_word() {
        Stage::run(async |stage| {
            let (went, finish) = (Arc::new(Mutex::new(Vec::new())), watch::Sender::new(false));
            let slow = Slow { went: Arc::clone(&went), finish: finish.subscribe() }.start();
            let road = Road { queue: ConsumerQueue::Audit, consumer: slow.recipient() };
            let deaf = Deaf.start();
            let news = News { changes: deaf.clone().recipient(), hears: deaf.recipient() };
            let bridge = Bridge::new(stage.settings(), vec![road], news).start();
            let payment = crate::actors::testing::new_payment(2500);
            let fact = Fact::of(&payment, &payment, FactKind::DonationCreated, payment.updated_at, None);
            let message = Outgoing { body: serde_json::to_vec(&fact).unwrap(), ..event("donation.created") };
            stage.publish(&[message]).await;
            eventually("in hand", async || !went.lock().unwrap().is_empty()).await;
            let closed = async {
                bridge.send(Close).await.unwrap();
                went.lock().unwrap().push("closed");
            };
            let finishing = async {
                // The question is in the mailbox before this runs, and an answer at once would be there after some turns.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                finish.send_replace(true);
            };
            futures::join!(closed, finishing);
            assert_eq!(*went.lock().unwrap(), ["in hand", "taken", "closed"]);
            assert_eq!(stage.waiting(&stage.topology.queue(ConsumerQueue::Audit)).await, 0);
        })
        .await;
    }
}
