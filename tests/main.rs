//! The program as a whole, on real servers: one binary of tests, one module for each promise.
//!
//! Every test starts the real program as a process of its own, on a database cloned for it alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so and ends")]

mod support;

mod access;
mod backup;
mod bad_input;
mod campaigns;
mod canary;
mod compose;
mod crash;
mod deploy;
mod explain;
mod failover;
mod gateway;
mod letters;
mod life;
mod live_totals;
mod migrations;
mod notifications;
mod operators;
mod outage;
mod overload;
mod reconcile;
mod replicas;
mod rolling;
mod shutdown;
mod sql;
mod storm;
mod systemd;
mod totals;
mod totals_exactness;
mod traces;
mod verify;
mod wall;
mod webhooks;
