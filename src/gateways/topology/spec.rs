//! A single exchange, queue or binding: how it is declared over AMQP, how it is written into a definitions document.
//!
//! Deliberately absent: names and values, which are the topology's.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};
use serde_json::{Map, Value, json};

/// AMQP's reply code for "it exists, but differs".
const PRECONDITION_FAILED: u16 = 406;

/// The broker refused a piece of the topology.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TopologyError {
    /// It exists with other settings, which AMQP cannot change; an operator must delete it (or its policy) once it is empty.
    #[error(
        "RabbitMQ has {object} with other settings than ours: {reason}; delete it once it is empty, and it is made anew"
    )]
    Mismatch {
        /// What was refused, by kind and name.
        object: String,
        /// The broker's own words.
        reason: String,
    },
    /// Any other refusal, or the connection was lost on the way.
    #[error("RabbitMQ did not declare {object}: {reason}")]
    Refused {
        /// What was refused, by kind and name.
        object: String,
        /// The broker's or the client's own words.
        reason: String,
    },
}

impl TopologyError {
    fn new(object: String, error: &lapin::Error) -> Self {
        let reason = error.to_string();
        match error.kind() {
            ErrorKind::ProtocolError(refusal) if refusal.get_id() == PRECONDITION_FAILED => {
                Self::Mismatch { object, reason }
            }
            _ => Self::Refused { object, reason },
        }
    }
}

/// A queue argument, in the two types that we need.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    Text(String),
    Number(u32),
}

impl Argument {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn amqp(&self) -> AMQPValue {
        match self {
            Self::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
            Self::Number(number) => AMQPValue::LongLongInt(i64::from(*number)),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) => json!(number),
        }
    }
}

pub(super) struct ExchangeSpec {
    pub(super) name: String,
    pub(super) kind: ExchangeKind,
}

impl ExchangeSpec {
    pub(super) async fn declare(&self, channel: &Channel) -> Result<(), TopologyError> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(self.name.as_str().into(), self.kind.clone(), options, FieldTable::default())
            .await
            .map_err(|error| TopologyError::new(format!("exchange '{}'", self.name), &error))
    }

    pub(super) fn definition(&self, vhost: &str) -> Value {
        let kind = if self.kind == ExchangeKind::Topic { "topic" } else { "direct" };
        json!({
            "name": self.name, "vhost": vhost, "type": kind, "durable": true, "auto_delete": false, "internal": false,
            "arguments": {},
        })
    }
}

pub(super) struct QueueSpec {
    pub(super) name: String,
    pub(super) arguments: Vec<(&'static str, Argument)>,
}

impl QueueSpec {
    pub(super) async fn declare(&self, channel: &Channel) -> Result<(), TopologyError> {
        self.declare_with(channel, QueueDeclareOptions::durable()).await
    }

    /// For this connection alone; it goes with it.
    pub(super) async fn declare_exclusive(&self, channel: &Channel) -> Result<(), TopologyError> {
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        self.declare_with(channel, options).await
    }

    async fn declare_with(&self, channel: &Channel, options: QueueDeclareOptions) -> Result<(), TopologyError> {
        let mut arguments = FieldTable::default();
        for (key, argument) in &self.arguments {
            arguments.insert(ShortString::from(*key), argument.amqp());
        }
        let declared = channel.queue_declare(self.name.as_str().into(), options, arguments).await;
        declared.map(drop).map_err(|error| TopologyError::new(format!("queue '{}'", self.name), &error))
    }

    pub(super) fn definition(&self, vhost: &str) -> Value {
        let arguments: Map<String, Value> =
            self.arguments.iter().map(|(key, argument)| ((*key).to_owned(), argument.json())).collect();
        json!({ "name": self.name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": arguments })
    }
}

pub(super) struct BindingSpec {
    pub(super) source: String,
    pub(super) queue: String,
    pub(super) routing_key: String,
}

impl BindingSpec {
    pub(super) async fn declare(&self, channel: &Channel) -> Result<(), TopologyError> {
        let (queue, source, key) = (self.queue.as_str(), self.source.as_str(), self.routing_key.as_str());
        channel
            .queue_bind(queue.into(), source.into(), key.into(), QueueBindOptions::default(), FieldTable::default())
            .await
            .map_err(|error| TopologyError::new(format!("binding '{key}' of queue '{queue}' to '{source}'"), &error))
    }

    pub(super) fn definition(&self, vhost: &str) -> Value {
        json!({
            "source": self.source, "vhost": vhost, "destination": self.queue, "destination_type": "queue",
            "routing_key": self.routing_key, "arguments": {},
        })
    }
}
