//! CareForAll: the payment heart of a fundraising platform, as one process.

pub mod clock;
pub mod domain;
pub mod gateways;
pub mod sandbox;
pub mod store;
