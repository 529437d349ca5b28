//! What operators do with dead letters: count them, put them back into their queue, drop them. A short connection for each call.
//!
//! Deliberately absent: a listing with bodies, which hold donors' data; the outbox and the audit log have every event by its id.

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Confirmation};
use uuid::Uuid;

use crate::gateways::broker::link::{Link, answer};
use crate::gateways::broker::{BrokerError, BrokerSettings};
use crate::gateways::topology::ConsumerQueue;

/// Dead letters put back or dropped by one call, at most.
pub const MAX_AT_ONCE: u32 = 10_000;
const CONNECTION_NAME: &str = "careforall dead letters";

/// How many dead letters each queue has.
///
/// # Errors
/// [`BrokerError`] when the broker cannot be asked.
pub async fn counts(settings: &BrokerSettings) -> Result<Vec<(ConsumerQueue, u32)>, BrokerError> {
    let link = Link::open(settings, CONNECTION_NAME).await?;
    let mut counts = Vec::with_capacity(ConsumerQueue::ALL.len());
    for queue in ConsumerQueue::ALL {
        counts.push((queue, count(link.channel(), &settings.topology().dead_letter_queue(queue)).await?));
    }
    link.close().await;
    Ok(counts)
}

/// Puts up to `limit` dead letters of `queue` (and up to [`MAX_AT_ONCE`]) back to its end, oldest first, with a fresh delivery
/// count, and answers how many. Each is confirmed in its queue before it leaves the dead letters: a failure in between leaves it
/// in both, never in neither.
///
/// # Errors
/// [`BrokerError`] when the broker went away or the queue refused (it is full); what was put back stays put back.
pub async fn replay(settings: &BrokerSettings, queue: ConsumerQueue, limit: u32) -> Result<u32, BrokerError> {
    let link = Link::open(settings, CONNECTION_NAME).await?;
    answer(link.channel().confirm_select(ConfirmSelectOptions::default())).await?;
    let source = settings.topology().dead_letter_queue(queue);
    let target = settings.topology().queue(queue);
    // No more than lie there now: what nobody can read comes back at once, and would go round and round.
    let limit = limit.min(MAX_AT_ONCE).min(count(link.channel(), &source).await?);
    let mut replayed = 0;
    while replayed < limit && replay_one(link.channel(), &source, &target).await? {
        replayed += 1;
    }
    link.close().await;
    Ok(replayed)
}

/// Drops up to `limit` dead letters of `queue` (and up to [`MAX_AT_ONCE`]), oldest first, and answers how many.
///
/// # Errors
/// [`BrokerError`] when the broker went away; what was dropped stays dropped.
pub async fn discard(settings: &BrokerSettings, queue: ConsumerQueue, limit: u32) -> Result<u32, BrokerError> {
    let link = Link::open(settings, CONNECTION_NAME).await?;
    let source = settings.topology().dead_letter_queue(queue);
    let mut discarded = 0;
    while discarded < limit.min(MAX_AT_ONCE) && discard_one(link.channel(), &source).await? {
        discarded += 1;
    }
    link.close().await;
    Ok(discarded)
}

/// Answers whether there was one. Its identifier is logged: by it the audit log, or the outbox, knows the event. What is no
/// identifier of ours was put there by somebody else, who may have called it anything.
async fn discard_one(channel: &Channel, source: &str) -> Result<bool, BrokerError> {
    let Some(message) = answer(channel.basic_get(source.into(), BasicGetOptions::default())).await? else {
        return Ok(false);
    };
    answer(channel.basic_ack(message.delivery_tag, BasicAckOptions::default())).await?;
    let event = message.properties.message_id().as_ref().and_then(|id| Uuid::parse_str(id.as_str()).ok());
    tracing::warn!(queue = source, event = event.map(display), "a dead letter is discarded");
    Ok(true)
}

async fn count(channel: &Channel, queue: &str) -> Result<u32, BrokerError> {
    let options = QueueDeclareOptions::durable().passive();
    let declared = answer(channel.queue_declare(queue.into(), options, FieldTable::default())).await?;
    Ok(declared.message_count())
}

/// Answers whether there was one.
async fn replay_one(channel: &Channel, source: &str, target: &str) -> Result<bool, BrokerError> {
    let Some(message) = answer(channel.basic_get(source.into(), BasicGetOptions::default())).await? else {
        return Ok(false);
    };
    match answer(put_back(channel, target, &message)).await? {
        Confirmation::Ack(None) => {}
        Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
            return Err(BrokerError::Lost(format!("queue '{target}' did not take a dead letter back; it may be full")));
        }
    }
    answer(channel.basic_ack(message.delivery_tag, BasicAckOptions::default())).await?;
    Ok(true)
}

/// Straight to the one queue by the default exchange: the other queues had their copy.
async fn put_back(channel: &Channel, target: &str, message: &BasicGetMessage) -> Result<Confirmation, lapin::Error> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = message.properties.clone().with_headers(without_history(message));
    channel.basic_publish("".into(), target.into(), options, &message.data, properties).await?.await
}

/// Only the trace context: the broker's notes on deaths and deliveries belong to the message's former life.
fn without_history(message: &BasicGetMessage) -> FieldTable {
    let mut headers = FieldTable::default();
    if let Some(traceparent) =
        message.properties.headers().as_ref().and_then(|headers| headers.inner().get("traceparent"))
    {
        headers.insert(ShortString::from("traceparent"), traceparent.clone());
    }
    headers
}
