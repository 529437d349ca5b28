//! One payment, one actor: it owns the state and the version, and decides one command after the other.
//!
//! Commit, then believe: memory changes only after the committer said yes; on anything else the state is loaded again.
//! Reading order: this file (messages, the atomic handler, retries), `work` (loading, deciding, committing), `open`
//! (creating the intent), `orders` (capture, cancel, refund). Deliberately absent: the rules (`domain::payment`).

mod open;
mod orders;
mod work;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use rand::Rng;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::committer::{CommitError, Committer};
use super::pressure::Pressure;
use crate::clock::Clock;
use crate::domain::ids::PaymentId;
use crate::domain::payment::command::Refusal;
use crate::domain::payment::decide::Verdict;
use crate::domain::payment::{Payment, PaymentStatus};
use crate::domain::provider::ProviderEvent;
use crate::domain::retry::{OPEN_PAYMENT, wait_after};
use crate::gateways::error::GatewayError;
use crate::gateways::stripe::Stripe;
use crate::store::{ClaimedKey, Store, StoreError};
use crate::trace::{self, Current};
use work::Work;
pub use work::{EVENT_SCOPE, duplicate_of, event_answer, wants_opening};

/// What every payment actor uses.
pub struct Tools {
    /// Reads.
    pub store: Store,
    /// Writes.
    pub committer: Addr<Committer>,
    /// The provider.
    pub stripe: Stripe,
    /// The time.
    pub clock: Clock,
    /// What checks give way to.
    pub pressure: Pressure,
}

/// What a payment can be told or asked.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<Reply, PaymentError>")]
pub enum Command {
    /// Create the intent with the provider, unless it exists. `fresh` is the state right after creation, so that a new
    /// donation's payment need not be loaded.
    Open {
        /// The state, if it was just recorded.
        fresh: Option<Box<Payment>>,
    },
    /// Take the provider's event.
    Apply {
        /// The event.
        event: Arc<ProviderEvent>,
        /// W3C trace context.
        traceparent: Option<String>,
    },
    /// Take reserved money.
    Capture {
        /// How much, in minor units; all of it if not said.
        amount_minor: Option<i64>,
        /// Who asks.
        order: Order,
    },
    /// Call the payment off.
    Cancel {
        /// Who asks.
        order: Order,
    },
    /// Give money back.
    Refund {
        /// How much, in minor units; all that is left if not said.
        amount_minor: Option<i64>,
        /// The provider's reason, such as `requested_by_customer`.
        reason: Option<String>,
        /// Who asks.
        order: Order,
    },
    /// Apply the events that were parked before the payment was known.
    TakeUpParked,
    /// Ask the provider how it stands.
    Check,
    /// Show the state.
    Get,
    /// Panic so many times, then show the state, so that a test can see the registry revive it.
    #[cfg(test)]
    Panic {
        /// How many times are left.
        times: Arc<std::sync::atomic::AtomicU32>,
    },
}

impl Command {
    /// The trace in which it is given.
    fn traceparent(&self) -> Option<&str> {
        match self {
            Self::Open { fresh } => fresh.as_ref().and_then(|payment| payment.traceparent.as_deref()),
            Self::Apply { traceparent, .. } => traceparent.as_deref(),
            Self::Capture { order, .. } | Self::Cancel { order } | Self::Refund { order, .. } => {
                order.traceparent.as_deref()
            }
            Self::TakeUpParked | Self::Check | Self::Get => None,
            #[cfg(test)]
            Self::Panic { .. } => None,
        }
    }
}

/// An operator's order.
#[derive(Clone, Debug)]
pub struct Order {
    /// The key that makes it happen once, if the operator sent one.
    pub key: Option<ClaimedKey>,
    /// The key under which the provider does it once; where the operator sent none, it follows from the payment's version.
    pub provider_key: Option<String>,
    /// Who it was, for the history.
    pub operator: String,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// What a payment answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Its state.
    State(Box<Payment>),
    /// What became of an event.
    Verdict(EventAnswer),
    /// A body to be sent as it is, and whether it was stored before.
    Answer {
        /// JSON.
        body: String,
        /// Whether it is the stored answer to an earlier request.
        replayed: bool,
    },
}

/// What became of an event, as it is answered and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventAnswer {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule behind it.
    pub reason: String,
    /// The payment, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<Uuid>,
    /// Where it stands afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PaymentStatus>,
    /// Its version afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

/// Why a payment did not do what it was told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PaymentError {
    /// There is no such payment.
    #[error("there is no such payment")]
    NotFound,
    /// The state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The key was used for something else.
    #[error("the idempotency key was used for another request")]
    KeyMismatch,
    /// The database is away, or the mailbox is full.
    #[error("{0}")]
    Unavailable(String),
    /// Another process is carrying out an equal order that has no key either.
    #[error(
        "an equal order without an idempotency key is being carried out; look at the payment before it is repeated"
    )]
    UnderWay,
    /// Other processes keep moving it.
    #[error("the payment is being changed by others")]
    Contended,
    /// The provider says no, is away, or its outcome is not known.
    #[error(transparent)]
    Provider(Arc<GatewayError>),
    /// A fault of ours; the details are in the log.
    #[error("internal error")]
    Internal(String),
}

impl From<StoreError> for PaymentError {
    fn from(error: StoreError) -> Self {
        if error.is_passing() { Self::Unavailable(error.to_string()) } else { Self::Internal(error.to_string()) }
    }
}

impl From<CommitError> for PaymentError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Overloaded | CommitError::Unavailable(_) => Self::Unavailable(error.to_string()),
            CommitError::Refused(text) => Self::Internal(text),
        }
    }
}

impl From<GatewayError> for PaymentError {
    fn from(error: GatewayError) -> Self {
        Self::Provider(Arc::new(error))
    }
}

/// The actor.
pub struct PaymentActor {
    id: PaymentId,
    tools: Arc<Tools>,
    /// `None`: must be loaded before the next decision.
    payment: Option<Payment>,
    open_attempts: u32,
    open_retry: Option<SpawnHandle>,
}

impl PaymentActor {
    /// An actor that loads its state when it is first needed.
    pub fn new(id: PaymentId, tools: Arc<Tools>) -> Self {
        Self { id, tools, payment: None, open_attempts: 0, open_retry: None }
    }

    /// A payment that could not be opened is tried again soon; the database remembers a later check, should we be gone.
    fn retry_opening(&mut self, ctx: &mut Context<Self>) {
        let jitter = rand::rng().random_range(0..1000);
        let Some(wait) = wait_after(OPEN_PAYMENT, self.open_attempts, jitter) else { return };
        self.open_attempts += 1;
        self.open_in(wait, ctx);
    }

    fn open_in(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if let Some(earlier) = self.open_retry.take() {
            ctx.cancel_future(earlier);
        }
        let retry = ctx.run_later(wait, |act, ctx| {
            act.open_retry = None;
            ctx.notify(Command::Open { fresh: None });
        });
        self.open_retry = Some(retry);
    }
}

impl Actor for PaymentActor {
    type Context = Context<Self>;
}

impl Handler<Command> for PaymentActor {
    // Atomic: no other command is handled between reading the state and believing its successor.
    type Result = AtomicResponse<Self, Result<Reply, PaymentError>>;

    fn handle(&mut self, command: Command, _ctx: &mut Self::Context) -> Self::Result {
        let opens = matches!(command, Command::Open { .. });
        let mut work = Work { id: self.id, tools: Arc::clone(&self.tools), payment: self.payment.take() };
        let whose = command.traceparent().map(str::to_owned).map(Current::of);
        let job = trace::within(whose, async move {
            let reply = work.run(command).await;
            (work.payment, reply)
        });
        AtomicResponse::new(Box::pin(job.into_actor(self).map(move |(payment, reply), act, ctx| {
            act.payment = payment;
            match (&reply, opens) {
                (Err(error), true) if is_passing(error) => act.retry_opening(ctx),
                (Ok(_), true) => act.open_attempts = 0,
                _ => {}
            }
            reply
        })))
    }
}

fn is_passing(error: &PaymentError) -> bool {
    match error {
        PaymentError::Unavailable(_) | PaymentError::Contended | PaymentError::Provider(_) => true,
        PaymentError::NotFound
        | PaymentError::Refused(_)
        | PaymentError::KeyMismatch
        | PaymentError::UnderWay
        | PaymentError::Internal(_) => false,
    }
}

/// Tells an actor to end; sent by the registry only after it forgot the address.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Retire;

impl Handler<Retire> for PaymentActor {
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
