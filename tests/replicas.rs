//! Two processes on one database, each thinking that it is alone with a payment.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::crowd::{beside, books_hold, completed, donate_as, events, sandbox_books};
use crate::support::services::wait_until;
use crate::support::{DEADLINE, Setup, TestApp, broker, read, text};

async fn two(setup: Setup) -> (TestApp, TestApp) {
    let first = setup.start().await;
    let second = beside(&first).await;
    (first, second)
}

async fn finish((first, second): (TestApp, TestApp)) {
    books_hold(&first).await;
    second.finish().await;
    first.finish().await;
}

/// The sandbox keeps its webhooks back, so that the test decides who gets them and when.
async fn hold_webhooks(first: &TestApp) {
    first.control("/webhooks", json!({"enabled": false})).await;
}

/// Posts every event to both processes, several times each, all at once.
async fn post_everything_to_both(both: &(TestApp, TestApp), events: &[Value], copies: usize) -> Vec<Value> {
    let posts = (0..copies).flat_map(|at| {
        events.iter().enumerate().flat_map(move |(place, event)| {
            // Another order on either side.
            let turned = &events[(place + at) % events.len()];
            [both.0.webhook(event), both.1.webhook(turned)]
        })
    });
    let mut verdicts = Vec::new();
    for (status, answer) in join_all(posts).await {
        // A payment that others keep moving is not decided: Stripe comes again.
        assert!(matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE), "{status} {answer}");
        verdicts.push(answer);
    }
    verdicts
}

#[tokio::test]
async fn one_webhook_on_two_processes_at_once_is_applied_once() {
    let both = two(Setup::new().await).await;
    hold_webhooks(&both.0).await;
    let campaign = both.0.campaign().await;
    for _ in 0..5 {
        let donation = donate_as(&both.0, &campaign, 2500, "jo@example.org").await;
        both.0.pay(&donation, "pm_card_visa").await;
        let intent = &donation["payment"]["intent_id"];
        let paid =
            |event: &Value| event["type"] == "payment_intent.succeeded" && event["data"]["object"]["id"] == *intent;
        let event: Vec<Value> = events(&both.0).await.into_iter().filter(paid).collect();
        let verdicts = post_everything_to_both(&both, &event, 10).await;
        let applied = verdicts.iter().filter(|answer| answer["verdict"] == "applied").count();
        assert_eq!(applied, 1, "{verdicts:?}");
        assert!(verdicts.iter().all(|answer| matches!(answer["verdict"].as_str(), Some("applied" | "duplicate"))));
        assert_eq!(both.1.payment(&donation).await["captured_minor"], 2500);
    }
    assert_eq!(both.0.count("select count(*) from payments.ledger_entries").await, 5);
    finish(both).await;
}

#[tokio::test]
async fn captures_refunds_and_disputes_told_to_two_processes_in_any_order_end_where_the_sandbox_ends() {
    let both = two(Setup::new().await).await;
    hold_webhooks(&both.0).await;
    let campaign = both.0.campaign().await;
    for round in 0..4 {
        let donation = donate_as(&both.0, &campaign, 2500, &format!("donor{round}@example.org")).await;
        both.0.pay(&donation, "pm_card_visa").await;
        let intent = text(&donation["payment"]["intent_id"]).to_owned();
        for amount in ["300", "200"] {
            let form = [("payment_intent", intent.as_str()), ("amount", amount)];
            let (status, refund) = both.0.stripe(Method::POST, "/v1/refunds", &form).await;
            assert_eq!(status, StatusCode::OK, "{refund}");
        }
        let dispute = both.0.control(&format!("/payment_intents/{intent}/dispute"), json!({})).await;
        if round % 2 == 0 {
            both.0.control(&format!("/disputes/{}", text(&dispute["id"])), json!({"status": "won"})).await;
        }
        let payment = text(&donation["payment"]["id"]);
        let all: Vec<Value> =
            events(&both.0).await.into_iter().filter(|event| event.to_string().contains(&intent)).collect();
        assert!(all.len() >= 5, "{all:?}");
        post_everything_to_both(&both, &all, 3).await;
        // What was answered with 503 comes again, as from Stripe.
        for event in &all {
            assert_eq!(both.1.webhook(event).await.0, StatusCode::OK);
        }
        let (_, seen) = both.1.get(&format!("/api/v1/payments/{payment}")).await;
        let withheld = if round % 2 == 0 { 0 } else { 2000 };
        let amounts = (&seen["captured_minor"], &seen["refunded_minor"], &seen["disputed_minor"]);
        assert_eq!(amounts, (&json!(2500), &json!(500), &json!(withheld)), "{seen}");
    }
    books_hold(&both.0).await;
    let net = both.0.count("select sum(amount_minor)::bigint from payments.ledger_entries").await;
    assert_eq!(sandbox_books(&both.0).await["net_minor"], net);
    finish(both).await;
}

/// Sends an order to both processes in turn, `count` of them at once; `key` names the key of each.
async fn order_at_once(
    both: &(TestApp, TestApp),
    path: &str,
    body: &Value,
    count: usize,
    key: impl Fn(usize) -> Option<String>,
) -> Vec<(StatusCode, Value)> {
    let orders = (0..count).map(|at| {
        let app = if at % 2 == 0 { &both.0 } else { &both.1 };
        let request = app.operator(Method::POST, path).json(body);
        read(match key(at) {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        })
    });
    join_all(orders).await
}

/// Done; refused by what we know; or, where the other process was quicker, refused by the provider.
fn is_done_or_refused((status, answer): &(StatusCode, Value)) -> bool {
    match status.as_u16() {
        201 | 409 | 422 | 503 => true,
        502 => answer["type"] == "urn:careforall:problem:provider-refused" && answer["code"].is_string(),
        _ => false,
    }
}

#[tokio::test]
async fn refunds_on_two_processes_are_one_for_each_key_and_never_more_than_was_captured() {
    let both = two(Setup::new().await).await;
    let campaign = both.0.campaign().await;
    let donation = completed(&both.0, &campaign, 2500, "jo@example.org").await;
    let path = format!("/api/v1/payments/{}/refunds", text(&donation["payment"]["id"]));
    let refunds = async || both.0.count("select count(*) from payments.refunds").await;

    let answers = order_at_once(&both, &path, &json!({"amount_minor": 400}), 10, |_| Some("one".to_owned())).await;
    assert!(answers.iter().any(|(status, _)| *status == StatusCode::CREATED), "{answers:?}");
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::CREATED || status.as_u16() == 503), "{answers:?}");
    assert_eq!(refunds().await, 1, "one key, one refund");

    let answers = order_at_once(&both, &path, &json!({"amount_minor": 600}), 8, |at| Some(format!("k{at}"))).await;
    let made = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    assert_eq!(made, 3, "three times 600 go into 2100: {answers:?}");
    assert!(answers.iter().all(is_done_or_refused), "{answers:?}");

    let answers = order_at_once(&both, &path, &json!({}), 6, |_| None).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count(), 1, "{answers:?}");
    assert!(answers.iter().all(is_done_or_refused), "{answers:?}");
    both.1.settle(&donation, "REFUNDED").await;
    assert_eq!(refunds().await, 5);
    assert_eq!(both.0.payment(&donation).await["refunded_minor"], 2500);
    assert_eq!(sandbox_books(&both.0).await["refunded_minor"], 2500);
    finish(both).await;
}

#[tokio::test]
async fn a_refund_without_a_key_waits_for_its_equal_on_another_process_and_goes_on_when_that_one_was_killed() {
    let both = two(Setup::new().await).await;
    let campaign = both.0.campaign().await;
    let donation = completed(&both.0, &campaign, 2500, "jo@example.org").await;
    let path = format!("/api/v1/payments/{}/refunds", text(&donation["payment"]["id"]));
    let (refund, other) = (json!({"amount_minor": 700}), json!({"amount_minor": 800}));
    both.0.control("/faults", json!({"mode": "hang", "on": "refund", "times": 1})).await;
    let hanging = tokio::spawn(both.1.operator(Method::POST, &path).json(&refund).send());
    let turn = "select count(*) from payments.idempotency_keys where scope = 'turn'";
    wait_until("the second process has the turn", DEADLINE, async || both.0.count(turn).await == 1).await;

    let again = async || read(both.0.operator(Method::POST, &path).json(&refund)).await;
    let (status, problem) = again().await;
    assert_eq!((status, text(&problem["type"])), (StatusCode::CONFLICT, "urn:careforall:problem:order-under-way"));
    both.1.kill();
    assert!(hanging.await.unwrap().is_err(), "it was never answered");
    assert_eq!(again().await.0, StatusCode::CONFLICT, "it may have happened; nobody knows yet");

    let client = both.0.setup.database.connect().await;
    let over = "update payments.idempotency_keys set locked_until = now() - interval '1 second' where scope = 'turn'";
    assert_eq!(client.execute(over, &[]).await.unwrap(), 1);
    let (status, done) = again().await;
    assert_eq!((status, &done["refunded_minor"]), (StatusCode::CREATED, &json!(700)), "{done}");
    let (status, done) = read(both.0.operator(Method::POST, &path).json(&other)).await;
    assert_eq!((status, &done["refunded_minor"]), (StatusCode::CREATED, &json!(1500)), "another order: {done}");
    assert_eq!(both.0.count(turn).await, 0, "every turn was given back");
    assert_eq!(sandbox_books(&both.0).await["refunds"], 2);
    books_hold(&both.0).await;
    both.0.finish().await;
}

#[tokio::test]
async fn captures_and_cancels_on_two_processes_have_one_end() {
    let both = two(Setup::new().await).await;
    let campaign = both.0.campaign_with(json!({"manual_capture": true})).await;
    for round in 0..6 {
        let donation = donate_as(&both.0, &campaign, 2500, &format!("donor{round}@example.org")).await;
        both.0.pay(&donation, "pm_card_visa").await;
        wait_until("it is reserved", DEADLINE, async || both.0.payment(&donation).await["status"] == "AUTHORIZED")
            .await;
        let payment = format!("/api/v1/payments/{}", text(&donation["payment"]["id"]));
        let (capture, cancel) = (format!("{payment}/capture"), format!("{payment}/cancel"));
        let key = |at: usize| (round % 2 == 0).then(|| format!("{round}-{}", at % 2));
        let (nothing, some) = (json!({}), json!({"amount_minor": 2000}));
        let (captures, cancels) = tokio::join!(
            order_at_once(&both, &capture, &some, 4, key),
            order_at_once(&both, &cancel, &nothing, 4, |_| None)
        );
        let done = |answers: &[(StatusCode, Value)]| answers.iter().any(|(status, _)| *status == StatusCode::OK);
        assert!(done(&captures) ^ done(&cancels), "captures {captures:?}, cancels {cancels:?}");
        let (status, captured) = if done(&captures) { ("CAPTURED", 2000) } else { ("CANCELED", 0) };
        wait_until("both see the end", DEADLINE, async || {
            let seen = [both.0.payment(&donation).await, both.1.payment(&donation).await];
            seen.iter().all(|it| it["status"] == status && it["captured_minor"] == captured)
        })
        .await;
    }
    books_hold(&both.0).await;
    let net = both.0.count("select coalesce(sum(amount_minor), 0)::bigint from payments.ledger_entries").await;
    assert_eq!(sandbox_books(&both.0).await["net_minor"], net);
    finish(both).await;
}

#[tokio::test]
async fn once_payment_completed_is_consumed_no_process_shows_the_old_total() {
    let both = two(Setup::new().await.with_redis().with_amqp()).await;
    for app in [&both.0, &both.1] {
        wait_until("it is ready", DEADLINE, async || app.get("/health/ready").await.1["status"] == "ready").await;
    }
    for round in 1..=6_i64 {
        // A campaign of its own, which neither process has in memory: what follows comes from the levels below.
        let campaign = both.0.campaign().await;
        let donation = completed(&both.0, &campaign, 100 * round, "jo@example.org").await;
        let consumed = format!(
            "select count(*) from donations.audit_logs where event_type = 'payment.completed' and aggregate_id = '{}'",
            text(&donation["payment"]["id"])
        );
        wait_until("the fact is consumed", DEADLINE, async || {
            both.0.count(&consumed).await == 1
                && broker::waiting(&format!("{}totals.queue", both.0.setup.prefix())).await == 0
        })
        .await;
        for app in [&both.0, &both.1] {
            assert_eq!(app.totals(&campaign).await["raised_minor"], 100 * round);
        }
    }
    finish(both).await;
}

#[tokio::test]
async fn a_process_that_remembers_the_old_total_forgets_it_within_its_second_and_never_goes_back() {
    let both = two(Setup::new().await.with_redis().with_amqp()).await;
    let campaign = both.0.campaign().await;
    let mut raised = 0;
    for round in 1..=4_i64 {
        // Both remember what is about to be old.
        for app in [&both.0, &both.1] {
            wait_until("both know", DEADLINE, async || app.totals(&campaign).await["raised_minor"] == raised).await;
        }
        completed(&both.0, &campaign, 100 * round, "jo@example.org").await;
        raised += 100 * round;
        // The donor who just gave asks by version, and is never shown less than his own gift.
        for app in [&both.0, &both.1] {
            let path = format!("/api/v1/campaigns/{}/totals?min_version={round}", text(&campaign["id"]));
            let (_, totals) = read(app.request(Method::GET, &path)).await;
            assert_eq!(totals["raised_minor"], raised);
        }
    }
    finish(both).await;
}
