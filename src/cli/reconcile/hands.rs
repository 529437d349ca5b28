//! The hands that mend: the server's own actors, in this process.
//!
//! Deliberately absent: an outbox actor, consumers and the look for due checks. Facts that are committed here lie in the
//! outbox until the server publishes them.

use std::sync::Arc;

use actix::Arbiter;

use crate::actors::committer::Committer;
use crate::actors::intake::Intake;
use crate::actors::payment::{Command, EventAnswer, PaymentError, Reply, Tools};
use crate::actors::pressure::Pressure;
use crate::actors::registry::Payments;
use crate::app::start_in;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::ids::PaymentId;
use crate::domain::payment::Payment;
use crate::gateways::stripe::{ListedEvent, Stripe};
use crate::store::Store;
use crate::store::cache::Cache;

/// New versions that nobody listens for here.
const NEWS: usize = 1;

/// What mends.
pub struct Hands {
    payments: Payments,
    intake: Intake,
    arbiter: Arbiter,
}

impl Hands {
    /// Starts the actors.
    pub fn new(config: &Config, store: &Store, stripe: &Stripe) -> Result<Self, String> {
        let clock = Clock::System;
        let cache = Cache::new(config.redis_url.as_deref(), &config.prefix);
        let cache = cache.map_err(|error| format!("REDIS_URL cannot be used: {error}"))?;
        let arbiter = Arbiter::new();
        let moved = tokio::sync::broadcast::Sender::new(NEWS);
        let committer = start_in(&arbiter, Committer::new(store.clone(), clock.clone(), moved));
        let tools = Tools {
            store: store.clone(),
            committer: committer.clone(),
            stripe: stripe.clone(),
            clock: clock.clone(),
            pressure: Pressure::default(),
        };
        let payments = Payments::start_quietly(std::slice::from_ref(&arbiter), Arc::new(tools));
        let intake = Intake::new(store.clone(), cache, committer, payments.clone(), clock);
        Ok(Self { payments, intake, arbiter })
    }

    /// Takes in an event, as if its webhook had come.
    pub async fn take_in(&self, listed: &ListedEvent) -> Result<EventAnswer, PaymentError> {
        self.intake.take_in(listed.event.clone(), &listed.body).await
    }

    /// The payment asks the provider how it stands, takes that over, and shows itself.
    pub async fn check(&self, id: PaymentId) -> Result<Payment, PaymentError> {
        match self.payments.send(id, Command::Check).await? {
            Reply::State(payment) => Ok(*payment),
            Reply::Verdict(_) | Reply::Answer { .. } => Err(PaymentError::Internal("not a state".to_owned())),
        }
    }

    /// Ends the actors; nothing is under way any more.
    pub fn stop(&self) {
        self.arbiter.stop();
    }
}
