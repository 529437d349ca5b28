//! The pure core: money, states, events and rules. No async, no I/O, no clock.
//!
//! Reading order: [`money`], [`payment`] (the heart), [`provider`] (what is heard), [`fact`] (what is told).

pub mod campaign;
pub mod donation;
pub mod donor;
pub mod fact;
pub mod ids;
pub mod money;
pub mod notice;
pub mod payment;
pub mod provider;
pub mod retry;
pub mod totals;
