//! HTTP: routes, extractors, problem documents. It translates; it has no rules of its own.
//!
//! Reading order: this file (state and routes), `problem` (every error), `extract` (bodies, callers), `idempotency`,
//! `limits`, then one file for each resource. Deliberately absent: decisions, SQL.

pub mod access;
pub mod campaigns;
pub mod dead_letters;
pub mod donations;
pub mod donors;
pub mod draining;
pub mod endpoints;
pub mod extract;
pub mod feedback;
pub mod idempotency;
pub mod limits;
pub mod notifications;
pub mod observe;
pub mod openings;
pub mod operations;
pub mod payments;
pub mod problem;
pub mod streams;
pub mod suppressions;
pub mod totals;
pub mod unsubscribe;
pub mod wall;
pub mod webhooks;

use std::sync::Arc;

use actix::{Addr, Recipient};
use actix_web::dev::HttpServiceFactory;
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{Route, web};
use tokio::sync::broadcast;

use crate::actors::admission::{Admission, Class, UnderWay};
use crate::actors::bridge::Bridge;
use crate::actors::committer::{Committer, DonationMoved};
use crate::actors::facts::Wake;
use crate::actors::intake::Intake;
use crate::actors::mailboxes::Mailboxes;
use crate::actors::outbox::Bus;
use crate::actors::registry::Payments;
use crate::actors::totals::{TotalsActor, TotalsMemory};
use crate::clock::Clock;
use crate::gateways::breaker::Breaker;
use crate::gateways::broker::BrokerSettings;
use crate::gateways::callback::Callbacks;
use crate::gateways::links::Links;
use crate::gateways::signature::WebhookSecret;
use crate::gateways::stripe::Stripe;
use crate::store::Store;
use crate::store::cache::Cache;
use access::{AccessTokens, Operators};
use draining::Draining;
use feedback::{Reporters, TWILIO_REPORTS};
use limits::Limits;
use openings::Openings;
use streams::Streams;

/// The largest JSON body, in bytes.
pub const BODY_MAX_BYTES: usize = 64 * 1024;
/// The largest webhook, in bytes; Stripe's are far smaller.
pub const WEBHOOK_MAX_BYTES: usize = 512 * 1024;

/// How messages leave, for whoever asks whether they can.
pub struct Channels {
    /// `smtp` or `files`, and the relay's circuit.
    pub mail: (&'static str, Breaker),
    /// Twilio's circuit, where text messages can be sent.
    pub sms: Option<Breaker>,
    /// What webhooks may reach.
    pub webhooks: &'static str,
    /// Checks the URL of an endpoint.
    pub callbacks: Callbacks,
}

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
    /// Payments that are being opened for donors.
    pub openings: Openings,
    /// Open streams of totals.
    pub streams: Streams,
    /// Where facts go.
    pub bus: Arc<Bus>,
    /// Where facts come from, if there is a broker.
    pub bridge: Option<Addr<Bridge>>,
    /// The broker itself, for its dead letters.
    pub broker: Option<BrokerSettings>,
    /// The provider.
    pub stripe: Stripe,
    /// Who may have signed a webhook.
    pub webhook_secrets: Vec<WebhookSecret>,
    /// New versions of donations, as they are committed.
    pub moved: broadcast::Sender<DonationMoved>,
    /// Donors' tokens.
    pub access: AccessTokens,
    /// Links in mails.
    pub links: Links,
    /// Operators' keys.
    pub operators: Operators,
    /// How messages leave.
    pub channels: Channels,
    /// Couriers, to be woken when an operator made a message due.
    pub couriers: Vec<Recipient<Wake>>,
    /// Who reports what became of messages.
    pub reporters: Reporters,
    /// Who is to come later when more come than can be served.
    pub admission: Admission,
    /// Requests per client address.
    pub limits: Limits,
    /// The time.
    pub clock: Clock,
    /// Where messages to actors wait.
    pub mailboxes: Mailboxes,
    /// Held while a scrape asks others.
    pub measuring: tokio::sync::Mutex<()>,
    /// When outbox and messages were last measured for the metrics.
    pub outbox_measured: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    /// The same of payments that are not at their end.
    pub open_measured: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    /// Set when the process is about to end.
    pub draining: Draining,
}

impl AppState {
    /// Leave to ask the database for somebody who only looks; it is being asked until what is returned is dropped.
    fn leave_to_read(&self) -> Result<UnderWay, problem::Problem> {
        if self.admission.admits(Class::Read) {
            Ok(self.admission.begin(Class::Read))
        } else {
            Err(problem::Problem::overloaded())
        }
    }
}

/// Adds every route of ours.
pub fn configure(cfg: &mut web::ServiceConfig) {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PATCH: Method = Method::PATCH;
    const DELETE: Method = Method::DELETE;
    cfg.service(
        // Held against a path in this order: what is asked most stands first.
        web::scope("/api/v1")
            .service(resource("/campaigns/{id}/totals", [(GET, web::to(totals::show))]))
            .service(resource("/campaigns", [(GET, web::to(campaigns::list)), (POST, web::to(campaigns::create))]))
            .service(resource(
                "/campaigns/{id}",
                [(GET, web::to(campaigns::show)), (PATCH, web::to(campaigns::change))],
            ))
            .service(resource("/campaigns/{id}/close", [(POST, web::to(campaigns::close))]))
            .service(resource("/campaigns/{id}/donations", [(GET, web::to(wall::list))]))
            .service(resource("/campaigns/{id}/totals/stream", [(GET, web::to(streams::open))]))
            .service(resource("/donations", [(POST, web::to(donations::create))]))
            .service(resource("/donations/{id}", [(GET, web::to(donations::show))]))
            .service(resource("/donors/me/link", [(POST, web::to(donors::request_link))]))
            .service(resource("/donors/me/donations", [(GET, web::to(donors::donations))]))
            .service(resource("/payments", [(GET, web::to(payments::list))]))
            .service(resource("/payments/{id}", [(GET, web::to(payments::show))]))
            .service(resource("/payments/{id}/timeline", [(GET, web::to(payments::timeline))]))
            .service(resource("/payments/{id}/capture", [(POST, web::to(payments::capture))]))
            .service(resource("/payments/{id}/cancel", [(POST, web::to(payments::cancel))]))
            .service(resource("/payments/{id}/refunds", [(POST, web::to(payments::refund))]))
            .service(resource("/notifications", [(GET, web::to(notifications::list))]))
            .service(resource("/notifications/{id}", [(GET, web::to(notifications::show))]))
            .service(resource("/notifications/{id}/resend", [(POST, web::to(notifications::resend))]))
            .service(resource(
                "/webhook-endpoints",
                [(GET, web::to(endpoints::list)), (POST, web::to(endpoints::create))],
            ))
            .service(resource(
                "/webhook-endpoints/{id}",
                [
                    (GET, web::to(endpoints::show)),
                    (PATCH, web::to(endpoints::change)),
                    (DELETE, web::to(endpoints::delete)),
                ],
            ))
            .service(resource("/webhook-endpoints/{id}/rotate", [(POST, web::to(endpoints::rotate))]))
            .service(resource("/webhook-endpoints/{id}/test", [(POST, web::to(endpoints::test))]))
            .service(resource("/dead-letters", [(GET, web::to(dead_letters::overview))]))
            .service(resource("/dead-letters/notifications", [(GET, web::to(dead_letters::notices))]))
            .service(resource("/dead-letters/notifications/replay", [(POST, web::to(dead_letters::replay_notices))]))
            .service(resource("/dead-letters/notifications/discard", [(POST, web::to(dead_letters::discard_notices))]))
            .service(resource("/dead-letters/outbox", [(GET, web::to(dead_letters::events))]))
            .service(resource("/dead-letters/outbox/replay", [(POST, web::to(dead_letters::replay_events))]))
            .service(resource("/dead-letters/outbox/discard", [(POST, web::to(dead_letters::discard_events))]))
            .service(resource(
                "/suppressions",
                [(GET, web::to(suppressions::list)), (DELETE, web::to(suppressions::lift))],
            ))
            .service(resource("/dead-letters/queues/replay", [(POST, web::to(dead_letters::replay_queue))]))
            .service(resource("/dead-letters/queues/discard", [(POST, web::to(dead_letters::discard_queue))]))
            .service(resource("/dead-letters/queues/{queue}", [(GET, web::to(dead_letters::letters))]))
            .default_service(web::to(problem::no_such_route)),
    )
    .service(resource(
        "/unsubscribe/{token}",
        [(GET, web::to(unsubscribe::ask)), (POST, web::to(unsubscribe::unsubscribe))],
    ))
    .service(resource("/webhooks/stripe", [(POST, web::to(webhooks::stripe))]))
    .service(resource(TWILIO_REPORTS, [(POST, web::to(feedback::twilio))]))
    .service(resource("/webhooks/sendgrid/events", [(POST, web::to(feedback::sendgrid))]))
    .service(resource("/health/live", [(GET, web::to(operations::live))]))
    .service(resource("/health/ready", [(GET, web::to(operations::ready))]))
    .service(resource("/metrics", [(GET, web::to(operations::metrics))]));
}

/// What can be done at `path`; any other method is answered with 405 and the list of these.
fn resource<const N: usize>(path: &str, routes: [(Method, Route); N]) -> impl HttpServiceFactory + use<N> {
    let allow = routes.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", ");
    let others = web::to(move || problem::no_such_method(allow.clone()));
    let resource = web::resource(path).default_service(others);
    let resource = routes.into_iter().fold(resource, |resource, (method, route)| resource.route(route.method(method)));
    resource.wrap(from_fn(observe::shielded))
}
