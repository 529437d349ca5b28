//! The bridge: from the broker's queues to the consumers, and the consumers' word back to the broker.
//!
//! Reconnects for ever (the gateway does). A batch is acknowledged only after its consumer took it. Deliberately absent:
//! what facts mean.

use actix::prelude::*;
use tokio::sync::watch;

use super::facts::{Take, TakeError};
use crate::domain::fact::Fact;
use crate::gateways::broker::{BrokerSettings, Consumer, Delivery, Settle};
use crate::gateways::topology::ConsumerQueue;
use crate::metrics::METRICS;

/// A queue and who takes what comes out of it.
pub struct Road {
    /// The queue.
    pub queue: ConsumerQueue,
    /// The consumer.
    pub consumer: Recipient<Take>,
}

/// The actor.
pub struct Bridge {
    settings: BrokerSettings,
    roads: Vec<Road>,
    shutdown: watch::Sender<bool>,
    connected: Vec<watch::Receiver<bool>>,
}

impl Bridge {
    /// A bridge over `roads`.
    pub fn new(settings: BrokerSettings, roads: Vec<Road>) -> Self {
        Self { settings, roads, shutdown: watch::Sender::new(false), connected: Vec::new() }
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
                let handler = |batch| take_batch(recipient.clone(), name(queue), batch);
                consumer.run(handler, shutdown).await;
            });
        }
    }
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

async fn take_batch(consumer: Recipient<Take>, name: &'static str, batch: Vec<Delivery>) -> Vec<Settle> {
    let parsed: Vec<Option<Fact>> = batch.iter().map(|delivery| parse(delivery, name)).collect();
    let facts: Vec<Fact> = parsed.iter().flatten().cloned().collect();
    let taken = take(&consumer, facts).await;
    let mut settles = Vec::with_capacity(batch.len());
    for fact in parsed {
        let settle = match (fact, &taken) {
            (None, _) => Settle::DeadLetter,
            (Some(_), Ok(())) => Settle::Ack,
            (Some(_), Err(TakeError::Passing(_))) => Settle::Hold,
            // Somebody in the batch is at fault: one by one shows who.
            (Some(fact), Err(TakeError::Refused(_))) => settle_one(take(&consumer, vec![fact]).await, name),
        };
        METRICS.consumer_events.with_label_values(&[name, outcome(settle)]).inc();
        settles.push(settle);
    }
    settles
}

async fn take(consumer: &Recipient<Take>, facts: Vec<Fact>) -> Result<(), TakeError> {
    if facts.is_empty() {
        return Ok(());
    }
    consumer.send(Take(facts)).await.unwrap_or_else(|error| Err(TakeError::Passing(error.to_string())))
}

fn parse(delivery: &Delivery, name: &str) -> Option<Fact> {
    serde_json::from_slice(&delivery.body)
        .inspect_err(|error| {
            tracing::error!(%error, queue = name, message = ?delivery.message_id, "not a fact; it becomes a dead letter");
        })
        .ok()
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
