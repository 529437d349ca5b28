//! Other people's machines: Stripe, mail, RabbitMQ.

pub mod breaker;
pub mod broker;
pub mod error;
pub mod mailer;
pub mod signature;
pub mod stripe;
pub mod topology;
