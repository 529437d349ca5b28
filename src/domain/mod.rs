//! The pure core: money, states, events and rules. No async, no I/O, no clock.

pub mod money;
pub mod provider;
