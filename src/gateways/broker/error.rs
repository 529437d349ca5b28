//! What can go wrong between us and RabbitMQ. No variant carries credentials.

use crate::gateways::topology::TopologyError;

/// A failure of the broker gateway. All but [`BrokerError::Settings`] and [`BrokerError::BatchTooLarge`] pass by themselves or by
/// an operator's hand on the broker, so the caller tries again later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL cannot be used.
    #[error("AMQP_URL cannot be used: {0}")]
    Settings(String),
    /// No connection: refused, timed out, wrong credentials, unknown virtual host.
    #[error("cannot connect to RabbitMQ at {endpoint}: {reason}")]
    Unreachable {
        /// Host, port and virtual host.
        endpoint: String,
        /// The broker's or the operating system's own words.
        reason: String,
    },
    /// Connected, but an exchange or queue cannot be had as we need it.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The connection ended while in use.
    #[error("lost the connection to RabbitMQ: {0}")]
    Lost(String),
    /// Away, and not yet due for the next attempt; nothing was sent.
    #[error("RabbitMQ is away, the next attempt is due in {retry_in_ms} ms")]
    Unavailable {
        /// Milliseconds until a call will try to connect again.
        retry_in_ms: u64,
    },
    /// More messages than one batch may have; nothing was sent.
    #[error("a batch of {len} messages is larger than the {max} allowed")]
    BatchTooLarge {
        /// Messages handed in.
        len: usize,
        /// Messages allowed.
        max: usize,
    },
    /// A dead letter is not dropped, because its body could not be kept.
    #[error("a dead letter stays where it is, for its body could not be kept: {0}")]
    NotKept(String),
    /// The gateway was closed for good.
    #[error("the RabbitMQ gateway is closed")]
    Closed,
}
