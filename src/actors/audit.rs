//! The audit consumer: writes every fact down, once.

use actix::prelude::*;

use super::facts::{Take, TakeError, guarded};
use crate::clock::Clock;
use crate::store::Store;

/// The actor.
pub struct Audit {
    store: Store,
    clock: Clock,
}

impl Audit {
    /// A consumer that writes to `store`.
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }
}

impl Actor for Audit {
    type Context = Context<Self>;
}

impl Supervised for Audit {}

impl Handler<Take> for Audit {
    type Result = ResponseFuture<Result<(), TakeError>>;

    fn handle(&mut self, Take(facts): Take, _ctx: &mut Self::Context) -> Self::Result {
        let (store, now) = (self.store.clone(), self.clock.now());
        Box::pin(guarded(async move { Ok(store.record_facts(&facts, now).await.map(drop)?) }))
    }
}
