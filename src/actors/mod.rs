//! The actors: who owns what, and in which order it happens.
//!
//! Reading order: [`committer`] (the one write road), [`pressure`] (what gives way to it), [`admission`] (who is to come later), [`payment`] (one payment, one actor), [`registry`] (finds, spawns,
//! revives and retires them), [`outbox`] (committed facts onto the bus), [`bridge`] (from the broker's queues to the
//! consumers), then the consumers [`totals`], [`notification`], [`audit`], and the [`courier`] that delivers.
//!
//! Commands travel directly between actors; facts travel one road: commit → outbox → bus → consumers. An actor believes
//! nothing that Postgres has not committed. Deliberately absent: HTTP, and business rules (`domain` has those).

pub mod admission;
pub mod audit;
pub mod bridge;
pub mod committer;
pub mod courier;
pub mod facts;
pub mod intake;
pub mod mailboxes;
pub mod notification;
pub mod outbox;
pub mod payment;
pub mod pressure;
pub mod registry;
#[cfg(test)]
pub(crate) mod testing;
pub mod totals;
