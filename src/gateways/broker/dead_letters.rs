//! What operators do with dead letters: count them, look at them, put them back into their queue, drop them. A short
//! connection for each call; what was looked at and not settled goes back when it ends, well or not.
//!
//! Deliberately absent: showing bodies, which hold donors' data; whoever drops a letter gets its body first, to keep it.

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Confirmation};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::gateways::broker::link::{Link, answer};
use crate::gateways::broker::{BrokerError, BrokerSettings};
use crate::gateways::topology::ConsumerQueue;

/// Dead letters put back or dropped by one call, at most; and how deep it is looked for those that are named.
pub const MAX_AT_ONCE: u32 = 10_000;
/// Dead letters that are shown at once, at most.
pub const SHOWN_MAX: u32 = 1_000;
const CONNECTION_NAME: &str = "careforall dead letters";

/// Which dead letters of a queue.
#[derive(Clone, Copy, Debug)]
pub enum Letters<'a> {
    /// So many of the oldest, at most.
    Oldest(u32),
    /// Those with these message ids, among the oldest [`MAX_AT_ONCE`].
    These(&'a [Uuid]),
}

/// What came of an order.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// How many letters it was carried out on.
    pub count: u32,
    /// Their message ids, of those that have one.
    pub ids: Vec<Uuid>,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The event's identifier; nothing where somebody else published it.
    pub message_id: Option<Uuid>,
    /// The event's type, as it was published.
    pub event_type: String,
    /// When it died, in whole seconds.
    pub died_at: Option<OffsetDateTime>,
    /// How often it died, with replays in between.
    pub deaths: i64,
    /// Why, in RabbitMQ's words: `delivery_limit`, `rejected`, `maxlen`.
    pub reason: Option<String>,
    /// What was published.
    pub body: Vec<u8>,
}

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

/// The oldest dead letters of `queue`, at most `limit` and [`SHOWN_MAX`]; they stay where they are.
///
/// # Errors
/// [`BrokerError`] when the broker went away.
pub async fn list(settings: &BrokerSettings, queue: ConsumerQueue, limit: u32) -> Result<Vec<DeadLetter>, BrokerError> {
    let link = Link::open(settings, CONNECTION_NAME).await?;
    let source = settings.topology().dead_letter_queue(queue);
    let (mut letters, mut last) = (Vec::new(), None);
    for _ in 0..limit.min(SHOWN_MAX) {
        let Some(message) = get(link.channel(), &source).await? else { break };
        last = Some(message.delivery_tag);
        letters.push(DeadLetter::of(&message));
    }
    give_back(link.channel(), last).await?;
    link.close().await;
    Ok(letters)
}

/// Puts dead letters of `queue` back to its end, oldest first, with a fresh delivery count. Each is confirmed in its queue before
/// it leaves the dead letters: a failure in between leaves it in both, never in neither.
///
/// # Errors
/// [`BrokerError`] when the broker went away or the queue refused (it is full); what was put back stays put back.
pub async fn replay(settings: &BrokerSettings, queue: ConsumerQueue, which: Letters<'_>) -> Result<Done, BrokerError> {
    let target = settings.topology().queue(queue);
    settle(settings, queue, which, async |channel, message| match answer(put_back(channel, &target, message)).await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
            Err(BrokerError::Lost(format!("queue '{target}' did not take a dead letter back; it may be full")))
        }
    })
    .await
}

/// Drops dead letters of `queue`, oldest first, each once `keep` has its body, which is nowhere else: a failure in between
/// leaves it in both.
///
/// # Errors
/// [`BrokerError`] when the broker went away, or [`BrokerError::NotKept`]; what was dropped stays dropped.
pub async fn discard(
    settings: &BrokerSettings,
    queue: ConsumerQueue,
    which: Letters<'_>,
    keep: impl AsyncFn(&DeadLetter) -> Result<(), String>,
) -> Result<Done, BrokerError> {
    settle(settings, queue, which, async |_, message| {
        keep(&DeadLetter::of(message)).await.map_err(BrokerError::NotKept)
    })
    .await
}

/// Carries `order` out on each and then takes it away. The others are held meanwhile, so that none is met twice.
async fn settle(
    settings: &BrokerSettings,
    queue: ConsumerQueue,
    which: Letters<'_>,
    order: impl AsyncFn(&Channel, &BasicGetMessage) -> Result<(), BrokerError>,
) -> Result<Done, BrokerError> {
    let link = Link::open(settings, CONNECTION_NAME).await?;
    answer(link.channel().confirm_select(ConfirmSelectOptions::default())).await?;
    let source = settings.topology().dead_letter_queue(queue);
    // No more than lie there now: what nobody can read comes back at once, and would go round and round.
    let lying = count(link.channel(), &source).await?;
    let (most, named) = match which {
        Letters::Oldest(limit) => (limit.min(MAX_AT_ONCE).min(lying), None),
        Letters::These(ids) => (MAX_AT_ONCE.min(lying), Some(ids)),
    };
    let (mut done, mut held) = (Done::default(), None);
    for _ in 0..most {
        let Some(message) = get(link.channel(), &source).await? else { break };
        let id = message_id(&message);
        if named.is_some_and(|named| !id.is_some_and(|id| named.contains(&id))) {
            held = Some(message.delivery_tag);
            continue;
        }
        order(link.channel(), &message).await?;
        answer(link.channel().basic_ack(message.delivery_tag, BasicAckOptions::default())).await?;
        done.count += 1;
        done.ids.extend(id);
    }
    give_back(link.channel(), held).await?;
    link.close().await;
    Ok(done)
}

async fn get(channel: &Channel, source: &str) -> Result<Option<BasicGetMessage>, BrokerError> {
    answer(channel.basic_get(source.into(), BasicGetOptions::default())).await
}

/// Everything up to the delivery `last` that was not settled.
async fn give_back(channel: &Channel, last: Option<u64>) -> Result<(), BrokerError> {
    let Some(last) = last else { return Ok(()) };
    let all_before = BasicNackOptions { multiple: true, requeue: true };
    answer(channel.basic_nack(last, all_before)).await.map(drop)
}

fn message_id(message: &BasicGetMessage) -> Option<Uuid> {
    message.properties.message_id().as_ref()?.as_str().parse().ok()
}

impl DeadLetter {
    fn of(message: &BasicGetMessage) -> Self {
        let death = last_death(message);
        let field = |name: &str| death.as_ref().and_then(|death| death.inner().get(name));
        let kind = message.properties.kind().as_ref().unwrap_or(&message.routing_key);
        Self {
            message_id: message_id(message),
            event_type: kind.as_str().to_owned(),
            died_at: field("time").and_then(as_time),
            deaths: field("count").and_then(as_count).unwrap_or(1),
            reason: field("reason").and_then(as_text),
            body: message.data.clone(),
        }
    }
}

/// RabbitMQ's own note in `x-death`; the latest comes first.
fn last_death(message: &BasicGetMessage) -> Option<FieldTable> {
    let headers = message.properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else { return None };
    match deaths.as_slice().first()? {
        AMQPValue::FieldTable(death) => Some(death.clone()),
        _ => None,
    }
}

fn as_time(value: &AMQPValue) -> Option<OffsetDateTime> {
    let AMQPValue::Timestamp(seconds) = value else { return None };
    OffsetDateTime::from_unix_timestamp(i64::try_from(*seconds).ok()?).ok()
}

fn as_count(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::LongLongInt(count) => Some(*count),
        AMQPValue::LongInt(count) => Some(i64::from(*count)),
        _ => None,
    }
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

async fn count(channel: &Channel, queue: &str) -> Result<u32, BrokerError> {
    let options = QueueDeclareOptions::durable().passive();
    let declared = answer(channel.queue_declare(queue.into(), options, FieldTable::default())).await?;
    Ok(declared.message_count())
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
