//! The program as a whole, on real servers: one binary of tests, one module for each promise.
//!
//! Every test starts the real program as a process of its own, on a database cloned for it alone.

mod support;

mod explain;
mod life;
mod reconcile;
mod verify;
