//! What we remember: Postgres is the truth, Redis a cache.
//!
//! SQL lives in `sql/queries`, one statement a file, named as the function that runs it. Deliberately absent: rules. The
//! store writes what was decided, if it still fits, and says so if it does not.

pub mod api_keys;
pub mod audit;
pub mod cache;
pub mod campaigns;
pub mod dead_letters;
pub mod donations;
pub mod donors;
pub mod dossiers;
pub mod embedded;
pub mod endpoints;
pub mod error;
pub mod hosts;
pub mod idempotency;
pub mod loan;
pub mod migrate;
pub mod moves;
pub mod notices;
pub mod outbox;
pub mod payments;
pub mod pool;
pub mod presence;
pub mod suppressions;
pub mod totals;
pub mod verify;
pub mod wall;

pub use donations::{ClaimedKey, Creation, CreationOutcome};
pub use error::StoreError;
pub use hosts::Hosts;
use loan::LOOK;
pub use moves::{Answer, Cause, Move, MoveOutcome};
pub use pool::Pools;

/// The road to Postgres.
#[derive(Clone)]
pub struct Store {
    /// Its connections.
    pub pools: Pools,
}

impl Store {
    /// A store that connects when it is first used.
    pub fn new(config: tokio_postgres::Config) -> Result<Self, StoreError> {
        Ok(Self { pools: Pools::new(config)? })
    }

    /// Whether Postgres answers, and soon.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.pools.within(LOOK, async |client| Ok(client.simple_query("select 1").await.map(drop)?)).await
    }
}
