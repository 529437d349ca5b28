//! RabbitMQ: facts go out by the [`Publisher`] and come in by a [`Consumer`], each on a connection of its own, because a broker
//! short of memory blocks publishing connections whole.
//!
//! Read in this order: [`settings`] (where the broker is), [`link`] (one connection, and how it surely ends), [`outage`] (how long
//! to wait, what to log), [`publisher`] with [`batch`], [`consumer`] with [`session`] and [`settlement`], [`dead_letters`].
//!
//! lapin runs one thread of its own for each connection (`lapin-io-loop`) and its tasks on the calling runtime: a connection lives
//! no longer than the arbiter that opened it.
//!
//! Deliberately absent: lapin's own recovery (it gives up), the in-process road used without `AMQP_URL`, and what events mean.

pub mod consumer;
pub mod dead_letters;
pub mod error;
pub mod publisher;
pub mod settings;

mod batch;
mod link;
mod outage;
mod session;
mod settlement;
#[cfg(test)]
pub(crate) mod stage;

pub use batch::{MAX_PUBLISH_BATCH, Outgoing, PublishOutcome};
pub use consumer::Consumer;
pub use error::BrokerError;
pub use publisher::Publisher;
pub use session::Delivery;
pub use settings::BrokerSettings;
pub use settlement::Settle;

/// What the log filter must contain. lapin logs returned messages with their bodies (donors' data) and every failed connect as
/// an error; what an operator needs of that, this module logs itself.
pub const LOG_DIRECTIVE: &str = "lapin=off";
