//! CareForAll: the payment heart of a fundraising platform, as one process.
//!
//! Reading order: [`domain`] decides (no I/O, no clock), [`store`] remembers, [`gateways`] speak to other people's
//! machines, [`actors`] own and order, [`http`] translates, [`app`] puts it all together. [`sandbox`] is a Stripe of our
//! own for trying things out; [`cli`] are the subcommands. ARCHITECTURE.md has the map and the invariants.

pub mod actors;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod gateways;
pub mod http;
#[cfg(test)]
mod layers;
pub mod metrics;
pub mod sandbox;
pub mod store;
pub mod telemetry;
pub mod trace;
