//! Facts on their way: what consumers are handed, and what they say.
//!
//! Deliberately absent: where a batch comes from. In one process the outbox hands it over, otherwise the broker's queue
//! does; consumers cannot tell and need not.

use actix::prelude::*;

use crate::domain::fact::Fact;

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

impl From<crate::store::StoreError> for TakeError {
    fn from(error: crate::store::StoreError) -> Self {
        if error.is_passing() { Self::Passing(error.to_string()) } else { Self::Refused(error.to_string()) }
    }
}
