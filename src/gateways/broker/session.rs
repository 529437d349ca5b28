//! One consumer on one connection: collects what is waiting, hands it to the handler, settles it. It ends on the first sign of trouble.
//!
//! Signs of trouble are any error and a stream that ends: of a deleted queue that is the only sign, the channel still says connected.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::watch;
use uuid::Uuid;

use crate::gateways::broker::link::{Link, answer};
use crate::gateways::broker::outage::Backoff;
use crate::gateways::broker::settlement::{Plan, Settle, Step, retry_pause};
use crate::gateways::broker::{BrokerError, BrokerSettings};
use crate::gateways::topology::ConsumerQueue;

/// Deliveries handed to the handler at once, at most.
pub const MAX_DELIVERY_BATCH: usize = 250;
/// Unsettled deliveries the broker may send ahead: one batch in the handler, the next one on the way. lapin's own buffer has no bound.
const PREFETCH: u16 = 500;
/// For a batch in the handler when shutdown begins.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A message from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The event's id, if the publisher gave one that is a UUID.
    pub message_id: Option<Uuid>,
    /// The routing key under which it was first published, which is the event's type, for example `payment.completed`.
    pub routing_key: String,
    /// The body, as published.
    pub body: Arc<[u8]>,
    /// The W3C `traceparent` header.
    pub traceparent: Option<String>,
    /// Whether it was delivered before, perhaps to another process.
    pub redelivered: bool,
    /// How often it went back to the queue.
    pub delivery_count: u32,
}

struct Received {
    tag: u64,
    delivery: Delivery,
}

/// What a consumer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// A durable queue that all replicas share.
    Shared(ConsumerQueue),
    /// This process's own queue of facts that change totals, made anew by each session.
    News,
}

impl Reads {
    /// What the log and the broker call it.
    pub(super) fn subject(self, settings: &BrokerSettings) -> String {
        match self {
            Self::Shared(queue) => settings.topology().queue(queue),
            Self::News => format!("{} (news)", settings.topology().queue(ConsumerQueue::Totals)),
        }
    }

    async fn queue(self, settings: &BrokerSettings, link: &Link) -> Result<String, BrokerError> {
        match self {
            Self::Shared(queue) => Ok(settings.topology().queue(queue)),
            Self::News => Ok(settings.topology().declare_news(link.channel()).await?),
        }
    }
}

/// What follows a batch.
enum Next {
    Batch,
    Shutdown,
}

pub(super) struct Session {
    link: Link,
    stream: lapin::Consumer,
}

impl Session {
    pub(super) async fn open(settings: &BrokerSettings, reads: Reads) -> Result<Self, BrokerError> {
        let link = Link::open(settings, &format!("careforall consumer of {}", reads.subject(settings))).await?;
        let queue = reads.queue(settings, &link).await?;
        let stream = answer(start(&link, &queue)).await?;
        Ok(Self { link, stream })
    }

    /// Runs until shutdown is asked for.
    ///
    /// # Errors
    /// The sign of trouble that ended it. Whatever was not settled, the broker delivers again.
    pub(super) async fn run<H, F>(&mut self, handler: &H, shutdown: &watch::Receiver<bool>) -> Result<(), BrokerError>
    where
        H: Fn(Vec<Delivery>) -> F,
        F: Future<Output = Vec<Settle>>,
    {
        loop {
            let batch = tokio::select! {
                biased;
                () = requested(shutdown) => return Ok(()),
                batch = self.collect() => batch?,
            };
            if let Next::Shutdown = self.process(batch, handler, shutdown).await? {
                return Ok(());
            }
        }
    }

    /// Gives back what is unsettled and says farewell.
    pub(super) async fn close(self) {
        drop(self.stream);
        self.link.close().await;
    }

    /// Waits for one delivery and takes what is waiting behind it, without lingering.
    async fn collect(&mut self) -> Result<Vec<Received>, BrokerError> {
        let first = self.stream.next().await;
        let mut batch = vec![received(first)?];
        while batch.len() < MAX_DELIVERY_BATCH {
            match self.stream.next().now_or_never() {
                Some(next) => batch.push(received(next)?),
                None => break,
            }
        }
        Ok(batch)
    }

    async fn process<H, F>(
        &self,
        mut batch: Vec<Received>,
        handler: &H,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<Next, BrokerError>
    where
        H: Fn(Vec<Delivery>) -> F,
        F: Future<Output = Vec<Settle>>,
    {
        let mut backoff = Backoff::default();
        loop {
            let deliveries = batch.iter().map(|received| received.delivery.clone()).collect();
            let verdicts = tokio::select! {
                verdicts = handler(deliveries) => verdicts,
                () = drained(shutdown) => return Ok(Next::Shutdown),
            };
            batch = self.settle(batch, verdicts, shutdown).await?;
            if batch.is_empty() {
                return Ok(Next::Batch);
            }
            let wait = backoff.next_wait();
            tracing::warn!(
                deliveries = batch.len(),
                ?wait,
                "the handler cannot judge these deliveries now; holding them"
            );
            if pause(wait, shutdown).await {
                return Ok(Next::Shutdown);
            }
            self.ensure_alive()?;
        }
    }

    /// Tells the broker and answers what is held.
    async fn settle(
        &self,
        batch: Vec<Received>,
        mut verdicts: Vec<Settle>,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<Vec<Received>, BrokerError> {
        if verdicts.len() != batch.len() {
            tracing::error!(
                deliveries = batch.len(),
                verdicts = verdicts.len(),
                "the handler did not judge each delivery once"
            );
            verdicts.resize(batch.len(), Settle::Retry);
        }
        let plan = Plan::of(batch.iter().map(|received| received.tag).zip(verdicts));
        for step in plan.steps {
            self.tell(step).await?;
        }
        self.give_back(&batch, &plan.retry, shutdown).await?;
        Ok(batch.into_iter().filter(|received| plan.hold.binary_search(&received.tag).is_ok()).collect())
    }

    async fn tell(&self, step: Step) -> Result<(), BrokerError> {
        let channel = self.link.channel();
        match step {
            Step::Ack { tag, multiple } => answer(channel.basic_ack(tag, BasicAckOptions { multiple })).await,
            Step::DeadLetter { tag } => answer(channel.basic_reject(tag, BasicRejectOptions { requeue: false })).await,
        }
    }

    /// By `basic.reject`: since RabbitMQ 4.3 a `basic.nack` no longer counts against the delivery limit
    /// (<https://www.rabbitmq.com/docs/4.3/nack>).
    async fn give_back(
        &self,
        batch: &[Received],
        tags: &[u64],
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), BrokerError> {
        let counts = batch.iter().filter(|received| tags.binary_search(&received.tag).is_ok());
        let Some(delivery_count) = counts.map(|received| received.delivery.delivery_count).max() else {
            return Ok(());
        };
        pause(retry_pause(delivery_count), shutdown).await;
        for &tag in tags {
            answer(self.link.channel().basic_reject(tag, BasicRejectOptions { requeue: true })).await?;
        }
        Ok(())
    }

    fn ensure_alive(&self) -> Result<(), BrokerError> {
        match self.link.alive() {
            true => Ok(()),
            false => Err(BrokerError::Lost("while deliveries were held".to_owned())),
        }
    }
}

async fn start(link: &Link, queue: &str) -> Result<lapin::Consumer, lapin::Error> {
    let channel = link.channel();
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
}

fn received(next: Option<Result<lapin::message::Delivery, lapin::Error>>) -> Result<Received, BrokerError> {
    let message = match next {
        Some(Ok(message)) => message,
        Some(Err(error)) => return Err(BrokerError::Lost(error.to_string())),
        None => return Err(BrokerError::Lost("the queue was deleted, or its consumer cancelled".to_owned())),
    };
    let delivery = Delivery {
        message_id: message.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok()),
        routing_key: first_routing_key(&message),
        traceparent: header(&message.properties, "traceparent").and_then(text),
        delivery_count: header(&message.properties, "x-delivery-count").and_then(count).unwrap_or(0),
        redelivered: message.redelivered,
        body: message.data.into(),
    };
    Ok(Received { tag: message.delivery_tag, delivery })
}

/// A dead letter that was put back comes under the queue's name; the publisher's `type` property still has the first key.
fn first_routing_key(message: &lapin::message::Delivery) -> String {
    let routing_key = message.properties.kind().as_ref().unwrap_or(&message.routing_key);
    routing_key.as_str().to_owned()
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn count(value: &AMQPValue) -> Option<u32> {
    match *value {
        AMQPValue::ShortShortInt(count) => u32::try_from(count).ok(),
        AMQPValue::ShortShortUInt(count) => Some(count.into()),
        AMQPValue::ShortInt(count) => u32::try_from(count).ok(),
        AMQPValue::ShortUInt(count) => Some(count.into()),
        AMQPValue::LongInt(count) => u32::try_from(count).ok(),
        AMQPValue::LongUInt(count) => Some(count),
        AMQPValue::LongLongInt(count) => u32::try_from(count).ok(),
        _ => None,
    }
}

/// Completes when shutdown is asked for, or nobody is left who could ask.
pub(super) async fn requested(shutdown: &watch::Receiver<bool>) {
    let _ = shutdown.clone().wait_for(|requested| *requested).await;
}

/// Completes [`DRAIN_TIMEOUT`] after shutdown was asked for.
async fn drained(shutdown: &watch::Receiver<bool>) {
    requested(shutdown).await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}

/// Waits, and answers whether shutdown cut it short.
pub(super) async fn pause(wait: Duration, shutdown: &watch::Receiver<bool>) -> bool {
    tokio::select! {
        () = requested(shutdown) => true,
        () = tokio::time::sleep(wait) => false,
    }
}
