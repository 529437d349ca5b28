//! Loads CareForAll and holds it to its word: it measures from the time at which a request was due, and at the end it looks
//! into the database for everything that was acknowledged.
//!
//! Reading order: [`plan`] says when requests are due, [`engine`] sends them over [`client`]'s connections, [`recording`]
//! keeps what came of them; [`target`] is the server, [`scenarios`] are the kinds of load, [`books`] what was
//! acknowledged, [`audit`] the look into the database; [`report`] shows it all. [`bench`] compares with other ways.
//! It knows the server by HTTP, by its command line and, for audit and fills, by its tables; it links none of its code.

#![allow(
    clippy::float_arithmetic,
    reason = "rates, percentiles and places in a picture; money is whole numbers here too"
)]

pub mod api;
pub mod audit;
pub mod bench;
pub mod books;
pub mod broker;
pub mod cli;
pub mod client;
pub mod clock;
pub mod database;
pub mod engine;
pub mod fill;
pub mod machine;
pub mod measure;
pub mod nap;
pub mod office;
pub mod plan;
pub mod progress;
pub mod recording;
pub mod report;
pub mod scenarios;
pub mod stop;
pub mod stripe;
pub mod target;
