//! One batch of messages on one channel: sent in order, settled as a whole, judged message by message.
//!
//! lapin hands a returned (unroutable) message to whichever confirm comes next, and calls it an acknowledgement. So nothing is judged
//! before the whole batch is settled, and returns are matched by `message_id`.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use futures::future::{MaybeDone, maybe_done};
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::gateways::topology::{Exchange, Topology};

/// Messages in one batch. Confirms come in strides of about this size; more would only hold the batch longer.
pub const MAX_PUBLISH_BATCH: usize = 500;
/// Silence after which the rest of a batch counts as unknown. A broker short of memory is silent without limit.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole batch, however steadily its confirms trickle in.
const BATCH_TIMEOUT: Duration = Duration::from_secs(15);
const PERSISTENT: u8 = 2;
const CONTENT_TYPE: &str = "application/cloudevents+json";
const APP_ID: &str = "careforall";

/// An event on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The event's id; consumers recognise a second delivery by it. Unique within a batch.
    pub message_id: Uuid,
    /// Where it is published.
    pub exchange: Exchange,
    /// The event's type, for example `payment.completed`.
    pub routing_key: String,
    /// The event in its CloudEvents 1.0 JSON envelope.
    pub body: Vec<u8>,
    /// The W3C `traceparent` of the trace in which the event came about.
    pub traceparent: Option<String>,
}

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// Every queue bound for it has it on disk.
    Published,
    /// No queue is bound for it; it went nowhere.
    Unroutable,
    /// The broker refused it: a queue is full, or failed inside.
    Nacked,
    /// No answer in time. It may arrive or not: publish it again later.
    Unknown,
}

/// Sends `batch` and waits until every message is confirmed or the broker has been silent for too long. After an
/// [`PublishOutcome::Unknown`] the channel must not be used again.
pub(super) async fn publish(channel: &Channel, topology: &Topology, batch: &[Outgoing]) -> Vec<PublishOutcome> {
    let confirmations = confirmations(channel, topology, batch).await;
    judge(batch, confirmations)
}

async fn confirmations(channel: &Channel, topology: &Topology, batch: &[Outgoing]) -> Vec<Option<Confirmation>> {
    let mut sends: Vec<Pin<Box<MaybeDone<_>>>> =
        batch.iter().map(|message| Box::pin(maybe_done(send(channel, topology, message)))).collect();
    // The first poll of each puts its frames into lapin's queue, so the order of the batch is the order on the wire.
    for send in &mut sends {
        let _ = futures::poll!(send.as_mut());
    }
    let end = Instant::now() + BATCH_TIMEOUT;
    let mut deadline = Instant::now() + CONFIRM_TIMEOUT;
    let mut silent = false;
    let mut confirmations = Vec::with_capacity(batch.len());
    for mut send in sends {
        // After the deadline this still collects what has come in for the later messages.
        silent |= timeout_at(deadline, send.as_mut()).await.is_err();
        if !silent {
            deadline = (Instant::now() + CONFIRM_TIMEOUT).min(end);
        }
        confirmations.push(send.as_mut().take_output().flatten());
    }
    confirmations
}

/// `None`: the connection was lost. [`Confirmation::NotRequested`]: never sent, as AMQP cannot carry its routing key.
async fn send(channel: &Channel, topology: &Topology, message: &Outgoing) -> Option<Confirmation> {
    let exchange = topology.exchange(message.exchange);
    let Ok(routing_key) = ShortString::try_new(message.routing_key.as_str()) else {
        return Some(Confirmation::NotRequested);
    };
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish(exchange.into(), routing_key, options, &message.body, properties(message)).await;
    sent.ok()?.await.ok()
}

fn properties(message: &Outgoing) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(PERSISTENT)
        .with_app_id(APP_ID.into())
        .with_message_id(message.message_id.to_string().into());
    let properties = match ShortString::try_new(message.routing_key.as_str()) {
        Ok(event_type) => properties.with_type(event_type),
        Err(_) => properties,
    };
    match &message.traceparent {
        Some(traceparent) => {
            let mut headers = FieldTable::default();
            headers.insert("traceparent".into(), AMQPValue::LongString(LongString::from(traceparent.as_str())));
            properties.with_headers(headers)
        }
        None => properties,
    }
}

fn judge(batch: &[Outgoing], confirmations: Vec<Option<Confirmation>>) -> Vec<PublishOutcome> {
    let settled = confirmations.iter().all(Option::is_some);
    let mut returned = HashSet::new();
    let mut verdicts = Vec::with_capacity(batch.len());
    for confirmation in confirmations {
        verdicts.push(match &confirmation {
            None => PublishOutcome::Unknown,
            Some(Confirmation::Ack(_)) => PublishOutcome::Published,
            Some(Confirmation::Nack(_)) => PublishOutcome::Nacked,
            Some(Confirmation::NotRequested) => PublishOutcome::Unroutable,
        });
        returned.extend(confirmation.and_then(returned_id));
    }
    // A return may sit behind a confirm that never came, so one seen return makes every acknowledgement doubtful.
    let doubtful = !settled && !returned.is_empty();
    let outcome = |(message, verdict): (&Outgoing, PublishOutcome)| match verdict {
        _ if returned.contains(&message.message_id) => PublishOutcome::Unroutable,
        PublishOutcome::Published if doubtful => PublishOutcome::Unknown,
        verdict => verdict,
    };
    batch.iter().zip(verdicts).map(outcome).collect()
}

fn returned_id(confirmation: Confirmation) -> Option<Uuid> {
    let message = confirmation.take_message()?;
    message.properties.message_id().as_ref()?.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use lapin::message::{BasicReturnMessage, Delivery};

    use super::*;
    use crate::gateways::broker::stage::event;
    use PublishOutcome::{Nacked, Published, Unknown, Unroutable};

    const NO_ROUTE: u16 = 312;

    fn batch() -> Vec<Outgoing> {
        (0..4).map(|_| event("payment.completed")).collect()
    }

    fn returned(message: &Outgoing) -> Option<BasicReturnMessage> {
        let mut delivery = Delivery::mock(0, "".into(), "".into(), false, Vec::new());
        delivery.properties = properties(message);
        Some(BasicReturnMessage { delivery, reply_code: NO_ROUTE, reply_text: "NO_ROUTE".into() })
    }

    #[test]
    fn a_return_counts_for_its_own_message_whichever_confirm_it_came_with() {
        let batch = batch();
        let ack = |with| Some(Confirmation::Ack(with));
        let confirmations =
            vec![ack(returned(&batch[2])), ack(None), ack(None), Some(Confirmation::Nack(returned(&batch[1])))];
        assert_eq!(judge(&batch, confirmations), [Published, Unroutable, Unroutable, Nacked]);
    }

    #[test]
    fn without_returns_each_confirm_speaks_for_itself() {
        let confirmations =
            vec![Some(Confirmation::Ack(None)), None, Some(Confirmation::Nack(None)), Some(Confirmation::NotRequested)];
        assert_eq!(judge(&batch(), confirmations), [Published, Unknown, Nacked, Unroutable]);
    }

    #[test]
    fn in_an_unsettled_batch_with_a_return_no_acknowledgement_is_believed() {
        let batch = batch();
        let ack = |with| Some(Confirmation::Ack(with));
        let confirmations = vec![ack(returned(&batch[3])), ack(None), ack(None), None];
        assert_eq!(judge(&batch, confirmations), [Unknown, Unknown, Unknown, Unroutable]);
    }
}
