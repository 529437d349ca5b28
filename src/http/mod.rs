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
pub mod streams;
pub mod totals;
pub mod wall;
pub mod webhooks;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix::Addr;
use actix_web::http::Method;
use actix_web::{Resource, Route, web};
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
use streams::Streams;

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
    /// Open streams of totals.
    pub streams: Streams,
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
    /// The same of payments that the provider has not answered about.
    pub unknown_measured: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    /// Set when the process is about to end.
    pub draining: Arc<AtomicBool>,
}

/// Adds every route of ours.
pub fn configure(cfg: &mut web::ServiceConfig) {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PATCH: Method = Method::PATCH;
    cfg.service(
        web::scope("/api/v1")
            .service(resource("/campaigns", [(GET, web::to(campaigns::list)), (POST, web::to(campaigns::create))]))
            .service(resource(
                "/campaigns/{id}",
                [(GET, web::to(campaigns::show)), (PATCH, web::to(campaigns::change))],
            ))
            .service(resource("/campaigns/{id}/close", [(POST, web::to(campaigns::close))]))
            .service(resource("/campaigns/{id}/donations", [(GET, web::to(wall::list))]))
            .service(resource("/campaigns/{id}/totals", [(GET, web::to(totals::show))]))
            .service(resource("/campaigns/{id}/totals/stream", [(GET, web::to(streams::open))]))
            .service(resource("/donations", [(POST, web::to(donations::create))]))
            .service(resource("/donations/{id}", [(GET, web::to(donations::show))]))
            .service(resource("/payments", [(GET, web::to(payments::list))]))
            .service(resource("/payments/{id}", [(GET, web::to(payments::show))]))
            .service(resource("/payments/{id}/timeline", [(GET, web::to(payments::timeline))]))
            .service(resource("/payments/{id}/capture", [(POST, web::to(payments::capture))]))
            .service(resource("/payments/{id}/cancel", [(POST, web::to(payments::cancel))]))
            .service(resource("/payments/{id}/refunds", [(POST, web::to(payments::refund))]))
            .default_service(web::to(problem::no_such_route)),
    )
    .service(resource("/webhooks/stripe", [(POST, web::to(webhooks::stripe))]))
    .service(resource("/health/live", [(GET, web::to(operations::live))]))
    .service(resource("/health/ready", [(GET, web::to(operations::ready))]))
    .service(resource("/metrics", [(GET, web::to(operations::metrics))]));
}

/// What can be done at `path`; any other method is answered with 405 and the list of these.
fn resource<const N: usize>(path: &str, routes: [(Method, Route); N]) -> Resource {
    let allow = routes.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", ");
    let others = web::to(move || problem::no_such_method(allow.clone()));
    let resource = web::resource(path).default_service(others);
    routes.into_iter().fold(resource, |resource, (method, route)| resource.route(route.method(method)))
}
