//! Other people's machines: Stripe, mail, text messages, webhooks of partners, RabbitMQ.

pub mod breaker;
pub mod broker;
pub mod callback;
pub mod delivery;
pub mod error;
pub mod links;
pub mod mailer;
pub mod sendgrid;
pub mod signature;
pub mod sms;
pub mod stripe;
pub mod topology;
