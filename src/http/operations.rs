//! For those who run it: is it alive, is it ready, and how is it doing?

use std::time::Duration;

use actix::Addr;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::AppState;
use crate::actors::bridge::{Bridge, IsConnected};
use crate::actors::outbox::Bus;
use crate::domain::notice::Channel;
use crate::domain::payment::PaymentStatus;
use crate::gateways::breaker::BreakerState;
use crate::metrics::METRICS;
use crate::store::loan::LOOK;

/// How long a scrape waits for others, each of whom has [`LOOK`].
const MEASURE_WAIT: Duration = Duration::from_secs(2);
const MEASURE_PAUSE: Duration = Duration::from_secs(1);
/// What is told in hours need not be read in seconds: the statement looks at every open payment.
const OPEN_PAUSE: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Readiness {
    /// `ready`, `degraded` (everything is correct, some of it slower) or `unavailable`.
    status: &'static str,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    /// `up`, `down`, or what stands in for it.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
}

fn check(name: &'static str, up: bool, mode: &'static str) -> Check {
    METRICS.dependency_up.with_label_values(&[name]).set(i64::from(up));
    Check { name, status: if up { "up" } else { "down" }, mode: Some(mode) }
}

async fn consuming(bridge: Option<&Addr<Bridge>>) -> bool {
    match bridge {
        Some(bridge) => bridge.send(IsConnected).await.unwrap_or(false),
        None => false,
    }
}

/// A provider that may be tried again is up only when it has answered: between two tries nobody knows better than before.
fn is_closed(breaker: BreakerState) -> bool {
    match breaker {
        BreakerState::Closed => true,
        BreakerState::Open | BreakerState::HalfOpen => false,
    }
}

/// `GET /health/live`: the process answers.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "status": "live" }))
}

/// Each dependency, Postgres first. They are asked at the same time: one that hangs hides no other.
async fn dependencies(state: &AppState) -> Vec<Check> {
    let (postgres, redis, rabbitmq) = tokio::join!(
        state.store.ping(),
        timeout(LOOK, state.cache.ping()),
        timeout(LOOK, consuming(state.bridge.as_ref()))
    );
    let mut checks = vec![check("postgres", postgres.is_ok(), "truth")];
    checks.push(match redis.unwrap_or(Some(false)) {
        None => Check { name: "redis", status: "absent", mode: Some("level 1 is skipped") },
        Some(up) => check("redis", up, "redis"),
    });
    checks.push(match &*state.bus {
        Bus::InProcess(_) => Check { name: "rabbitmq", status: "absent", mode: Some("in-process bus") },
        Bus::Broker(publisher) => check("rabbitmq", rabbitmq.unwrap_or(false) && publisher.connected(), "rabbitmq"),
    });
    checks.push(check("stripe", is_closed(state.stripe.breaker_state()), "circuit breaker"));
    let (mode, breaker) = &state.channels.mail;
    checks.push(check("email", is_closed(breaker.state()), mode));
    checks.push(match &state.channels.sms {
        None => Check { name: "sms", status: "absent", mode: Some("no text messages") },
        Some(breaker) => check("sms", is_closed(breaker.state()), "twilio"),
    });
    // Each endpoint has a breaker of its own; one partner that is away does not degrade us.
    checks.push(Check { name: "webhooks", status: "up", mode: Some(state.channels.webhooks) });
    checks
}

/// `GET /health/ready`: each dependency, and what is degraded. 503 without Postgres, and once the process drains.
pub async fn ready(state: web::Data<AppState>) -> HttpResponse {
    let checks = dependencies(&state).await;
    let database = checks.iter().any(|check| check.name == "postgres" && check.status == "up");
    let status = match (database && !state.draining.has_begun(), checks.iter().any(|check| check.status == "down")) {
        (false, _) => "unavailable",
        (true, true) => "degraded",
        (true, false) => "ready",
    };
    let body = Readiness { status, checks };
    if status == "unavailable" { HttpResponse::ServiceUnavailable().json(body) } else { HttpResponse::Ok().json(body) }
}

/// `GET /metrics`
pub async fn metrics(state: web::Data<AppState>) -> HttpResponse {
    for usage in state.store.pools.usage() {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        METRICS.pool_used.with_label_values(&[usage.pool]).set(gauge(usage.used));
        METRICS.pool_size.with_label_values(&[usage.pool]).set(gauge(usage.size));
        METRICS.pool_waiting.with_label_values(&[usage.pool]).set(gauge(usage.waiting));
    }
    METRICS.stripe_circuit_open.set(i64::from(!is_closed(state.stripe.breaker_state())));
    measure(&state).await;
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(METRICS.render())
}

/// Asks what only others know. One scrape at a time does, and not for long: it is while a database hangs that metrics are
/// looked at.
async fn measure(state: &AppState) {
    let Ok(_measuring) = state.measuring.try_lock() else { return };
    // The dependencies too, or their metric would be as old as the last question about readiness, which nobody may ask.
    let mailboxes = state.mailboxes.measure(LOOK);
    let asked = async { tokio::join!(dependencies(state), measure_queues(state), measure_open(state), mailboxes) };
    if timeout(MEASURE_WAIT, asked).await.is_err() {
        tracing::warn!("the metrics of queues and dependencies are old: somebody does not answer");
    }
}

/// Counting long queues is work: once a second is enough for any number of scrapers.
async fn measure_queues(state: &AppState) {
    let Ok(mut measured) = state.outbox_measured.try_lock() else { return };
    if measured.is_some_and(|at| at.elapsed() < MEASURE_PAUSE) {
        return;
    }
    *measured = Some(Instant::now());
    if let Ok(outbox) = state.store.measure_outbox().await {
        METRICS.outbox_waiting.set(outbox.waiting);
        METRICS.outbox_dead.set(outbox.dead);
        let age = outbox.oldest.map_or(0, |oldest| (state.clock.now() - oldest).whole_seconds().max(0));
        METRICS.outbox_oldest_seconds.set(age);
    }
    let now = state.clock.now();
    if let Ok(measured) = state.store.measure_notices(now).await {
        for (channel, it) in Channel::ALL.into_iter().zip(measured) {
            let labels = &[channel.as_str()];
            let age = it.oldest.map_or(0, |oldest| (now - oldest).whole_seconds().max(0));
            METRICS.notifications_waiting.with_label_values(labels).set(it.waiting);
            METRICS.notifications_due.with_label_values(labels).set(it.due);
            METRICS.notifications_oldest_due_seconds.with_label_values(labels).set(age);
            METRICS.notifications_dead.with_label_values(labels).set(it.dead);
            METRICS.notifications_unknown.with_label_values(labels).set(it.unknown);
        }
    }
}

/// How many payments are open, and how long the provider has kept us in the dark about one.
async fn measure_open(state: &AppState) {
    let Ok(mut measured) = state.open_measured.try_lock() else { return };
    if measured.is_some_and(|at| at.elapsed() < OPEN_PAUSE) {
        return;
    }
    if let Ok(open) = state.store.measure_open_payments().await {
        *measured = Some(Instant::now());
        for status in PaymentStatus::ALL.into_iter().filter(|status| status.is_open()) {
            let payments = open.iter().find(|it| it.status == status).map_or(0, |it| it.payments);
            METRICS.payments_open.with_label_values(&[status.as_str()]).set(payments);
        }
        let oldest = open.iter().filter_map(|it| it.oldest_unknown).min();
        let age = oldest.map_or(0, |oldest| (state.clock.now() - oldest).whole_seconds().max(0));
        METRICS.payments_unknown_oldest_seconds.set(age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateways::breaker::{Breaker, COOL_DOWN};

    #[tokio::test(start_paused = true)]
    async fn a_provider_is_down_from_the_failure_that_opened_its_circuit_to_the_call_that_closed_it() {
        let breaker = Breaker::new(1, COOL_DOWN);
        assert!(is_closed(breaker.state()));
        breaker.admit().unwrap().fail();
        assert!(!is_closed(breaker.state()));
        tokio::time::advance(COOL_DOWN).await;
        assert!(!is_closed(breaker.state()), "nobody has asked it yet");
        let probe = breaker.admit().unwrap();
        assert!(!is_closed(breaker.state()), "it has not answered yet");
        probe.succeed();
        assert!(is_closed(breaker.state()));
    }
}
