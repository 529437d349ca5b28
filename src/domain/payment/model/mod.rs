//! Whether payments end right whatever arrives: a model that is explored whole, and walks through it by chance.
//!
//! Reading order: [`history`] (what the provider may do), [`named`] (the histories that the product promises), [`rules`]
//! (ours, and mutants that must fail), [`row`] (the store), [`world`] (replicas and network), [`exhaustive`] (every
//! state, by stateright), [`found`] (what it found), [`legal`] (histories made from a grammar), [`by_chance`]
//! (properties over many of them).
//!
//! Deliberately absent: events that come before their payment is known (parking is the store's), a provider that
//! answers with less than it has emitted, and histories that Stripe does not allow.

mod by_chance;
mod exhaustive;
mod found;
mod history;
mod legal;
mod named;
mod row;
mod rules;
mod world;
