//! The webhook storm: some ten thousand events, three copies of each, in any order, on two processes.
//!
//! Payments go all their ways at the sandbox while its webhooks are held back; then every event that it made is posted
//! three times, shuffled, to one process or the other. What must come of it is what the sandbox's own books say. How fast
//! it went is printed and asserted nowhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use careforall::gateways::stripe::event::KNOWN_KINDS;
use futures::StreamExt;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, text};
use crate::webhooks::{hold_events, refund_at_stripe, sandbox_events, status, verdict};

/// Enough for ten thousand events.
const PAYMENTS: usize = 1850;
const EVENTS: usize = 10_000;
const COPIES: usize = 3;
const AT_ONCE: usize = 32;

/// One payment's whole way at the sandbox, by its number.
async fn live(app: &TestApp, campaign: &Value, at: usize) -> Value {
    let donation = app.donate(campaign, 2500).await;
    let methods = match at % 6 {
        1 => &["pm_card_chargeDeclined", "pm_card_visa"][..],
        2 => &["pm_card_chargeDeclined"],
        3 => &["pm_usBankAccount_processing"],
        4 => &["pm_card_chargeDeclined", "pm_card_chargeDeclinedInsufficientFunds", "pm_card_visa"],
        _ => &["pm_card_visa"],
    };
    for method in methods {
        app.pay(&donation, method).await;
    }
    let intent = text(&donation["payment"]["intent_id"]).to_owned();
    match at % 6 {
        0 => drop(refund_at_stripe(app, &donation, "700").await),
        1 => drop((refund_at_stripe(app, &donation, "1500").await, refund_at_stripe(app, &donation, "1000").await)),
        3 => drop(app.control(&format!("/payment_intents/{intent}/process"), json!({"outcome": "succeed"})).await),
        4 => {
            let dispute = app.control(&format!("/payment_intents/{intent}/dispute"), json!({})).await;
            let end = if at % 12 == 4 { "won" } else { "lost" };
            app.control(&format!("/disputes/{}", text(&dispute["id"])), json!({"status": end})).await;
        }
        _ => {}
    }
    donation
}

/// Where it must end, by its number.
fn end_of(at: usize) -> &'static str {
    ["CAPTURED", "REFUNDED", "FAILED", "CAPTURED", "CAPTURED", "CAPTURED"][at % 6]
}

#[tokio::test]
async fn ten_thousand_events_three_times_each_in_any_order_on_two_processes_end_in_the_books_of_the_sandbox() {
    let app = Setup::new().await.start().await;
    let second = app.second().await;
    hold_events(&app).await;
    let mut campaigns = Vec::new();
    for _ in 0..3 {
        campaigns.push(app.campaign().await);
    }
    let donations: Vec<Value> = futures::stream::iter(0..PAYMENTS)
        .map(|at| live(&app, &campaigns[at % 3], at))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let events = sandbox_events(&app).await;
    assert!(events.len() >= EVENTS, "{} events", events.len());
    let verdicts = rage(&app, &second, &events).await;
    let ours = events.iter().filter(|event| KNOWN_KINDS.contains(&text(&event["type"]))).count();
    assert_eq!(verdicts.get("duplicate"), Some(&((COPIES - 1) * ours)), "{verdicts:?}");
    assert_eq!(verdicts.keys().map(String::as_str).collect::<Vec<_>>(), ["applied", "duplicate", "stale"]);
    for (at, donation) in donations.iter().enumerate() {
        assert_eq!(status(&app, donation).await, end_of(at), "{:?}", app.timeline(donation).await);
    }
    the_books_hold(&app, &second, &campaigns).await;
    let (code, out, err) = app.setup.run(&["verify"]).await;
    assert_eq!(code, 0, "{out}{err}");
    second.finish().await;
    app.finish().await;
}

/// Posts every copy of every event, and counts the verdicts on those that we act on (two copies of an event that is none
/// of ours may both be told so).
async fn rage(app: &TestApp, second: &TestApp, events: &[Value]) -> BTreeMap<String, usize> {
    let seed = rand::random();
    let mut storm: Vec<&Value> = events.iter().flat_map(|event| [event; COPIES]).collect();
    storm.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
    let began = Instant::now();
    let posts = storm.into_iter().enumerate().map(|(at, event)| {
        let process = if at % 2 == 0 { app } else { second };
        async move {
            let sent = Instant::now();
            (text(&event["type"]), verdict(process, event).await, sent.elapsed())
        }
    });
    let answers: Vec<(&str, String, Duration)> = futures::stream::iter(posts).buffer_unordered(AT_ONCE).collect().await;
    report(seed, events, &answers, began.elapsed());
    let mut counts = BTreeMap::new();
    for (_, verdict, _) in answers.into_iter().filter(|(kind, _, _)| KNOWN_KINDS.contains(kind)) {
        *counts.entry(verdict).or_insert(0) += 1;
    }
    counts
}

#[allow(clippy::print_stderr, reason = "figures for whoever reads the run")]
fn report(seed: u64, events: &[Value], answers: &[(&str, String, Duration)], took: Duration) {
    let mut times: Vec<Duration> = answers.iter().map(|(_, _, time)| *time).collect();
    times.sort();
    let mut seconds: BTreeMap<i64, usize> = BTreeMap::new();
    for event in events {
        *seconds.entry(event["created"].as_i64().unwrap()).or_default() += 1;
    }
    let rate = answers.len() as u128 * 1000 / took.as_millis().max(1);
    eprintln!(
        "seed {seed}: {} events of {} seconds, {} posts in {took:?}, {rate}/s, p50 {:?}, p95 {:?}",
        events.len(),
        seconds.len(),
        answers.len(),
        times[times.len() / 2],
        times[times.len() * 95 / 100],
    );
}

async fn the_books_hold(app: &TestApp, second: &TestApp, campaigns: &[Value]) {
    let books = app.request(Method::GET, "/sandbox/control/books").send().await.unwrap().json::<Value>().await.unwrap();
    let net = books["EUR"]["net_minor"].as_i64().unwrap();
    assert_eq!(app.count("select sum(amount_minor)::bigint from payments.ledger_entries").await, net);
    let payments = "select sum(captured_minor - refunded_minor - disputed_minor)::bigint \
                    from payments.payment_transactions";
    assert_eq!(app.count(payments).await, net);
    for process in [app, second] {
        wait_until("the totals are the books", DEADLINE, async || {
            let mut raised = 0;
            for campaign in campaigns {
                raised += process.totals(campaign).await["raised_minor"].as_i64().unwrap();
            }
            raised == net
        })
        .await;
    }
}
