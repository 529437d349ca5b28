//! The tests' corner of RabbitMQ: looked into and cleared away.

use careforall::gateways::topology::{ConsumerQueue, Exchange, Topology};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::services::amqp_url;

async fn channel() -> (Connection, Channel) {
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.expect("a RabbitMQ");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// How many messages wait in a queue; none where there is no such queue.
pub async fn waiting(queue: &str) -> u32 {
    let (connection, channel) = channel().await;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let counted = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
    let _ = connection.close(200, "done".into()).await;
    counted.map_or(0, |queue| queue.message_count())
}

/// Puts a message into an exchange, whatever it says, and waits until the broker has it.
pub async fn publish(exchange: &str, routing_key: &str, body: &[u8]) {
    let (connection, channel) = channel().await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await;
    sent.expect("it is sent").await.expect("it is taken");
    let _ = connection.close(200, "done".into()).await;
}

/// How many dead letters there are.
pub async fn dead_letters(prefix: &str) -> u32 {
    let topology = Topology::with_prefix(prefix);
    let mut sum = 0;
    for queue in ConsumerQueue::ALL {
        sum += waiting(&topology.dead_letter_queue(queue)).await;
    }
    sum
}

/// Removes everything that was declared under `prefix`.
pub async fn remove(prefix: &str) {
    let topology = Topology::with_prefix(prefix);
    let (connection, channel) = channel().await;
    for queue in ConsumerQueue::ALL {
        for name in [topology.queue(queue), topology.dead_letter_queue(queue)] {
            let _ = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await;
        }
    }
    let exchanges = [topology.exchange(Exchange::Donations), topology.exchange(Exchange::Payments)];
    for name in exchanges.into_iter().chain([topology.dead_letter_exchange()]) {
        let _ = channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await;
    }
    let _ = connection.close(200, "done".into()).await;
}
