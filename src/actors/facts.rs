//! Facts on their way: what consumers are handed, and what they say.
//!
//! Deliberately absent: where a batch comes from. In one process the outbox hands it over, otherwise the broker's queue
//! does; consumers cannot tell and need not.

use std::panic::AssertUnwindSafe;

use actix::prelude::*;
use futures::FutureExt;

use crate::domain::fact::Fact;
use crate::gateways::topology::ConsumerQueue;
use crate::trace::{Kind, Span};

/// Something was committed: look into the outbox.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct Wake;

/// Committed facts, at least once, in any order.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<(), TakeError>")]
pub struct Take(pub Vec<Fact>);

/// Why a consumer did not take a batch. Nothing of it counts as taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TakeError {
    /// What it needs is away: the same batch later.
    #[error("{0}")]
    Passing(String),
    /// This batch cannot be taken as it is.
    #[error("{0}")]
    Refused(String),
}

/// What a consumer makes of facts. A panic is a refusal: an actor that dies of a fact would be handed it again and again,
/// while what is refused ends as a dead letter.
pub async fn guarded(work: impl Future<Output = Result<(), TakeError>>) -> Result<(), TakeError> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(TakeError::Refused("it panicked".to_owned())))
}

/// Hands facts to the consumer behind `queue`. What it makes of a fact belongs to the fact's trace.
pub async fn hand_to(consumer: &Recipient<Take>, queue: ConsumerQueue, mut facts: Vec<Fact>) -> Result<(), TakeError> {
    let mut spans: Vec<Span> = facts.iter_mut().map(|fact| take_span(queue, fact)).collect();
    let taken = consumer.send(Take(facts)).await.unwrap_or_else(|error| Err(TakeError::Passing(error.to_string())));
    if let Err(error) = &taken {
        spans.iter_mut().for_each(|span| span.fail(error.label()));
    }
    taken
}

fn take_span(queue: ConsumerQueue, fact: &mut Fact) -> Span {
    let mut span = Span::below(Kind::Consumer, fact.traceparent.as_deref(), || format!("process {}", queue.name()));
    if let Some(traceparent) = span.traceparent() {
        span.set("messaging.operation.type", "process");
        span.set("messaging.operation.name", "process");
        span.set("messaging.destination.name", queue.name());
        span.set("messaging.message.id", fact.id.to_string());
        span.set("careforall.fact", fact.kind.event_type());
        fact.traceparent = Some(traceparent);
    }
    span
}

impl TakeError {
    fn label(&self) -> &'static str {
        match self {
            Self::Passing(_) => "passing",
            Self::Refused(_) => "refused",
        }
    }
}

impl From<crate::store::StoreError> for TakeError {
    fn from(error: crate::store::StoreError) -> Self {
        if error.is_passing() { Self::Passing(error.to_string()) } else { Self::Refused(error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clumsy;

    impl Actor for Clumsy {
        type Context = Context<Self>;
    }

    impl Handler<Take> for Clumsy {
        type Result = ResponseFuture<Result<(), TakeError>>;

        fn handle(&mut self, Take(facts): Take, _ctx: &mut Self::Context) -> Self::Result {
            Box::pin(guarded(async move {
                assert!(!facts.is_empty(), "nothing is what it cannot take");
                Ok(())
            }))
        }
    }

    #[actix::test]
    async fn a_consumer_that_panics_refuses_and_goes_on() {
        let consumer = Clumsy.start();
        for _ in 0..2 {
            let taken = hand_to(&consumer.clone().recipient(), ConsumerQueue::Audit, Vec::new()).await;
            assert!(matches!(taken, Err(TakeError::Refused(_))), "{taken:?}");
        }
    }
}
