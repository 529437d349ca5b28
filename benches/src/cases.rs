//! The pure functions on the hot paths, each with an input as it comes in life.
//!
//! A case makes its input once and gives a closure that makes one call. What a call must come to is checked when the case is
//! made: a function that fails early would look fast. Deliberately absent: clocks and measuring.

use std::hint::black_box;
use std::net::SocketAddr;

use actix_web::HttpRequest;
use actix_web::test::TestRequest;
use careforall::config::RateLimit;
use careforall::domain::fact::{Fact, FactKind};
use careforall::domain::ids::{CampaignId, DonationId, PaymentId};
use careforall::domain::money::Currency;
use careforall::domain::payment::decide::{Decision, Verdict, decide};
use careforall::domain::payment::{Payment, PaymentStatus};
use careforall::domain::provider::ProviderEvent;
use careforall::gateways::signature::{WebhookSecret, sign, verify};
use careforall::gateways::stripe::event::{WebhookEvent, parse};
use careforall::http::donations::DonationRequest;
use careforall::http::extract;
use careforall::http::limits::Limits;
use time::{Duration, OffsetDateTime};

const SUCCEEDED: &str = include_str!("../bodies/payment_intent.succeeded.json");
const REFUNDED: &str = include_str!("../bodies/refund.updated.json");
const DONATION: &str = include_str!("../bodies/donation.json");

/// When the bodies were made, in seconds since the Unix epoch.
const NOW: i64 = 1_795_390_790;
const KIB: usize = 1024;
/// Client addresses that the limiter knows.
const CLIENTS: u16 = 1000;

/// One call.
pub type Call = Box<dyn FnMut()>;

/// A function with its input.
pub struct Case {
    /// Its name in the budget.
    pub name: &'static str,
    /// Makes the input and checks what a call comes to.
    pub make: fn() -> Result<Call, String>,
}

/// All of them, in the order of the road.
pub const CASES: [Case; 10] = [
    Case { name: "rate_limit", make: rate_limit },
    Case { name: "donation_request", make: donation_request },
    Case { name: "signature_1_kib", make: || signature(KIB) },
    Case { name: "signature_4_kib", make: || signature(4 * KIB) },
    Case { name: "event_succeeded", make: || event(SUCCEEDED) },
    Case { name: "event_refunded", make: || event(REFUNDED) },
    Case { name: "decide_capture", make: || deciding(&initiated(), SUCCEEDED, Verdict::Applied) },
    Case { name: "decide_refund", make: || deciding(&captured(), REFUNDED, Verdict::Applied) },
    Case { name: "decide_stale", make: || deciding(&captured(), SUCCEEDED, Verdict::Stale) },
    Case { name: "envelope", make: envelope },
];

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn signature(length: usize) -> Result<Call, String> {
    let secret = WebhookSecret::new("whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH").map_err(|error| error.to_string())?;
    let body: Vec<u8> = SUCCEEDED.bytes().cycle().take(length).collect();
    let header = sign(&secret, NOW, &body);
    let secrets = vec![secret];
    verify(&header, &body, &secrets, NOW).map_err(|error| error.to_string())?;
    Ok(Box::new(move || {
        let _ = black_box(verify(black_box(&header), black_box(&body), &secrets, NOW)); // it was checked above
    }))
}

fn known(body: &str) -> Result<ProviderEvent, String> {
    match parse(body.as_bytes()) {
        WebhookEvent::Known(event) => Ok(event),
        other => Err(format!("an event that we do not know: {other:?}")),
    }
}

fn event(body: &'static str) -> Result<Call, String> {
    known(body)?;
    Ok(Box::new(move || drop(black_box(parse(black_box(body.as_bytes()))))))
}

/// The payment of the bodies, opened and not paid.
fn initiated() -> Payment {
    let id = |last: u128| uuid::Uuid::from_u128(0x019a_b2f0_4353_7bec_80a5_6de0_5aab_0000 + last);
    Payment {
        id: PaymentId::from(id(1)),
        donation_id: DonationId::from(id(2)),
        campaign_id: CampaignId::from(id(3)),
        amount_minor: 2500,
        currency: Currency::parse("EUR").unwrap_or_else(|| unreachable!("there is a euro")),
        manual_capture: false,
        status: PaymentStatus::Initiated,
        version: 2,
        provider_at: None,
        intent_id: Some("pi_3QK1aBLkdIwHu7ix0a8WqPzD".to_owned()),
        client_secret: Some("pi_3QK1aBLkdIwHu7ix0a8WqPzD_secret_5eH0bq3c9aJtVnFJ7U8Zr1yXk".to_owned()),
        captured_minor: 0,
        refunds: Vec::new(),
        disputes: Vec::new(),
        flag: None,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        checks: 0,
        updated_at: now(),
    }
}

/// The same, paid.
fn captured() -> Payment {
    Payment {
        status: PaymentStatus::Captured,
        version: 4,
        provider_at: Some(NOW),
        captured_minor: 2500,
        updated_at: now() + Duration::seconds(1),
        ..initiated()
    }
}

fn deciding(payment: &Payment, body: &str, expected: Verdict) -> Result<Call, String> {
    let (payment, event) = (payment.clone(), known(body)?);
    match decide(&payment, &event, None) {
        Decision::Settled { verdict, .. } if verdict == expected => {}
        other => return Err(format!("decided otherwise: {other:?}")),
    }
    Ok(Box::new(move || drop(black_box(decide(black_box(&payment), black_box(&event), None)))))
}

fn envelope() -> Result<Call, String> {
    let (before, after) = (initiated(), captured());
    let make = move || {
        let fact = Fact::of(black_box(&before), &after, FactKind::PaymentCompleted, now(), after.traceparent.clone());
        serde_json::to_string(&fact)
    };
    make().map_err(|error| error.to_string())?;
    Ok(Box::new(move || drop(black_box(make()))))
}

fn donation_request() -> Result<Call, String> {
    let read = || extract::parse::<DonationRequest>(black_box(DONATION.as_bytes()))?.check(now());
    read().map_err(|problem| format!("{problem:?}"))?;
    Ok(Box::new(move || drop(black_box(read()))))
}

/// A client among others, who is never refused.
fn rate_limit() -> Result<Call, String> {
    let limit = RateLimit { count: 1_000_000_000, per: std::time::Duration::from_secs(1) };
    let limits = Limits::new(Some(limit), Vec::new());
    let clients: Vec<HttpRequest> = (0..CLIENTS).map(client).collect();
    for client in &clients {
        let checked = limits.check(client).map_err(|_| "refused".to_owned())?;
        checked.ok_or("not counted")?;
    }
    let mut turn = 0;
    Ok(Box::new(move || {
        turn = (turn + 1) % clients.len();
        drop(black_box(limits.check(black_box(&clients[turn]))));
    }))
}

fn client(number: u16) -> HttpRequest {
    let [high, low] = number.to_be_bytes();
    TestRequest::get().peer_addr(SocketAddr::from(([10, 0, high, low], 40_000))).to_http_request()
}
