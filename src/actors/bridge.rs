//! The bridge: from the broker's queues to the consumers, and the consumers' word back to the broker. Beside the queues that
//! all replicas share, every process hears for itself of facts that change totals.
//!
//! Reconnects for ever (the gateway does). A batch is acknowledged only after its consumer took it. Deliberately absent:
//! what facts mean.

use actix::prelude::*;
use tokio::sync::watch;

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
}

impl Bridge {
    /// A bridge over `roads`, with an ear for `news`.
    pub fn new(settings: BrokerSettings, roads: Vec<Road>, news: News) -> Self {
        Self { settings, roads, news, shutdown: watch::Sender::new(false), connected: Vec::new() }
    }
}

/// Asks whether every queue is being read.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct IsConnected;

/// Finishes what is being handled and closes.
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
            actix_rt::spawn(async move {
                let handler = |batch| take_batch(recipient.clone(), queue, batch);
                consumer.run(handler, shutdown).await;
            });
        }
        let consumer = Consumer::of_news(self.settings.clone());
        self.connected.push(consumer.connected());
        actix_rt::spawn(tell_of_hearing(self.news.hears.clone(), consumer.connected()));
        let (changes, shutdown) = (self.news.changes.clone(), self.shutdown.subscribe());
        actix_rt::spawn(async move {
            consumer.run(|batch| take_news(changes.clone(), batch), shutdown).await;
        });
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
    }
}

impl Handler<IsConnected> for Bridge {
    type Result = bool;

    fn handle(&mut self, _: IsConnected, _ctx: &mut Self::Context) -> bool {
        self.connected.iter().all(|connected| *connected.borrow())
    }
}

impl Handler<Close> for Bridge {
    type Result = ();

    fn handle(&mut self, _: Close, _ctx: &mut Self::Context) {
        self.shutdown.send_replace(true);
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
