//! HTTP: routes, extractors, problem documents. It translates; it has no rules of its own.
//!
//! Reading order: this file (state and routes), `problem` (every error), `extract` (bodies, callers), `idempotency`,
//! `limits`, then one file for each resource. Deliberately absent: decisions, SQL.

pub mod access;
pub mod campaigns;
pub mod donations;
pub mod extract;
pub mod idempotency;
pub mod limits;
pub mod observe;
pub mod operations;
pub mod payments;
pub mod problem;
pub mod totals;
pub mod webhooks;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix::Addr;
use actix_web::web;
use tokio::sync::broadcast;

use crate::actors::bridge::Bridge;
use crate::actors::committer::{Committer, DonationMoved};
use crate::actors::intake::Intake;
use crate::actors::outbox::Bus;
use crate::actors::registry::Payments;
use crate::actors::totals::{TotalsActor, TotalsMemory};
use crate::clock::Clock;
use crate::gateways::signature::WebhookSecret;
use crate::gateways::stripe::Stripe;
use crate::store::Store;
use crate::store::cache::Cache;
use access::{AccessTokens, Operators};
use limits::Limits;

/// The largest JSON body, in bytes.
pub const BODY_MAX_BYTES: usize = 64 * 1024;
/// The largest webhook, in bytes; Stripe's are far smaller.
pub const WEBHOOK_MAX_BYTES: usize = 512 * 1024;

/// What handlers use.
pub struct AppState {
    /// Reads.
    pub store: Store,
    /// Redis.
    pub cache: Cache,
    /// Writes.
    pub committer: Addr<Committer>,
    /// Every payment.
    pub payments: Payments,
    /// The provider's events.
    pub intake: Intake,
    /// Totals, levels 1 to 3.
    pub totals: Addr<TotalsActor>,
    /// Totals, level 0.
    pub totals_memory: TotalsMemory,
    /// Where facts go.
    pub bus: Arc<Bus>,
    /// Where facts come from, if there is a broker.
    pub bridge: Option<Addr<Bridge>>,
    /// The provider.
    pub stripe: Stripe,
    /// Who may have signed a webhook.
    pub webhook_secrets: Vec<WebhookSecret>,
    /// New versions of donations, as they are committed.
    pub moved: broadcast::Sender<DonationMoved>,
    /// Donors' tokens.
    pub access: AccessTokens,
    /// Operators' keys.
    pub operators: Operators,
    /// Requests per client address.
    pub limits: Limits,
    /// The time.
    pub clock: Clock,
    /// When the outbox was last measured for the metrics.
    pub outbox_measured: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    /// Set when the process is about to end.
    pub draining: Arc<AtomicBool>,
}

/// Adds every route of ours.
pub fn configure(cfg: &mut web::ServiceConfig) {
    cfg.service(
        web::scope("/api/v1")
            .service(
                web::resource("/campaigns")
                    .route(web::get().to(campaigns::list))
                    .route(web::post().to(campaigns::create)),
            )
            .service(
                web::resource("/campaigns/{id}")
                    .route(web::get().to(campaigns::show))
                    .route(web::patch().to(campaigns::change)),
            )
            .service(web::resource("/campaigns/{id}/totals").route(web::get().to(totals::show)))
            .service(web::resource("/donations").route(web::post().to(donations::create)))
            .service(web::resource("/donations/{id}").route(web::get().to(donations::show)))
            .service(web::resource("/payments").route(web::get().to(payments::list)))
            .service(web::resource("/payments/{id}").route(web::get().to(payments::show)))
            .service(web::resource("/payments/{id}/timeline").route(web::get().to(payments::timeline)))
            .service(web::resource("/payments/{id}/capture").route(web::post().to(payments::capture)))
            .service(web::resource("/payments/{id}/cancel").route(web::post().to(payments::cancel)))
            .service(web::resource("/payments/{id}/refunds").route(web::post().to(payments::refund)))
            .default_service(web::to(problem::no_such_route)),
    )
    .service(web::resource("/webhooks/stripe").route(web::post().to(webhooks::stripe)))
    .service(web::resource("/health/live").route(web::get().to(operations::live)))
    .service(web::resource("/health/ready").route(web::get().to(operations::ready)))
    .service(web::resource("/metrics").route(web::get().to(operations::metrics)));
}
