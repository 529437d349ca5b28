//! The sandbox Stripe: a stateful double of the few endpoints that the product uses, with test cards that decide what
//! happens and signed webhooks that can be told to come late, twice, in any order, or never.
//!
//! It is spoken to over HTTP, as the real one is, and knows nothing of the rest of the product but money and the clock.
//! In reading order: `objects` are what it keeps and `cards` what they do; a request passes the `gate` to an endpoint
//! of `api`, whose `work` (`intents`, `attempt`, `refunds`, `disputes`) becomes one `commit`; the `engine` applies it
//! to the `state`, writes it to the `journal`, answers, and leaves the `events` to `delivery` and what is to follow to
//! `followups`. `control` plays the world outside.
//!
//! Deliberately absent: customers, saved payment methods, payouts, fees, live mode.

mod api;
mod attempt;
mod auth;
mod books;
mod cards;
mod collection;
mod commit;
mod control;
mod delivery;
mod disputes;
mod due;
mod engine;
mod errors;
mod events;
mod expand;
mod faults;
mod followups;
mod form;
mod gate;
mod idempotency;
mod ids;
mod intents;
mod journal;
#[cfg(test)]
mod journeys;
mod metadata;
mod objects;
mod refunds;
mod render;
mod rules;
mod state;
mod work;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use actix_web::web::{Data, PayloadConfig, ServiceConfig, scope};

use self::engine::Engine;
use crate::clock::Clock;

/// A key with which the sandbox can be called; any other `sk_test_…` is as good.
pub const SANDBOX_SECRET_KEY: &str = "sk_test_sandbox";
/// The secret that signs the sandbox's webhooks unless another is set.
pub const SANDBOX_WEBHOOK_SECRET: &str = "whsec_sandbox";

/// The largest request body, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How a sandbox is set up.
#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// Signs the webhooks; the whole text is the key.
    pub webhook_secret: String,
    /// Where the journal lies; without it everything is forgotten when the process ends.
    pub journal_dir: Option<PathBuf>,
    /// Dates objects, events and signatures.
    pub clock: Clock,
}

/// Why a sandbox could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The journal could not be read or written.
    #[error("the sandbox's journal {} cannot be used: {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A line of the journal that is not the last one makes no sense.
    #[error("line {line} of the sandbox's journal {} is corrupt: {source}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The cryptography behind the HTTP client is not usable.
    #[error("the sandbox's webhook client cannot be set up: {0}")]
    Tls(rustls::Error),
    /// The HTTP client that sends webhooks could not be built.
    #[error("the sandbox's webhook client cannot be built: {0}")]
    Client(reqwest::Error),
}

/// The sandbox Stripe. A clone is another handle to the same one.
#[derive(Clone, Debug)]
pub struct Sandbox {
    engine: Arc<Engine>,
}

impl Sandbox {
    /// Opens a sandbox; reads and compacts its journal, so it blocks for as long as that takes.
    pub fn open(settings: SandboxSettings) -> Result<Self, SandboxError> {
        Ok(Self { engine: Arc::new(Engine::open(settings)?) })
    }

    /// Mounts the API at `/sandbox/stripe/v1` and the control at `/sandbox/control`.
    pub fn configure(&self, cfg: &mut ServiceConfig) {
        let mount = |path: &str| {
            scope(path).app_data(Data::from(self.engine.clone())).app_data(PayloadConfig::new(MAX_BODY_BYTES))
        };
        cfg.service(mount("/sandbox/stripe/v1").configure(api::configure));
        cfg.service(mount("/sandbox/control").configure(control::configure));
    }

    /// Begins to send webhooks to `webhook_url`, and lets things follow. To be called once, on a tokio runtime, when
    /// the server that listens there is bound.
    pub fn start_deliveries(&self, webhook_url: String) {
        tokio::spawn(self.engine.clone().run_deliveries(webhook_url));
        tokio::spawn(self.engine.clone().run_follow_ups());
    }

    /// Stops deliveries, waits a few seconds for those under way, and closes the journal: nothing can be changed any
    /// more.
    pub async fn stop(&self) {
        self.engine.stop().await;
    }
}
